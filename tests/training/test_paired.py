import numpy as np
import pytest

from training.metrics import average_precision
from training.paired import Draws, Ranking, groups_of

DRAW = np.random.default_rng(5)
N = 600


def draws(n: int = N, tail: float = 0.025) -> Draws:
    return Draws(np.arange(n), np.ones(n), tail)


@pytest.mark.parametrize("decimals", [1, 6])
def test_average_precision_is_that_of_the_metrics_with_weights_and_ties(decimals: int) -> None:
    score = np.round(DRAW.random(N), decimals)
    truth, weight = (DRAW.random(N) < score).astype(float), DRAW.integers(0, 4, N).astype(float)
    assert Ranking.of(truth, score).precision(weight) == pytest.approx(
        average_precision(truth, score, weight), abs=1e-12
    )


def test_a_gain_is_relative_and_its_interval_holds_it() -> None:
    rival = DRAW.exponential(10.0, N)
    gain = draws().of_losses("cost", 0.8 * rival, rival)
    assert gain.gain == pytest.approx(0.2)
    assert gain.low == pytest.approx(gain.high) == pytest.approx(0.2)
    assert (gain.challenger, gain.champion) == (pytest.approx(0.8 * rival.sum()), pytest.approx(rival.sum()))


@pytest.mark.slow
def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    covered = 0
    for seed in range(60):
        draw = np.random.default_rng(seed)
        rival = draw.exponential(10.0, 200)
        own = rival * 0.9 + draw.normal(0.0, 4.0, 200)
        gain = draws(200, tail=0.05).of_losses("cost", own, rival)
        covered += gain.low <= 0.1 <= gain.high
    assert 46 <= covered <= 60  # 54 of 60 are expected; fewer than 46 come once in a thousand times


def test_rows_of_one_group_tell_less_than_as_many_alone() -> None:
    own, rival = DRAW.normal(9.0, 3.0, N), np.full(N, 10.0)
    alone = draws().of_losses("cost", own, rival)
    group = np.arange(N) // 20
    together = Draws(group, np.ones(N), 0.025).of_losses("cost", own[group], rival)
    assert together.high - together.low > 2.0 * (alone.high - alone.low)


def test_a_row_of_weight_two_counts_as_two() -> None:
    own, rival = np.array([1.0, 5.0]), np.array([4.0, 4.0])
    once = Draws(np.array([0, 1]), np.array([2.0, 1.0]), 0.1).of_losses("cost", own, rival)
    twice = Draws(np.array([0, 0, 1]), np.ones(3), 0.1).of_losses("cost", own[[0, 0, 1]], rival[[0, 0, 1]])
    assert (once.challenger, once.low) == (twice.challenger, twice.low)


def test_nothing_is_known_without_rows_or_frauds() -> None:
    none = Draws(groups_of([]), np.empty(0), 0.1)
    assert np.isnan(none.of_losses("cost", np.empty(0), np.empty(0)).low)
    assert np.isnan(draws().of_ranking(np.zeros(N), DRAW.random(N), DRAW.random(N)).low)


def test_rows_of_one_group_are_drawn_together() -> None:
    weights = np.array(list(Draws(np.array([0, 0, 0, 1]), np.ones(4), 0.1)))
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, 0] == weights[:, 2]).all()
    assert (weights[:, 0] + weights[:, 3] == 2).all()
    assert set(weights[:, 3].tolist()) == {0.0, 1.0, 2.0}
