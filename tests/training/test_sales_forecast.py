"""Forecasts from the periods before: right where the past tells, and blind to what comes."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from features.state import Floats
from infra.errors import UserError
from training.price_table import PRICE, PriceTable, table_of
from training.sales_forecast import forecast, inputs

pytestmark = pytest.mark.slow

PERIODS = 60
FROM = 50


@pytest.fixture(scope="module")
def table() -> PriceTable:
    """Two products at twenty places; levels wander slowly, and buyers take the cheaper one. In no order."""
    rng = np.random.default_rng(4)
    place, product, period = (each.ravel() for each in np.mgrid[:20, :2, :PERIODS])
    wandering = np.cumsum(0.1 * rng.standard_normal((20, 2, PERIODS)), axis=2).ravel()
    log_price = 0.2 * rng.standard_normal(len(place))
    other = log_price.reshape(20, 2, PERIODS)[:, ::-1].ravel()
    log_units = 6 + wandering - 2 * log_price + other + 0.05 * rng.standard_normal(len(place))
    names = {"product_id": np.array(["ale", "rum"])[product], "place": [f"s-{each}" for each in place]}
    rows = {"price": np.exp(log_price), "units": np.exp(log_units), "period": period.astype(float)}
    return table_of(pa.table(rows | names).take(rng.permutation(len(place))), [])


def test_it_knows_more_than_the_last_period(table: PriceTable) -> None:
    found = forecast(table, FROM).errors(table.log_units)
    assert found["rmse_log"] < 0.3 < 0.5 < found["rmse_log_last_period"]
    assert (found["rows_train"], found["rows_test"]) == (40 * FROM, 40 * (PERIODS - FROM))


@pytest.mark.parametrize("at", [FROM, FROM + 4, PERIODS - 1])
def test_what_comes_later_changes_nothing(table: PriceTable, at: int) -> None:
    """Sales of the period itself and all of the periods after it are turned upside down."""
    assert table.period is not None
    now, later = table.period == at, table.period > at
    matrix = table.matrix.copy()
    matrix[later, PRICE] = -matrix[later, PRICE] + 3
    changed = replace(
        table, matrix=matrix, log_units=np.where(now | later, 20 - table.log_units, table.log_units)
    )
    before, after = forecast(table, FROM), forecast(changed, FROM)
    same = table.period <= at
    np.testing.assert_array_equal(before.log_units[same], after.log_units[same])
    assert np.isfinite(before.log_units[now]).all()
    if later.any():
        assert not np.array_equal(before.log_units[later], after.log_units[later])


def row_of(names: list[str], period: list[float], price: list[float], units: list[float]) -> PriceTable:
    rows = {"product_id": names, "period": period, "price": np.exp(price), "units": np.exp(units)}
    return table_of(pa.table(rows), [])


def columns(table: PriceTable) -> dict[str, Floats]:
    assert table.period is not None
    names, matrix = inputs(table, table.period)
    return dict(zip(names, matrix.T, strict=True))


def test_the_past_of_a_series_is_what_was_before_its_period() -> None:
    """Two rows of one period see each other's sales as little as their own."""
    found = columns(
        row_of(list("aaaab"), [3, 1, 2, 2, 3], [0.3, 0.1, 0.2, 0.4, 0.9], [7.0, 1.0, 2.0, 4.0, 9.0])
    )
    nan = np.nan
    np.testing.assert_allclose(found["units_last"], [3.0, nan, 1.0, 1.0, nan])
    np.testing.assert_allclose(found["units_before"], [2.0, nan, 1.0, 1.0, nan])
    np.testing.assert_allclose(found["price_to_last"], [0.0, nan, 0.1, 0.3, nan], atol=1e-12)


def test_the_others_prices_are_of_the_same_period() -> None:
    found = columns(
        row_of(list("abcab"), [1, 1, 1, 2, 3], [0.3, 0.1, 0.2, 0.5, 0.4], [1.0, 1.0, 1.0, 1.0, 1.0])
    )
    np.testing.assert_allclose(found["others_lowest"], [0.1, 0.2, 0.1, np.nan, np.nan])


def test_a_file_without_time_or_without_a_past_is_refused(table: PriceTable) -> None:
    with pytest.raises(UserError, match="map event_time or period"):
        forecast(replace(table, period=None), FROM)
    with pytest.raises(UserError, match="the file's periods go from 0 to 59"):
        forecast(table, 0)
    with pytest.raises(UserError, match="from 0 to 59"):
        forecast(table, PERIODS)
