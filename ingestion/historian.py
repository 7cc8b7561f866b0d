"""Writes the stream to the history, each event once.

Rows are appended before their offsets are committed. Whatever kills the process in between, the rows come
again, and the history knows them by their place in the log.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ingestion import topics
from ingestion.broker import Partition, Record
from ingestion.events import EventTime, Id, microseconds, reason
from ingestion.history import (
    DECISIONS,
    FROM_THE_START,
    LABELS,
    OUTCOMES,
    QUOTES,
    SCHEMAS,
    TRANSACTIONS,
    History,
    completed,
)
from ingestion.streams import decode, position

TOPICS = (topics.TERMINAL_STREAM, topics.PRODUCT_STREAM, topics.DECISIONS)
GROUP = "tollgate-history"
FLUSH_ROWS = 50_000


class DecisionRecord(BaseModel):
    """What history needs of a decision; the rest stays in its JSON."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    transaction_id: Id
    event_time: EventTime
    customer_id: Id
    terminal_id: Id
    decision: Annotated[str, Field(min_length=1)]
    policy_decision: str | None = None
    propensity: Annotated[float, Field(ge=0, le=1)] | None = None
    control_group: bool | None = None
    score: float
    model: dict[str, Any] = {}
    policy_version: str = ""
    features: dict[str, float | None] = {}


@dataclass(frozen=True)
class Rejected:
    """A record that is no decision, and why."""

    record: Record
    reason: str


@dataclass
class Historian:
    """Collects what was read until it is written.

    The caller commits `flush`'s offsets, after it has sent `rejected` on.
    """

    history: History
    rejected: list[Rejected] = field(default_factory=list)
    _pending: dict[str, list[pa.Table]] = field(default_factory=dict)
    _offsets: dict[Partition, int] = field(default_factory=dict)
    _reached: dict[int, dict[int, int]] = field(default_factory=dict)

    def assigned(self, partitions: Sequence[Partition]) -> None:
        """Others may have written these until now: look at the files afresh."""
        self.history.forget_positions()
        for partition in partitions:
            self._forget(partition)

    def revoked(self) -> None:
        """What is not written is left to the next owner."""
        self._pending.clear()
        self._offsets.clear()
        self._reached.clear()

    def take(self, records: Sequence[Record]) -> None:
        """Keep the rows of these records until the next flush."""
        for record in records:
            if record.topic == topics.TERMINAL_STREAM:
                self._take_payments(record)
            elif record.topic == topics.PRODUCT_STREAM:
                self._split(_placed(record, "product"), QUOTES, OUTCOMES)
            self._offsets[Partition(record.topic, record.partition)] = record.offset + 1
        self._take_decisions([record for record in records if record.topic == topics.DECISIONS])

    @property
    def waiting(self) -> int:
        """Rows that are not written yet."""
        return sum(rows.num_rows for tables in self._pending.values() for rows in tables)

    def flush(self) -> dict[Partition, int]:
        """Write all rows; gives the offsets that may be committed now."""
        for table, tables in self._pending.items():
            self.history.append(table, pa.concat_tables(tables))
        self._pending.clear()
        written, self._offsets = self._offsets, {}
        return written

    def _forget(self, partition: Partition) -> None:
        if partition.topic == topics.TERMINAL_STREAM:
            self._reached.pop(partition.number, None)

    def _keep(self, table: str, rows: pa.Table) -> None:
        if rows.num_rows:
            self._pending.setdefault(table, []).append(completed(table, rows))

    def _take_payments(self, record: Record) -> None:
        rows = _placed(record, "terminal")
        first = position(record.offset, 0)
        if record.partition not in self._reached:
            self._reached[record.partition] = self.history.customer_positions(record.partition, first)
        rows = rows.filter(pa.array(newly_sent(rows, self._reached[record.partition])))
        self._split(rows, TRANSACTIONS, LABELS)

    def _split(self, rows: pa.Table, decided: str, settled: str) -> None:
        kind = rows["kind"].to_numpy()
        self._keep(decided, rows.filter(pa.array(kind == 0)))
        self._keep(settled, rows.filter(pa.array(kind == 1)))

    def _take_decisions(self, records: Sequence[Record]) -> None:
        rows = []
        for record in records:
            try:
                decision = DecisionRecord.model_validate_json(record.value or b"")
                rows.append(_decision_row(decision, record))
            except ValidationError as error:
                self.rejected.append(Rejected(record, reason(error)))
        self._keep(DECISIONS, pa.Table.from_pylist(rows, SCHEMAS[DECISIONS]))


def newly_sent(rows: pa.Table, reached: dict[int, int]) -> npt.NDArray[np.bool_]:
    """Which rows are sent for the first time: a customer's positions rise, but for repeats after a crash.

    Args:
        rows: events of one terminal partition, in its order.
        reached: greatest position of each customer partition before; moved on.
    """
    partition = rows["customer_partition"].to_numpy()
    at = rows["customer_position"].to_numpy()
    new = np.zeros(len(at), np.bool_)
    for one in np.unique(partition).tolist():
        mine = np.flatnonzero(partition == one)
        greatest = np.maximum.accumulate(np.concatenate([[reached.get(one, FROM_THE_START)], at[mine]]))
        new[mine] = at[mine] > greatest[:-1]
        reached[one] = int(greatest[-1])
    return new


def _placed(record: Record, entity: str) -> pa.Table:
    """Rows of a message with their places in its stream."""
    batch = decode(record.value or b"")
    n = batch.num_rows
    places = position(record.offset, 0) + np.arange(n)
    return (
        pa.Table.from_batches([batch])
        .append_column(f"{entity}_partition", pa.array(np.full(n, record.partition, np.int32)))
        .append_column(f"{entity}_position", pa.array(places))
    )


def _decision_row(decision: DecisionRecord, record: Record) -> dict[str, Any]:
    return {
        **decision.model_dump(exclude={"event_time", "model", "features"}),
        "event_time_us": microseconds(decision.event_time),
        "model_version": str(decision.model.get("version", "")),
        "feature_names": list(decision.features),
        "features": list(decision.features.values()),
        "json": (record.value or b"").decode(),
        "appended_ms": record.timestamp,
        "decision_partition": record.partition,
        "decision_position": record.offset,
    }


class Progress:
    """How far the history has come, for those who need all of it: a small file a partition."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / ".progress"

    def reached(self, offsets: Mapping[Partition, int]) -> None:
        """Everything before these offsets is in the history."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for partition, offset in offsets.items():
            file = self._file(partition)
            temporary = file.with_suffix(".tmp")
            temporary.write_text(str(offset))
            temporary.rename(file)

    def missing(self, ends: Mapping[Partition, int]) -> int:
        """Records before these offsets that are not in the history yet."""
        return sum(max(end - self._offset(partition), 0) for partition, end in ends.items())

    def _offset(self, partition: Partition) -> int:
        file = self._file(partition)
        return int(file.read_text()) if file.exists() else 0

    def _file(self, partition: Partition) -> Path:
        return self._folder / f"{partition.topic}-{partition.number}.offset"


def encoded_reason(rejected: Rejected) -> list[tuple[str, bytes]]:
    """Headers of a dead letter: the reason, and where the record was."""
    record = rejected.record
    return [
        ("error", rejected.reason.encode()),
        ("topic", record.topic.encode()),
        ("partition", str(record.partition).encode()),
        ("offset", str(record.offset).encode()),
    ]
