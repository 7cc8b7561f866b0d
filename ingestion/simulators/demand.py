"""Three families of true demand: the chance that a shown price is bought, and the price that earns most.

With x = price / willingness, L = chance at x = 1 and e = elasticity there (both of the product):

* logit: q = 1 / (1 + exp(-(ln(L / (1 - L)) - s (x - 1)))), s = e / (1 - L);
* linear: q = L (1 - e (x - 1)), kept within [0, CAP];
* constant elasticity: q = L x^-e, at most CAP; e above 1.
"""

from dataclasses import dataclass

import numpy as np

from ingestion.simulators.columns import Columns, Floats, Ints

LOGIT, LINEAR, CONSTANT = range(3)
FAMILIES = ("logit", "linear", "constant_elasticity")
CAP = 0.95


@dataclass(frozen=True)
class Demand(Columns):
    """True demand behind each quote."""

    family: Ints
    level: Floats
    """L, chance of purchase at a price equal to the willingness."""
    elasticity: Floats
    """e, above 1: per cent of demand lost for a per cent of price, at that price."""
    willingness: Floats
    """Price scale of this product, segment and moment, in money."""


def purchase_probability(demand: Demand, price: Floats) -> Floats:
    """Chance that a quote at this price, above 0, is bought."""
    excess = price / demand.willingness - 1.0
    shares = [
        1.0 / (1.0 + np.exp(_steepness(demand) * excess - _log_odds(demand.level))),
        np.clip(demand.level * (1.0 - demand.elasticity * excess), 0.0, CAP),
        np.minimum(demand.level * (1.0 + excess) ** -demand.elasticity, CAP),
    ]
    chosen: Floats = np.choose(demand.family, shares)
    return chosen


def best_price(demand: Demand, unit_cost: Floats) -> Floats:
    """Price with the highest expected (price - unit_cost) × chance; with cost 0 the highest expected revenue.

    The expected margin rises up to this price and falls after it, so the best price within bounds is this,
    clipped. Logit: Lambert's W function; linear and constant elasticity: closed forms, or where CAP begins.
    """
    e, w = demand.elasticity, demand.willingness
    scale = w / _steepness(demand)
    logit = unit_cost + scale * (1.0 + _lambert(_log_odds(demand.level) + (w - unit_cost) / scale - 1.0))
    linear = np.maximum((unit_cost + w * (1.0 + e) / e) / 2.0, w * (1.0 + (1.0 - CAP / demand.level) / e))
    constant = np.maximum(unit_cost * e / (e - 1.0), w * (demand.level / CAP) ** (1.0 / e))
    best: Floats = np.choose(demand.family, [logit, linear, constant])
    return best


def _steepness(demand: Demand) -> Floats:
    return demand.elasticity / (1.0 - demand.level)


def _log_odds(share: Floats) -> Floats:
    return np.log(share / (1.0 - share))


def _lambert(z: Floats) -> Floats:
    """W(exp(z)): the y with y + ln y = z, by Newton's method on u = ln y."""
    u = np.where(z > 1.0, np.log(np.maximum(z, 1.0)), z)
    for _ in range(8):
        y = np.exp(u)
        u = u - (y + u - z) / (y + 1.0)
    return np.exp(u)
