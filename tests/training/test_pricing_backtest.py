"""The backtest of a pricing policy: a log of quotes as the API answers them, the truth, and the command."""

import copy
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from random import Random
from threading import Thread
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest

from features.pricing import OUTCOME, PRODUCT, QUOTE, event_values
from features.state import Events, Floats, Ints, States, fold
from infra import cli
from infra.errors import UserError
from infra.settings import Objective, PricingPolicy, Product, Settings, load, policy_version
from ingestion import simulated
from ingestion.events import QuoteRequest
from ingestion.file_source import placed
from ingestion.history import History
from ingestion.simulators.columns import take
from ingestion.simulators.market import Market, MarketProcess, catalogue
from ingestion.simulators.market import Quotes as Asked
from ingestion.tables import OUTCOMES, QUOTES, SCHEMAS, completed
from serving.pricing import Known, Policy, quote
from training import card as cards
from training import demand, pricing, runs
from training.card import Card, Trained
from training.champions import Champions
from training.dataset import Dataset, Span
from training.demand_model import DemandModel
from training.fraud_policy import PASSED
from training.gate import Limit, Verdict, judge
from training.off_policy import DOUBLE, INVERSE, NORMALISED, Judgement
from training.pricer import Pricer
from training.pricing_backtest import PricingBacktest, told_of
from training.pricing_judging import LEAST_CHANCE, compared, judged, judged_by_log, weighed, worth_limit
from training.pricing_log import Past, past_of
from training.pricing_policy import Offers, choose
from training.quoting import Demand

pytestmark = pytest.mark.slow

DAYS = 7
MARKET = Market(MarketProcess(seed=8, products=3, quotes_per_day=400, list_price_error=0.15))
PRODUCTS = {
    name: Product(product_id=name, **{**terms, "max_step": 0.3 * float(terms["list_price"])})  # type: ignore[arg-type]
    for name, terms in catalogue(MARKET).items()
}
DOUBT = demand.Doubt((0.1,) * len(demand.GRID), 0.2, lowest=0.75, highest=1.25, units_per_sale=1.0)
TWO = replace(DOUBT, units_per_sale=2.0)


def policy(**changed: Any) -> PricingPolicy:
    usual = {"exploration_share": 0.5, "candidates": 11, "max_step_share": 0.08, "objective": "margin"}
    return load().pricing.model_copy(update={**usual, **changed})


PRESENT = policy()
COSTS = load().fraud
MIX = "0.7 margin + 0.3 revenue"


@dataclass(frozen=True)
class Log:
    """What the API would have answered, as the history keeps it."""

    quotes: pa.Table
    outcomes: pa.Table

    def past(self, products: dict[str, Product] = PRODUCTS) -> tuple[Past, dict[str, int]]:
        return past_of(self.data(), products)

    def data(self) -> Dataset:
        return pricing.from_tables(self.quotes, self.outcomes, Span(), PRESENT)


@pytest.fixture(scope="module")
def model() -> DemandModel:
    """Learned from the past seller's prices."""
    events = placed(simulated.past_prices(MARKET, MARKET.simulate(6, 100)), [PRODUCT.name], 0)
    data = pricing.from_tables(events.decided, events.settled, Span())
    return described(pricing.train(data), version="1", extra=demand.kept(DOUBT))


def described(model: DemandModel, **changed: Any) -> DemandModel:
    """The same model with another card."""
    found = copy.copy(model)
    found.card = replace(model.card, **changed)
    return found


@dataclass(frozen=True)
class Seller:
    """What quotes."""

    model: DemandModel | None
    rules: PricingPolicy = PRESENT
    products: Mapping[str, Product] = field(default_factory=lambda: PRODUCTS)
    fraud_share: float | None = None


