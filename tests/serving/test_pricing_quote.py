"""Quotes by models whose demand is known."""

import random
import re
from dataclasses import replace
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from features.pricing import OUTCOME, PRICING, PRODUCT, QUOTE, event_values
from features.state import Events, Floats, States, fold
from infra.objectives import canonical
from infra.settings import Objective, PricingPolicy, Product, load
from ingestion.events import Quote, QuoteRequest
from serving.pricing import BASELINE, Held, Known, Policy, quote
from training.bid_prices import BidPrices
from training.bid_prices import kept as kept_bids
from training.card import Card, Trained
from training.demand import GRID, Doubt, kept

RULES = PricingPolicy(
    objective="margin",
    growth_margin_floor=0.3,
    min_margin_share=0.02,
    price_step=0.1,
    max_step_share=0.15,
    candidate_low=0.6,
    candidate_high=1.6,
    candidates=101,
    exploration_share=0.05,
    exploration_at_start=0.05,
)
POLICY = Policy(RULES, "v1")
SHOES = Product(
    product_id="p-1",
    list_price=50.0,
    unit_cost=20.0,
    currency="EUR",
    floor=25.0,
    ceiling=80.0,
    max_step=8.0,
    category="shoes",
)
COLD = States.cold(PRODUCT, 1).columns
PRICE = PRICING.names.index("price_to_list")
DOUBT = Doubt((0.1,) * len(GRID), 0.2, lowest=0.7, highest=1.4, units_per_sale=2.0)


class KnownDemand:
    """Chance of purchase 0.3 × (price / list price)^elasticity, at most 0.95."""

    def __init__(self, elasticity: float = -2.0, doubt: Doubt | None = DOUBT) -> None:
        extra = {} if doubt is None else kept(doubt)
        trained = Trained(0, 0, 0, 0)
        self.card = Card("pricing", "fake", PRICING.names, PRICING.hash, trained, version="3", extra=extra)
        self._elasticity = elasticity

    def predict(self, matrix: Floats) -> Floats:
        chance: Floats = np.minimum(0.3 * matrix[:, PRICE] ** self._elasticity, 0.95)
        return chance


class Numbers:
    """Draws that are given in advance."""

    def __init__(self, *numbers: float) -> None:
        self._left = list(numbers)

    def random(self) -> float:
        return self._left.pop(0)


def never() -> Numbers:
    return Numbers(0.0)


def asked(objective: Objective | dict[str, float] | None = None, **context: float) -> QuoteRequest:
    body: dict[str, Any] = {"quote_id": "q-1", "event_time": "2026-03-01T12:00:00Z", "product_id": "p-1"}
    body |= {"segment": "web", "context": context, "objective": objective}
    return QuoteRequest.model_validate_json(orjson.dumps(body))


def shown(price: float, units: float = 1.0) -> Floats:
    """State after a quote at a price and its outcome, an hour ago."""
    now_us = int(asked().event_time.timestamp()) * 1_000_000 - 3_600_000_000
    kind, times = np.array([QUOTE, OUTCOME]), np.array([now_us, now_us])
    values = event_values(kind, np.array([price, price]), np.array([np.nan, units]), times)
    states = States.cold(PRODUCT, 1)
    fold(PRODUCT, states, Events(kind, times, np.zeros(2, np.int64), np.arange(2), values))
    return states.columns


def test_the_answer_has_what_the_contract_names() -> None:
    answer = quote(
        asked(inventory=12, competitor_price=60.0), Known(SHOES, COLD), KnownDemand(), POLICY, never()
    )
    contract = {
        "quote_id", "price", "currency", "raw_price", "objective", "guardrails", "demand_curve", "elasticity",
        "expected", "exploration", "propensity", "model", "policy_version", "degraded", "latency_ms",
        "opportunity_cost",
    }  # fmt: skip
    event = {
        "event_time", "product_id", "segment", "context", "list_price", "unit_cost", "features", "held",
    }  # fmt: skip
    assert set(answer) == contract | event
    assert set(answer["demand_curve"][0]) == {"price", "purchase_probability", "low", "high"}
    assert set(answer["elasticity"]) == {"value", "low", "high"}
    assert set(answer["expected"]) == {"units", "revenue", "margin"}
    assert set(answer["latency_ms"]) == {"features", "model", "total"}
    assert answer["model"] == {"name": "pricing", "version": "3", "alias": "champion"}
    assert (answer["policy_version"], answer["degraded"], answer["currency"]) == ("v1", False, "EUR")


