"""What looks like a value and is none."""

from typing import Any

import orjson
import pytest
from pydantic import ValidationError

from ingestion.events import Transaction

GOOD = {
    "transaction_id": "t-1",
    "event_time": "2026-03-01T12:00:00Z",
    "customer_id": "c-1",
    "terminal_id": "m-1",
    "amount": 12.5,
    "currency": "EUR",
}


@pytest.mark.parametrize(
    "changes",
    [
        {"amount": "12.5"},
        {"amount": True},
        {"event_time": 1_772_366_400},
        {"event_time": "2026-03-01"},
        {"customer_id": 7},
        {"latitude": "48.1"},
        {"attributes": {"note": "x" * 1_025}},
        {"attributes": {"nested": {}}},
    ],
    ids=str,
)
def test_values_of_another_type_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Transaction.model_validate_json(orjson.dumps({**GOOD, **changes}))


@pytest.mark.parametrize("time", ["2026-03-01T12:00:00Z", "2026-03-01T14:00:00+02:00", "2026-03-01T12:00:00"])
def test_a_time_is_utc_whatever_its_zone(time: str) -> None:
    event = Transaction.model_validate_json(orjson.dumps({**GOOD, "event_time": time, "amount": 12}))
    assert event.event_time.isoformat() == "2026-03-01T12:00:00+00:00"
    assert event.amount == 12.0