def answered(seller: Seller, days: int = DAYS) -> Log:
    """Quote after quote as the API answers, with the states as the stream folds them, and the outcomes."""
    asked = MARKET.quotes(days)
    known_us = MARKET.outcome_time_us(asked)
    states = States.cold(PRODUCT, len(PRODUCTS))
    answers: list[dict[str, Any]] = []
    settled: list[dict[str, Any]] = []
    for position, (time_us, row, is_quote) in enumerate(in_order(asked, known_us)):
        if is_quote:
            answers.append(answer(asked, row, states, seller) | places(position))
            price, units = answers[row]["price"], np.nan
        else:
            price = answers[row]["price"]
            units = bought(asked, row, price)
            settled.append(outcome(answers[row], time_us, units) | places(position))
        kind = np.array([QUOTE if is_quote else OUTCOME])
        at = np.array([time_us])
        values = event_values(kind, np.array([price]), np.array([units]), at)
        fold(PRODUCT, states, Events(kind, at, asked.product[[row]], np.array([position]), values))
    return Log(
        completed(QUOTES, pa.Table.from_pylist(answers)), completed(OUTCOMES, pa.Table.from_pylist(settled))
    )


def in_order(asked: Asked, known_us: Ints) -> Iterator[tuple[int, int, bool]]:
    """Time, row of the quote, whether it is the quote or its outcome."""
    both = np.concatenate([asked.event_time_us, known_us])
    for number in np.argsort(both, kind="stable").tolist():
        yield int(both[number]), number % len(asked), number < len(asked)


def bought(asked: Asked, row: int, price: float) -> float:
    return float(MARKET.purchase(take(asked, slice(row, row + 1)), np.array([price]))[0])


def answer(asked: Asked, row: int, states: States, seller: Seller) -> dict[str, Any]:
    time_us, product = int(asked.event_time_us[row]), int(asked.product[row])
    request = {
        "quote_id": asked.quote_id[row],
        "event_time": datetime.fromtimestamp(time_us / 1e6, UTC).isoformat(),
        "product_id": asked.product_id[row],
        "segment": asked.segment[row],
        "context": {"competitor_price": float(asked.competitor_price[row])} | shopper(row),
        "objective": "revenue" if row % 10 == 0 else None,
    }
    state = states.columns[[product]].copy()
    known = Known(seller.products[asked.product_id[row]], state, fraud_share=seller.fraud_share)
    found = quote(
        QuoteRequest.model_validate_json(orjson.dumps(request)),
        known,
        seller.model,
        Policy(seller.rules, "v1", COSTS),
        Random(request["quote_id"]),
    )
    kept = set(SCHEMAS[QUOTES].names) - {"features", "feature_names"}
    row_of = {name: each for name, each in found.items() if name in kept}
    return row_of | {
        "event_time_us": time_us,
        "context": orjson.dumps(found["context"]).decode(),
        "model_version": found["model"]["version"],
    }


def shopper(row: int) -> dict[str, float]:
    """Every other request tells how likely its shopper is a fraud."""
    return {"fraud_probability": 0.01 * (row % 20)} if row % 2 else {}


def outcome(answer: dict[str, Any], time_us: int, units: float) -> dict[str, Any]:
    kept = {name: answer[name] for name in ("quote_id", "product_id", "price")}
    return kept | {"event_time_us": time_us, "units": units, "quoted_at_us": answer["event_time_us"]}


def places(position: int) -> dict[str, int]:
    return {"product_partition": 0, "product_position": position}


@pytest.fixture(scope="module")
def log(model: DemandModel) -> Log:
    return answered(Seller(model))


@pytest.fixture(scope="module")
def plain() -> Log:
    """Quoted without a model."""
    return answered(Seller(None))


def tried(log: Log, model: DemandModel | None, **changed: Any) -> PricingBacktest:
    past, left = log.past()
    version = "rules" if model is None else "1"
    return told(past, {version: Pricer(PRESENT, model)}, Pricer(policy(**changed), model), PRESENT, left)


def told(
    past: Past, quoted: dict[str, Pricer], new: Pricer, present: PricingPolicy, left: dict[str, int]
) -> PricingBacktest:
    return told_of(judged(past, quoted, new, present, left), new)


def test_every_propensity_comes_out_again(log: Log, plain: Log, model: DemandModel) -> None:
    """The batch prices as the API does, value for value, from the history alone."""
    for each, by in ((log, model), (plain, None)):
        found = tried(each, by)
        assert found.quotes > 2_000
        assert sum(found.left_out.values()) == 0


