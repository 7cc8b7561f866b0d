import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.domains import domain
from features.pricing import (
    OF_PRICE,
    OUTCOME,
    PRICING,
    PRODUCT,
    QUOTE,
    at_prices,
    day_price,
    event_values,
    impersonal,
    last_price,
    request_columns,
)
from features.state import Events, Floats, States, fold
from ingestion.events import QuoteRequest
from ingestion.tables import QUOTES, SCHEMAS

NOW_US = int(datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp()) * 1_000_000
DAY_US = 86_400_000_000

money = st.floats(0.01, 1e6)
maybe = st.none() | money


def folded(kind: list[int], price: list[float], units: list[float], time_us: list[int]) -> Floats:
    """State of one product after these events."""
    kinds, times = np.array(kind), np.array(time_us)
    values = event_values(kinds, np.array(price), np.array(units), times)
    states = States.cold(PRODUCT, 1)
    n = len(kind)
    fold(PRODUCT, states, Events(kinds, times, np.zeros(n, np.int64), np.arange(n), values))
    return states.columns


def busy_state() -> Floats:
    return folded(
        [QUOTE, QUOTE, OUTCOME, OUTCOME],
        [100.0, 80.0, 100.0, 80.0],
        [np.nan, np.nan, 0.0, 3.0],
        [NOW_US - 4 * DAY_US, NOW_US - 3 * DAY_US, NOW_US - 2 * DAY_US, NOW_US - 2 * DAY_US],
    )


def features(columns: Mapping[str, Floats], state: Floats) -> dict[str, Floats]:
    n = len(columns["price"])
    matrix = PRICING.matrix(
        {PRODUCT.name: np.repeat(state, n, axis=0)}, columns, np.full(n, NOW_US / 1_000_000)
    )
    return dict(zip(PRICING.names, matrix.T, strict=True))


def one_request(price: float = 90.0, segment: str | None = "web", **context: object) -> dict[str, Floats]:
    words = (["p-1"], [segment])
    return request_columns(np.array([price]), np.array([120.0]), np.array([60.0]), words, [context])


def test_what_is_remembered_of_a_product() -> None:
    row = features(one_request(competitor_price=100.0), busy_state())
    assert row["price_to_list"] == 0.75
    assert row["price_to_competitor"] == 0.9
    assert np.isclose(row["product_conversion_rate_7d"], 0.5)
    assert np.isclose(row["product_units_rate_7d"], 1.5)
    assert np.isclose(row["product_sale_to_list_30d"], 80.0 / 120.0)
    assert 80.0 < row["product_price_mean_30d"] < 90.0, "the later price counts more"
    assert row["product_idle_s"] == 3 * 86_400
    assert (row["hour_of_day"], row["weekday"]) == (12.0, 6.0), "2026-03-01 is a Sunday"
    assert last_price(busy_state()) == [80.0]


def test_a_day_begins_with_its_first_price_and_until_then_with_the_one_before() -> None:
    hour_us, at_s = DAY_US // 24, NOW_US / 1_000_000
    times = [NOW_US - DAY_US, NOW_US - 5 * hour_us, NOW_US - 4 * hour_us, NOW_US - DAY_US]
    state = folded([QUOTE] * 4, [70.0, 80.0, 90.0, 60.0], [np.nan] * 4, times)
    for hours, expected in ((0, 80.0), (11.9, 80.0), (12.0, 90.0), (99.0, 90.0), (-30, 80.0)):
        assert day_price(state, np.array([at_s + hours * 3_600])) == [expected], hours
    assert np.isnan(day_price(PRODUCT.cold(1), np.array([at_s]))[0])


def test_what_tells_of_a_person_is_as_if_it_had_not_been_given() -> None:
    told = one_request(segment="seniors", inventory=3, competitor_price=100.0)
    unknown = one_request(segment=None, competitor_price=100.0)
    blanked = impersonal(told, ["segment", "inventory", "age", "price"])
    assert {name: value.tobytes() for name, value in blanked.items()} == {
        name: value.tobytes() for name, value in unknown.items()
    }
    assert {name: value.tobytes() for name, value in impersonal(told, []).items()} == {
        name: value.tobytes() for name, value in told.items()
    }


