"""Whether a series grows: the interval holds the truth as often as it says, though neighbours are alike."""

import numpy as np
import pytest

from serving.bench.slopes import slope


def series(rho: float, rise: float, n: int, draw: np.random.Generator) -> "np.typing.NDArray[np.float64]":
    noise = np.empty(n)
    noise[0] = draw.normal() / np.sqrt(1 - rho**2)
    for i in range(1, n):
        noise[i] = rho * noise[i - 1] + draw.normal()
    return 100.0 + rise * np.arange(n) + noise


@pytest.mark.parametrize(("rho", "least"), [(0.0, 0.92), (0.5, 0.90), (0.8, 0.86)])
def test_the_interval_holds_the_truth(rho: float, least: float) -> None:
    draw, at = np.random.default_rng(1), np.arange(200.0)
    found = [slope(at, series(rho, 0.01, 200, draw)) for _ in range(400)]
    assert np.mean([each.low <= 0.01 <= each.high for each in found]) >= least


def test_errors_that_trust_neighbours_would_be_too_small() -> None:
    draw, at = np.random.default_rng(2), np.arange(200.0)
    alike, apart = (
        np.mean(
            [each.high - each.low for each in (slope(at, series(rho, 0.0, 200, draw)) for _ in range(40))]
        )
        for rho in (0.8, 0.0)
    )
    assert alike > 3.0 * apart


def test_only_what_surely_rises_by_more_than_is_tolerated_grows() -> None:
    draw, at = np.random.default_rng(3), np.arange(200.0) / 200.0
    rising = slope(at, series(0.0, 0.05, 200, draw))
    assert rising.value == pytest.approx(10.0, abs=1.0)
    assert rising.grows(0.02)
    assert not rising.grows(0.2)
    assert not slope(at, series(0.0, 0.0, 200, draw)).grows(0.02)
    assert not slope(-at, series(0.0, 0.05, 200, draw)).grows(0.0)


def test_gaps_are_left_out_and_too_little_proves_nothing() -> None:
    at, values = np.arange(50.0), 5.0 + np.arange(50.0)
    values[10:20] = np.nan
    assert slope(at, values).value == pytest.approx(1.0)
    assert not slope(at[:3], values[:3]).grows(0.0)
    assert not slope(at, np.full(50, np.nan)).grows(0.0)
