"""Seats sold until departure: what learned bid prices earn, against a seller who knows the true demand."""

import copy
import random
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property

import numpy as np
import pytest

from features.pricing import OUTCOME, PRODUCT, QUOTE, event_values
from features.state import MICROSECONDS, Events, Floats, Ints, States, fold
from infra.settings import PricingPolicy, Product, load
from ingestion import simulated
from ingestion.events import QuoteRequest
from ingestion.file_source import PastEvents, placed
from ingestion.simulators.columns import take
from ingestion.simulators.demand import Demand, purchase_probability
from ingestion.simulators.market import (
    Departures,
    Market,
    MarketProcess,
    PriceLog,
    Quotes,
    SellerPast,
    catalogue,
)
from serving.pricing import Known, Policy, quote
from training import pricing
from training.bid_prices import EXTRA, Forecast, values
from training.dataset import Span
from training.demand_model import DemandModel

pytestmark = pytest.mark.slow

DAYS, CAPACITY, PRODUCTS = 30, 60, 3
PAST_LOTS, NEW_LOTS = 10, 4
"""Departures of each product: 30 past ones in all, and 12 new ones."""
SHARES = np.geomspace(0.5, 4.0, 120)
"""Prices that the all-knowing seller tries, as shares of the list price."""

Seller = Callable[[Quotes, int, States], float]
"""From a request (the only row), the units left and the products' states to a price."""


class World:
    """A market of perishable stock: its past, and its new departures sold by any seller."""

    def __init__(self, seed: int) -> None:
        self.market = Market(
            MarketProcess(
                seed=seed,
                products=PRODUCTS,
                quotes_per_day=5.0 * PRODUCTS,
                list_price_error=0.0,
                past=SellerPast(jitter=0.2),
                departures=Departures(DAYS, CAPACITY, late_premium=0.5),
            )
        )
        self.products = [Product(product_id=name, **row) for name, row in catalogue(self.market).items()]

    @cached_property
    def log(self) -> PriceLog:
        return self.market.simulate(PAST_LOTS * DAYS)

    def events(self) -> PastEvents:
        return placed(simulated.past_prices(self.market, self.log), [PRODUCT.name], 0)

    @cached_property
    def coming(self) -> list[Quotes]:
        """Requests for the new departures, each alone, in order of time."""
        new = self.market.quotes(NEW_LOTS * DAYS, PAST_LOTS * DAYS)
        return [take(new, np.array([at])) for at in range(len(new))]

    @cached_property
    def past(self) -> States:
        """Of each product after the log, every outcome known at once."""
        row = {product.product_id: number for number, product in enumerate(self.products)}
        states, log = States.cold(PRODUCT, PRODUCTS), self.log
        product = np.array([row[name] for name in log.product_id])
        remember(states, product, log.event_time_us, log.price, log.units.astype(np.float64))
        return states

    def margin(self, seller: Seller) -> float:
        """What a seller earns with the new departures; the same buyers come to each seller."""
        states, earned = deepcopy(self.past), 0.0
        left = np.full((PAST_LOTS + NEW_LOTS, PRODUCTS), CAPACITY)
        for one in self.coming:
            lot, row = int(one.departure[0]), int(one.product[0])
            price = np.array([seller(one, int(left[lot, row]), states)])
            units = np.minimum(self.market.purchase(one, price), left[lot, row])
            left[lot, row] -= units[0]
            earned += float(units[0] * (price[0] - self.products[row].unit_cost))
            remember(states, one.product, one.event_time_us, price, units.astype(np.float64))
        return earned


def remember(states: States, row: Ints, time_us: Ints, price: Floats, units: Floats) -> None:
    """Fold quotes in order of time, each with its outcome right after it."""
    n = len(row)
    kind, times = np.tile([QUOTE, OUTCOME], n), np.repeat(time_us, 2) + np.tile([0, 1], n)
    told = event_values(kind, np.repeat(price, 2), np.repeat(units, 2), times)
    fold(PRODUCT, states, Events(kind, times, np.repeat(row, 2), times, told))


