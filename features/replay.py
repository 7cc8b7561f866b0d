"""Replay: the history folded again, in the log's own order, by the same fold as the stream.

Each entity's events have the order of its stream: what was backfilled first, by running number, then by
position in the partition that has the entity. The state after every event is written for Feast; the state
before an event is the last one strictly before the event's own stamp.
"""

import fcntl
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from features.definition import FeatureSet
from features.domains import Domain, domain
from features.state import MICROSECONDS, NEVER_FOLDED, Entity, Events, Floats, Folded, Ints, States, fold
from features.store import POSITION, STAMP, offline_folder
from infra.progress import Silent, Task
from ingestion.history import History
from ingestion.tables import BACKFILLED, between

CHUNK = 200_000
"""Events folded, and rows written, at a time: it bounds the memory."""


@dataclass(frozen=True)
class Replayed:
    """What a replay of a domain gave."""

    domain: str
    events: int
    states: Mapping[str, tuple[list[str], States]]
    """Ids and final states of every entity kind, by its name."""


@dataclass(frozen=True)
class FeatureMatrix:
    """Features of decided events, as known at each of them."""

    ids: pa.ChunkedArray
    names: tuple[str, ...]
    values: Floats
    """Shape (n, names), in the order of the events that were asked for."""


@dataclass(frozen=True)
class EventLog:
    """All events of a domain: first the decided ones, then the settled ones, each in their table's order."""

    domain: Domain
    rows: pa.Table
    kind: Ints
    values: Floats

    @property
    def time_us(self) -> Ints:
        """Event times."""
        found: Ints = self.rows["event_time_us"].to_numpy()
        return found

    @property
    def decided(self) -> pa.Table:
        """Rows of the decided events."""
        return self.rows.slice(0, int((self.kind == 0).sum()))

    def __len__(self) -> int:
        return len(self.kind)


@dataclass(frozen=True)
class _Chunk:
    """Events that are folded together, in the order of the stream."""

    events: Ints
    live: bool
    """Whether they came by the stream, not by a backfill."""


@dataclass(frozen=True)
class _Lane:
    """The events of a log in the order of one entity kind's stream."""

    entity: Entity
    ids: pa.Array
    code: Ints
    """Row of `ids` for every event of the log."""
    order: Ints
    """Events in the order of the stream."""
    position: Ints
    backfilled: int
    """How many events, at the beginning of `order`, came by a backfill."""

    def chunks(self) -> Iterator["_Chunk"]:
        """Events in order, some at a time, never backfilled ones beside others."""
        for live, part in enumerate((self.order[: self.backfilled], self.order[self.backfilled :])):
            for start in range(0, len(part), CHUNK):
                yield _Chunk(part[start : start + CHUNK], bool(live))


def refresh(home: Path, history: History, name: str, task: Task | None = None) -> Replayed:
    """Replay a domain: write its state rows and its spine anew, and give the final states.

    To be called inside `alone`, which also keeps the rows while they are read.

    Args:
        home: the folder that Feast's state rows lie in.
        history: what is replayed.
        name: of the domain, such as `fraud`.
        task: told of every event folded; there are `events` × entity kinds of them.
    """
    mine = domain(name)
    log = log_of(mine, history)
    told = task or Silent()
    told.expect(len(log) * len(mine.features.entities))
    stamps, states = {}, {}
    for entity in mine.features.entities:
        lane = _lane(log, entity)
        final = States.cold(entity, len(lane.ids))
        with _replacing(offline_folder(home, entity)) as folder:
            stamps[entity.name] = _write_states(log, lane, final, folder, told)
        states[entity.name] = (lane.ids.to_pylist(), final)
    with _replacing(_spine_folder(home, name)) as folder:
        _write_spine(log, stamps, folder)
    return Replayed(name, len(log), states)


def final_states(history: History, name: str) -> Replayed:
    """The states after all that the history has of a domain; nothing is written."""
    mine = domain(name)
    log = log_of(mine, history)
    states = {}
    for entity in mine.features.entities:
        lane = _lane(log, entity)
        final = States.cold(entity, len(lane.ids))
        for _ in _folded(log, lane, final, "before"):
            continue  # `final` is folded in place
        states[entity.name] = (lane.ids.to_pylist(), final)
    return Replayed(name, len(log), states)


def forget(home: Path, entity: Entity, name: str, ids: Sequence[str]) -> int:
    """Take an entity's rows out of its states and its domain's spine; gives how many. Others stay.

    Each file is replaced at once, by one without these rows.

    Args:
        home: the folder that Feast's state rows lie in.
        entity: whose rows.
        name: of the domain, such as `fraud`.
        ids: by which the entity is known.
    """
    with alone(home, name):
        folders = offline_folder(home, entity), _spine_folder(home, name)
        files = [file for folder in folders for file in folder.glob("*.parquet")]
        return sum(_without(file, entity.key, pa.array(list(ids), pa.string())) for file in files)


