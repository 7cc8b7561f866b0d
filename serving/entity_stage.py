"""What the entity stages share: read the states of a batch in one round trip, fold, and write them back."""

from collections.abc import Container, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from features.connection import Connection, set_expiring, type_of_command
from features.index import Place, place_entry
from features.online import Codec
from features.state import Entity, Events, Floats, Folded, Ints, States, codes_of, fold
from ingestion.broker import Record
from ingestion.forgotten import Forgotten
from ingestion.streams import ROW_BITS, decode
from ingestion.topics import STREAM_SCHEMAS


@dataclass(frozen=True)
class StreamBatch:
    """Events of several messages of one stream, as columns, with their places."""

    rows: pa.Table
    partition: Ints
    position: Ints

    def __len__(self) -> int:
        return len(self.position)

    def strings(self, column: str) -> list[str]:
        """A text column; None where null."""
        found: list[str] = self.rows.column(column).to_pylist()
        return found

    def numbers(self, column: str) -> Floats:
        """A number column as float64; NaN where null."""
        found: Floats = self.rows.column(column).to_numpy().astype(np.float64, copy=False)
        return found

    def integers(self, column: str) -> Ints:
        """A whole-number column without nulls."""
        found: Ints = self.rows.column(column).to_numpy().astype(np.int64, copy=False)
        return found

    def take(self, keep: Sequence[int] | Ints) -> "StreamBatch":
        """The rows at these indices."""
        if len(keep) == len(self):
            return self
        index = np.asarray(keep, np.int64)
        return replace(
            self, rows=self.rows.take(index), partition=self.partition[index], position=self.position[index]
        )


def read_batch(records: Sequence[Record]) -> StreamBatch:
    """The events of entity-stream messages, in the order of the records."""
    batches = [decode(record.value or b"", STREAM_SCHEMAS[record.topic]) for record in records]
    sizes = [batch.num_rows for batch in batches]
    return StreamBatch(
        pa.Table.from_batches(batches),
        np.repeat([record.partition for record in records], sizes).astype(np.int64),
        np.concatenate(
            [(r.offset << ROW_BITS) + np.arange(size) for r, size in zip(records, sizes, strict=True)]
        ).astype(np.int64),
    )


def remembered(batch: StreamBatch, forgotten: Forgotten) -> StreamBatch:
    """The events but for those of the time before their customer was forgotten."""
    staying = forgotten.stay(batch.integers("appended_ms"), lambda: batch.strings("customer_id"))
    return batch if staying is None else batch.take(np.flatnonzero(staying))


@dataclass
class FoldedBatch:
    """A batch folded into the states of its entities."""

    folded: Folded
    writes: list[type_of_command]
    """Commands that store the states as they are after the batch."""


class EntityFold:
    """Folds batches of one entity kind into its states in Redis."""

    def __init__(self, entity: Entity, store: Connection) -> None:
        self._entity = entity
        self._codec = Codec(entity)
        self._store = store

    def __call__(self, batch: StreamBatch, values: Floats) -> FoldedBatch:
        """Fold the batch in its order; nothing is written yet."""
        codes, ids = codes_of(batch.strings(self._entity.key))
        states = self._codec.decode(self._store.execute([self._codec.read(each) for each in ids]))
        events = Events(
            batch.integers("kind"), batch.integers("event_time_us"), codes, batch.position, values
        )
        folded = fold(self._entity, states, events)
        changed = np.unique(codes[folded.fresh])
        kept = States(states.columns[changed], states.stamp_us[changed], states.position[changed])
        return FoldedBatch(folded, list(self._codec.write([ids[i] for i in changed], kept)))


@dataclass(frozen=True)
class Earlier:
    """What Redis remembers of the events of a batch."""

    fresh: list[int]
    """Rows whose event has not been folded before, neither earlier nor in this batch."""
    waiting: list[tuple[int, bytes, Sequence[bytes]]]
    """Fresh rows that others waited for: row, Redis key, and those that wait."""
    entries: Sequence[bytes | None]
    """What is remembered of each row, then of what was asked for besides."""


def look_up(
    store: Connection,
    seen_keys: Sequence[bytes],
    orphans: Sequence[tuple[int, bytes]],
    besides: Sequence[bytes] = (),
) -> Earlier:
    """Ask, in one round trip, which events of a batch came before and whether any is waited for.

    Args:
        store: where both are remembered.
        seen_keys: of each row, one at least.
        orphans: rows that others may wait for, with the keys of those lists.
        besides: keys whose entries are wanted, too.
    """
    commands: list[type_of_command] = [("MGET", *seen_keys, *besides)]
    if orphans:
        commands.append(("EXISTS", *(key for _, key in orphans)))
    seen, *waited_for = store.execute(commands)
    first = {key: i for i, key in reversed(list(enumerate(seen_keys)))}
    fresh = [i for i, key in enumerate(seen_keys) if not seen[i] and first[key] == i]
    return Earlier(fresh, _waiting(store, orphans, set(fresh)) if any(waited_for) else [], seen)


def _waiting(
    store: Connection, orphans: Sequence[tuple[int, bytes]], fresh: Container[int]
) -> list[tuple[int, bytes, Sequence[bytes]]]:
    lists = store.execute([("LRANGE", key, 0, -1) for _, key in orphans])
    return [(i, key, found) for (i, key), found in zip(orphans, lists, strict=True) if found and i in fresh]


def place_entries(batch: StreamBatch) -> list[bytes]:
    """Where each event of the batch was folded, as it is remembered."""
    return list(map(place_entry, map(Place, batch.partition.tolist(), batch.position.tolist())))


def mark_seen(seen_keys: Sequence[bytes], entries: Sequence[bytes], remember_s: int) -> list[type_of_command]:
    """Commands that remember each event of a batch."""
    return [set_expiring(key, entry, remember_s) for key, entry in zip(seen_keys, entries, strict=True)]
