"""A card number in any field or key of an event: refused, with a reason that does not repeat it."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest
from pydantic import BaseModel, ValidationError

from ingestion import file_source
from ingestion.events import Label, Outcome, Quote, QuoteRequest, Transaction, reason
from ingestion.mapping import Mapping as FileMapping

CARD = "4111111111111111"
DRESSED = "5555-5555 5555–4444"
AT = "2026-03-01T12:00:00Z"
OPEN = {"note": "x", "weight": 1.5}
EVENTS: Mapping[type[BaseModel], Mapping[str, Any]] = {
    Transaction: {
        "transaction_id": "t-1",
        "event_time": AT,
        "customer_id": "c-1",
        "terminal_id": "m-1",
        "amount": 1.5,
        "currency": "EUR",
        "channel": "online",
        "country": "DE",
        "device_id": "d-1",
        "ip": "203.0.113.7",
        "merchant_category": "food",
        "latitude": 1.5,
        "longitude": 2.5,
        "attributes": OPEN,
    },
    Label: {"transaction_id": "t-1", "label": "fraud", "label_time": AT, "source": "chargeback"},
    Outcome: {"quote_id": "q-1", "event_time": AT, "units": 1.5, "attributes": OPEN},
    QuoteRequest: {
        "quote_id": "q-1",
        "event_time": AT,
        "product_id": "p-1",
        "segment": "web",
        "objective": "margin",
        "context": OPEN,
    },
    Quote: {
        "quote_id": "q-1",
        "event_time": AT,
        "product_id": "p-1",
        "price": 1.5,
        "currency": "EUR",
        "list_price": 1.5,
        "unit_cost": 1.5,
        "segment": "web",
        "objective": "margin",
        "context": OPEN,
        "model": {"version": "3"},
        "features": {"price": 1.5},
    },
}
"""One good event of each kind, with all that it may have."""


def changed(event: Mapping[str, Any], value: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The event with the value in each field, also of objects in it, as an unknown field, and as a key."""
    for name, inner in event.items():
        yield name, {**event, name: value}
        if isinstance(inner, dict):
            yield f"key in {name}", {**event, name: {**inner, str(value): "x"}}
            yield from ((f"{name}.{key}", {**event, name: {**inner, key: value}}) for key in inner)
    yield "unknown key", {**event, str(value): "x"}


CASES = [
    pytest.param(model, changes, id=f"{model.__name__}-{where}-{value}")
    for model, event in EVENTS.items()
    for value in (CARD, DRESSED, int(CARD))
    for where, changes in changed(event, value)
    if not (
        model is Quote and where in ("unknown key", "features.price")
    )  # what nobody knows of it is dropped
]


@pytest.mark.parametrize("model", EVENTS)
def test_without_one_it_is_taken(model: type[BaseModel]) -> None:
    model.model_validate_json(orjson.dumps(EVENTS[model]))


@pytest.mark.parametrize(("model", "event"), CASES)
def test_it_is_refused_and_not_repeated(model: type[BaseModel], event: Mapping[str, Any]) -> None:
    with pytest.raises(ValidationError) as refused:
        model.model_validate_json(orjson.dumps(event))
    told = reason(refused.value)
    assert told
    for digits in ("1111", "5555", "4444"):
        assert digits not in told


def test_the_reason_says_what_to_do() -> None:
    with pytest.raises(ValidationError) as refused:
        Transaction.model_validate_json(orjson.dumps({**EVENTS[Transaction], "customer_id": CARD}))
    assert reason(refused.value) == (
        "customer_id: Value error, expected no card number, came what looks like one; send a token or a hash "
        "of it (came '****************')"
    )


PAYMENTS = FileMapping.model_validate(
    {
        "transactions": {
            "transaction_id": "id",
            "event_time": "at",
            "customer_id": "who",
            "terminal_id": "where",
            "amount": "amount",
            "device_id": "device",
            "channel": "channel",
        }
    }
)
COLUMNS = {
    "id": ["1", "2", "3"],
    "at": [AT] * 3,
    "who": ["c-1", "c-2", "c-3"],
    "where": ["m"] * 3,
    "amount": [1.0, 2.0, 3.0],
    "device": ["d"] * 3,
    "channel": ["web"] * 3,
}


@pytest.mark.parametrize("write", [pq.write_table, csv.write_csv], ids=["file.parquet", "file.csv"])
@pytest.mark.parametrize("column", ["id", "who", "where", "device", "channel"])
@pytest.mark.parametrize("value", [CARD, "5555-5555 5555-4444"])
def test_a_row_of_a_file_is_refused_too(
    tmp_path: Path, column: str, value: str, write: Callable[[pa.Table, Path], None]
) -> None:
    file = tmp_path / ("file.csv" if write is csv.write_csv else "file.parquet")
    write(pa.table({**COLUMNS, column: [COLUMNS[column][0], value, COLUMNS[column][2]]}), file)
    events = file_source.payments(file, PAYMENTS, "EUR")
    assert events.decided["amount"].to_pylist() == [1.0, 3.0]
    (told,) = events.rejects["reason"].to_pylist()
    assert "no card number" in told
    assert "1111" not in told
    assert "5555" not in told


def test_a_column_of_whole_numbers_is_looked_at_too(tmp_path: Path) -> None:
    file = tmp_path / "file.parquet"
    pq.write_table(pa.table({**COLUMNS, "who": [17, int(CARD), 4111111111111112]}), file)
    events = file_source.payments(file, PAYMENTS, "EUR")
    assert events.decided["customer_id"].to_pylist() == ["17", "4111111111111112"]
    assert CARD not in str(events.rejects.to_pylist())


def test_what_was_known_at_a_past_price_is_looked_at_too(tmp_path: Path) -> None:
    file = tmp_path / "file.parquet"
    columns = {
        "price": "price",
        "units": "units",
        "product_id": "what",
        "event_time": "at",
        "context": ["note"],
    }
    rows = {
        "price": [1.0, 2.0],
        "units": [0.0, 1.0],
        "what": ["p", "p"],
        "at": [AT, AT],
        "note": ["x", DRESSED],
    }
    pq.write_table(pa.table(rows), file)
    events = file_source.prices(
        file, FileMapping.model_validate({"prices": {**columns, "context": ["note"]}}), "EUR"
    )
    assert events.decided["price"].to_pylist() == [1.0]
    assert events.rejects["reason"].to_pylist() == [
        "context: expected no card number, but a token or a hash of it"
    ]


def with_number(number: float) -> bytes:
    """Orjson can't write what others may send."""
    plain = orjson.dumps({**EVENTS[Transaction], "attributes": {"n": 7}})
    return plain.replace(b'"n":7', f'"n":{number!r}'.encode())


@pytest.mark.parametrize("number", [10**400, -(10**400), 2**64, -(2**63) - 1])
def test_a_number_that_we_could_not_pass_on_is_refused(number: int) -> None:
    with pytest.raises(ValidationError, match="at most 64 bits"):
        Transaction.model_validate_json(with_number(number))


@pytest.mark.parametrize("number", [10**19, -(2**63), 1e308, -1e25])
def test_a_number_of_more_digits_than_a_card_has_is_none(number: float) -> None:
    assert Transaction.model_validate_json(with_number(number)).attributes == {"n": float(number)}
