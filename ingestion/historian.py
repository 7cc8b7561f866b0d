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

from infra.files import replaced
from ingestion import topics
from ingestion.broker import Partition, Record
from ingestion.events import EventTime, Id, microseconds, reason
from ingestion.forgotten import Forgotten
from ingestion.history import History
from ingestion.streams import decode, position
from ingestion.tables import (
    DECISIONS,
    FROM_THE_START,
    LABELS,
    ORIGINS,
    OUTCOMES,
    PLACES,
    QUOTES,
    SCHEMAS,
    TRANSACTIONS,
    completed,
)

TOPICS = (topics.TERMINAL_STREAM, topics.PRODUCT_COUNTED, topics.DECISIONS)
GROUP = "tollgate-history"
FLUSH_ROWS = 50_000
NO_TIME_MS = 2**62
"""After everything."""


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
    forgotten: Forgotten = field(default_factory=Forgotten)
    rejected: list[Rejected] = field(default_factory=list)
    _pending: dict[tuple[str, Partition], list[pa.Table]] = field(default_factory=dict)
    _offsets: dict[Partition, int] = field(default_factory=dict)
    _reached: dict[Partition, dict[int, int]] = field(default_factory=dict)

    def assigned(self, partitions: Sequence[Partition]) -> None:
        """Others may have written these until now: look at the files afresh."""
        self.history.forget_positions()
        for partition in partitions:
            self._reached.pop(partition, None)

    def revoked(self, partitions: Sequence[Partition]) -> None:
        """What is not written of these is left to their next owner, who reads it again."""
        gone = set(partitions)
        self._pending = {key: rows for key, rows in self._pending.items() if key[1] not in gone}
        self.rejected = [each for each in self.rejected if _partition(each.record) not in gone]
        for partition in gone:
            self._offsets.pop(partition, None)
            self._reached.pop(partition, None)

    def take(self, records: Sequence[Record]) -> None:
        """Keep the rows of these records until the next flush.

        All of a partition at once: a message may hold one event only, and a table's columns cost as much for
        one row as for hundreds. So they are completed only when they are written.
        """
        kinds = {
            topics.TERMINAL_STREAM: self._take_payments,
            topics.PRODUCT_COUNTED: self._take_sales,
            topics.DECISIONS: self._take_decisions,
        }
        for partition, mine in _by_partition(records).items():
            kinds[partition.topic](partition, mine)
            self._offsets[partition] = mine[-1].offset + 1

    @property
    def waiting(self) -> int:
        """Rows that are not written yet."""
        return sum(rows.num_rows for tables in self._pending.values() for rows in tables)

    def flush(self) -> dict[Partition, int]:
        """Write all rows; gives the offsets that may be committed now."""
        for table in dict.fromkeys(table for table, _ in self._pending):
            mine = [rows for key, tables in self._pending.items() if key[0] == table for rows in tables]
            self.history.append(table, completed(table, pa.concat_tables(mine)))
        self._pending.clear()
        written, self._offsets = self._offsets, {}
        return written

    def _keep(self, table: str, partition: Partition, rows: pa.Table) -> None:
        """Without what the table lacks: a payment that HTTP decided carries its decision, kilobytes."""
        if rows.num_rows:
            kept = rows.select([name for name in SCHEMAS[table].names if name in rows.column_names])
            self._pending.setdefault((table, partition), []).append(kept)

    def _take_payments(self, partition: Partition, records: Sequence[Record]) -> None:
        first = position(records[0].offset, 0)
        rows = self._new(_placed(records), partition, first, (TRANSACTIONS, LABELS))
        appended_ms = rows["appended_ms"].fill_null(NO_TIME_MS).to_numpy()
        staying = self.forgotten.stay(appended_ms, rows["customer_id"].to_pylist)
        rows = rows if staying is None else rows.filter(pa.array(staying))
        self._split(rows, partition, TRANSACTIONS, LABELS)

    def _new(self, rows: pa.Table, partition: Partition, first: int, kept_in: Sequence[str]) -> pa.Table:
        """Rows of a partition, the first of which lies at `first`, but for those that were sent before."""
        if partition not in self._reached:
            self._reached[partition] = self.history.origins(kept_in, partition.number, first)
        return rows.filter(pa.array(newly_sent(rows, ORIGINS[kept_in[0]], self._reached[partition])))

    def _take_sales(self, partition: Partition, records: Sequence[Record]) -> None:
        """Without what comes twice; `History.append` knows what is in the files already."""
        rows = pa.Table.from_batches(_batches(records))
        new = newly_sent(rows, PLACES[QUOTES], self._reached.setdefault(partition, {}))
        self._split(rows.filter(pa.array(new)), partition, QUOTES, OUTCOMES)

    def _split(self, rows: pa.Table, partition: Partition, decided: str, settled: str) -> None:
        kind = rows["kind"].to_numpy()
        self._keep(decided, partition, rows.filter(pa.array(kind == 0)))
        self._keep(settled, partition, rows.filter(pa.array(kind == 1)))

    def _take_decisions(self, partition: Partition, records: Sequence[Record]) -> None:
        rows: list[dict[str, Any]] = []
        for record in records:
            try:
                decision = DecisionRecord.model_validate_json(record.value or b"")
            except ValidationError as error:
                self.rejected.append(Rejected(record, reason(error)))
                continue
            if not self.forgotten.holds(decision.customer_id, record.timestamp):
                rows.append(_decision_row(decision, record))
        if rows:
            came = pa.Table.from_pylist(rows, SCHEMAS[DECISIONS])
            new = self._new(came, partition, rows[0]["decision_position"], (DECISIONS,))
            self._keep(DECISIONS, partition, new)


