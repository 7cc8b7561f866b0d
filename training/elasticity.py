"""Constant elasticity: the simple demand model that a complicated one must beat, kept as plain coefficients.

log of the chance of purchase = intercept + elasticity × log(price / list price) + power × log(recent rate)

where the recent rate is the product's units for each outcome of the last 30 days, or the usual rate of the
training set for a product of which nothing is known. Fitted by Poisson regression, which is consistent for a
mean of this form whatever the outcomes' distribution (Gourieroux, Monfort and Trognon 1984; Santos Silva and
Tenreyro 2006); standard errors are the sandwich's.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from features.state import Floats

PRICE, RATE = "price_to_list", "product_units_rate_30d"
NORMAL_95 = 1.96
"""Half the width of a 95 % interval, in standard deviations."""

_LEAST, _MOST = 1e-6, 1.0 - 1e-6
_STEPS = 50
_RIDGE = 1e-6
_CLOSE = 1e-10


@dataclass(frozen=True)
class ConstantElasticity:
    """The coefficients; as JSON by `dataclasses.asdict`."""

    intercept: float
    elasticity: float
    """Per cent more purchases for one per cent more price."""
    rate_power: float
    usual_rate: float
    standard_error: float
    """Of the elasticity."""

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the elasticity."""
        half = NORMAL_95 * self.standard_error
        return self.elasticity - half, self.elasticity + half

    def predict(self, matrix: Floats, features: Sequence[str]) -> Floats:
        """Chance of purchase of each row of a matrix with these columns, shape (n,)."""
        weights = np.array([self.intercept, self.elasticity, self.rate_power])
        chance: Floats = np.exp(_design(matrix, features, self.usual_rate) @ weights)
        return np.clip(chance, _LEAST, _MOST)


def fit(matrix: Floats, bought: Floats, features: Sequence[str]) -> ConstantElasticity:
    """Fit to quotes: `matrix` has these columns, `bought` is 1.0 or 0.0, shape (n,)."""
    usual_rate = float(max(bought.mean(), _LEAST))
    design = _design(matrix, features, usual_rate)
    weights = _poisson(design, bought)
    error = float(np.sqrt(_sandwich(design, bought, weights)[1, 1]))
    intercept, elasticity, rate_power = weights.tolist()
    return ConstantElasticity(intercept, elasticity, rate_power, usual_rate, error)


def _design(matrix: Floats, features: Sequence[str], usual_rate: float) -> Floats:
    price, rate = (matrix[:, features.index(name)] for name in (PRICE, RATE))
    known = np.where(np.isnan(rate), usual_rate, np.maximum(rate, _LEAST))
    return np.column_stack([np.ones(len(matrix)), np.log(np.maximum(price, _LEAST)), np.log(known)])


def _poisson(design: Floats, bought: Floats) -> Floats:
    """Iteratively reweighted least squares from the mean; a touch of ridge for columns that never vary."""
    weights = np.zeros(design.shape[1])
    weights[0] = np.log(max(bought.mean(), _LEAST))
    for _ in range(_STEPS):
        mean = _mean(design, weights)
        information = design.T @ (design * mean[:, None]) + _RIDGE * np.eye(len(weights))
        step = np.linalg.solve(information, design.T @ (bought - mean))
        weights = weights + step / max(1.0, float(np.abs(step).max()))
        if np.abs(step).max() < _CLOSE:
            break
    return weights


def _sandwich(design: Floats, bought: Floats, weights: Floats) -> Floats:
    mean = _mean(design, weights)
    bread = np.linalg.inv(design.T @ (design * mean[:, None]) + _RIDGE * np.eye(len(weights)))
    covariance: Floats = bread @ (design.T @ (design * ((bought - mean) ** 2)[:, None])) @ bread
    return covariance


def _mean(design: Floats, weights: Floats) -> Floats:
    mean: Floats = np.exp(np.clip(design @ weights, np.log(_LEAST), 10.0))
    return mean
