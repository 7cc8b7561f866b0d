"""Pricing: what is remembered of a product, and the features that demand is predicted from.

Event kinds of the product stream: a quote (a price that was shown), and its outcome at the moment it arrived.
"""

import zlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from features.definition import feature_set, ratio
from features.state import DAY_S, MICROSECONDS, Decayed, Entity, FirstOfDay, Floats, Ints, Latest

QUOTE, OUTCOME = 0, 1

QUOTE_LIVES = ("1h", "1d", "7d", "30d")
OUTCOME_LIVES = ("1d", "7d", "30d")
VALUES = ("price", "bought", "units", "sale_price", "time_s")
"""Columns of an event's value matrix: the price shown (quotes), 1 or 0, units and the price paid (outcomes;
the price only if bought), its time in seconds since 1970 UTC."""

PRODUCT = Entity(
    "product",
    "product_id",
    VALUES,
    (
        Decayed("quote", QUOTE, "price", QUOTE_LIVES, ("n", "sum")),
        Decayed("outcome", OUTCOME, "bought", OUTCOME_LIVES, ("n", "sum")),
        Decayed("sold", OUTCOME, "units", OUTCOME_LIVES, ("n", "sum")),
        Decayed("sale", OUTCOME, "sale_price", OUTCOME_LIVES, ("n", "sum")),
        Latest("last_price", QUOTE, "price", clock="quoted_at"),
        Latest("quoted_at", QUOTE, "time_s", clock="quoted_at"),
        FirstOfDay("day_price", QUOTE, "price", clock="day_began_at"),
        FirstOfDay("day_began_at", QUOTE, "time_s", clock="day_began_at"),
    ),
)

CONTEXT = ("inventory", "hours_to_departure", "competitor_price")
"""Fields of a request's context that features read; others are kept in the history for later."""
GIVEN = ("segment", *CONTEXT)
"""What features read of that which a request says beside product and objective."""
CODES = ("product_code", "category_code", "segment_code")
REQUEST = ("price", "list_price", "unit_cost", *CONTEXT, *CODES)
"""Columns of a request at a price: money in the product's currency, units left, hours, numbers of words."""

NOTHING = 1e-6
"""Money up to this is no price that another can be compared with."""

_MONDAY = 3
"""Day of the week of 1970-01-01, Monday = 0."""


def _share(money: Floats, of: Floats) -> Floats:
    """One amount as a share of another; NaN where that is not known or next to nothing."""
    known = of > NOTHING
    return np.where(known, money / np.where(known, of, 1.0), np.nan)


def price_to_list(price: Floats, list_price: Floats) -> Floats:
    """The price as a share of the list price."""
    return _share(price, list_price)


def price_to_competitor(price: Floats, competitor_price: Floats) -> Floats:
    """The price as a share of the competitor's; NaN if that is not known."""
    return _share(price, competitor_price)


def price_to_product_mean(price: Floats, product_quote_n: Floats, product_quote_sum: Floats) -> Floats:
    """The price as a share of the mean price shown before; NaN before the first quote."""
    return _share(price, ratio(product_quote_sum, product_quote_n))


def list_price(list_price: Floats) -> Floats:
    """Of the product at the time, in its currency's main unit."""
    return list_price


def cost_share(unit_cost: Floats, list_price: Floats) -> Floats:
    """Cost of a unit as a share of the list price."""
    return _share(unit_cost, list_price)


def inventory(inventory: Floats) -> Floats:
    """Units left when asked; NaN if not given."""
    return inventory


def hours_to_departure(hours_to_departure: Floats) -> Floats:
    """Hours until what is left is worthless; NaN if not given."""
    return hours_to_departure


def competitor_to_list(competitor_price: Floats, list_price: Floats) -> Floats:
    """The competitor's price as a share of our list price; NaN if it is not known."""
    return _share(competitor_price, list_price)


def product_code(product_code: Floats) -> Floats:
    """The product as a number without order."""
    return product_code


def category_code(category_code: Floats) -> Floats:
    """The product's category as a number without order; NaN if not given."""
    return category_code


def segment_code(segment_code: Floats) -> Floats:
    """The segment as a number without order; NaN if not given."""
    return segment_code


def hour_of_day(at_s: Floats) -> Floats:
    """Hours since midnight UTC, in [0, 24)."""
    return at_s % DAY_S / 3_600.0