MIXED = policy(objective=MIX)
OWN = {
    name: product.model_copy(update={"objective": "0.5 margin + 0.5 growth" if name == "p-1" else None})
    for name, product in PRODUCTS.items()
}


@pytest.mark.parametrize("open_to_all", [True, False])
def test_mixes_own_objectives_and_fraud_come_out_again_too(model: DemandModel, open_to_all: bool) -> None:
    """What the price knew of fraud is in the log; the champion's share of today is another."""
    rules = MIXED.model_copy(update={"fraud_loss": True, "fraud_probability_personal": not open_to_all})
    log = answered(Seller(model, rules, OWN, fraud_share=0.045), days=2)
    past, left = log.past(OWN)
    assert set(past.objective) == {MIX, "0.5 margin + 0.5 growth", "revenue"}
    own = {round(0.01 * n, 3) for n in range(1, 20, 2)} if open_to_all else set()
    assert set(past.fraud_probability.round(3)) == {0.045} | own
    quoted, new = Pricer(rules, model, COSTS), Pricer(rules, model, COSTS, fraud_share=0.2)
    found = judged(past, {"1": quoted}, new, rules, left)
    assert found.left_out["whose propensity does not come out again"] == 0
    assert (compared(past, {"1": quoted}, new, rules).weight == 1.0).all(), "the same policy"
    lost = new.fraud(past).expected(past.price)
    gain = 0.7 * (past.price - past.terms.unit_cost - lost) + 0.3 * past.price
    assert found.judgement.logged.value == pytest.approx(float((gain * past.units).mean()))
    assert found.measure == f"{MIX} after fraud"


def test_a_policy_may_learn_of_fraud_as_far_as_it_is_allowed_to(log: Log, model: DemandModel) -> None:
    """The log's prices knew nothing of it."""
    past, _ = log.past()
    assert np.isnan(past.fraud_probability).all()
    knowing = Pricer(policy(fraud_loss=True), model, COSTS, fraud_share=0.03)
    assert (knowing.fraud(past).probability == 0.03).all()
    asking = replace(knowing, rules=policy(fraud_loss=True, fraud_probability_personal=False))
    told = past.shopper_probability
    assert 0.4 < np.isnan(told).mean() < 0.6
    expected = np.where(np.isnan(told), 0.03, told)
    np.testing.assert_array_equal(asking.fraud(past).probability, expected)
    used = replace(past, fraud_probability=expected)
    np.testing.assert_array_equal(knowing.fraud(used).probability, np.full(len(past), 0.03))
    assert (Pricer(PRESENT, model, COSTS, 0.03).fraud(past).probability == 0.0).all()


def test_a_mix_is_judged_by_its_parts_together(log: Log, model: DemandModel) -> None:
    found = tried(log, model, objective=MIX)
    assert found.measure == MIX
    assert found.as_json()["objective"] == MIX
    assert found.judged == found.by_measure[MIX]
    parts = {name: found.by_measure[name] for name in ("margin", "revenue")}
    for estimator, mixed in found.judged.estimates.items():
        margin, revenue = (parts[name].estimates[estimator].worth.value for name in ("margin", "revenue"))
        assert mixed.worth.value == pytest.approx(0.7 * margin + 0.3 * revenue, rel=1e-6), estimator
    grown = tried(log, model, objective="0.5 margin + 0.5 growth", exploration_share=0.3)
    past, _ = log.past()
    list_money = float((past.units * past.terms.list_price).mean())
    expected = 0.5 * grown.by_measure["margin"].logged.value + 0.5 * list_money
    assert grown.judged.logged.value == pytest.approx(expected)


def test_another_policy_leaves_a_products_own_objective(log: Log, model: DemandModel) -> None:
    """The log is read as if p-1 had stated the policy's objective itself."""
    stated = {name: product.model_copy(update={"objective": "margin"}) for name, product in PRODUCTS.items()}
    past, left = log.past({**PRODUCTS, "p-1": stated["p-1"]})
    quoted, new = {"1": Pricer(PRESENT, model)}, Pricer(policy(objective="revenue"), model)
    weight = compared(past, quoted, new, PRESENT).weight
    mine = past.product == "p-1"
    assert (weight[mine] == 1.0).all()
    assert (weight[~mine & (past.objective == "margin")] != 1.0).any()
    assert judged(past, quoted, new, PRESENT, left).left_out["whose propensity does not come out again"] == 0


