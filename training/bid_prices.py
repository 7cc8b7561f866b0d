"""What a unit of perishable stock is worth unsold: its bid price, by dynamic programming over a forecast.

V(t, s) is what s units earn at best in the time t that is left. In a step so short that at most one request
comes, with chance a, of a kind g drawn evenly, and with b = V(t, s) - V(t, s - 1) the bid price:

    V(t + step, s) = V(t, s) + a × mean over g of max over p of chance(g, p) × (p - unit cost - b)

V(0, s) = V(t, 0) = 0. So the price that earns the most now and later is the best price of a unit whose cost
is unit cost + bid price (Gallego and van Ryzin 1994; Talluri and van Ryzin 2004, chapters 2 and 5).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from features.state import Floats, Ints

EXTRA = "bid_prices"
"""Key in a card's `extra`."""

_ARRIVALS_PER_STEP, _MOST_STEPS = 0.05, 500
"""Expected requests in a step: so few that two in one are rare. A busy span has no more than so many steps,
unless a step's chance of a request would be above 1: of many requests the spread matters less."""
_BIDS = 513
"""Bid prices at which a request's gain is computed; between them it is a line."""
_LOW, _LEVELS = 6, 28
"""Levels of stock that are kept: the low ones all, and so many evenly up to the highest."""
_DIGITS = 4
"""Significant digits of what is kept."""


@dataclass(frozen=True)
class Forecast:
    """The requests that are to come, in equal spans of the time left, from departure on."""

    span_h: float
    """Length of a span in hours: span i is from i to i + 1 of them before departure."""
    arrivals: Floats
    """Expected requests (of one unit each) in each span, shape (n,)."""
    price: Floats
    """Candidate prices in money, shape (k,)."""
    chance: Floats
    """Of a purchase in each span, by each of g equally likely kinds of request, at each price; (n, g, k)."""


@dataclass(frozen=True)
class BidPrices:
    """Opportunity cost of a unit by hours to departure and units left; plain numbers, as JSON by `asdict`."""

    hours: tuple[float, ...]
    """Rising from 0."""
    units: tuple[float, ...]
    """Rising from 1."""
    money: tuple[tuple[float, ...], ...]
    """At each of the hours, at each of the units."""

    def of(self, inventory: Floats, hours: Floats) -> Floats:
        """Money that a unit is expected to earn later if it is kept now; the shapes must fit.

        Linear between what is kept, and beyond it as at its edge: with no unit left as with the last one
        (whether a sold-out product is shown is not a matter of its price), and 0 after departure. 0 too
        where inventory or hours is NaN, since such stock is not perishable.
        """
        row, above = _place(np.array(self.hours), hours)
        column, right = _place(np.array(self.units), inventory)
        table = np.array(self.money)
        nearer = table[row, column] * (1.0 - right) + table[row, column + 1] * right
        farther = table[row + 1, column] * (1.0 - right) + table[row + 1, column + 1] * right
        known = ~np.isnan(inventory + hours)
        return np.where(known, nearer * (1.0 - above) + farther * above, 0.0)


def _place(grid: Floats, at: Floats) -> tuple[Ints, Floats]:
    """Index of the grid's point before each value, and how far it is on the way to the next, in [0, 1]."""
    place = np.interp(np.nan_to_num(at), grid, np.arange(len(grid), dtype=np.float64))
    before = np.minimum(place.astype(np.int64), len(grid) - 2)
    return before, place - before


def kept(tables: Mapping[str, Mapping[str, BidPrices]]) -> dict[str, Any]:
    """For a card's `extra`: bid prices by objective and product; nothing where nothing is perishable."""
    known = {objective: _plain(table) for objective, table in tables.items() if table}
    return {EXTRA: known} if known else {}


def _plain(table: Mapping[str, BidPrices]) -> dict[str, Any]:
    return {product: asdict(bids) for product, bids in table.items()}


def bid_prices_of(extra: Mapping[str, Any], objective: str, product: str) -> BidPrices | None:
    """What `kept` put there; None where the objective or the product has none."""
    values = extra.get(EXTRA, {}).get(objective, {}).get(product)
    return None if values is None else BidPrices(**values)


def bid_prices(forecast: Forecast, unit_cost: float, capacity: int) -> BidPrices:
    """Bid prices for up to `capacity` units, 1 at least; with a unit cost of 0 those of revenue."""
    bids = np.diff(values(forecast, unit_cost, max(capacity, 2)), axis=1)
    units = _levels(bids.shape[1])
    hours = forecast.span_h * np.arange(len(bids))
    return BidPrices(
        tuple(hours.tolist()),
        tuple(units.astype(np.float64).tolist()),
        tuple(tuple(_rounded(row)) for row in bids[:, units - 1]),
    )


def _levels(capacity: int) -> Ints:
    even = np.linspace(1, capacity, _LEVELS).round()
    low = np.arange(1, min(_LOW, capacity) + 1)
    return np.union1d(low, even.astype(np.int64))


def _rounded(row: Floats) -> list[float]:
    return [float(f"{value:.{_DIGITS}g}") for value in row.tolist()]


def values(forecast: Forecast, unit_cost: float, capacity: int) -> Floats:
    """V at the spans' edges, from departure on, for 0 to `capacity` units; shape (n + 1, capacity + 1)."""
    found = [np.zeros(capacity + 1)]
    for arrivals, chance in zip(forecast.arrivals.tolist(), forecast.chance, strict=True):
        bids, gains = _gains(chance, forecast.price - unit_cost)
        found.append(_span(found[-1], arrivals, bids, gains))
    return np.array(found)


def _span(value: Floats, arrivals: float, bids: Floats, gains: Floats) -> Floats:
    """V one span earlier."""
    steps = max(min(int(np.ceil(arrivals / _ARRIVALS_PER_STEP)), _MOST_STEPS), int(np.ceil(arrivals)))
    for _ in range(steps):
        gain = np.interp(np.diff(value), bids, gains)
        value = value + arrivals / steps * np.concatenate([[0.0], gain])
    return value


def _gains(chance: Floats, margin: Floats) -> tuple[Floats, Floats]:
    """Bid prices from 0 to the dearest margin, and what a request is expected to gain at each, shapes (m,).

    A request that no price makes gainful is worth nothing: it is not served.
    """
    bids = np.linspace(0.0, max(float(margin.max()), 0.0), _BIDS)
    best = (chance[:, :, None] * (margin[:, None] - bids)).max(axis=1)
    return bids, np.maximum(best, 0.0).mean(axis=0)
