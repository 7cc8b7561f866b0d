"""What is told of a demand curve beside itself: its elasticity, and how sure it is.

The spread comes from what may as well be true (draws of the demand curve's posterior): how far their log odds
of a purchase lie apart at each price, and how far their elasticities do. Outside the prices that were ever
shown nobody knows whether the curve goes on as it does inside, so there the spread grows with the distance.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from features.pricing import OF_PRICE, PRICING
from features.state import Floats, Ints
from training.elasticity import NORMAL_95

EXTRA = "demand"
"""Key in a card's `extra`."""

GRID = np.geomspace(0.5, 2.0, 15)
"""Prices, as shares of the list price, at which the spread is kept."""
NEARBY = 1.25
"""An elasticity is the slope of the curve between the price over and times this."""
UNSUPPORTED = 2.0
"""Log odds of spread for each unit of log price outside the prices shown: so far may an elasticity be off."""

_LEAST = 1e-6
_PRICE_COLUMNS = [PRICING.names.index(name) for name in OF_PRICE]
_RELATIVE = PRICING.names.index("price_to_list")


type_of_draws = Callable[[Floats], Floats]
"""From rows of the matrix of `PRICING` to their chances of purchase under each draw, shape (k, n)."""


@dataclass(frozen=True)
class Doubt:
    """How unsure a demand model is."""

    log_odds: tuple[float, ...]
    """Standard deviation of the log odds at each price of `GRID`."""
    elasticity: float
    """Standard deviation of the elasticity at the list price."""
    lowest: float
    highest: float
    """Prices that the data support, as shares of the list price."""
    units_per_sale: float
    """Mean units of a quote that was bought."""

    def band(self, probability: Floats, price_to_list: Floats) -> tuple[Floats, Floats]:
        """95 % interval of chances of purchase at prices given as shares of the list price."""
        half = NORMAL_95 * self._spread(price_to_list)
        return _share(_log_odds(probability) - half), _share(_log_odds(probability) + half)

    def _spread(self, price_to_list: Floats) -> Floats:
        known = np.interp(np.log(price_to_list), np.log(GRID), self.log_odds)
        beyond = np.maximum(np.log(price_to_list / self.highest), np.log(self.lowest / price_to_list))
        spread: Floats = known + UNSUPPORTED * np.maximum(beyond, 0.0)
        return spread


def kept(doubt: Doubt) -> dict[str, Any]:
    """For a card's `extra`."""
    return {EXTRA: asdict(doubt)}


def doubt_of(extra: Mapping[str, Any]) -> Doubt | None:
    """What `kept` put there; None for a model that does not say."""
    values = extra.get(EXTRA)
    return None if values is None else Doubt(**{**values, "log_odds": tuple(values["log_odds"])})


def doubt(drawn: type_of_draws, matrix: Floats, some: Ints, units_per_sale: float) -> Doubt:
    """Compare what may be true, at every price of `GRID`.

    Args:
        drawn: chance of purchase of each row of a matrix under each draw, shape (k, n), k two at least.
        matrix: the quotes that the data support, columns of `PRICING`.
        some: which rows of it the draws are compared on.
        units_per_sale: kept as it is.
    """
    rows = matrix[some]
    curves = np.stack([drawn(at_price(rows, share)) for share in GRID], axis=1)
    lowest, highest = np.quantile(matrix[:, _RELATIVE], [0.01, 0.99]).tolist()
    return Doubt(
        log_odds=tuple(_root_mean_square(_log_odds(curves).std(axis=0, ddof=1)).tolist()),
        elasticity=float(_root_mean_square(_slopes(drawn, rows).std(axis=0, ddof=1))),
        lowest=lowest,
        highest=highest,
        units_per_sale=units_per_sale,
    )


def _slopes(drawn: type_of_draws, matrix: Floats) -> Floats:
    """Elasticity of each row at the list price under each draw, shape (k, n)."""
    shares = np.geomspace(1.0 / NEARBY, NEARBY, 5)
    curves = np.stack([drawn(at_price(matrix, share)) for share in shares], axis=-1)
    return _slope(np.log(shares), np.log(np.maximum(curves, _LEAST)))


def _root_mean_square(rows: Floats) -> Floats:
    found: Floats = np.sqrt((rows**2).mean(axis=-1))
    return found


def at_price(matrix: Floats, price_to_list: float | Floats) -> Floats:
    """The same quotes at other prices, given as shares of the list price."""
    changed = matrix.copy()
    changed[:, _PRICE_COLUMNS] *= (price_to_list / matrix[:, _RELATIVE])[:, None]
    return changed


def elasticity(prices: Floats, probability: Floats, at: float) -> float:
    """Slope of the log of a demand curve against the log of the price, by least squares, near a price.

    Taken between the price over `NEARBY` and times it; NaN if fewer than two of the curve's prices lie there.
    """
    near = (prices >= at / NEARBY) & (prices <= at * NEARBY)
    if near.sum() < 2:
        return np.nan
    return float(_slope(np.log(prices[near]), np.log(np.maximum(probability[near], _LEAST))[None])[0])


def _slope(x: Floats, y: Floats) -> Floats:
    """Least-squares slopes of rows of y, shape (..., len(x)), against x."""
    centred = x - x.mean()
    slopes: Floats = (y - y.mean(axis=-1, keepdims=True)) @ centred / (centred @ centred)
    return slopes


def _log_odds(share: Floats) -> Floats:
    inside = np.clip(share, _LEAST, 1.0 - _LEAST)
    return np.log(inside / (1.0 - inside))


def _share(log_odds: Floats) -> Floats:
    return 1.0 / (1.0 + np.exp(-log_odds))
