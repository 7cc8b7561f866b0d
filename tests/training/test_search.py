"""The search looks at nothing after its day, and what it finds is never worse than what is in use."""

import json
from pathlib import Path

import numpy as np
import pytest

from infra import cli
from infra.settings import Settings
from tests.training.made import payments_file
from training import booster, search
from training.dataset import Dataset


def rows(seed: int, n: int = 1_500) -> Dataset:
    draw = np.random.default_rng(seed)
    matrix = draw.normal(size=(n, 4))
    target = (draw.random(n) < 1 / (1 + np.exp(3 - 2 * matrix[:, 0] * matrix[:, 1]))).astype(float)
    ids = np.array([f"t{i}" for i in range(n)], object)
    return Dataset(("a", "b", "c", "d"), "h", ids, np.arange(n), matrix, target, {}, n)


@pytest.mark.slow
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


@pytest.fixture
def file(tmp_path: Path, chosen: Settings) -> list[str]:
    """Options that name a file of two payments an hour for 56 days; a tenth, of many customers, is fraud."""
    n = np.arange(2 * 24 * 56)
    fraud = np.random.default_rng(5).random(len(n)) < 0.1
    return payments_file(tmp_path, 30, 997, np.where(fraud, 90.0, 50.0) + n % 47, fraud)


@pytest.mark.parametrize(("weeks", "code"), [("3", 0), ("6", 1)])
def test_a_file_is_judged_by_its_last_matured_weeks(
    file: list[str], capsys: pytest.CaptureFixture[str], weeks: str, code: int
) -> None:
    days = ["--until", "2024-04-26", "--weeks", weeks, "--trials", "1"]
    assert cli.run(["search", *file, *days, "--json"]) == code
    shown = capsys.readouterr()
    if code:
        assert "the file has none in those days" in shown.err
    else:
        assert json.loads(shown.out)["average_precision_in_use"] > 0.3