def test_the_policy_of_the_settings_gains_nothing(log: Log, model: DemandModel) -> None:
    found = tried(log, model)
    assert found.judged.conclusion == "no difference seen"
    assert found.judged.effective_size > 0.95 * found.quotes
    for each in found.judged.estimates.values():
        assert (each.gain.low, each.gain.value, each.gain.high) == pytest.approx((0.0, 0.0, 0.0), abs=1e-9)


@dataclass(frozen=True)
class Redrawn:
    """Quotes of the settings' objective, to be shown and bought anew, and what they are truly worth."""

    past: Past
    asked: Asked
    old: Offers

    @classmethod
    def of(cls, log: Log, model: DemandModel) -> "Redrawn":
        past, _ = log.past()
        past = past.rows(past.objective == "margin")
        every = MARKET.quotes(DAYS)
        asked = take(every, np.searchsorted(every.event_time_us, past.time_us))
        assert asked.event_time_us.tolist() == past.time_us.tolist()
        return cls(past, asked, Pricer(PRESENT, model).offers(past, "margin"))

    def drawn(self, rng: np.random.Generator, noisy: bool) -> Past:
        """The prices drawn again, and who buys; or, without noise, how likely each buys."""
        shown = choose(self.old, rng.random(len(self.past)))
        chance = MARKET.probability(self.asked, shown.price)
        matrix = demand.at_price(self.past.matrix, shown.price / self.past.terms.list_price)
        return replace(
            self.past,
            price=shown.price,
            propensity=shown.propensity,
            units=(rng.random(len(chance)) < chance).astype(np.float64) if noisy else chance,
            matrix=matrix,
        )

    def margin(self, offered: Offers) -> float:
        """True mean of a quote."""
        chances = np.column_stack([MARKET.probability(self.asked, price) for price in offered.price.T])
        margin = offered.price - self.past.terms.unit_cost[:, None]
        return float((offered.chance * chances * margin).sum(axis=1).mean())

    def tried(self, new: Pricer, noisy: bool, times: int) -> list[Judgement]:
        """Of so many logs, by margin."""
        rng = np.random.default_rng(2)
        quoted = {"1": Pricer(PRESENT, new.model)}
        logs = [self.drawn(rng, noisy) for _ in range(times)]
        return [judged(each, quoted, new, PRESENT, {}).by_measure["margin"] for each in logs]

    def gain(self, new: Pricer) -> float:
        """What the new policy truly gains in margin."""
        return self.margin(new.offers(self.past, new.rules.objective)) - self.margin(self.old)


@pytest.fixture(scope="module")
def redrawn(log: Log, model: DemandModel) -> Redrawn:
    return Redrawn.of(log, model)


def test_intervals_hold_the_true_gain(redrawn: Redrawn, model: DemandModel) -> None:
    new = Pricer(policy(objective="revenue", exploration_share=0.1), model)
    found, truth = redrawn.tried(new, noisy=True, times=20), redrawn.gain(new)
    assert truth < -0.02 * found[0].logged.value
    for name in (INVERSE, NORMALISED, DOUBLE):
        gains = [each.estimates[name].gain for each in found]
        assert np.mean([each.low <= truth <= each.high for each in gains]) >= 0.9, name


@pytest.mark.parametrize("objective", ["revenue", "margin"])
def test_prices_nearby_stand_for_each_other_without_harm(
    redrawn: Redrawn, model: DemandModel, objective: Objective
) -> None:
    """Without the noise of who buys: off by less than one in a hundred, though many prices were never met."""
    new = Pricer(policy(objective=objective, exploration_share=0.2, max_step_share=0.05), model)
    found, truth = redrawn.tried(new, noisy=False, times=8), redrawn.gain(new)
    exact = new.offers(redrawn.past, objective).price[:, :1] == redrawn.old.price
    assert exact.any(axis=1).mean() < 0.8
    for name in (NORMALISED, DOUBLE):
        gains = np.array([each.estimates[name].gain.value for each in found])
        error = abs(gains.mean() - truth)
        assert error < 0.01 * found[0].logged.value + 3 * gains.std() / np.sqrt(len(gains)), name


