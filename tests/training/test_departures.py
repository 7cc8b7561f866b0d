"""What past departures teach, where the truth is known."""

import numpy as np
import pytest

from features.pricing import PRICING
from features.state import Floats, Ints
from ingestion.tables import DAY_US
from training.bid_prices import Forecast, bid_prices
from training.dataset import Dataset
from training.demand import Doubt
from training.departures import arrivals, departures, forecast, in_stock, learned

pytestmark = pytest.mark.slow

INVENTORY, HOURS = PRICING.names.index("inventory"), PRICING.names.index("hours_to_departure")
PRICE, LIST = PRICING.names.index("price_to_list"), PRICING.names.index("list_price")
COST = PRICING.names.index("cost_share")
DOUBT = Doubt((0.1,) * 15, 0.2, lowest=0.7, highest=1.4, units_per_sale=1.0)
START_US = 20_000 * DAY_US


class Late:
    """Chance of purchase 0.4 / (price / list price)^2, a half more at departure than ten days before."""

    def predict(self, matrix: Floats) -> Floats:
        late = 1.5 - matrix[:, HOURS] / 480.0
        return np.asarray(np.minimum(0.4 * late / matrix[:, PRICE] ** 2, 1.0))


def past(
    lots: int, flow: Floats, capacity: int, products: tuple[str, ...] = ("p",), every: int | None = None
) -> Dataset:
    """Departures on sale for `len(flow)` days, one `every` so many days, or one after the other.

    `flow` requests come a day; each wants a unit with a chance of a half.
    """
    rng = np.random.default_rng(1)
    days = every or len(flow)
    parts = [_lot(rng, lot * days, flow, capacity, name) for lot in range(lots) for name in products]
    time_us, matrix, units, names = (np.concatenate(column) for column in zip(*parts, strict=True))
    return dataset(time_us, matrix, units, names, START_US + lots * days * DAY_US)


def _lot(
    rng: np.random.Generator, day: int, flow: Floats, capacity: int, name: str
) -> tuple[Ints, Floats, Floats, Floats]:
    n = rng.poisson(flow)
    passed = np.sort(np.repeat(np.arange(len(flow)), n) + rng.random(n.sum()))
    wanted = rng.random(len(passed)) < 0.5
    left = np.maximum(capacity - (np.cumsum(wanted) - wanted), 0)
    matrix = np.full((len(passed), len(PRICING.names)), np.nan)
    matrix[:, INVENTORY], matrix[:, HOURS] = left, (len(flow) - passed) * 24.0
    matrix[:, PRICE], matrix[:, LIST], matrix[:, COST] = 1.0, 100.0, 0.3
    time_us = START_US + ((day + passed) * DAY_US).astype(np.int64)
    return time_us, matrix, (wanted & (left > 0)) * 1.0, np.full(len(passed), name, dtype=object)


def dataset(time_us: Ints, matrix: Floats, units: Floats, names: Floats, cutoff_us: int) -> Dataset:
    order = np.argsort(time_us, kind="stable")
    return Dataset(
        features=PRICING.names,
        feature_hash=PRICING.hash,
        ids=np.arange(len(order)).astype(object),
        time_us=time_us[order],
        matrix=matrix[order],
        target=units[order],
        columns={"units": units[order], "product_name": names[order]},
        cutoff_us=cutoff_us,
    )


RISING = np.linspace(4.0, 16.0, 10)
"""Requests a day from ten days before departure on."""


def test_departures_are_moments_that_lie_apart() -> None:
    hour = 3_600e6
    moments = np.array([50.0, 0.0, 50.3, 0.2, 51.5, 0.1]) * hour
    assert departures(moments).tolist() == [1, 0, 1, 0, 2, 0]


def test_arrivals_are_those_of_the_market() -> None:
    found = arrivals(past(60, RISING, 1_000), 24.0, 10)
    np.testing.assert_allclose(found[1:-1], RISING[::-1][1:-1], rtol=0.1)
    assert found.sum() == pytest.approx(RISING.sum(), rel=0.05)


