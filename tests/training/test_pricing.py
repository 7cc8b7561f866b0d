"""The pricing task on markets whose true demand is known."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sklearn import metrics as sklearn_metrics

from features.pricing import PRICING, PRODUCT
from features.state import Floats
from infra.errors import UserError
from infra.settings import Settings, load
from ingestion import simulated
from ingestion.file_source import PastEvents, placed
from ingestion.history import History
from ingestion.simulators.columns import take
from ingestion.simulators.market import Market, MarketProcess
from ingestion.tables import DAY_US, OUTCOMES, QUOTES
from training import demand, elasticity, models, pricing
from training import pricing_policy as policies
from training.dataset import Dataset, Span
from training.freshness import present
from training.gate import decisive, judge
from training.tasks import Incumbent, Trial, task

pytestmark = pytest.mark.slow

DAYS, LEARNED_DAYS = 30, 24


def past(market: Market, days: int) -> PastEvents:
    return placed(simulated.past_prices(market, market.simulate(days)), [PRODUCT.name], 0)


@pytest.fixture(scope="module")
def market() -> Market:
    return Market(MarketProcess(seed=3, quotes_per_day=350))


@pytest.fixture(scope="module")
def data(market: Market) -> Dataset:
    events = past(market, DAYS)
    return pricing.from_tables(events.decided, events.settled, Span())


@pytest.fixture(scope="module")
def settings() -> Settings:
    return load()


@pytest.fixture(scope="module")
def trial(data: Dataset, settings: Settings) -> Trial:
    return pricing.learn(data, None, settings)


def test_the_task_is_registered() -> None:
    assert task("pricing") is pricing.TASK


def test_quotes_are_in_order_and_matured(data: Dataset) -> None:
    assert (np.diff(data.time_us) >= 0).all()
    assert data.time_us[-1] <= data.cutoff_us - DAY_US
    assert data.features == PRICING.names
    assert data.target.tolist() == (data.columns["units"] > 0).tolist()


def table(columns: dict[str, list[Any]]) -> pa.Table:
    return pa.table(columns)


def some_quotes(ids: list[str], days: list[int]) -> dict[str, list[Any]]:
    n = len(ids)
    return {
        "quote_id": ids,
        "event_time_us": [day * DAY_US for day in days],
        "product_id": ["p"] * n,
        "price": [10.0] * n,
        "list_price": [10.0] * n,
        "unit_cost": [4.0] * n,
        "segment": ["web"] * n,
        "context": ["{}"] * n,
        "product_partition": [-1] * n,
        "product_position": [10 * day for day in days],
    }


def some_outcomes(ids: list[str], days: list[float], units: list[float]) -> dict[str, list[Any]]:
    n = len(ids)
    return {
        "quote_id": ids,
        "event_time_us": [int(day * DAY_US) for day in days],
        "product_id": ["p"] * n,
        "price": [10.0] * n,
        "units": units,
        "product_partition": [-1] * n,
        "product_position": [int(10 * day) + 1 for day in days],
    }


def test_what_is_known_of_a_quote_counts_from_its_arrival() -> None:
    quotes = table(some_quotes(["silent", "bought", "twice", "later", "young"], [1, 2, 3, 4, 9]))
    outcomes = table(
        some_outcomes(
            ["bought", "twice", "twice", "later", "young"], [2, 4, 5, 9.8, 9], [2.0, 0.0, 9.0, 1.0, 1.0]
        )
    )
    found = pricing.from_tables(quotes, outcomes, Span(until_us=int(9.5 * DAY_US)))
    assert dict(zip(found.ids, found.columns["units"], strict=True)) == {
        "silent": 0.0,
        "bought": 2.0,
        "twice": 0.0,
        "later": 0.0,
    }
    assert pricing.units_per_sale(found) == 2.0


def test_the_feature_store_joins_what_the_fold_alone_gives(settings: Settings, tmp_path: Path) -> None:
    market = Market(MarketProcess(seed=5, products=3, quotes_per_day=40))
    events, here = past(market, 6), settings.model_copy(update={"home": tmp_path})
    history = History(here.history)
    history.append(QUOTES, events.decided)
    history.append(OUTCOMES, events.settled)
    newest = present(history, pricing.TASK)
    assert newest is not None
    joined = pricing.from_history(here, Span().window(newest))
    folded = pricing.from_tables(events.decided, events.settled, Span())
    assert len(joined) > 100
    assert joined.version == folded.version, "ids, times, features and targets are equal, bit for bit"
    assert joined.columns["segment_name"].tolist() == folded.columns["segment_name"].tolist()


def test_both_ways_of_joining_know_nothing_of_a_person(settings: Settings, tmp_path: Path) -> None:
    events = past(Market(MarketProcess(seed=5, products=2, quotes_per_day=30)), 6)
    policy = settings.pricing.model_copy(update={"personal": ("segment", "competitor_price")})
    here = settings.model_copy(update={"home": tmp_path, "pricing": policy})
    history = History(here.history)
    history.append(QUOTES, events.decided)
    history.append(OUTCOMES, events.settled)
    folded = pricing.from_tables(events.decided, events.settled, Span(), policy)
    newest = present(history, pricing.TASK)
    assert newest is not None
    assert pricing.from_history(here, Span().window(newest)).version == folded.version
    for name in ("segment_code", "competitor_to_list", "price_to_competitor"):
        assert np.isnan(folded.matrix[:, PRICING.names.index(name)]).all(), name
    known = pricing.from_tables(events.decided, events.settled, Span())
    assert not np.isnan(known.matrix[:, PRICING.names.index("segment_code")]).any()


def test_features_know_nothing_of_the_quote_itself() -> None:
    quotes = table(some_quotes(["a", "b"], [1, 3]))
    outcomes = table(some_outcomes(["a", "b"], [2, 4], [1.0, 0.0]))
    found = pricing.from_tables(quotes, outcomes, Span(until_us=9 * DAY_US))
    rate = found.matrix[:, PRICING.names.index("product_conversion_rate_30d")]
    assert np.isnan(rate[0])
    assert rate[1] == 1.0


def test_learned_demand_beats_constant_elasticity_and_passes(trial: Trial, settings: Settings) -> None:
    assert trial.metrics["log_loss"] < trial.rivals["constant_elasticity"]["log_loss"]
    assert trial.metrics["poisson_deviance"] < trial.rivals["constant_elasticity"]["poisson_deviance"]
    assert judge(trial.comparisons, trial.evidence, settings.gate.min_gain).passed
    assert trial.metrics["elasticity_high"] < 0


def test_the_test_window_is_later_than_what_the_trial_learned_from(trial: Trial, data: Dataset) -> None:
    assert trial.rows_train == (data.time_us < trial.test_start_us).sum()
    assert trial.rows_test == (data.time_us >= trial.test_start_us).sum()
    assert trial.model.card.trained.rows == len(data), "the registered model has learned from all"


def test_the_baseline_is_kept_as_plain_coefficients(trial: Trial, data: Dataset) -> None:
    kept = json.loads(json.dumps(trial.documents["constant_elasticity.json"]))
    again = elasticity.ConstantElasticity(**kept)
    _, after = data.split(trial.test_start_us)
    loss = pricing.log_loss(after.target, again.predict(after.matrix, data.features))
    assert loss == trial.rivals["constant_elasticity"]["log_loss"]


def test_demand_never_rises_with_the_price(trial: Trial, data: Dataset) -> None:
    rows = data.matrix[:: max(1, len(data) // 200)]
    chances = [trial.model.predict(demand.at_price(rows, share)) for share in np.linspace(0.4, 2.5, 40)]
    assert (np.diff(chances, axis=0) <= 0).all()
    assert chances[0].mean() > chances[-1].mean() + 0.1


def test_the_same_quotes_give_the_same_model(data: Dataset) -> None:
    some = data.rows(np.arange(len(data)) < 1_000)
    one, other = pricing.trained_with_doubt(some), pricing.trained_with_doubt(some)
    assert one.curve.as_json() == other.curve.as_json()
    assert one.card == other.card
    np.testing.assert_array_equal(one.predict(some.matrix), other.predict(some.matrix))


def test_a_model_keeps_its_doubt_on_disk(trial: Trial, tmp_path: Path) -> None:
    trial.model.save(tmp_path)
    loaded = models.load(tmp_path)
    doubt = demand.doubt_of(loaded.card.extra)
    assert doubt == demand.doubt_of(trial.model.card.extra)
    assert doubt is not None
    assert 0.5 < doubt.lowest < 0.9 < 1.0 < doubt.highest < 1.4
    assert 0 < doubt.elasticity < 2


def test_chosen_prices_earn_more_than_list_prices(market: Market, data: Dataset, settings: Settings) -> None:
    """Judged by what the simulator alone knows, in a week the model has not seen."""
    cutoff_us = int(data.time_us[0]) + LEARNED_DAYS * DAY_US
    model = pricing.trained_with_doubt(data.rows(data.time_us < cutoff_us))
    asked = data.rows(data.time_us >= cutoff_us)
    every = market.quotes(DAYS)
    by_id = {name: row for row, name in enumerate(every.quote_id)}
    quotes = take(every, np.array([by_id[name] for name in asked.ids]))
    products = take(market.products, quotes.product)

    doubt = demand.doubt_of(model.card.extra)
    assert doubt is not None
    prices = policies.candidate_prices(products.list_price, settings.pricing, doubt.lowest, doubt.highest)
    curves = np.column_stack(
        [model.predict(demand.at_price(asked.matrix, price / products.list_price)) for price in prices.T]
    )
    worths = policies.worth(prices, curves, products.unit_cost[:, None], "margin", settings.pricing)
    chosen = np.clip(policies.best(prices, worths), products.floor, products.ceiling)

    def margin(price: Floats) -> float:
        return float(((price - products.unit_cost) * market.probability(quotes, price)).sum())

    optimum = market.optimal(quotes, bounded=True).expected.sum()
    assert margin(chosen) > 1.04 * margin(products.list_price)
    assert margin(chosen) > 0.88 * optimum


def test_a_market_without_more_to_know_keeps_the_simple_model(data: Dataset, settings: Settings) -> None:
    """Purchases that follow a constant elasticity exactly: trees can only be worse."""
    rng = np.random.default_rng(5)
    rows = data.rows(np.arange(len(data)) % 6 == 0)
    truth = elasticity.ConstantElasticity(-1.2, -1.5, 0.0, 0.3, 0.0)
    bought = (rng.random(len(rows)) < truth.predict(rows.matrix, rows.features)).astype(np.float64)
    flat = replace(rows, target=bought, columns={**rows.columns, "units": bought})
    judged = pricing.learn(flat, None, settings)
    assert not judge(judged.comparisons, judged.evidence, 0.0).passed


def few(data: Dataset) -> Dataset:
    return data.rows(np.arange(len(data)) % 10 == 0)


def test_the_champion_is_the_one_to_beat(trial: Trial, data: Dataset, settings: Settings) -> None:
    judged = pricing.learn(few(data), Incumbent("1", trial.model), settings)
    at_once, into_shadow = (decisive(judged.comparisons, shadowed) for shadowed in (False, True))
    assert {each.rival_name for each in at_once} == {"champion"}
    assert {each.rival_name for each in into_shadow} == {"constant_elasticity"}
    assert judged.notes == (
        "champion 1 has learned from part of the test window, which favours it",
        "prices were not judged by the log: expected propensities of past quotes, none of"
        f" {judged.rows_test} in the test window has one.",
    )
    assert judged.limits == ()


def test_a_champion_of_other_features_is_not_compared(
    trial: Trial, data: Dataset, settings: Settings
) -> None:
    model = copy.copy(trial.model)
    model.card = replace(model.card, feature_hash="other")
    judged = pricing.learn(few(data), Incumbent("1", model), settings)
    assert {each.rival_name for each in judged.comparisons} == {"constant_elasticity"}
    assert "knows other features" in judged.notes[0]


def test_nothing_sold_is_refused_with_a_reason(data: Dataset, settings: Settings) -> None:
    unsold = replace(data, target=np.zeros(len(data)))
    with pytest.raises(UserError, match="got 0 bought among"):
        pricing.learn(unsold, None, settings)
    with pytest.raises(UserError, match="expected quotes and outcomes, got 0 and 0"):
        pricing.from_tables(table(some_quotes([], [])), table(some_outcomes([], [], [])), Span())


def test_figures_are_those_of_the_textbook() -> None:
    rng = np.random.default_rng(1)
    units, expected = rng.poisson(0.7, 500).astype(float), rng.uniform(0.05, 0.95, 500)
    assert np.isclose(
        pricing.poisson_deviance(units, expected), sklearn_metrics.mean_poisson_deviance(units, expected)
    )
    bought = (units > 0).astype(float)
    assert np.isclose(pricing.log_loss(bought, expected), sklearn_metrics.log_loss(bought, expected))
    assert np.isnan(pricing.log_loss(np.empty(0), np.empty(0)))


def test_constant_elasticity_finds_the_elasticity_and_how_sure_it_is() -> None:
    """Of 100 markets, 95 % intervals hold the truth in about 95."""
    rng, held = np.random.default_rng(2), 0
    names = (elasticity.PRICE, elasticity.RATE)
    for _ in range(100):
        price, rate = rng.uniform(0.7, 1.3, 2_000), rng.uniform(0.2, 0.5, 2_000)
        bought = rng.random(2_000) < np.minimum(rate * price**-1.8, 1.0)
        low, high = elasticity.fit(np.column_stack([price, rate]), bought * 1.0, names).interval
        held += low < -1.8 < high
    assert 88 <= held <= 100


def test_elasticity_of_a_curve_is_its_slope_in_logs() -> None:
    prices = np.linspace(5, 20, 30)
    assert np.isclose(demand.elasticity(prices, 0.9 * (prices / 5) ** -2.2, at=10.0), -2.2)
    assert np.isnan(demand.elasticity(prices, prices**-1.0, at=100.0))


def test_a_band_holds_the_curve_and_widens_outside_what_the_data_support() -> None:
    doubt = demand.Doubt((0.1,) * len(demand.GRID), 0.3, lowest=0.8, highest=1.1, units_per_sale=1.0)
    shares = np.array([0.5, 0.8, 1.0, 1.1, 1.6])
    low, high = doubt.band(np.full(5, 0.4), shares)
    assert ((low < 0.4) & (high > 0.4)).all()
    width = high - low
    np.testing.assert_allclose(width[1:4], width[1])
    assert width[0] > width[1] < width[4]