def test_the_answer_is_an_event_that_the_worker_takes() -> None:
    answer = quote(asked(inventory=12), Known(SHOES, COLD), KnownDemand(), POLICY, never())
    event = Quote.model_validate_json(orjson.dumps(answer))
    assert (event.price, event.list_price, event.unit_cost) == (answer["price"], 50.0, 20.0)
    assert event.event_time == asked().event_time
    assert event.context == {"inventory": 12.0, "category": "shoes"}
    assert event.model["version"] == "3"


def test_the_price_earns_the_most_margin() -> None:
    """At a constant elasticity of -2 the best price is twice the cost: 40."""
    answer = quote(asked(), Known(SHOES, COLD), KnownDemand(), POLICY, never())
    assert abs(answer["price"] - 40.0) <= 0.5
    assert answer["exploration"] is False


@pytest.mark.parametrize(("objective", "price"), [("margin", 60.0), ("revenue", 30.0), ("growth", 30.0)])
def test_the_request_may_choose_the_objective(objective: Objective, price: float) -> None:
    """At an elasticity of -1.5 margin wants three times the cost, the others the cheapest candidate."""
    doubt = Doubt(DOUBT.log_odds, 0.2, lowest=0.63, highest=1.5, units_per_sale=1.0)
    answer = quote(asked(objective), Known(SHOES, COLD), KnownDemand(-1.5, doubt), POLICY, never())
    assert answer["objective"] == objective
    assert abs(answer["price"] - price) <= 0.6


def priced(product: Product, objective: Objective | dict[str, float] | None = None) -> dict[str, Any]:
    """At an elasticity of -1.5 margin's best is 60, and less and less the more revenue weighs."""
    doubt = Doubt(DOUBT.log_odds, 0.2, lowest=0.63, highest=1.5, units_per_sale=1.0)
    return quote(asked(objective), Known(product, COLD), KnownDemand(-1.5, doubt), POLICY, never())


def test_the_request_may_mix_objectives() -> None:
    """Of 0.7 margin and 0.3 revenue a unit costs 0.7 times as much: the best price is 42."""
    answer = priced(SHOES, {"revenue": 3, "margin": 7})
    assert answer["objective"] == "0.7 margin + 0.3 revenue"
    assert abs(answer["price"] - 42.0) <= 0.6
    assert priced(SHOES, answer["objective"])["price"] == answer["price"], "as it is told, so it may be asked"
    event = Quote.model_validate_json(orjson.dumps(answer))
    assert event.objective == "0.7 margin + 0.3 revenue"


def test_a_product_may_state_its_own_objective() -> None:
    """The request's word goes before it, and it before the policy's."""
    own = SHOES.model_copy(update={"objective": canonical({"margin": 7, "revenue": 3})})
    assert [priced(each, wish)["objective"] for each in (SHOES, own) for wish in (None, "revenue")] == [
        "margin", "revenue", "0.7 margin + 0.3 revenue", "revenue",
    ]  # fmt: skip
    assert abs(priced(own)["price"] - 42.0) <= 0.6


@pytest.mark.parametrize(
    "objective", ["glory", {"margin": -1, "revenue": 2}, {"glory": 1}, {"margin": 0}, {}, ["margin"], 3]
)
def test_what_is_no_objective_is_no_request(objective: Any) -> None:
    with pytest.raises(ValidationError, match=r"objective\s+Value error, expected "):
        asked(objective)


def test_the_schema_tells_what_an_objective_may_be() -> None:
    one, _ = QuoteRequest.model_json_schema()["properties"]["objective"]["anyOf"]
    names, word, mix = one["anyOf"]
    assert names["enum"] == ["margin", "revenue", "growth"]
    assert re.fullmatch(word["pattern"], canonical({"margin": 1, "growth": 2}))
    assert set(mix["properties"]) == set(names["enum"])


