"""Laws of the simulators: pure functions of their seed, with the fraud and the demand that they promise."""

from dataclasses import replace
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingestion.events import Label, Outcome, QuoteRequest, Transaction, microseconds
from ingestion.simulators import wire
from ingestion.simulators.bench import speeds
from ingestion.simulators.columns import DAY_US, Columns, names, stack, take
from ingestion.simulators.demand import FAMILIES, Demand, best_price, purchase_probability
from ingestion.simulators.market import (
    Departures,
    Family,
    Market,
    MarketProcess,
    PriceLog,
    Products,
    Quotes,
    SellerPast,
    catalogue,
)
from ingestion.simulators.payments import Labels, PaymentLog, Payments, each_day, simulate
from ingestion.simulators.population import Population
from ingestion.simulators.randomness import draws
from ingestion.simulators.scenarios import CARD, GENUINE, LARGE, RING, SCENARIOS, TERMINAL, Fraud

SMALL = Population(customers=200, terminals=120)
RING_DAY = 30
few = settings(max_examples=8, deadline=None)
seeds = st.integers(0, 2**40)


def same(left: Columns, right: Columns) -> bool:
    """Whether all columns are equal bit for bit; NaN equals NaN."""
    return all(content(getattr(left, name)) == content(getattr(right, name)) for name in names(left))


def content(column: npt.NDArray[Any]) -> list[Any] | bytes:
    return column.tolist() if column.dtype == object else column.dtype.str.encode() + column.tobytes()


@pytest.fixture(scope="module")
def log() -> PaymentLog:
    return simulate(Payments(7, fraud=Fraud(ring_first_day=RING_DAY)), 60)


def day_of(log: PaymentLog) -> npt.NDArray[Any]:
    return (log.event_time_us - microseconds(Payments(0).start)) // DAY_US


# Payments


@few
@given(seeds, st.integers(1, 5), st.integers(1, 5), st.none() | st.integers(0, 6))
def test_a_run_continues_a_shorter_one_bit_for_bit(
    seed: int, first: int, more: int, ring: int | None
) -> None:
    process = Payments(seed, population=SMALL, fraud=Fraud(ring_first_day=ring, ring_share=0.05))
    whole = simulate(process, first + more)
    assert same(whole, stack([simulate(process, first), simulate(process, more, first_day=first)]))
    assert same(whole, stack(list(each_day(process, first + more))))


def test_another_seed_is_another_run() -> None:
    one, other = simulate(Payments(1, population=SMALL), 2), simulate(Payments(2, population=SMALL), 2)
    assert not same(one, other)


def test_time_rises_and_ids_are_unique(log: PaymentLog) -> None:
    assert (np.diff(log.event_time_us) >= 0).all()
    assert len(set(log.transaction_id)) == len(log)
    assert set(day_of(log)) == set(range(60))


def test_share_of_fraud_is_as_asked_per_scenario(log: PaymentLog) -> None:
    late = log.scenario[day_of(log) >= RING_DAY]
    rates = np.bincount(late, minlength=len(SCENARIOS)) / len(late)
    asked = {LARGE: 0.002, TERMINAL: 0.0025, CARD: 0.003, RING: 0.003}
    loose = {LARGE: 0.2, TERMINAL: 0.6, CARD: 0.35, RING: 0.2}
    for scenario, share in asked.items():
        assert rates[scenario] == pytest.approx(share, rel=loose[scenario]), SCENARIOS[scenario]
    assert 0.007 < log.is_fraud.mean() < 0.011


def test_terminal_fraud_keeps_its_share_over_many_terminals() -> None:
    process = Payments(
        3, population=Population(customers=1_000, terminals=400), fraud=Fraud(terminal_share=0.05)
    )
    log = simulate(process, 60)
    assert (log.scenario == TERMINAL).mean() == pytest.approx(0.05, rel=0.25)