def test_who_finds_no_stock_and_is_not_logged_is_not_taken_for_nobody() -> None:
    """Nine of ten departures sell out; half of the requests are never seen."""
    logged = past(200, RISING, 30)
    unlogged = in_stock(logged)
    assert len(unlogged) < 0.7 * len(logged)
    for data in (logged, unlogged):
        np.testing.assert_allclose(arrivals(data, 24.0, 10)[2:], RISING[::-1][2:], rtol=0.12)


def test_departures_count_as_far_as_they_are_seen() -> None:
    """One departs every day; twenty days of the log cut many at their beginning or their end."""
    whole = past(60, RISING, 1_000, every=1)
    begin_us, end_us = START_US + 20 * DAY_US, START_US + 40 * DAY_US
    part = whole.rows((whole.time_us >= begin_us) & (whole.time_us < end_us))
    seen = dataset(part.time_us, part.matrix, part.target, part.columns["product_name"], end_us)
    found = arrivals(seen, 24.0, 10)
    np.testing.assert_allclose(found[1:-1], RISING[::-1][1:-1], rtol=0.15)


def test_the_forecast_asks_the_model_at_each_time_and_price() -> None:
    coming = forecast(past(10, RISING, 1_000), Late(), np.array([0.8, 1.2]))
    assert coming.price.tolist() == [80.0, 120.0]
    middle = (np.arange(len(coming.arrivals)) + 0.5) * coming.span_h
    expected = 0.4 * (1.5 - middle / 480.0)[:, None, None] / np.array([0.8, 1.2]) ** 2
    np.testing.assert_allclose(coming.chance, np.broadcast_to(expected, coming.chance.shape))


def test_learned_bid_prices_are_near_those_of_the_truth() -> None:
    bids = learned(past(60, RISING, 40), Late(), DOUBT)["margin"]["p"]
    shares = np.linspace(0.7 / 1.05, 1.4 * 1.05, 60)
    late = 1.5 - (np.arange(10) + 0.5) * 24.0 / 480.0
    chance = np.minimum(0.4 * late[:, None, None] / shares**2, 1.0)
    true = bid_prices(Forecast(24.0, RISING[::-1], 100.0 * shares, chance), 30.0, 40)
    units, hours = np.meshgrid(np.arange(2.0, 41.0, 4.0), np.arange(72.0, 241.0, 24.0))
    np.testing.assert_allclose(bids.of(units, hours), true.of(units, hours), atol=5.0)
    assert bids.of(units, hours).max() > 50.0


def test_each_perishable_product_has_its_own_and_others_none() -> None:
    data = past(5, RISING, 20, ("busy", "calm"))
    calm = (data.columns["product_name"] == "calm") & (np.arange(len(data)) % 4 > 0)
    data = data.rows(~calm)
    found = learned(data, Late(), DOUBT)
    assert set(found["margin"]) == set(found["revenue"]) == {"busy", "calm"}
    at = np.array(10.0), np.array(200.0)
    assert found["margin"]["busy"].of(*at) > found["margin"]["calm"].of(*at) + 5.0
    assert found["revenue"]["busy"].of(*at) > found["margin"]["busy"].of(*at)
    data.matrix[:, INVENTORY] = 1e12
    assert np.max(learned(data, Late(), DOUBT)["margin"]["busy"].money[-1][-1]) < 1e-6, "never sold out"
    hours = data.matrix[:, HOURS].copy()
    data.matrix[:, HOURS] = 0.0
    assert learned(data, Late(), DOUBT) == {"margin": {}, "revenue": {}}
    data.matrix[:, HOURS], data.matrix[:, INVENTORY] = hours, np.nan
    assert learned(data, Late(), DOUBT) == {"margin": {}, "revenue": {}}