def _without(file: Path, key: str, ids: pa.Array) -> int:
    gone = sum(
        pc.sum(pc.is_in(part[key], ids)).as_py() or 0
        for part in pq.ParquetFile(file).iter_batches(CHUNK, columns=[key])
    )
    if not gone:
        return 0
    opened, beside = pq.ParquetFile(file), file.with_name(f".{file.name}.tmp")
    with pq.ParquetWriter(beside, opened.schema_arrow, compression="lz4", use_dictionary=[key]) as writer:
        for part in opened.iter_batches(CHUNK):
            writer.write_batch(part.filter(pc.invert(pc.is_in(part[key], ids))))
    beside.replace(file)
    return int(gone)


def spine(home: Path, name: str, start_us: int | None = None, end_us: int | None = None) -> pa.Table:
    """One row a decided event with event time in [start_us, end_us), in order of event time.

    Columns: the event's key, `event_time_us`, the entities' keys, `<entity>_stamp_us` (the event's stamp; the
    state before it is Feast's row strictly before), the request columns.
    """
    files = sorted(str(file) for file in _spine_folder(home, name).glob("*.parquet"))
    rows = ds.dataset(files, schema=_spine_schema(domain(name)), format="parquet")
    return rows.to_table(filter=between(start_us, end_us))


type_of_columns = Mapping[str, Floats]


def matrix_of(
    features: FeatureSet,
    decided: pa.Table,
    settled: pa.Table,
    known: Callable[[type_of_columns], type_of_columns] = dict,
    before: Mapping[str, Floats] | None = None,
) -> FeatureMatrix:
    """Features of every decided event, by the fold alone, without a store.

    Args:
        features: of the domain whose events these are.
        decided: rows of history (payments, quotes) with their positions.
        settled: rows of history (labels, outcomes) with theirs.
        known: what of the request columns features may know; all of them if not given.
        before: what `states_before` gave, if that was asked for already.
    """
    log = event_log(domain(features.domain), decided, settled)
    before = _before(log) if before is None else before
    request, at_s = (
        known(log.domain.request(log.decided)),
        log.decided["event_time_us"].to_numpy() / MICROSECONDS,
    )
    values = np.empty((len(at_s), len(features.names)))
    for start in range(0, len(at_s), CHUNK):
        part = slice(start, start + CHUNK)
        states = {name: rows[part] for name, rows in before.items()}
        values[part] = features.matrix(
            states, {name: each[part] for name, each in request.items()}, at_s[part]
        )
    return FeatureMatrix(log.decided[log.domain.key], features.names, values)


def states_before(features: FeatureSet, decided: pa.Table, settled: pa.Table) -> dict[str, Floats]:
    """State of each decided event's entities before it, shape (n, columns), by entity name.

    The arguments and the order are those of `matrix_of`.
    """
    return _before(event_log(domain(features.domain), decided, settled))


def log_of(mine: Domain, history: History) -> EventLog:
    """All events that the history has of a domain."""
    decided = history.read(mine.decided, columns=_columns(mine, (mine.key, *mine.decided_columns)))
    settled = history.read(mine.settled, columns=_columns(mine, mine.settled_columns))
    return event_log(mine, decided, settled)


def event_log(mine: Domain, decided: pa.Table, settled: pa.Table) -> EventLog:
    """Rows of the two tables as one log; columns that the domain does not take are left out."""
    decided = decided.select(_columns(mine, (mine.key, *mine.decided_columns)))
    settled = settled.select(_columns(mine, mine.settled_columns))
    rows = pa.concat_tables([decided, settled], promote_options="default")
    kind = np.repeat(np.array([0, 1]), [decided.num_rows, settled.num_rows])
    return EventLog(mine, rows, kind, mine.values(kind, rows))


def _columns(mine: Domain, own: tuple[str, ...]) -> list[str]:
    entities = mine.features.entities
    places = [f"{entity.name}_{what}" for entity in entities for what in ("partition", "position")]
    return [*own, "event_time_us", *(entity.key for entity in entities), *places]


def _lane(log: EventLog, entity: Entity) -> _Lane:
    coded = log.rows[entity.key].combine_chunks().dictionary_encode()
    partition = log.rows[f"{entity.name}_partition"].to_numpy()
    position = log.rows[f"{entity.name}_position"].to_numpy()
    return _Lane(
        entity=entity,
        ids=coded.dictionary,
        code=coded.indices.to_numpy().astype(np.int64),
        order=np.lexsort((position, partition)),
        position=position,
        backfilled=int((partition == BACKFILLED).sum()),
    )


