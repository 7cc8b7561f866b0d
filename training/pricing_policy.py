"""From a demand curve to a price: candidates, the objective, the guardrails, exploration.

Pure and over arrays: n quotes of k candidate prices each; a request is a batch of one. Money is in the
product's currency.

Guardrails in their order:

1. `FLOOR`: the product's floor, or the cost with the least margin if that is dearer;
2. `CEILING`: the product's ceiling;
3. `MAX_STEP`: from the price shown last at most the product's `max_step` and the policy's share of that
   price, but never less than one price point;
4. `MAX_DAY_STEP`: from the price that the product's day (UTC) began with at most the policy's share of that
   price, but never less than one price point; the first price of a day is measured against the one before;
5. `PRICE_POINT`: the nearest multiple of the policy's step;
6. `SAME_CONTEXT`: what the same context was quoted a moment ago (`held`) is quoted again.

A later one never breaks an earlier one. Where no price satisfies two of them, the ceiling goes before the
least margin, and floor and ceiling go before the steps (the price then moves to the nearer of the two). A
price that would have to leave the day's range or make too large a step makes the smaller move: the step that
comes nearest to the day's range. A range without any price point keeps the price as it is.

A price that is held was within both steps and on a price point when it was first shown, and is not measured
again; floor and ceiling hold for it too, and where they move it, it goes to a price point between them.

A bound that is not a number bounds nothing; the ceiling must be one, as it is in every catalogue.
"""

from dataclasses import dataclass, replace

import numpy as np

from features.state import Flags, Floats
from infra.objectives import weights
from infra.settings import FraudPolicy, Objective, PricingPolicy

GUARDRAILS = ("FLOOR", "CEILING", "MAX_STEP", "MAX_DAY_STEP", "PRICE_POINT", "SAME_CONTEXT")
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
class FraudLoss:
    """What sales lose to fraud: what `training.fraud_policy.expected_costs` says of approving their payment.

    A sale is taken as one unit, paid by itself.
    """

    probability: Floats
    """That the payment of a sale is fraud and passes, in [0, 1], shape (n,) or none at all."""
    loss_share: float
    """Share of the price that a fraud does not pay."""
    fee: float
    """Money paid for each fraud beside it."""

    @classmethod
    def of(cls, probability: Floats, policy: FraudPolicy) -> "FraudLoss":
        """By the costs of the fraud policy."""
        return cls(probability, policy.loss_share, policy.chargeback_fee)

    @property
    def of_rows(self) -> "FraudLoss":
        """The same for prices of shape (n, k)."""
        return replace(self, probability=np.expand_dims(self.probability, -1))

    def expected(self, price: Floats) -> Floats:
        """Money expected to be lost of a sale at a price; the shapes must fit."""
        found: Floats = self.probability * (self.loss_share * price + self.fee)
        return found


NO_FRAUD = FraudLoss(np.zeros(()), 0.0, 0.0)


@dataclass(frozen=True)
class Limits:
    """Prices that each quote may show, each of shape (n,).

    [low, high], what all of them leave, lies within [step_low, step_high], what floor, ceiling and the
    largest step leave, and that within [floor, ceiling].
    """

    floor: Floats
    ceiling: Floats
    step_low: Floats
    step_high: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True)
class Chosen:
    """Prices to show, each of shape (n,) but `path`."""

    path: Floats
    """Shape (n, 7): the raw price, and the price after each of `GUARDRAILS`."""
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
    list_price: float | Floats = 1.0,
    fraud: FraudLoss = NO_FRAUD,
) -> Floats:
    """What the objective makes of expected units at a price, by which prices are compared.

    That is their `value`. Where growth has a part in the objective, a price that does not keep the policy's
    margin is worth less than all others of its row (the last axis), by what is missing.
    """
    found = value(price, units, unit_cost, objective, opportunity_cost, list_price, fraud)
    if "growth" not in weights(objective):
        return found
    short = margin_share(price, unit_cost, fraud) - policy.growth_margin_floor
    worst = np.minimum(found.min(axis=-1, keepdims=True), 0.0)
    return np.where(short >= 0, found, worst + short)


