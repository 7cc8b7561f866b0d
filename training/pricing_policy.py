"""From a demand curve to a price: candidates, the objective, the guardrails, exploration.

Pure and over arrays: n quotes of k candidate prices each; a request is a batch of one. Money is in the
product's currency.

Guardrails in their order:

1. `FLOOR`: the product's floor, or the cost with the least margin if that is dearer;
2. `CEILING`: the product's ceiling;
3. `MAX_STEP`: from the price shown last at most the product's `max_step` and the policy's share of that
   price, but never less than one price point;
4. `PRICE_POINT`: the nearest multiple of the policy's step.

A later one never breaks an earlier one. Where no price satisfies two of them, the ceiling goes before the
least margin, floor and ceiling go before the step (the price then moves to the nearer of the two), and a
range without any price point keeps the price as it is.
"""

from dataclasses import dataclass

import numpy as np

from features.state import Flags, Floats
from infra.settings import Objective, PricingPolicy

GUARDRAILS = ("FLOOR", "CEILING", "MAX_STEP", "PRICE_POINT")
_DECIMALS = 9
"""Price points are decimal numbers: 3 × 0.1 is 0.3."""


@dataclass(frozen=True)
class Terms:
    """What the catalogue says of each quote's product, each of shape (n,)."""

    list_price: Floats
    unit_cost: Floats
    floor: Floats
    ceiling: Floats
    max_step: Floats
    """Largest change from the price shown last, in money."""


@dataclass(frozen=True)
class Limits:
    """Prices that each quote may show, each of shape (n,); [low, high] lies within [floor, ceiling]."""

    floor: Floats
    ceiling: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True)
class Chosen:
    """Prices to show, each of shape (n,) but `path`."""

    path: Floats
    """Shape (n, 5): the raw price, and the price after each of `GUARDRAILS`."""
    exploration: Flags
    """True where the price was drawn instead of chosen."""
    propensity: Floats
    """Chance that the policy shows this very price here."""

    @property
    def raw(self) -> Floats:
        """Price before the guardrails."""
        return self.path[:, 0]

    @property
    def price(self) -> Floats:
        """Price to show."""
        return self.path[:, -1]


WIDENING = 1.05
"""Candidates reach this much beyond the prices that the data support, so that the support widens slowly."""


def candidate_prices(
    list_price: Floats, policy: PricingPolicy, lowest: float = 0.0, highest: float = np.inf
) -> Floats:
    """Prices to try for each quote, rising, shape (n, k).

    The policy's range, as far as the data support it: `lowest` and `highest` are shares of the list price.
    """
    low = np.clip(lowest / WIDENING, policy.candidate_low, policy.candidate_high)
    high = np.clip(highest * WIDENING, policy.candidate_low, policy.candidate_high)
    return list_price[:, None] * np.linspace(low, high, policy.candidates)


def worth(
    price: Floats,
    units: Floats,
    unit_cost: Floats,
    objective: Objective,
    policy: PricingPolicy,
    opportunity_cost: float | Floats = 0.0,
) -> Floats:
    """What the objective makes of expected units at a price; the shapes must fit.

    Margin and revenue in money, less what each unit would earn later if it is perishable (its opportunity
    cost, in the same money). Growth is units where the price keeps the policy's margin, and below zero, by
    what is missing, where it does not.
    """
    if objective == "growth":
        short = margin_share(price, unit_cost) - policy.growth_margin_floor
        return np.where(short >= 0, units, short)
    cost = unit_cost if objective == "margin" else 0.0
    earned: Floats = (price - cost - opportunity_cost) * units
    return earned


