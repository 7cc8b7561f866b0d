"""Random quotes through the pure pricing policy, each price checked against the guardrails as written.

The check shares no code with the policy: it asks of each price how far it lies outside what a guardrail
allows, and whether the guardrails before it made it go so far.
Alone: `python -m serving.bench.guardrails [QUOTES]`.
"""

import json
import sys
import time
from dataclasses import asdict, dataclass, field

import numpy as np

from features.state import Flags, Floats
from infra.objectives import canonical
from infra.progress import Silent, Task
from infra.settings import Objective, PricingPolicy
from training.pricing_policy import (
    GUARDRAILS,
    NO_FRAUD,
    Chosen,
    FraudLoss,
    Terms,
    choose,
    limits,
    offers,
    repeated,
    trials,
)

BLOCK = 20_000
"""Quotes under one policy, drawn anew for each block."""
WISHES = 2
ROUNDING = 1e-9
"""Of a price, by which a share of it may be off."""
WILD = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, -1.0, 5e-324, 1e-9, 1e12, 1e300, -1e300])
"""What no price should be."""

Range = tuple[Floats, Floats]

_NAMES = ("margin", "revenue", "growth")
_POINTS = np.array([0.01, 0.05, 0.1, 0.25, 0.5, 0.99, 1.0, 5.0, 0.3, 1 / 3, 100.0])


@dataclass(frozen=True)
class Guarded:
    """What came of random quotes."""

    quotes: int
    breaches: dict[str, int]
    """By guardrail; `NUMBER` for a price that is none."""
    told: dict[str, int]
    """Quotes of which each guardrail changed the price: none of them slept."""
    policy_s: float = field(compare=False)
    """Of the policy alone, without making up quotes and checking prices."""

    @property
    def guardrail_breaches(self) -> int:
        """Of all guardrails."""
        return sum(self.breaches.values())

    @property
    def guarded_quotes_per_s(self) -> float:
        """Through limits, exploration, guardrails and choice, on one core."""
        return self.quotes / self.policy_s


@dataclass(frozen=True)
class Situation:
    """What is known of n quotes under one policy, each array of shape (n,)."""

    policy: PricingPolicy
    objective: Objective
    terms: Terms
    last: Floats
    day: Floats
    held: Floats
    fraud: FraudLoss = NO_FRAUD


def guard(quotes: int, task: Task | None = None, seed: int = 1) -> Guarded:
    """Price so many random quotes and count breaches."""
    rng, told = np.random.default_rng(seed), task or Silent()
    breaches, moved, policy_s = dict.fromkeys(("NUMBER", *GUARDRAILS), 0), dict.fromkeys(GUARDRAILS, 0), 0.0
    for start in range(0, quotes, BLOCK):
        n = min(BLOCK, quotes - start)
        here, raw, draws = situation(rng, n), _any(rng, (n, WISHES), 50.0), rng.random(n)
        started = time.perf_counter()
        chosen = _priced(here, raw, draws)
        policy_s += time.perf_counter() - started
        for name, broken in breaches_of(here, chosen.price).items():
            breaches[name] += int(broken.sum())
        for name, before, after in zip(GUARDRAILS, chosen.path.T, chosen.path.T[1:], strict=False):
            moved[name] += int((before != after).sum())
        told.advance(n)
    return Guarded(quotes, breaches, moved, policy_s)


def _priced(here: Situation, raw: Floats, draws: Floats) -> Chosen:
    within = limits(here.terms, here.last, here.objective, here.policy, here.day, here.fraud)
    offered = offers(raw, trials(within, here.policy), within, here.policy)
    return repeated(choose(offered, draws), here.held, within, here.policy)


def situation(rng: np.random.Generator, n: int) -> Situation:
    """A random policy, and random and wild products and pasts; only the ceiling is always a price."""
    list_price, ceiling, floor = _price(rng, n), _price(rng, n), _any(rng, n, 50.0)
    terms = Terms(list_price, _any(rng, n, 30.0), floor, ceiling, _any(rng, n, 10.0))
    last = _any(rng, n, 50.0)
    near = last * rng.uniform(0.7, 1.4, n)
    day = np.where(rng.random(n) < 0.7, near, _any(rng, n, 50.0))
    held = np.where(rng.random(n) < 0.8, np.nan, _any(rng, n, 50.0))
    return Situation(_policy(rng), _objective(rng), terms, last, day, held, _fraud(rng, n))


def _objective(rng: np.random.Generator) -> Objective:
    """A name as often as a mix, of which some parts are nothing."""
    weights = dict(zip(_NAMES, rng.uniform(-1.0, 1.0, 3).clip(0.0).tolist(), strict=True))
    name = _NAMES[rng.integers(3)]
    return canonical(weights if rng.random() < 0.5 and any(weights.values()) else name)


def _fraud(rng: np.random.Generator, n: int) -> FraudLoss:
    """Of half the policies; certain fraud and fees above all prices among it."""
    if rng.random() < 0.5:
        return NO_FRAUD
    probability = rng.choice([0.0, 1e-3, 0.02, 0.5, 1.0], n)
    return FraudLoss(probability, float(rng.choice([0.0, 0.5, 1.0])), float(rng.choice([0.0, 15.0, 1e6])))


