"""Elasticities of tables whose truth is known: for all, within series and periods, by group, by product."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from features.state import Floats, Ints
from ingestion.simulators.market import Market, MarketProcess, SellerPast
from training import price_effect
from training.cross_fit import folds
from training.price_effect import Residuals, by_column, interval, pooled, residuals, slope, within
from training.price_table import PriceTable, table_of
from training.pricing_file import elasticities, least_squares

pytestmark = pytest.mark.slow

DAY_US = 86_400_000_000


def left(price: Floats, units: Floats, place: Ints | None = None) -> Residuals:
    return Residuals(np.arange(len(price)), price, units, place)


def daily(market: Market, days: int) -> pa.Table:
    """The past seller's sales, summed by product and day."""
    quotes = market.quotes(days)
    price = market.past_prices(quotes)
    day = quotes.event_time_us // DAY_US
    columns = (day, quotes.product, price, quotes.competitor_price)
    cells, row = np.unique(np.column_stack(columns), axis=0, return_inverse=True)
    return pa.table(
        {
            "price": cells[:, 2],
            "units": np.bincount(row.ravel(), market.purchase(quotes, price)),
            "product_id": pa.array([f"p-{number:.0f}" for number in cells[:, 1]]),
            "event_time_us": cells[:, 0].astype(np.int64) * DAY_US,
            "competitor_price": cells[:, 3],
        }
    )


PAST = SellerPast(confounding=1.0, promotion_share=0.4, promotions=(0.85, 1.2, 1.4))
"""Dear when demand is high; seldom so cheap that everybody buys, where demand has no elasticity."""


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_in_a_market_whose_seller_followed_the_season_the_interval_covers(seed: int) -> None:
    process = MarketProcess(
        seed, products=4, quotes_per_day=1_200, family="constant_elasticity", mispriced_share=0.0, past=PAST
    )
    market = Market(process)
    table = table_of(daily(market, 360), ["competitor_price"])
    truth = -market.products.elasticity
    found = elasticities(table, folds(len(table.product)))
    assert least_squares(table) > truth.max() + 0.1
    assert found["elasticity"]["low"] < truth.mean() < found["elasticity"]["high"]
    assert found["elasticity"]["high"] - found["elasticity"]["low"] < 0.5


def panel(n_places: int = 40, periods: int = 60, seed: int = 5) -> PriceTable:
    """A chain that changes prices of all places at once, in weeks of high demand that nothing tells of."""
    rng = np.random.default_rng(seed)
    place, period = (each.ravel() for each in np.mgrid[:n_places, :periods])
    week, level = rng.standard_normal(periods)[period], rng.standard_normal(n_places)[place]
    log_price = 0.2 * week + 0.2 * level + 0.1 * rng.standard_normal(len(place))
    log_units = 8 - 1.5 * log_price + 0.8 * week + level + 0.1 * rng.standard_normal(len(place))
    rows = {"price": np.exp(log_price), "units": np.exp(log_units), "noise": rng.standard_normal(len(place))}
    names = pa.array([f"s-{number}" for number in place])
    return table_of(pa.table(rows | {"place": names, "period": period.astype(float)}), ["noise"])


def test_levels_of_series_and_periods_are_taken_away() -> None:
    table = panel()
    fold = folds(len(table.product))
    assert slope(residuals(table, fold)).low > -0.5, "prices followed what the context does not tell"
    found = within(table, fold)
    assert found.low < -1.5 < found.high
    assert found.high - found.low < 0.2


def test_errors_know_that_rows_of_a_place_go_together() -> None:
    """Places with an elasticity of their own: the interval of independent rows is too narrow."""
    covered = {"rows": 0, "places": 0}
    rng = np.random.default_rng(11)
    for _ in range(100):
        place = np.repeat(np.arange(40), 50)
        price = rng.standard_normal(len(place)) * 0.2
        units = (-2 + 0.5 * rng.standard_normal(40))[place] * price + 0.1 * rng.standard_normal(len(place))
        for name, found in (
            ("rows", slope(left(price, units))),
            ("places", slope(left(price, units, place))),
        ):
            covered[name] += found.low < -2 < found.high
    assert covered["places"] >= 88
    assert covered["rows"] < 70