def test_the_models_expectation_is_that_of_every_offer(log: Log, model: DemandModel) -> None:
    """Chance by chance, with two units a sale, but nothing is gained where both offer the same."""
    past = log.past()[0].rows(np.arange(50))
    quoted = Pricer(PRESENT, described(model, extra=demand.kept(TWO)))
    again = compared(past, {"1": quoted}, quoted, PRESENT)
    np.testing.assert_array_equal(again.expected_new, again.expected_shown)
    pairs = Pricer(policy(exploration_share=0.3), quoted.model)
    found = compared(past, {"1": quoted}, pairs, PRESENT)
    shown = 2.0 * model.predict(past.matrix)
    margin = past.price - past.terms.unit_cost
    expected = np.column_stack([shown * margin, shown * past.price, shown])
    np.testing.assert_allclose(found.expected_shown, expected, rtol=1e-9)
    row = int(np.flatnonzero(past.objective == "margin")[0])
    one = past.rows(np.array([row]))
    offered = pairs.offers(one, "margin")
    total = np.zeros(3)
    for price, chance in zip(offered.price[0], offered.chance[0], strict=True):
        units = chance * 2.0 * model.predict(demand.at_price(one.matrix, price / one.terms.list_price))[0]
        total += units * np.array([price - one.terms.unit_cost[0], price, 1.0])
    np.testing.assert_allclose(found.expected_new[row], total)


def test_a_challenger_that_is_shown_to_be_worse_fails_the_gate(redrawn: Redrawn, model: DemandModel) -> None:
    """It believes that demand never falls with the price, where only what got cheaper is bought."""
    present, past = Pricer(PRESENT, model), redrawn.drawn(np.random.default_rng(1), noisy=False)
    past = replace(past, units=(past.price < past.last_price).astype(np.float64))
    flat = Pricer(PRESENT, Flat(model.card))
    worse = limit_of(past, present, flat)
    assert worse.value < worse.low == 0.0
    assert not judge([], [], 0.0, [worse]).passed
    assert judge([], [], 0.0, [limit_of(past, present, flat, most_loss=1.0)]).passed, "so much may be lost"
    assert judge([], [], 0.0, [limit_of(past, present, present)]).passed
    few = past.rows(np.arange(len(past)) < 30)
    assert np.isnan(limit_of(few, present, flat).value), "too few quotes say nothing"


def limit_of(past: Past, quoted: Pricer, challenger: Pricer, most_loss: float = 0.0) -> Limit:
    return worth_limit(judged(past, {"1": quoted}, challenger, PRESENT, {}), most_loss)


class Flat:
    """Every price is bought as often."""

    def __init__(self, card: Card) -> None:
        self.card = replace(card, extra={})

    def predict(self, matrix: Floats) -> Floats:
        return np.full(len(matrix), 0.3)


def only_cheaper(data: Dataset) -> Dataset:
    """Only what got cheaper is bought."""
    column = data.columns
    units = (column["price"] < column["last_price"]).astype(np.float64)
    return replace(data, target=units, columns={**column, "units": units})


def bought_again(data: Dataset) -> Dataset:
    """Who buys drawn anew: these buyers of the last days happen to like the old prices."""
    every = MARKET.quotes(DAYS)
    asked = take(every, np.searchsorted(every.event_time_us, data.time_us))
    chance = MARKET.probability(asked, data.columns["price"])
    units = (np.random.default_rng(4).random(len(chance)) < chance).astype(np.float64)
    return replace(data, target=units, columns={**data.columns, "units": units})


@pytest.fixture
def chosen(home: Path) -> Settings:
    """The settings of the home whose champion quoted."""
    return load()