RISKY = Policy(
    RULES.model_copy(update={"fraud_loss": True}),
    "v1",
    load().fraud.model_copy(update={"chargeback_fee": 15.0, "loss_share": 1.0}),
)
OPEN = replace(RISKY, rules=RISKY.rules.model_copy(update={"fraud_probability_personal": False}))


def risky(policy: Policy = RISKY, share: float | None = 0.1, **context: float) -> dict[str, Any]:
    known = Known(SHOES, COLD, fraud_share=share)
    return quote(asked(None, **context), known, KnownDemand(), policy, never())


def test_margin_may_be_less_the_loss_to_fraud() -> None:
    """At an elasticity of -2: twice the cost and a tenth of a fee, over the nine tenths that pay."""
    answer = risky()
    assert abs(answer["price"] - 2 * (20.0 + 1.5) / 0.9) <= 0.5
    assert answer["fraud_probability"] == 0.1
    units, price = answer["expected"]["units"], answer["price"]
    assert answer["expected"]["fraud_loss"] == pytest.approx(units * 0.1 * (price + 15.0), abs=1e-5)
    assert answer["expected"]["margin"] == pytest.approx(units * (price - 20.0), abs=1e-5)
    assert Quote.model_validate_json(orjson.dumps(answer)).fraud_probability == 0.1


def test_without_the_setting_no_price_knows_of_fraud() -> None:
    off = replace(RISKY, rules=RULES)
    plain = risky(off, fraud_probability=0.9)
    assert plain["price"] == risky(off, None)["price"] == risky(RISKY, 0.0)["price"]
    assert "fraud_probability" not in plain
    assert "fraud_loss" not in plain["expected"]


def test_a_share_of_fraud_that_nobody_knows_takes_nothing_away() -> None:
    answer = risky(share=None)
    assert answer["price"] == risky(replace(RISKY, rules=RULES))["price"]
    assert answer["fraud_probability"] is None
    assert answer["expected"]["fraud_loss"] is None


@pytest.mark.parametrize("who", [0.0, 0.02, 0.9])
def test_no_price_knows_how_likely_this_shopper_is_a_fraud_unless_the_policy_says_so(who: float) -> None:
    answer = risky(fraud_probability=who)
    assert answer["fraud_probability"] == 0.1, "of all sales"
    same = ("price", "propensity", "expected", "raw_price", "demand_curve")
    assert [answer[name] for name in same] == [risky()[name] for name in same]
    personal = replace(RISKY, rules=RISKY.rules.model_copy(update={"use_personal": True}))
    for policy in (OPEN, personal):
        assert risky(policy, fraud_probability=who)["fraud_probability"] == who
    assert risky(OPEN)["fraud_probability"] == 0.1, "where the request says nothing"


def test_a_likely_fraud_is_asked_more() -> None:
    prices = [risky(OPEN, fraud_probability=who)["price"] for who in (0.0, 0.05, 0.2)]
    assert prices == sorted(set(prices))


@pytest.mark.parametrize("given", [1.5, -0.1, "much", True])
def test_a_probability_that_is_none_is_refused(given: Any) -> None:
    with pytest.raises(ValidationError, match="expected fraud_probability from 0 to 1, came"):
        asked(None, fraud_probability=given)


def test_growth_keeps_its_margin() -> None:
    dear = SHOES.model_copy(update={"unit_cost": 30.0})
    answer = quote(asked("growth"), Known(dear, COLD), KnownDemand(), POLICY, never())
    share = 1 - 30.0 / answer["price"]
    assert 0.3 <= share < 0.32


def test_what_is_expected_is_the_models_word_at_the_shown_price() -> None:
    model = KnownDemand()
    answer = quote(asked(), Known(SHOES, shown(45.0)), model, POLICY, never())
    row = np.array([[answer["features"][name] for name in PRICING.names]])
    units = float(model.predict(row)[0]) * DOUBT.units_per_sale
    assert row[0, PRICE] == answer["price"] / 50.0, "the features are those of the shown price"
    assert np.isclose(answer["expected"]["units"], units, atol=1e-6)
    assert np.isclose(answer["expected"]["revenue"], units * answer["price"], atol=1e-5)
    assert np.isclose(answer["expected"]["margin"], units * (answer["price"] - 20.0), atol=1e-5)