def test_amounts_tell_large_and_card_fraud_from_usual_payments(log: PaymentLog) -> None:
    middle = [
        np.median(log.amount[log.scenario == scenario]) for scenario in (GENUINE, LARGE, TERMINAL, CARD)
    ]
    assert log.amount[log.scenario == LARGE].min() >= 300.0
    assert middle[CARD] > 3.5 * middle[GENUINE]
    assert middle[TERMINAL] < 2.0 * middle[GENUINE]


def test_the_new_pattern_is_absent_before_its_start_and_changes_nothing_before(log: PaymentLog) -> None:
    rings = day_of(log)[log.scenario == RING]
    assert RING_DAY <= rings.min() <= RING_DAY + 2
    without = simulate(Payments(7), RING_DAY)
    assert same(without, take(log, day_of(log) < RING_DAY))


def test_the_new_pattern_is_online_by_night_from_shared_devices_at_new_merchants(log: PaymentLog) -> None:
    ring = take(log, log.scenario == RING)
    assert set(ring.channel) == {"online"}
    assert (ring.event_time_us % DAY_US < 6 * 3_600_000_000).all()
    assert not set(ring.terminal_id) & set(log.terminal_id[log.scenario != RING])
    assert not set(ring.device_id) & set(log.device_id[log.scenario != RING])
    cards = {device: set(ring.customer_id[ring.device_id == device]) for device in set(ring.device_id)}
    assert np.median([len(held) for held in cards.values()]) >= 4
    life = [np.ptp(ring.event_time_us[ring.terminal_id == terminal]) for terminal in set(ring.terminal_id)]
    assert max(life) < 3 * DAY_US


def test_customers_pay_near_home(log: PaymentLog) -> None:
    """Half of a customer's payments in stores lie within a few km of their middle."""
    some = take(log, (log.customer_id == log.customer_id[0]) & ~np.isnan(log.latitude))
    away = np.abs(some.latitude - np.median(some.latitude)) * 111.0
    assert np.median(away) < 10.0


def test_labels_arrive_when_stated(log: PaymentLog) -> None:
    days = (log.label_time_us - log.event_time_us) / DAY_US
    fraud = log.is_fraud
    assert ((days[fraud] >= 3.0) & (days[fraud] <= 14.0)).all()
    assert days[fraud].mean() == pytest.approx(8.5, abs=0.4)
    assert (days[~fraud] == 7.0).all()
    assert (log.label == np.where(fraud, "fraud", "legitimate")).all()
    assert (log.source == np.where(fraud, "chargeback", "settlement")).all()


def test_label_delays_are_settable() -> None:
    log = simulate(Payments(1, population=SMALL, labels=Labels((1.0, 2.0), 3.0)), 3)
    days = (log.label_time_us - log.event_time_us) / DAY_US
    assert ((days[log.is_fraud] >= 1.0) & (days[log.is_fraud] <= 2.0)).all()
    assert (days[~log.is_fraud] == 3.0).all()


def test_slices_of_time_are_half_open_and_labels_come_in_order_of_arrival(log: PaymentLog) -> None:
    cut = int(log.event_time_us[1_000])
    assert len(log.between(0, cut)) + len(log.between(cut, 2**62)) == len(log)
    assert log.between(cut, 2**62).event_time_us[0] == cut
    arrived = log.labelled_between(cut, cut + 20 * DAY_US).label_time_us
    assert (np.diff(arrived) >= 0).all()
    assert arrived[0] >= cut
    assert arrived[-1] < cut + 20 * DAY_US


def test_every_event_parses_and_carries_its_columns() -> None:
    log = simulate(Payments(5, population=SMALL, fraud=Fraud(ring_first_day=0, ring_share=0.05)), 2)
    events = [Transaction.model_validate_json(raw) for raw in wire.encoded(wire.transactions(log))]
    labels = [Label.model_validate_json(raw) for raw in wire.encoded(wire.labels(log))]
    assert [microseconds(event.event_time) for event in events] == log.event_time_us.tolist()
    assert [microseconds(label.label_time) for label in labels] == log.label_time_us.tolist()
    for name in (
        "transaction_id",
        "customer_id",
        "terminal_id",
        "amount",
        "country",
        "device_id",
        "merchant_category",
    ):
        assert [getattr(event, name) for event in events] == getattr(log, name).tolist(), name
    places = np.array([np.nan if event.latitude is None else event.latitude for event in events])
    assert np.array_equal(places, log.latitude, equal_nan=True)


