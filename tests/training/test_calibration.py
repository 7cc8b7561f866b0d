"""Platt's two numbers are found, cautious where little is known, and kept by the trees themselves."""

import numpy as np
import pytest

from features.state import Floats
from training import booster, calibration, metrics
from training.booster import Model
from training.calibration import UNCHANGED, Platt
from training.card import Card, Trained


def distorted(n: int, platt: Platt, seed: int = 3) -> tuple[Floats, Floats]:
    """Log odds of a model that `platt` would put right, and what came true."""
    rng = np.random.default_rng(seed)
    log_odds = rng.normal(-4.0, 1.5, n)
    return log_odds, (rng.random(n) < calibration.probability(platt, log_odds)).astype(float)


@pytest.mark.parametrize("platt", [Platt(0.7, -0.4), Platt(1.3, 0.5), UNCHANGED])
def test_the_distortion_is_found(platt: Platt) -> None:
    found = calibration.fit(*distorted(200_000, platt))
    assert found.slope == pytest.approx(platt.slope, abs=0.05)
    assert found.intercept == pytest.approx(platt.intercept, abs=0.15)


def test_calibrated_probabilities_are_nearer_to_what_comes() -> None:
    platt = Platt(0.6, -0.8)
    found = calibration.fit(*distorted(300_000, platt))
    log_odds, truth = distorted(300_000, platt, seed=4)
    errors = [
        metrics.expected_calibration_error(truth, calibration.probability(each, log_odds))
        for each in (found, UNCHANGED)
    ]
    assert errors[0] < 0.3 * errors[1]


def test_nothing_seen_changes_nothing() -> None:
    assert calibration.fit(np.empty(0), np.empty(0)) == UNCHANGED


def test_a_few_payments_move_it_little() -> None:
    found = calibration.fit(np.full(20, -5.0), np.zeros(20))
    assert found.slope == pytest.approx(1.0, abs=0.1)
    assert found.intercept == pytest.approx(0.0, abs=0.1)


def test_a_row_of_weight_two_is_two_rows() -> None:
    log_odds, truth = distorted(2_000, Platt(0.7, -0.4))
    twice = calibration.fit(np.repeat(log_odds, 2), np.repeat(truth, 2))
    weighed = calibration.fit(log_odds, truth, np.full(2_000, 2.0))
    assert (weighed.slope, weighed.intercept) == pytest.approx((twice.slope, twice.intercept), abs=1e-9)


def test_extreme_log_odds_are_no_trouble() -> None:
    found = calibration.fit(np.array([-1e4, 1e4, -3.0]), np.array([1.0, 0.0, 0.0]))
    assert np.isfinite([found.slope, found.intercept]).all()


def test_the_trees_keep_it() -> None:
    rng = np.random.default_rng(5)
    matrix = rng.normal(size=(3_000, 3))
    target = (rng.random(3_000) < 1 / (1 + np.exp(3 - 2 * matrix[:, 0]))).astype(float)
    card = Card("fraud", "", ("a", "b", "c"), "h", Trained(0, 1, 1, 3_000))
    model = booster.train(matrix, target, card, {"objective": "binary", "num_iterations": 20})
    platt = Platt(0.8, -0.3)
    done = Model(model.calibrated(platt).text, card)
    expected = platt.slope * model.log_odds(matrix) + platt.intercept
    np.testing.assert_allclose(done.log_odds(matrix), expected, atol=1e-12)
    np.testing.assert_allclose(done.contributions(matrix).sum(axis=1), expected, atol=1e-12)
    np.testing.assert_allclose(done.predict(matrix), calibration.probability(platt, model.log_odds(matrix)))