def ours(world: World, model: DemandModel, rules: PricingPolicy) -> Seller:
    """What `POST /v1/prices/quote` answers, inside the guardrails."""
    policy, numbers = Policy(rules, "v1"), random.Random(1)

    def price(one: Quotes, left: int, states: States) -> float:
        row = int(one.product[0])
        context = {"inventory": left, "hours_to_departure": float(one.hours_to_departure[0])}
        request = QuoteRequest(
            quote_id=one.quote_id[0],
            event_time=datetime.fromtimestamp(one.event_time_us[0] / MICROSECONDS, UTC),
            product_id=one.product_id[0],
            segment=one.segment[0],
            context={**context, "competitor_price": float(one.competitor_price[0])},
        )
        known = Known(world.products[row], states.columns[row : row + 1])
        return float(quote(request, known, model, policy, numbers)["price"])

    return price


def list_price(world: World) -> Seller:
    return lambda one, left, states: world.products[int(one.product[0])].list_price


def all_knowing(world: World) -> Seller:
    """The dynamic program over the true arrivals and the true demand of every day to come."""
    market = world.market
    table = {
        lot: [np.diff(_true_values(market, lot, row), axis=1) for row in range(PRODUCTS)]
        for lot in range(PAST_LOTS, PAST_LOTS + NEW_LOTS)
    }

    def price(one: Quotes, left: int, states: States) -> float:
        row = int(one.product[0])
        prices = _true_prices(market, row)
        bids = table[int(one.departure[0])][row][:, max(left, 1) - 1]
        bid = np.interp(one.hours_to_departure[0] / 24.0, np.arange(DAYS + 1), bids)
        chance = market.probability(take(one, np.zeros(len(prices), np.int64)), prices)
        return float(prices[(chance * (prices - market.products.unit_cost[row] - bid)).argmax()])

    return price


def _true_prices(market: Market, row: int) -> Floats:
    prices: Floats = market.products.list_price[row] * SHARES
    return prices[prices <= market.products.ceiling[row]]


def _true_values(market: Market, lot: int, row: int) -> Floats:
    """The day's willingness is read off its quotes, which share all of it but the segment and the hour."""
    days, products = (
        [(lot + 1) * DAYS - 1 - back for back in range(DAYS)],
        take(market.products, np.array([row])),
    )
    segments, prices = market.process.segments, _true_prices(market, row)
    tastes = np.repeat([each.willingness for each in segments], [round(20 * each.share) for each in segments])
    chance = []
    for back, day in enumerate(days):
        willingness = (
            tastes * _willingness(market, day, row) * (1.5 - 0.5 * (back * 24.0 + 9.0) / (24.0 * DAYS))
        )
        n = len(prices)
        truth = Demand(
            np.repeat(products.family, len(tastes) * n),
            np.repeat(products.level, len(tastes) * n),
            np.repeat(products.elasticity, len(tastes) * n),
            np.repeat(willingness, n),
        )
        chance.append(purchase_probability(truth, np.tile(prices, len(tastes))).reshape(len(tastes), n))
    flow = np.array([market.arrivals(day)[row] for day in days])
    return values(Forecast(24.0, flow, prices, np.array(chance)), float(products.unit_cost[0]), CAPACITY)


def _willingness(market: Market, day: int, row: int) -> float:
    """Of a day's mean buyer at the beginning of the selling time; of the product's base if nobody came."""
    coming = market.quotes(1, day)
    mine = take(coming, coming.product == row)
    if not len(mine):
        return float(market.products.base[row])
    taste = {each.name: each.willingness for each in market.process.segments}
    late = 1.5 - 0.5 * mine.hours_to_departure / (24.0 * DAYS)
    return float(mine.willingness[0] / late[0] / taste[mine.segment[0]])


def without_bid_prices(model: DemandModel) -> DemandModel:
    extra = {name: value for name, value in model.card.extra.items() if name != EXTRA}
    found = copy.copy(model)
    found.card = replace(model.card, extra=extra)
    return found


@pytest.mark.timeout(300)
def test_learned_bid_prices_earn_nearly_what_the_true_dynamic_program_does() -> None:
    """After 30 past departures at most 7 % less, at the prices that the service quotes."""
    rules = load().pricing.model_copy(update={"exploration_share": 0.0, "thompson": False})
    share = []
    for seed in (1, 2, 3):
        world = World(seed)
        events = world.events()
        model = pricing.trained_with_doubt(pricing.from_tables(events.decided, events.settled, Span()))
        sellers = [
            ours(world, model, rules),
            ours(world, without_bid_prices(model), rules),
            list_price(world),
        ]
        best = world.margin(all_knowing(world))
        share.append([world.margin(seller) / best for seller in sellers])
    bids, without, listed = np.mean(share, axis=0)
    assert bids > 0.93
    assert bids > without + 0.1
    assert bids > listed + 0.2