def _folded(
    log: EventLog, lane: _Lane, states: States, keep: Literal["before", "after"]
) -> Iterator[tuple[_Chunk, Folded]]:
    """Fold in the order of the stream, chunk by chunk; a stream's positions begin anew after the backfill."""
    for chunk in lane.chunks():
        at = chunk.events
        events = Events(log.kind[at], log.time_us[at], lane.code[at], lane.position[at], log.values[at])
        yield chunk, fold(lane.entity, states, events, keep)
        if not chunk.live and at[-1] == lane.order[lane.backfilled - 1]:
            states.position[:] = NEVER_FOLDED


def _states_before(log: EventLog, lane: _Lane) -> Floats:
    """State before every decided event, in the log's order, shape (n, columns)."""
    n = log.decided.num_rows
    before = np.empty((n, len(lane.entity.columns)))
    for chunk, folded in _folded(log, lane, States.cold(lane.entity, len(lane.ids)), "before"):
        decided = chunk.events < n
        before[chunk.events[decided]] = folded.seen[decided]
    return before


def _before(log: EventLog) -> dict[str, Floats]:
    return {entity.name: _states_before(log, _lane(log, entity)) for entity in log.domain.features.entities}


def _write_states(log: EventLog, lane: _Lane, states: States, folder: Path, task: Task) -> Ints:
    """Write the state after every event; gives every event's stamp, in the log's order."""
    stamps = np.empty(len(log), np.int64)
    schema, coded = _state_schema(lane.entity), [lane.entity.key]
    with pq.ParquetWriter(
        folder / "states.parquet", schema, compression="lz4", use_dictionary=coded
    ) as writer:
        for chunk, folded in _folded(log, lane, states, "after"):
            stamps[chunk.events] = folded.stamp_us
            writer.write_table(_state_rows(lane, chunk, folded, schema))
            task.advance(len(chunk.events))
    return stamps


def _state_schema(entity: Entity) -> pa.Schema:
    columns = [pa.field(column, pa.float64()) for column in entity.columns]
    stamp = pa.field(STAMP, pa.timestamp("us", tz="UTC"))
    return pa.schema([pa.field(entity.key, pa.string()), stamp, pa.field(POSITION, pa.int64()), *columns])


def _state_rows(lane: _Lane, chunk: _Chunk, folded: Folded, schema: pa.Schema) -> pa.Table:
    """A backfilled event has no position in the stream."""
    fresh = np.flatnonzero(folded.fresh)
    at = chunk.events[fresh]
    position = lane.position[at] if chunk.live else np.full(len(at), NEVER_FOLDED)
    columns = np.ascontiguousarray(folded.seen[fresh].T)
    return pa.table(
        [lane.ids.take(pa.array(lane.code[at])), folded.stamp_us[fresh], position, *columns], schema=schema
    )


def _spine_schema(mine: Domain) -> pa.Schema:
    entities = mine.features.entities
    return pa.schema(
        [
            pa.field(mine.key, pa.string()),
            pa.field("event_time_us", pa.int64()),
            *(pa.field(entity.key, pa.string()) for entity in entities),
            *(pa.field(f"{entity.name}_stamp_us", pa.int64()) for entity in entities),
            *(pa.field(name, pa.float64()) for name in mine.features.request),
        ]
    )


def _write_spine(log: EventLog, stamps: Mapping[str, Ints], folder: Path) -> None:
    decided, schema = log.decided, _spine_schema(log.domain)
    arrays = dict(log.domain.request(decided)) | {
        f"{name}_stamp_us": each[: decided.num_rows] for name, each in stamps.items()
    }
    columns = [arrays[name] if name in arrays else decided[name] for name in schema.names]
    order = np.argsort(log.decided["event_time_us"].to_numpy(), kind="stable")
    rows = pa.table(columns, schema=schema).take(order)
    pq.write_table(rows, folder / "events.parquet", compression="lz4", row_group_size=CHUNK)


def _spine_folder(home: Path, name: str) -> Path:
    return home / "offline" / f"{name}_events"


@contextmanager
def alone(home: Path, name: str) -> Iterator[None]:
    """Nobody else refreshes a domain's rows inside the block, so that they can be read in peace."""
    lock = home / f"{name}.replay.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


@contextmanager
def _replacing(folder: Path) -> Iterator[Path]:
    """A new folder that takes the old one's place when it is complete."""
    new, old = folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")
    shutil.rmtree(new, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
    new.mkdir(parents=True)
    yield new
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