def _partition(record: Record) -> Partition:
    return Partition(record.topic, record.partition)


def _by_partition(records: Sequence[Record]) -> dict[Partition, list[Record]]:
    """Records of each partition, in order."""
    found: dict[Partition, list[Record]] = {}
    for record in records:
        found.setdefault(_partition(record), []).append(record)
    return found


def newly_sent(rows: pa.Table, origin: tuple[str, str], reached: dict[int, int]) -> npt.NDArray[np.bool_]:
    """Which rows are sent for the first time: places of origin rise, but for repeats.

    Who dies between sending and committing is followed by one who sends the same again, and who was stopped
    for so long that others took over may still send what it had begun. A row that does not tell stays.

    Args:
        rows: of one partition, in its order.
        origin: columns of the partition and the position that each row was made of.
        reached: greatest position of each partition of origin before; moved on.
    """
    partition, at = (rows[name].fill_null(-1).to_numpy() for name in origin)
    new: npt.NDArray[np.bool_] = partition < 0
    for one in np.unique(partition[~new]).tolist():
        mine = np.flatnonzero(partition == one)
        greatest = np.maximum.accumulate(np.concatenate([[reached.get(one, FROM_THE_START)], at[mine]]))
        new[mine] = at[mine] > greatest[:-1]
        reached[one] = int(greatest[-1])
    return new


def _batches(records: Sequence[Record]) -> list[pa.RecordBatch]:
    """What messages of one stream hold."""
    return [decode(record.value or b"", topics.STREAM_SCHEMAS[record.topic]) for record in records]


def _placed(records: Sequence[Record]) -> pa.Table:
    """Rows of a partition's messages with their places in the terminal stream."""
    batches = _batches(records)
    places = [
        position(record.offset, 0) + np.arange(batch.num_rows)
        for record, batch in zip(records, batches, strict=True)
    ]
    rows = pa.Table.from_batches(batches)
    return rows.append_column(
        "terminal_partition", pa.array(np.full(rows.num_rows, records[0].partition, np.int32))
    ).append_column("terminal_position", pa.array(np.concatenate(places)))


def _decision_row(decision: DecisionRecord, record: Record) -> dict[str, Any]:
    terminal_partition, terminal_position = topics.place_of(record.headers) or (None, None)
    return {
        **decision.model_dump(exclude={"event_time", "model", "features"}),
        "event_time_us": microseconds(decision.event_time),
        "model_version": str(decision.model.get("version", "")),
        "feature_names": list(decision.features),
        "features": list(decision.features.values()),
        "json": (record.value or b"").decode(),
        "appended_ms": record.timestamp,
        "terminal_partition": terminal_partition,
        "terminal_position": terminal_position,
        "decision_partition": record.partition,
        "decision_position": record.offset,
    }


class Progress:
    """How far the history has come, for those who need all of it: a small file a partition."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / ".progress"

    def reached(self, offsets: Mapping[Partition, int]) -> None:
        """Everything before these offsets is in the history."""
        for partition, offset in offsets.items():
            replaced(self._file(partition), str(offset))

    def missing(self, ends: Mapping[Partition, int]) -> int:
        """Records before these offsets that are not in the history yet."""
        return sum(max(end - self._offset(partition), 0) for partition, end in ends.items())

    def _offset(self, partition: Partition) -> int:
        file = self._file(partition)
        return int(file.read_text()) if file.exists() else 0

    def _file(self, partition: Partition) -> Path:
        return self._folder / f"{partition.topic}-{partition.number}.offset"


def encoded_reason(rejected: Rejected) -> list[tuple[str, bytes]]:
    """Headers of a dead letter: the reason, where the record was, and whether it is not as it came."""
    record = rejected.record
    clean = (topics.unnumbered(record.key), topics.unnumbered(record.value)) == (record.key, record.value)
    return [
        *([] if clean else [(topics.MASKED, b"card number")]),
        ("error", rejected.reason.encode()),
        ("topic", record.topic.encode()),
        ("partition", str(record.partition).encode()),
        ("offset", str(record.offset).encode()),
    ]