def test_the_curve_tells_demand_and_its_elasticity() -> None:
    answer = quote(asked(), Known(SHOES, COLD), KnownDemand(), POLICY, never())
    curve = answer["demand_curve"]
    assert [point["price"] for point in curve] == sorted(point["price"] for point in curve)
    for point in curve:
        expected = min(0.3 * (point["price"] / 50.0) ** -2.0, 0.95)
        assert np.isclose(point["purchase_probability"], expected, atol=1e-5)
        assert point["low"] < point["purchase_probability"] < point["high"]
    assert np.isclose(answer["elasticity"]["value"], -2.0, atol=1e-4)
    assert np.isclose(answer["elasticity"]["low"], -2.0 - 1.96 * 0.2, atol=1e-4)
    assert np.isclose(answer["elasticity"]["high"], -2.0 + 1.96 * 0.2, atol=1e-4)


class ScarceDemand(KnownDemand):
    """The same, of seats whose unit is worth 2 for each hour left, over the number of units left."""

    def __init__(self) -> None:
        super().__init__()
        bids = BidPrices((0.0, 10.0), (1.0, 2.0), ((0.0, 0.0), (20.0, 10.0)))
        tables = kept_bids({"margin": {"p-1": bids}, "revenue": {"p-1": bids}})
        self.card = replace(self.card, extra={**self.card.extra, **tables})


def seats(objective: Objective, **context: float) -> dict[str, Any]:
    return quote(asked(objective, **context), Known(SHOES, COLD), ScarceDemand(), POLICY, never())


@pytest.mark.parametrize(
    ("inventory", "hours", "cost", "price"),
    [(1, 5, 10.0, 60.0), (2, 5, 5.0, 50.0), (2, 10, 10.0, 60.0), (1, 0, 0.0, 40.0), (9, 99, 10.0, 60.0)],
)
def test_scarce_stock_is_dearer(inventory: float, hours: float, cost: float, price: float) -> None:
    """At a constant elasticity of -2 the best price is twice the sum of what a unit costs and would earn."""
    answer = seats("margin", inventory=inventory, hours_to_departure=hours)
    assert answer["opportunity_cost"] == cost
    assert abs(answer["price"] - price) <= 0.5


def test_revenue_weighs_what_a_unit_would_earn_and_growth_does_not() -> None:
    scarce = {"inventory": 1.0, "hours_to_departure": 10.0}
    assert abs(seats("revenue", **scarce)["price"] - 40.0) <= 0.5
    assert seats("growth", **scarce)["opportunity_cost"] == 0.0


def test_a_mix_weighs_what_a_unit_would_earn_by_its_parts() -> None:
    """Both parts that have a bid price would earn 10, growth nothing."""
    scarce = {"inventory": 1.0, "hours_to_departure": 5.0}
    assert seats(canonical({"margin": 1, "revenue": 1}), **scarce)["opportunity_cost"] == 10.0
    assert seats(canonical({"margin": 1, "revenue": 1, "growth": 2}), **scarce)["opportunity_cost"] == 5.0


def test_the_floor_and_the_margin_told_know_nothing_of_the_opportunity_cost() -> None:
    answer = seats("margin", inventory=1.0, hours_to_departure=10.0)
    margin = answer["expected"]["units"] * (answer["price"] - SHOES.unit_cost)
    assert np.isclose(answer["expected"]["margin"], margin, atol=1e-4)
    assert answer["raw_price"] > 73, "the dearest candidate, as twice 40 is beyond what data support"
    cheap = quote(
        asked(inventory=1, hours_to_departure=10), Known(SHOES, shown(25.0)), ScarceDemand(), POLICY, never()
    )
    assert cheap["price"] < 30, "a floor of cost and opportunity cost would be 40"