def test_the_gate_hears_what_the_log_says_of_a_challengers_prices(
    log: Log, model: DemandModel, chosen: Settings
) -> None:
    data = only_cheaper(log.data())
    worse = judged_by_log(data, Flat(model.card), chosen)
    verdict = judge([], [], 0.0, worse.limits)
    assert not verdict.passed
    assert "upper end of the gain in margin a quote, judged from the log, is -" in verdict.reasons[0]
    assert worse.figures["gain_low"] < worse.figures["gain"] < worse.figures["gain_high"] < 0
    assert worse.figures["low"] < worse.figures["value"] < worse.figures["high"] < worse.figures["logged"]
    assert 100 < worse.figures["effective_size"] < worse.figures["quotes"] == len(data)
    assert 0.95 < worse.figures["supported"] <= 1.0

    same = judged_by_log(data, model, chosen)
    assert judge([], [], 0.0, same.limits).passed
    assert same.figures["value"] == pytest.approx(same.figures["logged"], rel=0.1)
    assert same.metrics["off_policy_gain_high"] == same.figures["gain_high"] == pytest.approx(0.0, abs=1e-9)
    assert same.notes == (
        f"the API at {chosen.addresses.api} gave no catalogue, so that of the settings was taken",
    )


def unjudged(data: Dataset, challenger: Demand, chosen: Settings) -> str:
    """The note on a log that cannot tell and so refuses nothing."""
    found = judged_by_log(data, challenger, chosen)
    assert found.limits == ()
    assert "value" not in found.figures
    return "; ".join(found.notes)


def test_a_log_that_cannot_tell_refuses_no_challenger_and_says_why(
    log: Log, model: DemandModel, chosen: Settings
) -> None:
    data, flat = only_cheaper(log.data()), Flat(model.card)
    blind = replace(data, columns={**data.columns, "propensity": np.full(len(data), np.nan)})
    assert f"none of {len(data):,} in the test window has one" in unjudged(blind, flat, chosen)
    few = data.rows(np.arange(len(data)) < 50)
    assert "the log has as much to say as" in unjudged(few, flat, chosen)
    gone = replace(data, columns={**data.columns, "model_version": np.full(len(data), "7", object)})
    assert f"{len(data):,} of models that are not kept" in unjudged(gone, flat, chosen)
    dear = chosen.pricing.model_copy(update={"min_margin_share": 0.6, "exploration_share": 0.0})
    other = chosen.model_copy(update={"pricing": dear})
    assert "only 0 % of the logged propensities come out again" in unjudged(data, flat, other)


def test_a_trial_is_judged_by_the_log_of_its_test_window(log: Log, chosen: Settings) -> None:
    """The worse one learned that dear is bought, from quotes before a window where only cheap is."""
    data = bought_again(log.data())
    good = pricing.learn(data, None, chosen)
    assert judge([], [], 0.0, good.limits).passed
    assert good.limits
    assert good.off_policy["quotes"] == good.rows_test
    assert good.metrics["off_policy_value"] == good.off_policy["value"]

    old, dear = data.time_us < good.test_start_us, data.columns["price"] > data.columns["last_price"]
    units = np.where(old, dear, only_cheaper(data).target > 0).astype(np.float64)
    misled = replace(data, target=units, columns={**data.columns, "units": units})
    assert not judge([], [], 0.0, pricing.learn(misled, None, chosen).limits).passed


def test_the_verdict_keeps_what_the_log_says(log: Log, chosen: Settings) -> None:
    trial = pricing.learn(log.data(), None, chosen)
    record = runs.record_of("pricing", log.data(), trial, Verdict(True, ()), runs.Reason("me", "why"))
    kept = json.loads(json.dumps(record.documents["verdict.json"], allow_nan=False))
    assert kept == {"passed": True, "reasons": [], "off_policy": trial.off_policy}
    assert record.metrics["off_policy_effective_size"] == trial.off_policy["effective_size"]


def test_the_weight_of_a_price_is_its_neighbours_chance() -> None:
    """The new policy wants 10.05, near 10.0 and 10.1 of the log, or 12.0, which the log never shows."""
    old, new = offered([9.0, 10.0, 10.1], [0.5, 0.4, 0.1]), offered([10.05, 12.0], [0.9, 0.1])
    for shown, expected in ((9.0, 0.0), (10.0, 1.8), (10.1, 1.8)):
        weight, unsupported = weighed(old, new, np.array([shown]))
        assert weight[0] == pytest.approx(expected)
        assert unsupported[0] == pytest.approx(0.1)
    rare = offered([9.0, 10.0], [1.0 - LEAST_CHANCE / 2, LEAST_CHANCE / 2])
    assert weighed(rare, new, np.array([9.0]))[1][0] == pytest.approx(1.0)


