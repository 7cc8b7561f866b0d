"""The bench of the guardrails finds what is broken, and nothing in what the policy makes."""

from dataclasses import replace

import numpy as np

from serving.bench.guardrails import breaches_of, guard, situation
from training.pricing_policy import GUARDRAILS, NO_FRAUD, FraudLoss

SITUATIONS = 40


def test_random_quotes_break_nothing_and_use_every_guardrail() -> None:
    result = guard(200_000, seed=3)
    assert result.guardrail_breaches == 0, result.breaches
    assert set(result.told) == set(GUARDRAILS)
    assert min(result.told.values()) > 200
    assert result == guard(200_000, seed=3)
    assert result.told != guard(200_000, seed=4).told


def test_prices_without_guardrails_break_each() -> None:
    rng = np.random.default_rng(5)
    found = dict.fromkeys(("NUMBER", *GUARDRAILS), 0)
    for _ in range(SITUATIONS):
        here = situation(rng, 500)
        for name, broken in breaches_of(here, rng.choice([np.nan, 0.03, 35.07, 2_000.07], 500)).items():
            found[name] += int(broken.sum())
    assert min(found.values()) > 100, found


def test_a_breach_is_told_by_its_name() -> None:
    rng = np.random.default_rng(5)
    here = situation(rng, 1)
    of = {"list_price": 50.0, "unit_cost": 20.0, "floor": 30.0, "ceiling": 80.0, "max_step": 6.0}
    terms = replace(here.terms, **{name: np.array([value]) for name, value in of.items()})
    policy = here.policy.model_copy(
        update={"min_margin_share": 0.5, "max_step_share": 0.2, "max_day_share": 0.1, "price_step": 0.5}
    )
    nothing = np.array([np.nan])
    here = replace(
        here, policy=policy, objective="margin", terms=terms, last=nothing, day=nothing, held=nothing,
        fraud=NO_FRAUD,
    )  # fmt: skip

    def broken(price: float, **past: float) -> list[str]:
        known = replace(here, **{name: np.array([value]) for name, value in past.items()})
        return [name for name, each in breaches_of(known, np.array([price])).items() if each[0]]

    assert broken(50.5, last=50.0, day=50.0) == []
    assert broken(39.5) == ["FLOOR"], "half the price is margin from 40 on"
    assert broken(80.5) == ["CEILING"]
    kept = policy.model_copy(update={"growth_margin_floor": 0.6})
    mixed = replace(here, policy=kept, objective="0.9 revenue + 0.1 growth")
    assert not breaches_of(mixed, np.array([50.0]))["FLOOR"][0]
    assert breaches_of(mixed, np.array([49.5]))["FLOOR"][0], "a mix with growth keeps growth's margin"
    risky = replace(mixed, fraud=FraudLoss(np.array([0.1]), 1.0, 10.0))
    assert not breaches_of(risky, np.array([70.0]))["FLOOR"][0], "20 + 1 over what 60 % and 10 % leave"
    assert breaches_of(risky, np.array([69.5]))["FLOOR"][0]
    assert not breaches_of(replace(risky, objective="margin"), np.array([40.0]))["FLOOR"][0]
    assert broken(56.5, last=50.0) == ["MAX_STEP"]
    assert broken(44.5, last=48.0, day=50.0) == ["MAX_DAY_STEP"]
    assert broken(80.0, last=100.0, day=50.0) == [], "the ceiling makes it go so far"
    assert broken(79.5, last=100.0, day=100.0) == ["MAX_STEP", "MAX_DAY_STEP"], "and no further"
    assert broken(50.25) == ["PRICE_POINT"]
    assert broken(50.5, held=51.0) == ["SAME_CONTEXT"]
    assert broken(51.25, last=90.0, day=90.0, held=51.25) == []
