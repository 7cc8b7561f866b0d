"""A market whose true demand is known here and nowhere else.

Willingness to pay for a quote of product i to segment g at time t:

    W = base_i × segment_g × calendar_i(t) × shock_i(day) × shift(t) × rival_i(day)^effect × late(t)

* calendar_i(t) = (1 + season sin(2π (day / 365.25 + phase of the category))) × weekday effect;
* shock: log-normal, a new one each day, seen by no seller;
* shift: `shift_factor` from day `shift_first_day` on, 1 before;
* rival: log-normal; the competitor's price is base × (calendar × shock × shift)^`competitor_follows` × rival,
  so it tells something of the demand; effect is `competitor_effect`;
* late: for perishable products 1 + late_premium × elapsed share of the selling time before departure.

`demand` turns W and a price into the chance of purchase. A quote is bought if a uniform number made from the
seed and its quote_id lies below that chance: whatever the order, the same quote at the same price has the
same outcome, and who buys at a price buys at a lower one too. The number of quotes of a product on a day is
Poisson, with mean quotes_per_day × the product's share × calendar².

The past seller (`Market.simulate`) asked list price × calendar^confounding × a promotion on some days × a
small jitter by product and day, within floor and ceiling.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Literal

import numpy as np

from ingestion.simulators.columns import (
    DAY_US,
    HOUR_US,
    Columns,
    Floats,
    Ints,
    Words,
    midnight_us,
    stack,
    take,
)
from ingestion.simulators.demand import CONSTANT, FAMILIES, Demand, best_price, purchase_probability
from ingestion.simulators.randomness import draws, generator

_PRODUCTS, _QUOTES, _WEATHER, _SELLER = 30, 31, 32, 33

CATEGORIES = ("shoes", "books", "rooms", "rides")
WEEK = np.array([0.97, 0.97, 0.98, 1.0, 1.03, 1.06, 0.99])
"""Effect of the day of the week, from Monday, on willingness; squared, on the number of quotes."""

Family = Literal["logit", "linear", "constant_elasticity", "mixed"]
Objective = Literal["margin", "revenue"]


@dataclass(frozen=True)
class Segment:
    """A group of buyers: share of quotes, willingness against the mean."""

    name: str
    share: float
    willingness: float


@dataclass(frozen=True)
class Departures:
    """Perishable stock: `capacity` units of each product, sold over `days`, then worthless."""

    days: int = 30
    capacity: int = 60
    late_premium: float = 0.5
    """Willingness at departure is higher by this share than at the beginning."""


@dataclass(frozen=True)
class SellerPast:
    """How prices were set before us."""

    confounding: float = 0.5
    """Power of the calendar effect in the price: 0 = prices know nothing of the season."""
    promotion_share: float = 0.2
    """Share of product days with a promotion."""
    promotions: tuple[float, ...] = (0.7, 0.8, 0.9)
    """Factors of which a promotion takes one."""
    jitter: float = 0.04
    """Spread of the log of the price by product and day."""


@dataclass(frozen=True)
class MarketProcess:
    """Everything that a run of the market depends on; money in the main unit of `currency`."""

    seed: int
    start: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    """Midnight UTC of day 0."""
    products: int = 10
    quotes_per_day: float = 450.0
    """Of all products together."""
    family: Family = "mixed"
    list_price_error: float = 1 / 3
    """List prices are this share above the best price, or the best price is above them, in turn ..."""
    mispriced_share: float = 0.6
    """... for this share of the products; the others' list price is the best price of a mean day."""
    segments: tuple[Segment, ...] = (
        Segment("web", 0.6, 1.0),
        Segment("app", 0.25, 1.08),
        Segment("partner", 0.15, 0.9),
    )
    season: float = 0.1
    demand_shock: float = 0.03
    """Spread of the log of a day's shock."""
    competitor: bool = True
    competitor_follows: float = 0.7
    competitor_spread: float = 0.08
    competitor_effect: float = 0.3
    shift_first_day: int | None = None
    """None: demand never shifts."""
    shift_factor: float = 2 / 3
    outcome_delay_h: float = 6.0
    """An outcome is known uniformly within this after its quote."""
    departures: Departures | None = None
    past: SellerPast = SellerPast()
    currency: str = "EUR"

    def __post_init__(self) -> None:
        """Refuse what cannot be simulated."""
        midnight_us(self.start)
        if self.products < 1 or self.seed < 0:
            raise ValueError(f"expected products and a seed from 0, came {self.products} and {self.seed}")


