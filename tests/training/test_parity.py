"""What tells of a person is blanked alike in requests and in training, or how groups fare is reported."""

import random
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest

from features.pricing import PRICING, PRODUCT
from features.state import States
from infra.settings import PricingPolicy, load
from ingestion.events import QuoteRequest, microseconds
from ingestion.tables import DAY_US
from serving.pricing import Known, Policy, quote
from training.dataset import Dataset, Span
from training.parity import MOST, common, parity
from training.pricing import from_tables

PERSONAL = {"personal": ("segment", "age")}


def policy_of(**changes: Any) -> PricingPolicy:
    return load().pricing.model_copy(update=changes)


def learned(rows: list[dict[str, Any]], units: list[float], policy: PricingPolicy) -> Dataset:
    """Quotes a day apart with an outcome each, and a later one that matures them."""
    n = len(rows)
    times = [(20_000 + i) * DAY_US for i in range(n)]
    placed = {"product_partition": [-1] * n, "product_position": [2 * i for i in range(n)]}
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    quotes = {"event_time_us": times, **columns, **placed}
    outcomes = {
        **{name: columns[name] for name in ("quote_id", "product_id", "price")},
        "event_time_us": [time + 1 for time in times],
        "units": units,
        "product_partition": [-1] * n,
        "product_position": [2 * i + 1 for i in range(n)],
    }
    return from_tables(pa.table(quotes), pa.table(outcomes), Span(until_us=times[-1] + 9 * DAY_US), policy)


def row(name: str, price: float, segment: str | None, **context: object) -> dict[str, Any]:
    told = orjson.dumps(context).decode()
    return {
        "quote_id": name, "product_id": "p-1", "price": price, "list_price": 100.0, "unit_cost": 40.0,
        "segment": segment, "context": told,
    }  # fmt: skip


ROWS = [
    row("a", 90.0, "web", age="young"),
    row("b", 110.0, "web", age="old"),
    row("c", 70.0, None),
    row("d", 100.0, "app", age="old"),
]


def test_groups_are_reported_where_prices_may_know_of_them() -> None:
    found = parity(learned(ROWS, [1.0, 0.0, 2.0, 1.0], policy_of(**PERSONAL, use_personal=True)))
    assert set(found) == {"segment", "age"}
    assert found["age"]["old"] == pytest.approx(
        {"rows": 2, "price_to_list": 1.05, "conversion": 0.5, "margin_to_list": 0.3}
    )
    assert found["segment"]["unknown"] == pytest.approx(
        {"rows": 1, "price_to_list": 0.7, "conversion": 1.0, "margin_to_list": 0.6}
    )
    assert set(found["age"]) == {"young", "old", "unknown"}


def test_nothing_is_reported_where_no_price_knows_of_a_person() -> None:
    assert parity(learned(ROWS, [1.0] * 4, policy_of(**PERSONAL))) == {}
    assert parity(learned(ROWS, [1.0] * 4, policy_of(use_personal=True))) == {}


def test_rare_groups_come_together() -> None:
    values = np.array([*[str(i) for i in range(MOST) for _ in range(2)], "rare", "rarer", None, None], object)
    assert set(common(values)) - {str(i) for i in range(MOST)} <= {"other", "unknown"}
    assert len(set(common(values))) <= MOST + 2


@pytest.mark.parametrize("changes", [PERSONAL, {**PERSONAL, "use_personal": True}, {}], ids=str)
def test_training_knows_of_a_quote_what_its_request_did(changes: dict[str, Any]) -> None:
    policy = policy_of(**changes)
    product = next(each for each in load().catalogue if each.product_id == "p-1")
    asked = {"quote_id": "a", "product_id": "p-1", "segment": "web", "context": {"inventory": 5, "age": 30}}
    request = QuoteRequest.model_validate_json(orjson.dumps(asked | {"event_time": "2024-10-04T00:00:00Z"}))
    assert microseconds(request.event_time) == 20_000 * DAY_US
    known = Known(product, States.cold(PRODUCT, 1).columns)
    answer = quote(request, known, None, Policy(policy, ""), random.Random(1))
    logged = {name: answer[name] for name in ("quote_id", "product_id", "price", "list_price", "unit_cost")}
    told = {"segment": answer["segment"], "context": orjson.dumps(answer["context"]).decode()}
    rows = learned([logged | told, *ROWS[1:]], [1.0] * 4, policy)
    features = np.array([answer["features"][name] for name in PRICING.names])
    np.testing.assert_array_equal(rows.matrix[0], features)
    assert np.isnan(features[PRICING.names.index("segment_code")]) == (changes == PERSONAL)
