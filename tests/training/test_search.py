"""The search looks at nothing after its day, and what it finds is never worse than what is in use."""

import numpy as np

from training import booster, search
from training.dataset import Dataset


def rows(seed: int, n: int = 1_500) -> Dataset:
    draw = np.random.default_rng(seed)
    matrix = draw.normal(size=(n, 4))
    target = (draw.random(n) < 1 / (1 + np.exp(3 - 2 * matrix[:, 0] * matrix[:, 1]))).astype(float)
    ids = np.array([f"t{i}" for i in range(n)], object)
    return Dataset(("a", "b", "c", "d"), "h", ids, np.arange(n), matrix, target, {}, n)


def test_the_best_of_the_trials_is_found_and_never_worse_than_what_is_in_use() -> None:
    poor = {**booster.CLASSIFIER, "learning_rate": 0.12, "num_iterations": 240, "lambda_l2": 0.3}
    said: list[str] = []
    found = search.search([(rows(1), rows(2))], poor, trials=6, told=said.append)
    assert found.average_precision > found.in_use
    assert len(said) == found.trials == 6
    assert set(found.parameters) == set(poor)
    again = search._judged([(rows(1), rows(2))], found.parameters)
    assert again == found.average_precision


def test_the_same_search_finds_the_same() -> None:
    folds = [(rows(1, 600), rows(2, 600))]
    one, other = (search.search(folds, booster.CLASSIFIER, 3, lambda _: None) for _ in range(2))
    assert one == other
