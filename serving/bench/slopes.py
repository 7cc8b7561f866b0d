"""Whether something grows with time: the slope of a line, with an interval that trusts no two neighbours."""

from dataclasses import dataclass
from math import inf, sqrt

import numpy as np

from features.state import Floats

FIXED_B = (1.96, 2.9694, 0.4160, -0.5324)
"""Kiefer & Vogelsang (2005): 1.96 standard errors are too few where the errors themselves are estimated from
neighbours; how many are needed is a polynomial of the neighbours' share of all samples."""


@dataclass(frozen=True)
class Slope:
    """Change a unit of time, with its 95 % interval, and the mean of the values."""

    value: float
    low: float
    high: float
    level: float

    def grows(self, share: float) -> bool:
        """Whether it surely grows by more than this share of the level in a unit of time."""
        return self.low > share * abs(self.level)

    def scaled(self, factor: float) -> "Slope":
        """The same in another unit of time."""
        return Slope(self.value * factor, self.low * factor, self.high * factor, self.level)


def slope(at: Floats, values: Floats) -> Slope:
    """Least squares, with the errors of Newey & West (1987): samples close in time are alike.

    How many neighbours count is chosen as for errors that follow each other in an AR(1) process (Andrews
    1991). NaN values are left out; fewer than four others have no interval.

    >>> found = slope(np.arange(100.0), 3.0 + 2.0 * np.arange(100.0))
    >>> round(found.value, 6), found.grows(0.01)
    (2.0, True)
    """
    known = ~np.isnan(values)
    x, y = at[known], values[known]
    if len(x) < 4 or np.ptp(x) == 0.0:
        return Slope(0.0, -inf, inf, float(y.mean()) if len(y) else 0.0)
    x = x - x.mean()
    squares = float(x @ x)
    value = float(x @ y) / squares
    residuals = y - y.mean() - value * x
    lags = _lags(residuals)
    error = sqrt(max(0.0, _long_run(x * residuals, lags))) / squares
    reach = error * float(np.polynomial.Polynomial(FIXED_B)((lags + 1) / len(x)))
    return Slope(value, value - reach, value + reach, float(y.mean()))


def _long_run(scores: Floats, lags: int) -> float:
    """Sum of the scores' products over so many neighbours, weighed by Bartlett's triangle."""
    n = len(scores)
    total = float(scores @ scores)
    for lag in range(1, lags + 1):
        total += 2.0 * (1.0 - lag / (lags + 1.0)) * float(scores[lag:] @ scores[:-lag])
    return total * n / (n - 2.0)


def _lags(residuals: Floats) -> int:
    """Andrews' bandwidth for Bartlett's triangle; at most a third of the samples."""
    n, spread = len(residuals), float(residuals @ residuals)
    if spread < 1e-18:
        return 0
    rho = min(0.97, abs(float(residuals[1:] @ residuals[:-1])) / spread)
    alpha = 4.0 * rho**2 / (1.0 - rho**2) ** 2
    return min(n // 3, int(1.1447 * (alpha * n) ** (1.0 / 3.0)))