@dataclass(frozen=True)
class Products(Columns):
    """The products and their true demand on a mean day."""

    product_id: Words
    category: Ints
    family: Ints
    base: Floats
    level: Floats
    elasticity: Floats
    unit_cost: Floats
    list_price: Floats
    share: Floats
    """Of the quotes."""

    @property
    def floor(self) -> Floats:
        """Least price the seller allows."""
        return np.round(1.05 * self.unit_cost, 2)

    @property
    def ceiling(self) -> Floats:
        """Highest price the seller allows."""
        return np.round(2.0 * self.list_price, 2)


@dataclass(frozen=True)
class Quotes(Columns):
    """Requests for a price, in order of event time; `willingness` and `calendar` are the truth."""

    quote_id: Words
    event_time_us: Ints
    product: Ints
    """Row in `Products`."""
    product_id: Words
    segment: Words
    competitor_price: Floats
    """NaN without a competitor."""
    hours_to_departure: Floats
    """NaN unless perishable."""
    departure: Ints
    """Number of the lot it belongs to; -1 unless perishable."""
    willingness: Floats
    calendar: Floats


@dataclass(frozen=True)
class PriceLog(Columns):
    """Past quotes with the price asked and what came of it."""

    quote_id: Words
    event_time_us: Ints
    product_id: Words
    segment: Words
    competitor_price: Floats
    hours_to_departure: Floats
    inventory: Floats
    """Units left when asked; NaN unless perishable."""
    price: Floats
    units: Ints
    """0 = not bought, or sold out."""
    outcome_time_us: Ints


@dataclass(frozen=True)
class Best:
    """What a seller who knows the true demand would ask, and expect of one quote."""

    price: Floats
    expected: Floats
    """Margin or revenue, by objective."""


@dataclass(frozen=True)
class Market:
    """A market process and everything drawn from its seed."""

    process: MarketProcess

    @cached_property
    def products(self) -> Products:
        """The products, the same for each market of this seed."""
        return _products(self.process)

    def quotes(self, days: int, first_day: int = 0) -> Quotes:
        """Requests of days first_day up to first_day + days."""
        if days < 1 or first_day < 0:
            raise ValueError(f"expected days of 1 or more from day 0 or later, came {days} from {first_day}")
        return stack([_day(self.process, self.products, day) for day in range(first_day, first_day + days)])

    def simulate(self, days: int, first_day: int = 0) -> PriceLog:
        """The same quotes at the past seller's prices, with their outcomes."""
        lot = self.process.departures.days if self.process.departures else 1
        lead = first_day % lot
        quotes = self.quotes(days + lead, first_day - lead)
        prices = self.past_prices(quotes)
        log = self._outcomes(quotes, prices)
        begin_us = midnight_us(self.process.start) + first_day * DAY_US
        return take(log, log.event_time_us >= begin_us)

    def past_prices(self, quotes: Quotes) -> Floats:
        """What the past seller asks."""
        return _past_prices(self.process, self.products, quotes)

    def demand(self, quotes: Quotes) -> Demand:
        """The true demand behind each quote."""
        mine = take(self.products, quotes.product)
        return Demand(mine.family, mine.level, mine.elasticity, quotes.willingness)

    def probability(self, quotes: Quotes, price: Floats) -> Floats:
        """True chance of purchase of each quote at its price."""
        return purchase_probability(self.demand(quotes), price)

    def purchase(self, quotes: Quotes, price: Floats) -> Ints:
        """Units bought of each quote at its price, 0 or 1, if in stock; depends on nothing else."""
        bought = draws(self.process.seed, quotes.quote_id)[0] < self.probability(quotes, price)
        units: Ints = bought.astype(np.int64)
        return units

    def outcome_time_us(self, quotes: Quotes) -> Ints:
        """When each quote's outcome is known."""
        delay = draws(self.process.seed, quotes.quote_id)[1] * self.process.outcome_delay_h * HOUR_US
        known: Ints = quotes.event_time_us + delay.astype(np.int64)
        return known

    def optimal(self, quotes: Quotes, objective: Objective = "margin", bounded: bool = False) -> Best:
        """Best price of each quote on its own and what it earns; `bounded` keeps it within floor and ceiling.

        Perishable stock is not looked ahead: its optimum is a dynamic program over `demand` and `arrivals`.
        """
        mine, demand = take(self.products, quotes.product), self.demand(quotes)
        cost = mine.unit_cost if objective == "margin" else np.zeros(len(quotes))
        price = best_price(demand, cost)
        price = np.clip(price, mine.floor, mine.ceiling) if bounded else price
        return Best(price, (price - cost) * purchase_probability(demand, price))

    def arrivals(self, day: int) -> Floats:
        """Expected quotes of each product on a day."""
        return _arrivals(self.process, self.products, day)

    def _outcomes(self, quotes: Quotes, price: Floats) -> PriceLog:
        wanted = self.purchase(quotes, price)
        inventory = _inventory(self.process.departures, quotes, wanted)
        return PriceLog(
            quote_id=quotes.quote_id,
            event_time_us=quotes.event_time_us,
            product_id=quotes.product_id,
            segment=quotes.segment,
            competitor_price=quotes.competitor_price,
            hours_to_departure=quotes.hours_to_departure,
            inventory=inventory,
            price=price,
            units=np.where(inventory <= 0.0, 0, wanted),
            outcome_time_us=self.outcome_time_us(quotes),
        )


