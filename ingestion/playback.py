"""Past events as the messages they would have been, in order of time and at any speed."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import orjson
import pyarrow as pa

from infra.progress import Task
from ingestion.file_source import PastEvents, merged_order
from ingestion.topics import LABELS, OUTCOMES, QUOTES, TRANSACTIONS

BLOCK = 5_000
"""Messages made, and sent before they must be acknowledged, at a time."""

type_of_row = dict[str, Any]


@dataclass(frozen=True)
class Message:
    """A record for a topic, due at an event time."""

    time_us: int
    topic: str
    key: bytes
    value: bytes


class Outlet(Protocol):
    """Takes records; `flush` returns when all are safe."""

    def send(self, topic: str, value: bytes | None, key: bytes | None = None) -> None:
        """Queue a record."""
        ...

    def flush(self) -> None:
        """Wait for all that are queued."""
        ...


@dataclass(frozen=True)
class Pace:
    """How fast event time goes by: `speed` seconds of it a second, or as fast as possible if None."""

    speed: float | None
    clock: Callable[[], float]
    sleep: Callable[[float], None]

    def wait_s(self, time_us: int, first_us: int, started_s: float) -> float:
        """Seconds until an event is due; not above 0 if it is."""
        if self.speed is None:
            return 0.0
        return (time_us - first_us) / 1e6 / self.speed - (self.clock() - started_s)


def messages(events: PastEvents, limit: int | None = None) -> Iterator[Message]:
    """The first `limit` events in order of time; a label goes before a payment of the same time."""
    decided, settled = events.decided, events.settled
    number = merged_order(decided["event_time_us"].to_numpy(), settled["event_time_us"].to_numpy())
    order = np.argsort(number)[:limit]
    n = decided.num_rows
    for start in range(0, len(order), BLOCK):
        block = order[start : start + BLOCK]
        rows = iter(decided.take(pa.array(block[block < n])).to_pylist())
        later = iter(settled.take(pa.array(block[block >= n] - n)).to_pylist())
        for one in block.tolist():
            yield _message(next(rows) if one < n else next(later))


def play(messages: Iterator[Message], outlet: Outlet, pace: Pace, task: Task) -> dict[str, int]:
    """Send all, each when it is due, and wait until they are acknowledged; gives how many by topic."""
    sent: dict[str, int] = {}
    started, first_us, unflushed = pace.clock(), None, 0
    for message in messages:
        first_us = message.time_us if first_us is None else first_us
        wait_s = pace.wait_s(message.time_us, first_us, started)
        if unflushed and (wait_s > 0 or unflushed >= BLOCK):
            outlet.flush()
            task.advance(unflushed)
            unflushed = 0
        if wait_s > 0:
            pace.sleep(max(pace.wait_s(message.time_us, first_us, started), 0.0))
        outlet.send(message.topic, message.value, message.key)
        sent[message.topic] = sent.get(message.topic, 0) + 1
        unflushed += 1
    outlet.flush()
    task.advance(unflushed)
    return sent


def _message(row: type_of_row) -> Message:
    topic, key, value = _parts(row)
    given = {name: each for name, each in value.items() if each is not None}
    return Message(row["event_time_us"], topic, key.encode(), orjson.dumps(given))


def _parts(row: type_of_row) -> tuple[str, str, type_of_row]:
    """Topic, key and value of a row of history."""
    if "label" in row:
        return LABELS, row["transaction_id"], _label(row)
    if "units" in row:
        return OUTCOMES, row["product_id"], _outcome(row)
    if "quote_id" in row:
        return QUOTES, row["product_id"], _quote(row)
    return TRANSACTIONS, row["customer_id"], _transaction(row)


_TRANSACTION = (
    "transaction_id", "customer_id", "terminal_id", "amount", "currency", "channel", "country", "device_id",
    "ip", "merchant_category", "latitude", "longitude",
)  # fmt: skip
_QUOTE = (
    "quote_id", "product_id", "segment", "objective", "price", "currency", "list_price", "propensity",
    "fraud_probability",
)  # fmt: skip


def _transaction(row: type_of_row) -> type_of_row:
    return {**_named(row, _TRANSACTION), "event_time": rfc3339(row["event_time_us"])}


def _label(row: type_of_row) -> type_of_row:
    return {**_named(row, ("transaction_id", "label", "source")), "label_time": rfc3339(row["event_time_us"])}


def _quote(row: type_of_row) -> type_of_row:
    return {
        **_named(row, _QUOTE),
        "event_time": rfc3339(row["event_time_us"]),
        "unit_cost": row["unit_cost"] or 0.0,
        "context": orjson.loads(row["context"] or "{}"),
        "exploration": bool(row["exploration"]),
        "held": bool(row["held"]),
    }


def _outcome(row: type_of_row) -> type_of_row:
    return {**_named(row, ("quote_id", "units")), "event_time": rfc3339(row["event_time_us"])}


def _named(row: type_of_row, names: tuple[str, ...]) -> type_of_row:
    return {name: row[name] for name in names}


def rfc3339(time_us: int) -> str:
    """A time with microseconds and Z.

    >>> rfc3339(1_500_000)
    '1970-01-01T00:00:01.500000Z'
    """
    return f"{np.datetime64(time_us, 'us')}Z"
