"""Bid prices learned from the quotes of past departures: how many ask, when, and what they would pay.

A departure is the moment event time + hours to departure; quotes of a product whose moments lie close
together are of the same one. Nothing is known of a departure after its last quote if that found or left no
stock: who comes to a sold-out departure is often not logged, and would be taken for nobody.
"""

import numpy as np

from features.pricing import PRICING
from features.state import MICROSECONDS, Floats, Ints
from training.bid_prices import BidPrices, Forecast, bid_prices
from training.dataset import Dataset
from training.demand import Doubt, at_price
from training.pricing_policy import WIDENING
from training.quoting import Demand

_SPANS = 24
"""Spans that the time on sale is cut into."""
_KINDS = 16
"""Past quotes that stand for the requests of a span."""
_CANDIDATES = 33
"""Prices tried for each of them."""
_SAME_H = 0.5
"""Moments of departure within so many hours of the next are one."""
_SURELY = 6.0
"""Standard deviations that the number of requests is never above its mean by."""
_KERNEL = np.array([0.25, 0.5, 0.25])
"""Weights of neighbouring spans: the flow of requests changes slowly."""
_HOUR_US = 3_600 * MICROSECONDS

_INVENTORY, _HOURS = PRICING.names.index("inventory"), PRICING.names.index("hours_to_departure")
_LIST_PRICE, _COST_SHARE = PRICING.names.index("list_price"), PRICING.names.index("cost_share")


def in_stock(data: Dataset) -> Dataset:
    """Without quotes that found no stock: they say nothing of demand."""
    return data.rows(~(data.matrix[:, _INVENTORY] <= 0.0))


def perishable(data: Dataset) -> Dataset:
    """The quotes before a departure whose stock is known."""
    return data.rows(~np.isnan(data.matrix[:, _INVENTORY]) & (data.matrix[:, _HOURS] > 0.0))


def learned(data: Dataset, model: Demand, doubt: Doubt) -> dict[str, dict[str, BidPrices]]:
    """Bid prices for margin and for revenue of each product whose past quotes were of perishable stock.

    Args:
        data: past quotes, those that found no stock among them; columns `units` and `product_name`.
        model: demand, as learned from them.
        doubt: says which prices the data support, and how many units a purchase takes.
    """
    rows = perishable(data)
    shares = np.linspace(doubt.lowest / WIDENING, doubt.highest * WIDENING, _CANDIDATES)
    margin, revenue = {}, {}
    for product in np.unique(in_stock(rows).columns["product_name"].astype(str)).tolist():
        mine = rows.rows(rows.columns["product_name"] == product)
        coming = forecast(mine, model, shares, doubt.units_per_sale)
        cost = float(mine.matrix[-1, _COST_SHARE] * mine.matrix[-1, _LIST_PRICE])
        capacity = _capacity(float(mine.matrix[:, _INVENTORY].max()), float(coming.arrivals.sum()))
        margin[product] = bid_prices(coming, cost, capacity)
        revenue[product] = bid_prices(coming, 0.0, capacity)
    return {"margin": margin, "revenue": revenue}


def _capacity(most: float, requests: float) -> int:
    """Stock to look at: what requests, however many come, could not use up has no opportunity cost anyway."""
    return int(min(most, requests + _SURELY * np.sqrt(requests) + 1.0))


def forecast(mine: Dataset, model: Demand, shares: Floats, units_per_sale: float = 1.0) -> Forecast:
    """What one product's past departures say of the next one's, at shares of its newest list price."""
    stocked = in_stock(mine).matrix
    span_h = float(mine.matrix[:, _HOURS].max()) / _SPANS
    kinds = np.concatenate([_kinds(stocked, span * span_h, span_h) for span in range(_SPANS)])
    chance = np.column_stack([model.predict(at_price(kinds, share)) for share in shares])
    return Forecast(
        span_h=span_h,
        arrivals=arrivals(mine, span_h, _SPANS) * units_per_sale,
        price=shares * mine.matrix[-1, _LIST_PRICE],
        chance=chance.reshape(_SPANS, _KINDS, len(shares)),
    )


def _kinds(stocked: Floats, begin_h: float, span_h: float) -> Floats:
    """Past quotes of a span, or the nearest to it, evenly through time, as if asked in its middle."""
    middle = begin_h + span_h / 2.0
    off = np.abs(stocked[:, _HOURS] - middle)
    near = np.sort(np.argsort(off, kind="stable")[: max(_KINDS, int((off <= span_h / 2.0).sum()))])
    rows = stocked[near[np.linspace(0, len(near) - 1, _KINDS).astype(np.int64)]]
    rows[:, _HOURS] = middle
    return rows


def arrivals(mine: Dataset, span_h: float, spans: int) -> Floats:
    """Mean requests of a departure in each span of the time left, from departure on, shape (spans,).

    A span counts for a departure as far as it is seen: inside the data's time, and until its last quote where
    that found or left no stock. What no departure shows is taken from the nearest span that one does.
    """
    hours = mine.matrix[:, _HOURS]
    span = np.minimum((hours / span_h).astype(np.int64), spans - 1)
    counts = np.bincount(span, minlength=spans).astype(np.float64)
    edges = span_h * np.arange(spans + 1)
    low, high = _seen(mine)
    inside = np.clip(high[:, None], edges[:-1], edges[1:]) - np.clip(low[:, None], edges[:-1], edges[1:])
    seen = np.convolve(inside.sum(axis=0) / span_h, _KERNEL, "same")
    known = np.flatnonzero(seen > 0)
    rate = np.convolve(counts, _KERNEL, "same")[known] / seen[known]
    return np.interp(np.arange(spans), known, rate)


def _seen(mine: Dataset) -> tuple[Floats, Floats]:
    """Least and most hours to departure at which each departure's requests are all in the data."""
    hours = mine.matrix[:, _HOURS]
    moment = mine.time_us + hours * _HOUR_US
    departure = departures(moment)
    order = np.lexsort((-hours, departure))
    last = order[np.flatnonzero(np.diff(departure[order], append=departure.max() + 1))]
    sold_out = mine.matrix[last, _INVENTORY] - mine.columns["units"][last] <= 0.0
    unseen = np.maximum((moment[last] - mine.cutoff_us) / _HOUR_US, 0.0)
    low = np.where(sold_out, np.maximum(hours[last], unseen), unseen)
    return low, np.maximum((moment[last] - mine.time_us[0]) / _HOUR_US, low)


def departures(moment_us: Floats) -> Ints:
    """Number of the departure of each quote by its moment in microseconds, shape (n,)."""
    order = np.argsort(moment_us, kind="stable")
    apart = np.diff(moment_us[order], prepend=moment_us[order[:1]]) > _SAME_H * _HOUR_US
    number = np.empty(len(order), np.int64)
    number[order] = np.cumsum(apart)
    return number