def value(
    price: Floats,
    units: Floats,
    unit_cost: Floats,
    objective: Objective,
    opportunity_cost: float | Floats = 0.0,
    list_price: float | Floats = 1.0,
    fraud: FraudLoss = NO_FRAUD,
) -> Floats:
    """Money that the objective makes of units at a price; the shapes must fit.

    A unit counts as its `margin`, its price (revenue) or the product's list price (growth: so that a unit
    more weighs the same at every price, and as much beside money as it usually sells for); in a mix each
    weighs its share. From that goes what a unit would earn later if it is perishable (its opportunity cost).
    Growth alone, with a list price of 1, is units.
    """
    parts = {"margin": margin(price, unit_cost, fraud), "revenue": price, "growth": list_price}
    shares = (share * parts[name] for name, share in weights(objective).items())
    unit = sum(shares, start=np.zeros(()))
    found: Floats = (unit - opportunity_cost) * units
    return found


def margin(price: Floats, unit_cost: Floats, fraud: FraudLoss = NO_FRAUD) -> Floats:
    """Money that a unit is expected to leave; the shapes must fit.

    With the probability p that its payment is fraud, price - cost - p × (loss share × price + fee). If a
    fraud pays nothing (loss share 1) that is (1 - p) × (price - cost) - p × (cost + fee): what is sold to a
    fraud is lost, its price is not earned, and a chargeback costs its fee.
    """
    return price - unit_cost - fraud.expected(price)


def margin_share(price: Floats, unit_cost: Floats, fraud: FraudLoss = NO_FRAUD) -> Floats:
    """Margin as a share of the price; minus infinity for a price of 0."""
    lost = fraud.probability * fraud.loss_share
    cost = unit_cost + fraud.probability * fraud.fee
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(price > 0, 1.0 - cost / price - lost, -np.inf)


def best(prices: Floats, worths: Floats) -> Floats:
    """Price of the greatest worth in each row, the dearest of equals; shape (n,)."""
    last = worths.shape[1] - 1 - worths[:, ::-1].argmax(axis=1)
    return np.take_along_axis(prices, last[:, None], axis=1)[:, 0]


def limits(
    terms: Terms,
    last_price: Floats,
    objective: Objective,
    policy: PricingPolicy,
    day_price: Floats | None = None,
    fraud: FraudLoss = NO_FRAUD,
) -> Limits:
    """Where prices may lie.

    Growth, alone or in a mix, keeps the margin that the policy asks of it after the loss to fraud, if that
    takes more than the least margin, which knows nothing of fraud.

    Args:
        terms: of each quote's product.
        last_price: what each product showed last, shape (n,); NaN or 0 if nothing, which allows every step.
        objective: of all quotes.
        policy: margins, steps and price points.
        day_price: what each product's day began with, shape (n,); NaN or 0, or None for all, if not known,
            which allows every price that the step does.
        fraud: what sales lose, if margins are less that.
    """
    least = least_price(terms.unit_cost, policy.min_margin_share)
    if "growth" in weights(objective):
        least = np.fmax(least, least_price(terms.unit_cost, policy.growth_margin_floor, fraud))
    floor = _floor(terms, least)
    step = _Step(policy.max_step_share, policy.price_step, terms.max_step)
    step_low, step_high = step.around(last_price, floor, terms.ceiling)
    if day_price is None:
        return Limits(floor, terms.ceiling, step_low, step_high, step_low, step_high)
    day = _Step(policy.max_day_share, policy.price_step)
    return Limits(floor, terms.ceiling, step_low, step_high, *day.around(day_price, step_low, step_high))


@dataclass(frozen=True)
class _Step:
    """How far a price may move: a share of where it was, between `least` and `most`, in money."""

    share: float
    least: float
    most: float | Floats = np.inf

    def around(self, price: Floats, low: Floats, high: Floats) -> tuple[Floats, Floats]:
        """What of [low, high] can be reached, or the nearest of it; all where the price is not known."""
        known = np.isfinite(price) & (price > 0)
        centre = np.where(known, price, 0.0)
        with np.errstate(over="ignore"):
            far = np.fmin(np.maximum(self.share * centre, self.least), self.most)
            far = np.where(known, np.maximum(far, 0.0), np.inf)
            return np.clip(centre - far, low, high), np.clip(centre + far, low, high)