def _policy(rng: np.random.Generator) -> PricingPolicy:
    share, kept, most, day = rng.random(4).tolist()
    return PricingPolicy(
        objective="margin",
        growth_margin_floor=kept,
        min_margin_share=share if rng.random() < 0.8 else float(rng.integers(2)),
        price_step=float(rng.choice(_POINTS)),
        max_step_share=most,
        max_day_share=0.01 + 2.0 * day,
        candidate_low=0.6,
        candidate_high=1.6,
        candidates=2,
        exploration_share=float(rng.choice([0.0, 0.05, 0.5, 1.0])),
    )


def _price(rng: np.random.Generator, shape: int | tuple[int, int], middle: float = 50.0) -> Floats:
    """From a thousandth to a thousand times the middle, some of them round."""
    drawn = middle * np.exp(np.clip(1.5 * rng.standard_normal(shape), -6.9, 6.9))
    return np.where(rng.random(shape) < 0.3, np.ceil(drawn), drawn)


def _any(rng: np.random.Generator, shape: int | tuple[int, int], middle: float) -> Floats:
    """The same, and one in twenty is wild."""
    return np.where(rng.random(shape) < 0.05, rng.choice(WILD, shape), _price(rng, shape, middle))


def breaches_of(here: Situation, price: Floats) -> dict[str, Flags]:
    """Which prices break which guardrail, each of shape (n,)."""
    least, most = _least(here), here.terms.ceiling
    step = _step(here.last, here.policy.max_step_share, here.policy.price_step, here.terms.max_step)
    day = _step(here.day, here.policy.max_day_share, here.policy.price_step, np.full(len(price), np.nan))
    stepped = np.clip(step, least, most)
    low, high = np.clip(day, *stepped)
    room = ROUNDING * sum(np.where(_is_price(each), each, 0.0) for each in (here.last, here.day))
    held = np.isfinite(here.held)
    return {
        "NUMBER": ~np.isfinite(price) | (price < 0),
        "FLOOR": price < least * (1 - ROUNDING),
        "CEILING": price > most,
        "MAX_STEP": ~held & (_outside(price, *step) > _forced(step, least, most) + room),
        "MAX_DAY_STEP": ~held & (_outside(price, *day) > _forced(day, *stepped) + room),
        "PRICE_POINT": ~held & _off_point(price, low + room, high - room, here.policy.price_step),
        "SAME_CONTEXT": held & (here.held >= least) & (here.held <= most) & (price != here.held),
    }


def _forced(allowed: Range, low: Floats, high: Floats) -> Floats:
    """How far a price must lie outside what is allowed, because it must lie in [low, high]."""
    return np.maximum(np.maximum(allowed[0] - high, low - allowed[1]), 0.0)


def _is_price(value: Floats) -> Flags:
    return np.isfinite(value) & (value > 0)


def _least(here: Situation) -> Floats:
    """Floor, or cost with its margin; the ceiling if that is less."""
    cost, floor = (np.where(np.isnan(each), 0.0, each) for each in (here.terms.unit_cost, here.terms.floor))
    least: Floats = np.maximum(np.maximum(floor, _leaving(cost, 1 - here.policy.min_margin_share)), 0.0)
    if "growth" in here.objective:
        lost, fees = here.fraud.probability * here.fraud.loss_share, here.fraud.probability * here.fraud.fee
        known = np.where(np.isnan(here.terms.unit_cost), 0.0, cost + fees)
        least = np.maximum(least, _leaving(known, 1 - here.policy.growth_margin_floor - lost))
    return np.minimum(least, here.terms.ceiling)


def _leaving(cost: Floats, share: float | Floats) -> Floats:
    """Price of which this share pays the cost; infinite if none can."""
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        return np.where(np.asarray(share) > 0, cost / np.asarray(share), np.inf)


def _step(of: Floats, share: float, point: float, most: Floats) -> Range:
    """Prices that a step from `of` reaches; all of them if it is no price."""
    with np.errstate(over="ignore", invalid="ignore"):
        far = np.maximum(of * share, point)
        far = np.where(most < far, np.maximum(most, 0.0), far)
        low, high = of - far, of + far
    known = _is_price(of)
    return np.where(known, low, -np.inf), np.where(known, high, np.inf)


def _outside(price: Floats, low: Floats, high: Floats) -> Floats:
    return np.maximum(np.maximum(low - price, price - high), 0.0)


def _off_point(price: Floats, low: Floats, high: Floats, step: float) -> Flags:
    """Whether a price is no multiple of the step though one lies between low and high."""
    possible = np.floor(high / step) * step >= low
    return possible & (np.abs(price - np.rint(price / step) * step) > ROUNDING * np.maximum(price, 1.0))


def main() -> None:
    """Print the figures as JSON; exit with 1 if a guardrail was broken."""
    result = guard(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000_000)
    figures = {
        "guardrail_breaches": result.guardrail_breaches,
        "guarded_quotes_per_s": result.guarded_quotes_per_s,
    }
    print(json.dumps(figures | asdict(result)))  # noqa: T201
    sys.exit(result.guardrail_breaches > 0)


if __name__ == "__main__":
    main()