def catalogue(market: Market) -> dict[str, dict[str, str | float]]:
    """The products as `PUT /v1/products/{product_id}` takes them; `max_step` is money."""
    products = market.products
    return {
        products.product_id[row]: {
            "list_price": float(products.list_price[row]),
            "unit_cost": float(products.unit_cost[row]),
            "currency": market.process.currency,
            "floor": float(products.floor[row]),
            "ceiling": float(products.ceiling[row]),
            "max_step": round(0.15 * float(products.list_price[row]), 2),
            "category": CATEGORIES[products.category[row]],
        }
        for row in range(len(products))
    }


def _products(process: MarketProcess) -> Products:
    n, rng = process.products, generator(process.seed, _PRODUCTS)
    base = np.round(60.0 * np.exp(0.7 * rng.standard_normal(n)), 2)
    level, elasticity = rng.uniform(0.25, 0.4, n), rng.uniform(1.8, 3.0, n)
    share = rng.gamma(4.0, 1.0, n)
    rows = np.arange(n)
    family = rows % 3 if process.family == "mixed" else np.full(n, FAMILIES.index(process.family))
    unit_cost = np.round(base * (rng.uniform(0.3, 0.5, n) + 0.2 * (family == CONSTANT)), 2)
    best = best_price(Demand(family, level, elasticity, base), unit_cost)
    return Products(
        product_id=np.array([f"p-{row + 1}" for row in rows], dtype=object),
        category=rows % len(CATEGORIES),
        family=family,
        base=base,
        level=level,
        elasticity=elasticity,
        unit_cost=unit_cost,
        list_price=np.round(np.maximum(best * _list_price_factor(process, rng), 1.1 * unit_cost), 2),
        share=share / share.sum(),
    )


def _list_price_factor(process: MarketProcess, rng: np.random.Generator) -> Floats:
    """Too dear and too cheap in turn for a random choice of products, right for the others."""
    factor, off = np.ones(process.products), round(process.mispriced_share * process.products)
    chosen = rng.permutation(process.products)[:off]
    wrong = 1.0 + process.list_price_error
    factor[chosen] = np.resize([wrong, 1.0 / wrong], off)
    return factor


def _day(process: MarketProcess, products: Products, day: int) -> Quotes:
    rng = generator(process.seed, _QUOTES, day)
    product = np.repeat(np.arange(len(products)), rng.poisson(_arrivals(process, products, day)))
    time_us = (rng.normal(15.0, 4.0, len(product)) * HOUR_US).astype(np.int64) % DAY_US
    order = np.argsort(time_us, kind="stable")
    product, time_us = product[order], time_us[order]
    segment = rng.choice(len(process.segments), len(product), p=[group.share for group in process.segments])
    common, rival = _weather(process, products, day)
    hours, departure = _departure(process.departures, day, time_us)
    competitor = products.base * common**process.competitor_follows * rival
    taste = np.array([group.willingness for group in process.segments])[segment]
    scale = products.base * common * rival**process.competitor_effect
    return Quotes(
        quote_id=np.array([f"q-{day:04d}-{number:06d}" for number in range(len(product))], dtype=object),
        event_time_us=midnight_us(process.start) + day * DAY_US + time_us,
        product=product,
        product_id=products.product_id[product],
        segment=np.array([group.name for group in process.segments], dtype=object)[segment],
        competitor_price=_seen(process, np.round(competitor, 2))[product],
        hours_to_departure=hours,
        departure=departure,
        willingness=scale[product] * taste * _late(process.departures, hours),
        calendar=_calendar(process, products, day)[product],
    )