def test_stock_that_is_not_known_to_perish_has_no_opportunity_cost() -> None:
    assert seats("margin", inventory=1.0)["opportunity_cost"] == 0.0
    assert seats("margin", hours_to_departure=5.0)["opportunity_cost"] == 0.0
    other = Known(SHOES.model_copy(update={"product_id": "p-2"}), COLD)
    scarce = asked(inventory=1.0, hours_to_departure=10.0)
    assert quote(scarce, other, ScarceDemand(), POLICY, never())["opportunity_cost"] == 0.0
    lost = Known(SHOES, COLD, degraded=True)
    assert quote(scarce, lost, ScarceDemand(), POLICY, never())["opportunity_cost"] == 0.0


def test_candidates_stay_near_prices_that_were_ever_shown() -> None:
    curve = quote(asked(), Known(SHOES, COLD), KnownDemand(), POLICY, never())["demand_curve"]
    assert np.isclose(curve[0]["price"], 50.0 * 0.7 / 1.05, atol=1e-4)
    assert np.isclose(curve[-1]["price"], 50.0 * 1.4 * 1.05, atol=1e-4)


def test_a_model_that_does_not_say_how_sure_it_is_has_no_band() -> None:
    answer = quote(asked(), Known(SHOES, COLD), KnownDemand(doubt=None), POLICY, never())
    told = orjson.loads(orjson.dumps(answer))
    assert told["demand_curve"][0]["low"] is None
    assert told["elasticity"] == {"value": -2.0, "low": None, "high": None}
    assert told["demand_curve"][0]["price"] == 30.0, "the policy's whole range"


def test_each_guardrail_that_moved_the_price_is_told_with_before_and_after() -> None:
    answer = quote(asked(), Known(SHOES, shown(70.05)), KnownDemand(), POLICY, never())
    (step, point) = answer["guardrails"]
    assert (step["code"], step["after"]) == ("MAX_STEP", 62.05)
    assert step["before"] == answer["raw_price"] < 41
    assert point["code"] == "PRICE_POINT"
    assert point["before"] == 62.05
    assert point["after"] == answer["price"] == 62.1, "62.0 would be too large a step"


def test_a_day_has_its_largest_step_too() -> None:
    policy = Policy(RULES.model_copy(update={"max_day_share": 0.04}), "v1")
    answer = quote(asked(), Known(SHOES, shown(70.0)), KnownDemand(), policy, never())
    assert [(each["code"], each["after"]) for each in answer["guardrails"]] == [
        ("MAX_STEP", 62.0),
        ("MAX_DAY_STEP", 67.2),
    ]
    assert answer["price"] == 67.2


def test_what_is_held_is_quoted_again_as_it_came_about() -> None:
    held = Held(44.4, propensity=0.002, exploration=True)
    known = Known(SHOES, shown(70.0), held=held)
    answer = quote(asked(), known, KnownDemand(), POLICY, never())
    assert answer["guardrails"][-1] == {"code": "SAME_CONTEXT", "before": 62.0, "after": 44.4}
    assert (answer["price"], answer["propensity"], answer["exploration"]) == (44.4, 0.002, True)
    assert answer["held"] is True
    assert answer["features"]["price_to_list"] == 44.4 / 50.0
    event = Quote.model_validate_json(orjson.dumps(answer))
    assert (event.price, event.held) == (44.4, True)
    assert quote(asked(), Known(SHOES, shown(70.0)), None, POLICY, never())["held"] is False


def test_what_is_held_stays_under_a_ceiling_that_came_meanwhile() -> None:
    known = Known(SHOES, shown(70.0), held=Held(79.9, 1.0, exploration=False))
    lower = SHOES.model_copy(update={"ceiling": 71.25})
    assert quote(asked(), known, None, POLICY, never())["price"] == 79.9
    assert quote(asked(), replace(known, product=lower), None, POLICY, never())["price"] == 71.2


def test_no_price_knows_of_a_person_unless_the_policy_says_so() -> None:
    def seen(**settings: object) -> dict[str, float]:
        policy = Policy(RULES.model_copy(update=settings), "v1")
        answer = quote(asked(inventory=12), Known(SHOES, COLD), KnownDemand(), policy, never())
        features: dict[str, float] = answer["features"]
        return features

    personal = {"personal": ("segment", "inventory")}
    for name in ("segment_code", "inventory"):
        assert np.isnan(seen(**personal)[name])
        assert seen(**personal, use_personal=True)[name] == seen()[name] > 0


