"""Bid prices against the dynamic program written out, and in a market whose demand is known."""

import json
from dataclasses import asdict
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.state import Floats
from training.bid_prices import BidPrices, Forecast, bid_prices, bid_prices_of, kept, values

PRICES = np.array([60.0, 100.0, 140.0])
CHANCE = np.array([0.6, 0.3, 0.1])


def flat(arrivals: list[float], chance: Floats = CHANCE) -> Forecast:
    """The same demand in every span of a day, by one kind of request."""
    n = len(arrivals)
    return Forecast(24.0, np.array(arrivals), PRICES, np.broadcast_to(chance, (n, 1, len(PRICES))))


def test_values_are_those_of_every_step_written_out() -> None:
    """Two kinds of request, two spans of twenty steps each, from the first principles."""
    chance = np.array([[[0.6, 0.3, 0.1], [0.8, 0.6, 0.5]], [[0.5, 0.2, 0.0], [0.9, 0.7, 0.2]]])
    found = values(Forecast(24.0, np.array([1.0, 1.0]), PRICES, chance), 30.0, capacity=4)

    @cache
    def best(steps: int, units: int) -> float:
        if steps == 0 or units == 0:
            return 0.0
        later, without = best(steps - 1, units), best(steps - 1, units - 1)
        sold = PRICES - 30.0 + without
        each = [
            max(q * s + (1 - q) * later for q, s in zip(kind, sold, strict=True))
            for kind in chance[(steps - 1) // 20]
        ]
        return 0.95 * later + 0.05 * sum(each) / 2

    expected = [[best(20 * spans, units) for units in range(5)] for spans in range(3)]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_one_price_sells_as_many_as_poisson_requests_ask_for() -> None:
    """At one price that all pay, V = price × the mean of min(Poisson demand, stock)."""
    sure = Forecast(24.0, np.full(4, 1.0), np.array([10.0]), np.ones((4, 1, 1)))
    draws = np.random.default_rng(1).poisson(4.0, 400_000)
    expected = [10.0 * np.minimum(draws, units).mean() for units in range(8)]
    np.testing.assert_allclose(values(sure, 0.0, 7)[-1], expected, rtol=0.01)


def test_the_value_is_never_above_what_a_known_mean_would_earn() -> None:
    """Gallego and van Ryzin 1994, theorem 2: certain demand is worth more, and stock makes the gap small."""
    coming = flat([10.0] * 10)
    earned = values(coming, 0.0, 200)[-1]
    bound = 100 * (CHANCE * PRICES).max()
    assert earned[200] == pytest.approx(bound, rel=1e-3)
    assert (earned <= bound * (1 + 1e-9)).all()


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(0.0, 20.0), min_size=2, max_size=6),
    st.lists(st.floats(0.0, 1.0), min_size=3, max_size=3),
    st.floats(0.0, 150.0),
)
def test_bid_prices_fall_with_stock_and_rise_with_time(
    arrivals: list[float], chance: list[float], cost: float
) -> None:
    found = np.array(bid_prices(flat(arrivals, np.array(chance)), cost, 12).money)
    rounding = 1e-3 * (1.0 + found.max())
    assert (np.diff(found, axis=1) <= rounding).all(), "by units"
    assert (np.diff(found, axis=0) >= -rounding).all(), "by time left"
    assert (found >= 0).all()
    assert found.max() <= max(PRICES.max() - cost, 0.0) + rounding
    assert (found[0] == 0).all(), "at departure"


def test_stock_that_cannot_run_out_costs_nothing() -> None:
    bids = bid_prices(flat([1.0] * 5), 30.0, 60)
    assert float(bids.of(np.array(40.0), np.array(120.0))) < 1e-3
    assert float(bids.of(np.array(1.0), np.array(120.0))) > 20.0


def test_of_is_linear_between_and_flat_beyond_what_is_kept() -> None:
    bids = BidPrices((0.0, 24.0, 48.0), (1.0, 2.0, 4.0), ((0.0, 0.0, 0.0), (8.0, 4.0, 2.0), (10.0, 6.0, 4.0)))
    inventory = np.array([1.0, 2.0, 3.0, 3.0, 99.0, 0.0, -5.0, 2.0, 2.0, 2.0, np.nan, 2.0])
    hours = np.array([24.0, 24.0, 24.0, 36.0, 24.0, 24.0, 24.0, 99.0, 12.0, -3.0, 24.0, np.nan])
    expected = [8.0, 4.0, 3.0, 4.0, 2.0, 8.0, 8.0, 6.0, 2.0, 0.0, 0.0, 0.0]
    np.testing.assert_allclose(bids.of(inventory, hours), expected)


def test_a_card_keeps_them_as_json() -> None:
    bids = bid_prices(flat([5.0] * 24), 30.0, 60)
    text = json.dumps(kept({"margin": {"p": bids}, "revenue": {}}), allow_nan=False)
    again = bid_prices_of(json.loads(text), "margin", "p")
    assert again is not None
    assert len(text) < 7_000
    some = np.array([1.0, 7.5, 60.0])
    np.testing.assert_array_equal(again.of(some, 40 * some), bids.of(some, 40 * some))
    assert bid_prices_of(json.loads(text), "revenue", "p") is None
    assert bid_prices_of(json.loads(text), "margin", "q") is None
    assert kept({"margin": {}, "revenue": {}}) == {}
    assert bid_prices_of({}, "margin", "p") is None


def test_what_is_kept_is_the_dynamic_program_to_a_few_per_cent() -> None:
    coming = flat([12.0] * 24)
    exact = np.diff(values(coming, 30.0, 60), axis=1)
    hours, units = np.meshgrid(24.0 * np.arange(25), np.arange(1.0, 61.0), indexing="ij")
    np.testing.assert_allclose(bid_prices(coming, 30.0, 60).of(units, hours), exact, atol=0.02 * exact.max())


def test_many_requests_take_few_steps() -> None:
    """2,000 requests a span: a unit earns the dearest price, at which all are sold."""
    found = values(flat([2_000.0] * 2), 0.0, 400)[-1]
    assert found[400] == pytest.approx(400 * 140.0, rel=0.01)


def test_revenue_is_margin_without_cost() -> None:
    assert asdict(bid_prices(flat([3.0, 3.0]), 0.0, 3)) != asdict(bid_prices(flat([3.0, 3.0]), 40.0, 3))
    dearer = Forecast(24.0, np.array([3.0, 3.0]), PRICES + 40.0, np.broadcast_to(CHANCE, (2, 1, 3)))
    assert asdict(bid_prices(dearer, 40.0, 3)) == asdict(bid_prices(flat([3.0, 3.0]), 0.0, 3))