def test_optional_fields_are_present_for_a_part_only(log: PaymentLog) -> None:
    for missing in (log.device_id == None, np.isnan(log.latitude), log.merchant_category == None):  # noqa: E711
        assert 0.05 < missing.mean() < 0.95
    assert ((log.device_id == None) == (log.channel == "in_store")).all()  # noqa: E711


def test_the_wire_does_not_tell_the_truth(log: PaymentLog) -> None:
    shown = set().union(*(event.keys() for event in wire.transactions(take(log, slice(0, 5_000)))))
    assert shown <= set(Transaction.model_fields)


@pytest.mark.parametrize("start", [datetime(2026, 1, 1), datetime.fromisoformat("2026-01-01T01:00:00+00:00")])
def test_a_start_that_is_not_midnight_utc_is_refused(start: datetime) -> None:
    with pytest.raises(ValueError, match="midnight UTC"):
        Payments(1, start=start)
    with pytest.raises(ValueError, match="midnight UTC"):
        MarketProcess(1, start=start)


# Market

FAMILY: list[Family] = ["logit", "linear", "constant_elasticity"]
PERISHABLE = Departures(days=4, capacity=10)


@few
@given(seeds, st.integers(1, 5), st.integers(1, 5), st.sampled_from([None, PERISHABLE]))
def test_a_market_continues_a_shorter_one_bit_for_bit(
    seed: int, first: int, more: int, departures: Departures | None
) -> None:
    market = Market(MarketProcess(seed, products=3, quotes_per_day=40, departures=departures))
    assert same(
        market.quotes(first + more), stack([market.quotes(first), market.quotes(more, first_day=first)])
    )
    later: PriceLog = market.simulate(more, first_day=first)
    assert same(market.simulate(first + more), stack([market.simulate(first), later]))