def margin_share(price: Floats, unit_cost: Floats) -> Floats:
    """Margin as a share of the price; minus infinity for a price of 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(price > 0, 1.0 - unit_cost / price, -np.inf)


def best(prices: Floats, worths: Floats) -> Floats:
    """Price of the greatest worth in each row, the dearest of equals; shape (n,)."""
    last = worths.shape[1] - 1 - worths[:, ::-1].argmax(axis=1)
    return np.take_along_axis(prices, last[:, None], axis=1)[:, 0]


def limits(terms: Terms, last_price: Floats, objective: Objective, policy: PricingPolicy) -> Limits:
    """Where prices may lie.

    `last_price` is what each product showed last, shape (n,); NaN or 0 if nothing, which allows every step.
    Growth keeps the margin that the policy asks of it, if that is more than the least margin.
    """
    kept = policy.growth_margin_floor if objective == "growth" else 0.0
    floor = _floor(terms, max(policy.min_margin_share, kept))
    step = np.minimum(terms.max_step, np.maximum(policy.max_step_share * last_price, policy.price_step))
    step = np.where(last_price > 0, step, np.inf)
    last = np.where(last_price > 0, last_price, terms.list_price)
    return Limits(
        floor,
        terms.ceiling,
        np.clip(last - step, floor, terms.ceiling),
        np.clip(last + step, floor, terms.ceiling),
    )


def least_price(unit_cost: Floats, margin: float) -> Floats:
    """Price of which the margin is this share; infinite where no price reaches it."""
    return unit_cost / (1.0 - margin) if margin < 1 else np.full_like(unit_cost, np.inf)


def _floor(terms: Terms, margin: float) -> Floats:
    return np.minimum(np.maximum(terms.floor, least_price(terms.unit_cost, margin)), terms.ceiling)


def guarded(raw: Floats, within: Limits, price_step: float) -> Floats:
    """Price after each guardrail, shape (n, 5), first the raw price; NaN becomes the highest one allowed."""
    known = np.where(np.isnan(raw), within.high, raw)
    above = np.maximum(known, within.floor)
    below = np.minimum(above, within.ceiling)
    stepped = np.clip(below, within.low, within.high)
    return np.column_stack(
        [known, above, below, stepped, _on_point(stepped, within.low, within.high, price_step)]
    )


def _on_point(price: Floats, low: Floats, high: Floats, step: float) -> Floats:
    """Nearest multiple of `step` inside [low, high]; the price itself if there is none."""
    nearest = _point(np.rint(price / step), step)
    up = _point(np.rint(price / step) + 1, step)
    down = _point(np.rint(price / step) - 1, step)
    point = np.where(nearest < low, up, np.where(nearest > high, down, nearest))
    return np.where((point >= low) & (point <= high), point, price)


def _point(number: Floats, step: float) -> Floats:
    return np.round(number * step, _DECIMALS)


@dataclass(frozen=True)
class Offers:
    """Every price that the policy may show for each quote, and how likely it is."""

    path: Floats
    """Shape (n, m, 5): each price as the policy wants it, and after each of `GUARDRAILS`."""
    chance: Floats
    """Shape (n, m); each row adds up to 1."""
    wanted: int
    """The first so many of the m are the policy's own choices; the others are drawn to learn from."""

    @property
    def price(self) -> Floats:
        """Prices to show, shape (n, m); equal ones add up."""
        return self.path[:, :, -1]

    def propensity(self, shown: Floats) -> Floats:
        """Chance that the policy shows this very price, shape (n,)."""
        found: Floats = np.where(self.price == shown[:, None], self.chance, 0.0).sum(axis=1)
        return found


def offers(
    raw: Floats, trials: Floats, within: Limits, policy: PricingPolicy, allowed: Flags | None = None
) -> Offers:
    """Guard what the policy wants, and add what exploration draws from.

    Args:
        raw: shape (n, k); the policy wants one of the k, all equally likely. One column is a policy that is
            sure of itself, several are what it takes for best under draws of what it believes (Thompson
            sampling; Thompson 1933).
        trials: shape (n, m), of `trials`; `exploration_share` of the quotes show one, all equally likely.
        within: the limits of each quote.
        policy: exploration and price points.
        allowed: which trials may be shown, shape (n, m); None allows all. Where none may be, none is.
    """
    n, k = raw.shape
    some = np.ones_like(trials) if allowed is None else allowed.astype(np.float64)
    count = some.sum(axis=1, keepdims=True)
    share = np.where(count > 0, policy.exploration_share, 0.0)
    chance = np.hstack([np.repeat((1.0 - share) / k, k, axis=1), share * some / np.maximum(count, 1.0)])
    wanted = np.hstack([raw, trials])
    each = Limits(*(np.repeat(side, wanted.shape[1]) for side in vars(within).values()))
    path = guarded(wanted.ravel(), each, policy.price_step)
    return Offers(path.reshape(n, wanted.shape[1], -1), chance, k)


def choose(offered: Offers, draws: Floats) -> Chosen:
    """Show one of the offers; `draws` is a uniform number in [0, 1) for each quote, shape (n,)."""
    upto = offered.chance.cumsum(axis=1)
    picked = (draws[:, None] * upto[:, -1:] >= upto).sum(axis=1)
    path = np.take_along_axis(offered.path, picked[:, None, None], axis=1)[:, 0]
    return Chosen(path, picked >= offered.wanted, offered.propensity(path[:, -1]))


def trials(within: Limits, policy: PricingPolicy) -> Floats:
    """Prices that exploration may draw, `candidates` evenly spaced ones within the limits, shape (n, m)."""
    low, high = within.low[:, None], within.high[:, None]
    even = low + np.linspace(0.0, 1.0, policy.candidates) * (high - low)
    return _on_point(np.clip(even, low, high), low, high, policy.price_step)