def weekday(at_s: Floats) -> Floats:
    """Day of the week UTC, Monday = 0."""
    return (at_s // DAY_S + _MONDAY) % 7


def product_quote_count(product_quote_n: Floats) -> Floats:
    """Decayed number of the product's earlier quotes."""
    return product_quote_n


def product_price_mean(product_quote_n: Floats, product_quote_sum: Floats) -> Floats:
    """Mean price shown in the product's earlier quotes; NaN before the first."""
    return ratio(product_quote_sum, product_quote_n)


def product_conversion_rate(product_outcome_n: Floats, product_outcome_sum: Floats) -> Floats:
    """Share of bought quotes among the outcomes that have arrived; NaN before the first."""
    return ratio(product_outcome_sum, product_outcome_n)


def product_units_rate(product_sold_n: Floats, product_sold_sum: Floats) -> Floats:
    """Units bought for each outcome that has arrived; NaN before the first."""
    return ratio(product_sold_sum, product_sold_n)


def product_sale_to_list(product_sale_n: Floats, product_sale_sum: Floats, list_price: Floats) -> Floats:
    """Mean price of what was bought as a share of the list price; NaN before the first sale."""
    return _share(ratio(product_sale_sum, product_sale_n), list_price)


def product_idle_s(at_s: Floats, product_quoted_at: Floats) -> Floats:
    """Seconds since the product's last quote; NaN before the first, 0 for a late one."""
    return np.maximum(at_s - product_quoted_at, 0.0)


PRICING = feature_set(
    "pricing",
    (PRODUCT,),
    REQUEST,
    (
        price_to_list, price_to_competitor, price_to_product_mean,
        list_price, cost_share, inventory, hours_to_departure, competitor_to_list,
        product_code, category_code, segment_code,
        hour_of_day, weekday,
        product_quote_count, product_price_mean, product_conversion_rate, product_units_rate,
        product_sale_to_list, product_idle_s,
    ),
)  # fmt: skip
"""The features of the pricing model."""

OF_PRICE = tuple(name for family in PRICING.families if "price" in family.inputs for name in family.names)
"""Features that read the price, all proportional to it: a model that falls in each falls in the price."""


def event_values(kind: Ints, price: Floats, units: Floats, event_time_us: Ints) -> Floats:
    """Value matrix of quotes and outcomes in the order of `VALUES`, shape (n, 5).

    Args:
        kind: `QUOTE` or `OUTCOME`.
        price: the price that was shown; an outcome has its quote's.
        units: bought; nothing is read of a quote's.
        event_time_us: of the quote; of the outcome's arrival.
    """
    settled = np.where(kind == OUTCOME, units, np.nan)
    bought = np.where(np.isnan(settled), np.nan, settled > 0)
    sale_price = np.where(bought == 1, price, np.nan)
    return np.column_stack([price, bought, settled, sale_price, event_time_us / MICROSECONDS])


def request_columns(
    price: Floats,
    list_price: Floats,
    unit_cost: Floats,
    words: tuple[Sequence[str | None], Sequence[str | None]],
    context: Sequence[Mapping[str, Any]],
) -> dict[str, Floats]:
    """Columns of quotes in the names of `REQUEST`, each of shape (n,).

    `words` are the products and the segments; a context gives the product's category, and what it does not
    give as a number is NaN.
    """
    given = {name: np.array([_number(each.get(name)) for each in context], np.float64) for name in CONTEXT}
    categories = [each.get("category") for each in context]
    named = zip(CODES, (words[0], categories, words[1]), strict=True)
    codes = {name: np.array([_code(each) for each in of], np.float64) for name, of in named}
    return {"price": price, "list_price": list_price, "unit_cost": unit_cost, **given, **codes}


def at_prices(request: Mapping[str, Floats], prices: Floats) -> dict[str, Floats]:
    """Columns of n requests at k prices each, a request's together; `prices` has shape (n, k)."""
    repeated = {name: np.repeat(value, prices.shape[-1]) for name, value in request.items()}
    return repeated | {"price": prices.ravel()}


def last_price(states: Floats) -> Floats:
    """Price shown last, from states of shape (n, columns); NaN before the first."""
    return states[:, PRODUCT.blocks["last_price"]][:, 0]


def day_price(states: Floats, at_s: Floats) -> Floats:
    """Price that each product's day began with, from states of shape (n, columns); NaN before the first.

    The first price shown on the day (UTC) of `at_s`; before one was shown on that day, the price shown last.
    """
    first = states[:, PRODUCT.blocks["day_price"]][:, 0]
    began_s = states[:, PRODUCT.blocks["day_began_at"]][:, 0]
    return np.where(at_s // DAY_S > began_s // DAY_S, last_price(states), first)


def impersonal(request: Mapping[str, Floats], personal: Collection[str]) -> dict[str, Floats]:
    """Request columns without what tells of a person: NaN, as if it had not been given.

    `personal` has `segment` and names of fields of the context; those that no feature reads are not among the
    columns, and are no reason to complain.
    """
    blank = {"segment_code" if name == "segment" else name for name in personal if name in GIVEN}
    return {
        name: np.full_like(column, np.nan) if name in blank else column for name, column in request.items()
    }


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else np.nan


def _code(word: object) -> float:
    """Equal words have equal numbers, in every process and for ever; the order means nothing."""
    return float(zlib.crc32(word.encode())) if isinstance(word, str) else np.nan