@few
@given(seeds)
def test_a_purchase_depends_on_seed_quote_and_price_only(seed: int) -> None:
    market = Market(MarketProcess(seed, quotes_per_day=100))
    quotes = market.quotes(2)
    price = market.past_prices(quotes)
    order = np.random.default_rng(seed).permutation(len(quotes))[: len(quotes) // 2]
    assert (market.purchase(take(quotes, order), price[order]) == market.purchase(quotes, price)[order]).all()
    assert (market.outcome_time_us(take(quotes, order)) == market.outcome_time_us(quotes)[order]).all()
    assert (market.purchase(quotes, 0.9 * price) >= market.purchase(quotes, price)).all()


def test_draws_are_uniform_and_differ_by_seed_and_key() -> None:
    keys = [f"q-{number}" for number in range(20_000)]
    one, other = draws(1, keys), draws(2, keys)
    counts = np.histogram(one[0], bins=20, range=(0, 1))[0]
    assert abs(counts - 1_000).max() < 150
    assert abs(np.corrcoef([one[0], one[1], other[0]]) - np.eye(3)).max() < 0.03


@pytest.mark.parametrize("family", FAMILY)
def test_purchases_are_as_frequent_as_their_true_probability(family: Family) -> None:
    market = Market(MarketProcess(11, quotes_per_day=2_000, family=family))
    quotes = market.quotes(30)
    price = market.past_prices(quotes)
    chance, units = market.probability(quotes, price), market.purchase(quotes, price)
    for part in np.array_split(np.argsort(chance), 10):
        spread = np.sqrt((chance[part] * (1 - chance[part])).sum())
        assert abs(units[part].sum() - chance[part].sum()) < 4.0 * spread + 1e-9


demands = st.builds(
    lambda family, level, elasticity, willingness: Demand(
        np.array([family]), np.array([level]), np.array([elasticity]), np.array([willingness])
    ),
    st.integers(0, len(FAMILIES) - 1),
    st.floats(0.05, 0.9),
    st.floats(1.2, 6.0),
    st.floats(0.5, 500.0),
)


@settings(deadline=None)
@given(demands, st.floats(0.05, 0.9))
def test_the_best_price_earns_at_least_what_any_other_earns(demand: Demand, cost_share: float) -> None:
    cost = cost_share * demand.willingness
    best = best_price(demand, cost)
    grid = cost * np.linspace(1.0, 12.0, 4_000)
    every = take(demand, np.zeros(len(grid), dtype=np.int64))
    earned = (best - cost) * purchase_probability(demand, best)
    assert ((grid - cost) * purchase_probability(every, grid)).max() <= earned[0] * (1 + 1e-9) + 1e-12


@settings(deadline=None)
@given(demands, st.floats(0.1, 5.0), st.floats(1.0, 3.0))
def test_demand_is_a_probability_that_falls_with_the_price(demand: Demand, x: float, more: float) -> None:
    low, high = (purchase_probability(demand, demand.willingness * at)[0] for at in (x, x * more))
    assert 0.0 <= high <= low <= 1.0
    assert purchase_probability(demand, demand.willingness)[0] == pytest.approx(min(demand.level[0], 0.95))


@pytest.mark.parametrize("family", range(len(FAMILIES)))
def test_elasticity_at_the_willingness_is_the_stated_one(family: int) -> None:
    demand = Demand(np.array([family]), np.array([0.3]), np.array([2.5]), np.array([40.0]))
    low, high = (np.log(purchase_probability(demand, np.array([40.0 * at]))[0]) for at in (0.9999, 1.0001))
    assert (high - low) / (np.log(1.0001) - np.log(0.9999)) == pytest.approx(-2.5, rel=1e-3)


def test_the_bounded_optimum_lies_in_the_catalogue_and_earns_no_more() -> None:
    market = Market(MarketProcess(2, list_price_error=1.5))
    quotes = market.quotes(30)
    free, bounded = market.optimal(quotes), market.optimal(quotes, bounded=True)
    mine = take(market.products, quotes.product)
    assert ((bounded.price >= mine.floor) & (bounded.price <= mine.ceiling)).all()
    assert (bounded.expected <= free.expected + 1e-12).all()
    assert 0.01 < (bounded.price < free.price).mean() < 0.9
    assert (market.optimal(quotes, "revenue").price <= free.price + 1e-9).all()


@pytest.mark.parametrize("family", FAMILY)
def test_wrong_list_prices_leave_money_to_be_found(family: Family) -> None:
    market = Market(MarketProcess(4, family=family, mispriced_share=1.0))
    quotes = market.quotes(60)
    mine = take(market.products, quotes.product)
    at_list = ((mine.list_price - mine.unit_cost) * market.probability(quotes, mine.list_price)).sum()
    assert market.optimal(quotes).expected.sum() > 1.1 * at_list


def test_right_list_prices_leave_little() -> None:
    market = Market(MarketProcess(4, mispriced_share=0.0, season=0.0))
    quotes = market.quotes(60)
    mine = take(market.products, quotes.product)
    at_list = ((mine.list_price - mine.unit_cost) * market.probability(quotes, mine.list_price)).sum()
    assert market.optimal(quotes).expected.sum() < 1.03 * at_list


def test_demand_shifts_on_its_day_and_not_before() -> None:
    steady, shifted = Market(MarketProcess(5)), Market(MarketProcess(5, shift_first_day=10, shift_factor=0.5))
    before = take(
        steady.quotes(20), steady.quotes(20).event_time_us < microseconds(Payments(0).start) + 10 * DAY_US
    )
    assert same(before, shifted.quotes(10))
    late, late_shifted = steady.quotes(10, first_day=10), shifted.quotes(10, first_day=10)
    assert late_shifted.willingness == pytest.approx(0.5 * late.willingness)
    assert market_share(shifted, late_shifted) < 0.6 * market_share(steady, late)


def market_share(market: Market, quotes: Quotes) -> float:
    products: Products = take(market.products, quotes.product)
    return float(market.probability(quotes, products.list_price).mean())


def test_the_competitor_tells_of_demand_and_past_prices_of_the_season_if_asked() -> None:
    process = MarketProcess(6, season=0.3, past=SellerPast(confounding=0.0))
    market, confounded = Market(process), Market(replace(process, past=SellerPast(confounding=1.0)))
    quotes = market.quotes(300)
    mine = take(market.products, quotes.product)
    relative = {
        "rival": quotes.competitor_price / mine.base,
        "free": market.past_prices(quotes) / mine.list_price,
        "bound": confounded.past_prices(quotes) / mine.list_price,
    }
    seen = {name: np.corrcoef(values, quotes.calendar)[0, 1] for name, values in relative.items()}
    assert seen["rival"] > 0.6
    assert abs(seen["free"]) < 0.1
    assert seen["bound"] > 0.5


@few
@given(seeds, st.floats(0.0, 2.0))
def test_past_prices_stay_within_the_catalogue(seed: int, error: float) -> None:
    market = Market(MarketProcess(seed, quotes_per_day=100, list_price_error=error))
    log, products = market.simulate(20), catalogue(market)
    bounds = np.array(
        [(products[name]["floor"], products[name]["ceiling"]) for name in log.product_id], dtype=float
    )
    assert ((log.price >= bounds[:, 0]) & (log.price <= bounds[:, 1])).all()
    for fields in products.values():
        order = [float(fields[name]) for name in ("unit_cost", "floor", "list_price", "ceiling")]
        assert order == sorted(set(order))
        assert float(fields["max_step"]) > 0.0


def test_perishable_stock_is_never_oversold_and_begins_full() -> None:
    market = Market(
        MarketProcess(9, products=2, quotes_per_day=60, departures=Departures(days=5, capacity=20))
    )
    log = market.simulate(20)
    lot = (log.event_time_us - log.event_time_us[0] // DAY_US * DAY_US) // (5 * DAY_US)
    for product in set(log.product_id):
        for number in range(4):
            mine = take(log, (lot == number) & (log.product_id == product))
            assert mine.inventory[0] == 20
            assert (mine.inventory == np.maximum(20 - np.cumsum(mine.units) + mine.units, 0)).all()
            assert mine.units.sum() <= 20
    assert (log.units[log.inventory == 0] == 0).all()
    assert log.hours_to_departure.min() >= 0.0
    assert log.hours_to_departure.max() <= 120.0


def test_every_quote_and_outcome_parses() -> None:
    market = Market(MarketProcess(10, products=3, quotes_per_day=50, departures=PERISHABLE))
    quotes, log = market.quotes(2), market.simulate(2)
    wanted = wire.encoded(wire.quote_requests(quotes, inventory=log.inventory))
    asked = [QuoteRequest.model_validate_json(raw) for raw in wanted]
    came = [Outcome.model_validate_json(raw) for raw in wire.encoded(wire.past_outcomes(log))]
    assert [event.quote_id for event in came] == quotes.quote_id.tolist()
    assert [event.units for event in came] == log.units.tolist()
    assert set(asked[0].context) == {"competitor_price", "hours_to_departure", "inventory"}
    assert (log.outcome_time_us >= log.event_time_us).all()
    plain = Market(MarketProcess(10, competitor=False, quotes_per_day=50)).quotes(1)
    assert all(event["context"] == {} for event in wire.quote_requests(plain))


def test_the_bench_measures_every_step() -> None:
    ticks = iter(range(1_000))
    assert all(rate > 0 for rate in speeds(seed=1, days=2, clock=lambda: float(next(ticks))).values())