def offered(prices: list[float], chance: list[float]) -> Offers:
    path = np.repeat(np.array(prices)[None, :, None], 5, axis=2)
    return Offers(path, np.array([chance]), 1)


def test_what_the_log_never_showed_is_refused(log: Log, model: DemandModel) -> None:
    """A margin of 60 % asks prices far above any shown."""
    found = tried(log, model, min_margin_share=0.6, exploration_share=0.0)
    assert found.judged.conclusion == "cannot be judged"
    assert found.as_json()["estimates"] == {"margin": {}, "revenue": {}, "units": {}}
    assert "never shown, or too seldom" in found.sentence()
    assert found.sentence().startswith("The log cannot judge the new policy")


def test_a_log_of_another_policy_than_the_settings_is_refused(log: Log, model: DemandModel) -> None:
    """It explored half of the quotes, not a fifth: propensities below 1 come out again by chance at most."""
    past, left = log.past()
    present = policy(exploration_share=0.2)
    pricer = Pricer(present, model)
    used = judged(past, {"1": pricer}, pricer, present, left).used
    assert (used.propensity < 1.0).sum() < 0.01 * len(past)
    found = told(past, {"1": pricer}, pricer, present, left)
    assert found.left_out["whose propensity does not come out again"] == len(past) - len(used)
    assert "only 1 % of the logged propensities come out again" in found.sentence()
    half = past.rows(np.arange(len(past)) < len(past) // 2)
    off = replace(past, propensity=np.where(np.arange(len(past)) < len(half), 0.3, past.propensity))
    found = told(off, {"1": Pricer(PRESENT, model)}, Pricer(PRESENT, model), PRESENT, left)
    assert "only 50 % of the logged propensities come out again" in found.sentence()


def test_quotes_that_say_nothing_are_counted(log: Log, model: DemandModel) -> None:
    gone = {name: each for name, each in PRODUCTS.items() if name != "p-1"}
    past, left = log.past(gone)
    assert left["of products that are not in the catalogue"] > 100
    every = log.past()[0]
    assert len(past) + sum(left.values()) == len(every)
    again = np.arange(log.quotes.num_rows) % 3 == 0
    column = log.quotes.column_names.index("held")
    drawn, dropped = Log(log.quotes.set_column(column, "held", pa.array(again)), log.outcomes).past()
    repeated = dropped["that repeat a price for the same context"]
    assert repeated == pytest.approx(len(every) / 3, rel=0.05)
    assert len(drawn) == len(every) - repeated
    with pytest.raises(UserError, match=f"got none: {len(every):,} of models that are not kept"):
        judged(every, {"2": Pricer(PRESENT, model)}, Pricer(PRESENT, model), PRESENT, {})


def test_growth_says_what_it_cannot_know(log: Log, model: DemandModel) -> None:
    found = tried(log, model, objective="growth", exploration_share=0.3)
    assert any("win customers who come again is in no log" in note for note in found.notes)
    assert found.judged == found.by_measure["units"]


@pytest.fixture
def home(log: Log, model: DemandModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with the log, the catalogue and the champion that quoted."""
    home = tmp_path / "home"
    monkeypatch.setenv("TOLLGATE_HOME", str(home))
    monkeypatch.setenv("TOLLGATE_ADDRESSES__API", "http://127.0.0.1:9")
    lines = [f"{name} = {json.dumps(value)}" for name, value in PRESENT.model_dump().items()]
    for product in PRODUCTS.values():
        lines += [
            "[[catalogue]]",
            *(f"{name} = {json.dumps(value)}" for name, value in product.model_dump().items()),
        ]
    (tmp_path / "mine.toml").write_text("\n".join(["[pricing]", *lines]))
    monkeypatch.setenv("TOLLGATE_CONFIG", str(tmp_path / "mine.toml"))
    history = History(home / "history")
    history.append(QUOTES, log.quotes)
    history.append(OUTCOMES, log.outcomes)
    model.save(tmp_path / "model")
    champions = Champions(home)
    champions.keep("pricing", "1", tmp_path / "model")
    champions.set_current("pricing", "1")
    return tmp_path


def test_the_command(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = home / "new.toml"
    file.write_text("[pricing]\nexploration_share = 0.1\n")
    assert cli.run(["backtest", "pricing", "--policy", str(file), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["quotes"] > 2_000
    assert found["refusals"] == []
    assert found["policy_version"] == policy_version(policy(exploration_share=0.1))
    assert set(found["estimates"]["margin"]) == {INVERSE, NORMALISED, DOUBLE}
    assert (
        found["estimates"]["margin"][DOUBLE]["gain"]["low"]
        < found["estimates"]["margin"][DOUBLE]["gain"]["high"]
    )
    assert found["conclusion"] in ("better", "no difference seen")
    assert any("gave no catalogue" in note for note in found["notes"])

    file.write_text("[pricing]\nobjective = {margin = 0.7, revenue = 0.3}\nfraud_loss = true\n")
    assert cli.run(["backtest", "pricing", "--policy", str(file), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["objective"], found["judged_by"]) == (MIX, f"{MIX} after fraud")
    assert found["conclusion"] in ("better", "worse", "no difference seen", "cannot be judged")
    assert any("no fraud champion knows" in note for note in found["notes"])
    without = found["logged"][f"{MIX} after fraud"]["value"]
    fraud_model(home, share=0.05)
    assert cli.run(["backtest", "pricing", "--policy", str(file), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["logged"][f"{MIX} after fraud"]["value"] < without
    assert not any("no fraud champion knows" in note for note in found["notes"])

    file.write_text("[pricing]\nexploration_share = 0.1\n")
    assert cli.run(["backtest", "pricing", "--policy", str(file), "--days", "4"]) == 0
    shown = capsys.readouterr().out
    assert "doubly robust" in shown
    assert "No difference is seen: " in shown or "The new policy is better: " in shown


def fraud_model(home: Path, share: float) -> None:
    """The fraud champion, as far as prices ask for it."""
    made = Card("fraud", "linear", (), "", Trained(0, 0, 0, 0), extra={PASSED: share})
    cards.write(home / "fraud", made, {})
    champions = Champions(home / "home")
    champions.keep("fraud", "1", home / "fraud")
    champions.set_current("fraud", "1")


class Products(BaseHTTPRequestHandler):
    """The API's catalogue, without the first product."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/v1/products" else 404)
        self.end_headers()
        self.wfile.write(orjson.dumps([each.model_dump() for each in list(PRODUCTS.values())[1:]]))

    def log_message(self, *args: object) -> None:
        pass


def test_the_catalogue_is_that_of_the_api(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "new.toml").write_text("")
    with HTTPServer(("127.0.0.1", 0), Products) as server:
        Thread(target=server.handle_request, daemon=True).start()
        monkeypatch.setenv("TOLLGATE_ADDRESSES__API", f"http://127.0.0.1:{server.server_port}")
        assert cli.run(["backtest", "pricing", "--policy", str(home / "new.toml"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["left_out"]["of products that are not in the catalogue"] > 100
    assert not any("gave no catalogue" in note for note in found["notes"])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[pricing]\nexploration_share = 2\n", "new.toml:2: pricing.exploration_share: "),
        ("[pricing]\nobjective = {glory = 1}\n", "new.toml:2: pricing.objective: expected 'margin'"),
        ("[pricing]\nexplore = 0.1\n", "new.toml:2: pricing.explore: there is no such setting"),
        ("[fraud]\nreview_cost = 77\n", "expected only [pricing], came fraud too"),
        ("[pricing\n", "new.toml: expected TOML"),
        (None, "new.toml: no such file; expected a TOML file"),
    ],
)
def test_a_wrong_policy_is_one_sentence(
    home: Path, text: str | None, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = home / "new.toml"
    if text is not None:
        file.write_text(text)
    assert cli.run(["backtest", "pricing", "--policy", str(file), "--json"]) == 1
    told = capsys.readouterr()
    assert reason in told.err
    assert told.err.count("\n") == 1
    assert told.out == ""