def _seen(process: MarketProcess, competitor: Floats) -> Floats:
    return competitor if process.competitor else np.full(len(competitor), np.nan)


def _weather(process: MarketProcess, products: Products, day: int) -> tuple[Floats, Floats]:
    """Of each product on a day: what moves everybody's demand, and the competitor's own whim."""
    shock, whim = generator(process.seed, _WEATHER, day).standard_normal((2, len(products)))
    shifted = process.shift_first_day is not None and day >= process.shift_first_day
    common = _calendar(process, products, day) * np.exp(process.demand_shock * shock)
    rival = np.exp((process.competitor_spread if process.competitor else 0.0) * whim)
    return common * (process.shift_factor if shifted else 1.0), rival


def _calendar(process: MarketProcess, products: Products, day: int) -> Floats:
    """Season and weekday effect on willingness of each product."""
    year = (process.start.timetuple().tm_yday - 1 + day) / 365.25
    phase: Floats = year + products.category.astype(np.float64) / len(CATEGORIES)
    season: Floats = 1.0 + process.season * np.sin(2.0 * np.pi * phase)
    effect: Floats = season * WEEK[(process.start.weekday() + day) % 7]
    return effect


def _arrivals(process: MarketProcess, products: Products, day: int) -> Floats:
    return process.quotes_per_day * products.share * _calendar(process, products, day) ** 2


def _departure(departures: Departures | None, day: int, time_us: Ints) -> tuple[Floats, Ints]:
    if departures is None:
        return np.full(len(time_us), np.nan), np.full(len(time_us), -1)
    lot, elapsed = divmod(day, departures.days)
    return (departures.days - elapsed) * 24.0 - time_us / HOUR_US, np.full(len(time_us), lot)


def _late(departures: Departures | None, hours: Floats) -> Floats:
    if departures is None:
        return np.ones(len(hours))
    return 1.0 + departures.late_premium * (1.0 - hours / (24.0 * departures.days))


def _past_prices(process: MarketProcess, products: Products, quotes: Quotes) -> Floats:
    day = (quotes.event_time_us - midnight_us(process.start)) // DAY_US
    found, place = np.unique(day, return_inverse=True)
    rows = [_seller_factor(process, len(products), number) for number in found.tolist()]
    factor = np.array(rows, dtype=np.float64).reshape(-1, len(products))
    mine = take(products, quotes.product)
    asked = mine.list_price * quotes.calendar**process.past.confounding * factor[place, quotes.product]
    allowed: Floats = np.clip(asked, mine.floor, mine.ceiling)
    return allowed.round(2)


def _seller_factor(process: MarketProcess, products: int, day: int) -> Floats:
    """Promotion and jitter of each product on a day."""
    rng, past = generator(process.seed, _SELLER, day), process.past
    promoted = rng.random(products) < past.promotion_share
    promotion = rng.choice(np.array(past.promotions, dtype=np.float64), products)
    return np.where(promoted, promotion, 1.0) * np.exp(past.jitter * rng.standard_normal(products))


def _inventory(departures: Departures | None, quotes: Quotes, wanted: Ints) -> Floats:
    """Units of the quote's lot that are left before it; NaN unless perishable."""
    left = np.full(len(quotes), np.nan)
    if departures is None or len(quotes) == 0:
        return left
    lot = quotes.departure * (quotes.product.max() + 1) + quotes.product
    order = np.argsort(lot, kind="stable")
    before = np.cumsum(wanted[order]) - wanted[order]
    first = np.searchsorted(lot[order], lot[order])
    left[order] = np.maximum(departures.capacity - (before - before[first]), 0)
    return left