def least_price(unit_cost: Floats, margin: float, fraud: FraudLoss = NO_FRAUD) -> Floats:
    """Price of which the margin is this share; infinite where no price reaches it."""
    left = 1.0 - margin - fraud.probability * fraud.loss_share
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        found = (unit_cost + fraud.probability * fraud.fee) / left
    return np.where(left > 0, found, np.inf)


def _floor(terms: Terms, least: Floats) -> Floats:
    dearer = np.fmax(np.fmax(terms.floor, 0.0), least)
    return np.fmin(dearer, terms.ceiling)


def guarded(raw: Floats, within: Limits, price_step: float, held: Floats | None = None) -> Floats:
    """Price after each guardrail, shape (*raw.shape, 7), first the raw price; the limits' shapes must fit.

    A raw price that is NaN becomes the highest one allowed. `held` is what the same context was quoted a
    moment ago; NaN, or None for all, if nothing.
    """
    known = np.where(np.isnan(raw), within.high, raw)
    above = np.maximum(known, within.floor)
    below = np.minimum(above, within.ceiling)
    stepped = np.clip(below, within.step_low, within.step_high)
    daily = np.clip(stepped, within.low, within.high)
    point = _on_point(daily, within.low, within.high, price_step)
    again = point if held is None else _again(held, point, within, price_step)
    return np.stack([known, above, below, stepped, daily, point, again], axis=-1)


def _again(held: Floats, price: Floats, within: Limits, step: float) -> Floats:
    """The price that is held, inside floor and ceiling; another where nothing is held."""
    inside = np.clip(held, within.floor, within.ceiling)
    moved = _on_point(inside, within.floor, within.ceiling, step)
    return np.where(np.isfinite(held), np.where(inside == held, held, moved), price)


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
    """Shape (n, m, 7): each price as the policy wants it, and after each of `GUARDRAILS`; nothing is held."""
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
    k = raw.shape[1]
    some = np.ones_like(trials) if allowed is None else allowed.astype(np.float64)
    count = some.sum(axis=1, keepdims=True)
    share = np.where(count > 0, policy.exploration_share, 0.0)
    chance = np.hstack([np.repeat((1.0 - share) / k, k, axis=1), share * some / np.maximum(count, 1.0)])
    wanted = np.hstack([raw, trials])
    each = Limits(*(side[:, None] for side in vars(within).values()))
    return Offers(guarded(wanted, each, policy.price_step), chance, k)


def choose(offered: Offers, draws: Floats) -> Chosen:
    """Show one of the offers; `draws` is a uniform number in [0, 1) for each quote, shape (n,)."""
    upto = offered.chance.cumsum(axis=1)
    picked = (draws[:, None] * upto[:, -1:] >= upto).sum(axis=1)
    path = np.take_along_axis(offered.path, picked[:, None, None], axis=1)[:, 0]
    return Chosen(path, picked >= offered.wanted, offered.propensity(path[:, -1]))


def repeated(chosen: Chosen, held: Floats, within: Limits, policy: PricingPolicy) -> Chosen:
    """Show again what the same context was quoted a moment ago, where something is held.

    Exploration and propensity stay those of what was chosen; who repeats a price knows how it was drawn.

    Args:
        chosen: as it would be without; its raw price and guardrails stay to be told.
        held: shape (n,); NaN where nothing is held.
        within: the limits of each quote.
        policy: price points.
    """
    again = _again(held, chosen.price, within, policy.price_step)
    return replace(chosen, path=np.column_stack([chosen.path[:, :-1], again]))


def trials(within: Limits, policy: PricingPolicy) -> Floats:
    """Prices that exploration may draw, `candidates` evenly spaced ones within the limits, shape (n, m)."""
    low, high = within.low[:, None], within.high[:, None]
    even = low + np.linspace(0.0, 1.0, policy.candidates) * (high - low)
    return _on_point(np.clip(even, low, high), low, high, policy.price_step)