def test_without_a_model_the_list_price() -> None:
    answer = quote(asked(), Known(SHOES, shown(50.0, units=0.0)), None, POLICY, never())
    assert (answer["price"], answer["raw_price"], answer["guardrails"]) == (50.0, 50.0, [])
    assert answer["model"] == BASELINE
    assert answer["demand_curve"] == []
    assert answer["elasticity"] == {"value": None, "low": None, "high": None}
    assert answer["expected"] == {"units": 0.0, "revenue": 0.0, "margin": 0.0}, "as of late nobody bought"


def test_without_anything_known_nothing_is_expected() -> None:
    answer = quote(asked(), Known(SHOES, COLD), None, POLICY, never())
    assert answer["expected"] == {"units": None, "revenue": None, "margin": None}


def test_the_list_price_is_explored_around_too() -> None:
    answer = quote(asked(), Known(SHOES, shown(50.0)), None, POLICY, Numbers(0.9999))
    assert (answer["exploration"], answer["price"]) == (True, 57.5)
    assert 0 < answer["propensity"] < 0.05


def test_without_the_store_the_list_price_and_no_experiment() -> None:
    known = Known(SHOES, COLD, degraded=True)
    answer = quote(asked(), known, KnownDemand(), POLICY, Numbers(0.9999))
    assert (answer["price"], answer["degraded"], answer["exploration"]) == (50.0, True, False)
    assert (answer["model"], answer["propensity"]) == (BASELINE, 1.0)


def test_what_was_known_is_part_of_the_latency() -> None:
    answer = quote(asked(), Known(SHOES, COLD, took_ms=7.5), KnownDemand(), POLICY, never())
    assert answer["latency_ms"]["features"] == 7.5
    assert answer["latency_ms"]["total"] >= 7.5 + answer["latency_ms"]["model"] - 1e-2


def test_the_same_draws_give_the_same_price() -> None:
    prices = {
        quote(asked(), Known(SHOES, COLD), KnownDemand(), POLICY, random.Random("q-1"))["price"]
        for _ in range(3)
    }
    assert len(prices) == 1


money = st.floats(0.01, 1e6)


@settings(max_examples=150, deadline=None)
@given(
    st.tuples(money, money, money),
    st.floats(0, 1e6),
    st.floats(0.1, 1e5),
    st.none() | st.floats(0, 1e9),
    st.dictionaries(
        st.sampled_from(["inventory", "competitor_price", "hours_to_departure", "x"]), st.floats(-1e9, 1e9)
    ),
    st.sampled_from(["margin", "revenue", "growth", None])
    | st.fixed_dictionaries(
        {"margin": st.floats(0, 9), "revenue": st.floats(0, 9), "growth": st.floats(1, 9)}
    ),
    st.floats(-5, 0),
    st.booleans(),
    st.integers(0, 2**32),
    st.none() | st.floats(0, 1),
)
def test_whatever_comes_the_answer_is_whole_and_inside_the_rules(
    prices: tuple[float, float, float],
    cost: float,
    step: float,
    last: float | None,
    context: dict[str, float],
    objective: Objective | dict[str, float] | None,
    elasticity: float,
    degraded: bool,
    seed: int,
    share: float | None,
) -> None:
    floor, list_price, ceiling = sorted(prices)
    terms = {
        "list_price": list_price,
        "unit_cost": cost,
        "floor": floor,
        "ceiling": ceiling,
        "max_step": step,
    }
    product = SHOES.model_copy(update=terms)
    known = Known(product, COLD if last is None else shown(last), degraded, fraud_share=share)
    policy = POLICY if share is None else RISKY
    answer = quote(asked(objective, **context), known, KnownDemand(elasticity), policy, random.Random(seed))
    assert floor <= answer["price"] <= ceiling
    event = Quote.model_validate_json(orjson.dumps(answer))
    assert event.price == answer["price"]
    assert 0 < answer["propensity"] <= 1