def test_an_outcome_is_no_quote_and_a_quote_no_outcome() -> None:
    state = folded([OUTCOME], [50.0], [1.0], [NOW_US])
    assert np.isnan(last_price(state)[0])
    assert features(one_request(), state)["product_quote_count_1d"] == 0
    values = event_values(np.array([QUOTE]), np.array([50.0]), np.array([7.0]), np.array([0]))
    np.testing.assert_array_equal(values, [[50.0, np.nan, np.nan, np.nan, 0.0]])
    quoted = folded([QUOTE], [50.0], [7.0], [NOW_US])
    assert np.isnan(features(one_request(), quoted)["product_units_rate_1d"])


def test_nothing_known_is_nan_and_not_a_guess() -> None:
    row = features(one_request(segment=None), PRODUCT.cold(1))
    for name in ("price_to_product_mean_30d", "product_conversion_rate_30d", "segment_code", "inventory"):
        assert np.isnan(row[name]), name


@given(st.lists(money, min_size=1, max_size=8), maybe, maybe)
def test_many_prices_of_a_request_are_as_many_requests(
    prices: list[float], competitor: float | None, inventory: float | None
) -> None:
    context = {"competitor_price": competitor, "inventory": inventory}
    together = features(at_prices(one_request(**context), np.array(prices)), busy_state())
    for i, price in enumerate(prices):
        alone = features(one_request(price, **context), busy_state())
        for name in PRICING.names:
            assert together[name][i : i + 1].tobytes() == alone[name].tobytes(), name


@given(money, st.floats(0.1, 10.0), maybe)
def test_features_of_the_price_are_proportional_to_it_and_no_other_moves(
    price: float, factor: float, competitor: float | None
) -> None:
    prices = np.array([price, price * factor])
    found = features(at_prices(one_request(competitor_price=competitor), prices), busy_state())
    for name, (one, other) in found.items():
        expected = one * (prices[1] / prices[0]) if name in OF_PRICE else one
        np.testing.assert_allclose(other, expected, rtol=1e-12, err_msg=name)


def test_a_context_gives_numbers_only() -> None:
    columns = one_request(inventory="many", hours_to_departure=True, competitor_price=3)
    assert np.isnan(columns["inventory"][0])
    assert np.isnan(columns["hours_to_departure"][0])
    assert columns["competitor_price"] == [3.0]


@pytest.mark.parametrize("price", [0.0, -5.0, 5e-324])
def test_a_competitor_without_a_price_is_not_known(price: float) -> None:
    row = features(one_request(competitor_price=price), busy_state())
    assert np.isnan(row["price_to_competitor"][0])


def test_segments_have_the_same_number_in_every_process() -> None:
    assert one_request(segment="web")["segment_code"] == [365508689.0]
    assert one_request(segment="app")["segment_code"] != [365508689.0]


@given(st.dictionaries(st.sampled_from(["inventory", "competitor_price", "weather"]), money | st.booleans()))
def test_a_replayed_quote_has_the_columns_of_its_request(context: dict[str, Any]) -> None:
    body = {"quote_id": "q", "event_time": "2026-03-01T12:00:00Z", "product_id": "p-1", "segment": "web"}
    request = QuoteRequest.model_validate_json(json.dumps(body | {"context": context}))
    stored = {"quote_id": "q", "price": 90.0, "list_price": 120.0, "unit_cost": 60.0}
    row = stored | {"product_id": "p-1", "segment": "web", "context": json.dumps(request.context)}
    table = pa.Table.from_pylist([row], schema=SCHEMAS[QUOTES])
    replayed = domain("pricing").request(table)
    asked = one_request(90.0, request.segment, **request.context)
    assert {name: value.tobytes() for name, value in replayed.items()} == {
        name: value.tobytes() for name, value in asked.items()
    }