def through_time(rng: np.random.Generator, rows: int, keeps: float) -> Floats:
    """A series that keeps so much of itself from one period to the next, of spread 1."""
    found = rng.standard_normal(rows)
    for row in range(1, rows):
        found[row] = keeps * found[row - 1] + np.sqrt(1 - keeps**2) * found[row]
    return found


def test_errors_know_what_goes_on_through_time() -> None:
    """Prices held for two weeks while demand drifts: the interval of independent rows is too narrow."""
    covered = {"rows": 0, "time": 0}
    rng = np.random.default_rng(12)
    period, series = (each.ravel() for each in np.mgrid[:364, :6])
    for _ in range(100):
        price = 0.2 * rng.standard_normal((26, 6))[period // 14, series]
        drift = np.column_stack([through_time(rng, 364, 0.9) for _ in range(6)])[period, series]
        units = -2 * price + 0.2 * drift + 0.1 * rng.standard_normal(len(price))
        alone = left(price, units)
        for name, found in (
            ("rows", slope(alone)),
            ("time", slope(replace(alone, series=series, period=period))),
        ):
            covered[name] += found.low < -2 < found.high
    assert 88 <= covered["time"] <= 99
    assert covered["rows"] < 70


def test_through_time_a_series_is_no_other_and_late_rows_count_as_late() -> None:
    """In any order of rows; two series whose scores are opposite do not cancel."""
    rng = np.random.default_rng(4)
    period, series = np.repeat(np.arange(50), 2), np.tile([0, 1], 50)
    price = np.tile([1.0, -1.0], 50)
    units = np.repeat(through_time(rng, 50, 0.95), 2)
    rows = replace(left(price, units), series=series, period=period)
    mixed = rows.of(rng.permutation(100))
    assert slope(mixed).high == pytest.approx(slope(rows).high)
    assert slope(rows).high - slope(rows).low > 2 * (
        slope(left(price, units)).high - slope(left(price, units)).low
    )


def bent(rng: np.random.Generator) -> PriceTable:
    """Prices and demand bend with one number, and go with two others together."""
    given = rng.uniform(-1, 1, (1_000, 3))
    bend, both = np.sin(2 * given[:, 0]), given[:, 1] * given[:, 2]
    log_price = 1 + 0.3 * bend + 0.2 * both + 0.1 * rng.standard_normal(1_000)
    log_units = 7 - 2 * log_price + 1.5 * bend + both + 0.3 * rng.standard_normal(1_000)
    names = ["one", "two", "three"]
    columns = {"price": np.exp(log_price), "units": np.exp(log_units)}
    return table_of(pa.table(columns | dict(zip(names, given.T, strict=True))), names)


def drifting(rng: np.random.Generator) -> PriceTable:
    """What everybody wants drifts from day to day, and prices follow it."""
    day, product = (each.ravel() for each in np.mgrid[:200, :4])
    demand = 0.4 * through_time(rng, 200, 0.97)[day] + 0.2 * rng.standard_normal(7)[day % 7]
    log_price = 1 + 0.2 * product + 0.4 * demand + 0.1 * rng.standard_normal(len(day))
    log_units = 7 - 2 * log_price + demand + 0.2 * rng.standard_normal(len(day))
    rows = {"price": np.exp(log_price), "units": np.exp(log_units), "event_time_us": (20_000 + day) * DAY_US}
    return table_of(pa.table(rows | {"product_id": pa.array([f"p-{each}" for each in product])}), [])


@pytest.mark.parametrize("market", [bent, drifting])
def test_what_bends_and_what_drifts_from_day_to_day_is_taken_away(
    market: Callable[[np.random.Generator], PriceTable],
) -> None:
    """Straight lines and trees alone leave a bias of 0.3 to 0.4."""
    rng = np.random.default_rng(21)
    tables = [market(rng) for _ in range(4)]
    found = [slope(residuals(table, folds(len(table.product)))) for table in tables]
    assert abs(np.mean([each.value for each in found]) + 2) < 0.12
    assert sum(each.low < -2 < each.high for each in found) >= 3


def test_what_is_too_wide_or_too_few_is_not_known_yet() -> None:
    assert interval(-2.0, 0.5).as_json() == {"value": -2.0, "low": -2.98, "high": -1.02}
    wide = interval(-2.0, 0.6).as_json()
    assert (wide["value"], wide["note"]) == (None, "not known yet: the interval is wider than 2")
    assert wide["low"] == pytest.approx(-3.176)
    few = slope(left(np.linspace(0, 1, 20), np.linspace(0, -1, 20))).as_json()
    assert (few["value"], few["low"], few["high"]) == (None, None, None)
    assert few["note"].startswith("not known yet: fewer than 30 rows")
    assert slope(left(np.zeros(50), np.arange(50.0))).as_json()["value"] is None


def test_quotes_that_mostly_sold_nothing_tell_no_elasticity() -> None:
    rng = np.random.default_rng(2)
    price = rng.uniform(1, 2, 1_000)
    units = (rng.random(1_000) < 0.3 * price**-2.0).astype(float)
    table = table_of(pa.table({"price": price, "units": units}), [])
    found = elasticities(table, folds(1_000))
    assert found["elasticity"]["value"] is None
    assert "have no units above 0" in found["elasticity"]["note"]


def rising(words: bool = False) -> tuple[PriceTable, Residuals]:
    """Elasticity -3 + wealth, wealth from 0 to 2."""
    rng = np.random.default_rng(3)
    wealth, log_price = rng.uniform(0, 2, 3_000), 0.3 * rng.standard_normal(3_000)
    log_units = 5 + (-3 + wealth) * log_price + 0.1 * rng.standard_normal(3_000)
    told = pa.array(np.where(wealth > 1, "rich", "poor")) if words else wealth
    rows = pa.table({"price": np.exp(log_price), "units": np.exp(log_units), "wealth": told})
    table = table_of(rows, ["wealth"])
    return table, residuals(table, folds(3_000))


def test_an_elasticity_that_rises_with_a_column_is_seen_to_rise() -> None:
    found = by_column(*rising(), "wealth")
    middles = [(each["above"] + each["up_to"]) / 2 - 3 for each in found["groups"]]
    assert [each["value"] for each in found["groups"]] == pytest.approx(middles, abs=0.15)
    assert sum(each["rows"] for each in found["groups"]) == 3_000
    trend = found["trend"]
    assert trend["low"] < trend["standard_deviation"] < trend["high"], "one unit more is 1"
    assert trend["high"] - trend["low"] < 0.1


def test_words_are_groups_of_their_own() -> None:
    found = by_column(*rising(words=True), "wealth")
    values = {each["is"]: each["value"] for each in found["groups"]}
    assert values == pytest.approx({"poor": -2.5, "rich": -1.5}, abs=0.1)
    assert "trend" not in found


def coverage(spread: float) -> Mapping[str, float]:
    """Of 300 chains of 25 products, ten of them hardly known: how near, how often within the interval."""
    rng = np.random.default_rng(7)
    error = np.r_[np.full(10, 0.8), np.full(15, 0.1)]
    missed, before, inside = [], [], []
    for _ in range(300):
        truth = -2 + spread * rng.standard_normal(25)
        seen = truth + error * rng.standard_normal(25)
        found = pooled([interval(*each) for each in zip(seen.tolist(), error.tolist(), strict=True)])
        missed.append([each.value for each in found] - truth)
        before.append(seen - truth)
        inside.append([each.low < true < each.high for each, true in zip(found, truth, strict=True)])
    return {
        "gain": float(np.sqrt(np.mean(np.square(before)) / np.mean(np.square(missed)))),
        "inside": float(np.mean(inside)),
    }


@pytest.mark.parametrize("spread", [0.1, 0.4])
def test_products_borrow_from_each_other_and_their_intervals_still_cover(spread: float) -> None:
    found = coverage(spread)
    assert found["gain"] > 1.5
    assert 0.92 < found["inside"] < 0.99


def test_a_product_of_which_nothing_is_known_is_told_as_one_of_its_kind() -> None:
    known = [interval(-2.0 + step, 0.05) for step in (-0.3, -0.1, 0.1, 0.3)]
    new = pooled([*known, price_effect.UNKNOWN])[-1]
    assert new.value == pytest.approx(-2.0, abs=0.01)
    assert new.high - new.low > known[0].high - known[0].low
    assert pooled([known[0], price_effect.UNKNOWN])[0] == known[0], "one alone has no mean to go to"
