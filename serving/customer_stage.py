"""Second stage: each event counts once, and leaves for its terminal with what was known of the customer."""

from collections.abc import Mapping, Sequence
from itertools import compress

import numpy as np
import pyarrow as pa

from features.connection import Connection
from features.fraud import CUSTOMER, LABEL, PAYMENT, codes_of_rows, event_values
from features.index import KnownTransaction, Place, label_orphans_key, label_seen_key, transaction_seen_key
from features.state import Floats, Folded
from ingestion.broker import Record
from ingestion.forgotten import Forgotten
from ingestion.streams import FRAUD_EVENT, SCORED_EVENT, by_partition, encoded
from ingestion.topics import CUSTOMER_STREAM, TERMINAL_STREAM
from serving.entity_stage import (
    Earlier,
    EntityFold,
    StreamBatch,
    look_up,
    mark_seen,
    place_entries,
    read_batch,
    remembered,
)
from serving.label_log import Said, contrary_keys, label_entry, news
from serving.router import messages, parked_labels
from serving.stage import Memoryless, Outgoing, Work, next_offsets


class CustomerStage(Memoryless):
    """Reads the customer stream, writes the customers' states and the terminal stream."""

    topics: Sequence[str] = (CUSTOMER_STREAM,)

    def __init__(
        self, store: Connection, partitions: int, remember_s: int, forgotten: Forgotten | None = None
    ) -> None:
        self._store = store
        self._forgotten = forgotten or Forgotten()
        self._fold = EntityFold(CUSTOMER, store)
        self._partitions = partitions
        self._remember_s = remember_s

    def handle(self, records: Sequence[Record]) -> Work:
        """Drop what counted already, fold the rest, send it on to the terminals."""
        work = Work(handled=next_offsets(records))
        arrived = remembered(read_batch(records), self._forgotten)
        if not len(arrived):
            return work
        seen_keys, labels = _seen_keys(arrived), _labels(arrived)
        contrary = [key for said in labels.values() for key in contrary_keys(said.transaction_id, said.label)]
        earlier = look_up(self._store, seen_keys, _orphans(arrived), contrary)
        told = news(list(labels.values()), dict(zip([*seen_keys, *contrary], earlier.entries, strict=True)))
        fresh = sorted({*earlier.fresh, *compress(labels, told.counts)})
        batch = arrived.take(fresh)
        work.count("duplicates", len(arrived) - len(batch))
        work.count("labels_contradicting", told.contradicting)
        if len(batch):
            folded = self._fold(batch, values_of(batch, codes_of_rows(batch.rows)))
            work.outputs += self._onward(batch, folded.folded)
            work.writes += folded.writes
            work.writes += mark_seen([seen_keys[i] for i in fresh], _entries(batch), self._remember_s)
            self._adopt(earlier, arrived, work)
        return work

    def _onward(self, batch: StreamBatch, folded: Folded) -> list[Outgoing]:
        width = folded.seen.shape[1]
        state = pa.ListArray.from_arrays(
            pa.array(np.arange(0, len(batch) * width + 1, width), pa.int32()), pa.array(folded.seen.ravel())
        )
        rows = pa.RecordBatch.from_arrays(
            [
                *(batch.rows.column(name).combine_chunks() for name in FRAUD_EVENT.names),
                pa.array(batch.partition, pa.int32()),
                pa.array(batch.position),
                state,
            ],
            schema=SCORED_EVENT,
        )
        parts = by_partition(rows, "terminal_id", self._partitions)
        return [
            Outgoing(TERMINAL_STREAM, value, partition=number)
            for number, part in sorted(parts.items())
            for value in encoded(part)
        ]

    def _adopt(self, earlier: Earlier, arrived: StreamBatch, work: Work) -> None:
        """Labels that came before their transaction follow it now, through the customer stream."""
        rows = [row for i, _, labels in earlier.waiting for row in parked_labels(labels, _known(arrived, i))]
        work.outputs += messages(CUSTOMER_STREAM, rows, "customer_id", FRAUD_EVENT, self._partitions)
        work.writes += [("DEL", key) for _, key, _ in earlier.waiting]
        work.count("labels_adopted", len(rows))


def values_of(batch: StreamBatch, codes: Mapping[str, Floats]) -> Floats:
    """What payments and labels bring to a state, as `event_values` has it."""
    return event_values(
        batch.integers("kind"),
        batch.numbers("amount"),
        batch.strings("label"),
        batch.integers("event_time_us"),
        batch.numbers("paid_at_us"),
        codes,
    )


def _seen_keys(batch: StreamBatch) -> list[bytes]:
    columns = [batch.strings(name) for name in ("transaction_id", "source", "label")]
    return [
        transaction_seen_key(name) if label is None else label_seen_key(name, source, label)
        for name, source, label in zip(*columns, strict=True)
    ]


def _labels(batch: StreamBatch) -> dict[int, Said]:
    """The labels of a batch by their rows."""
    rows = np.flatnonzero(batch.integers("kind") == LABEL)
    fields = ("transaction_id", "source", "label", "event_time_us")
    said = map(Said, *(batch.rows.column(name).take(rows).to_pylist() for name in fields))
    return dict(zip(rows.tolist(), said, strict=True))


def _entries(batch: StreamBatch) -> list[bytes]:
    """What is remembered of each event: its place, and of a label its arrival, too."""
    entries = place_entries(batch)
    for i, said in _labels(batch).items():
        entries[i] = label_entry(Place(int(batch.partition[i]), int(batch.position[i])), said.time_us)
    return entries


def _orphans(batch: StreamBatch) -> list[tuple[int, bytes]]:
    names, paid = batch.strings("transaction_id"), np.flatnonzero(batch.integers("kind") == PAYMENT)
    return [(i, label_orphans_key(names[i])) for i in paid.tolist()]


def _known(batch: StreamBatch, i: int) -> KnownTransaction:
    row = batch.rows.slice(i, 1).to_pylist()[0]
    return KnownTransaction(row["customer_id"], row["terminal_id"], row["event_time_us"], row["amount"])
