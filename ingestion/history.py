"""The history: all that was taken, as Parquet by day of event time. Only this module reads or writes it.

`<table>/day=YYYY-MM-DD/<name>.parquet`; a file appears whole, by rename. A name tells what the file holds:

* `p<partition>-<first>-<last>`: all rows of that day which the log's partition has from first to last.
  Rows that come again, because a process died before it could say that it was done, are known by it.
* `backfill-<hash>`: rows of a backfill, by content. They have partition -1.
* `compact-<hash>`: what several files held. It names them, so that a reader takes them only once even if
  the process died before it could delete them.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from infra.files import synced
from ingestion.reach import Flags, Ints, Reach
from ingestion.streams import PRODUCT_EVENT, SCORED_EVENT

TRANSACTIONS, LABELS, QUOTES, OUTCOMES, DECISIONS = (
    "transactions",
    "labels",
    "quotes",
    "outcomes",
    "decisions",
)
SCORES = "scores"
"""What a challenger in shadow says of decisions; in a folder of its own, not beside the other tables."""
BACKFILLED = -1
"""Partition of rows that came by a backfill; their position is a running number in order of time."""
FROM_THE_START = -(2**62)
"""Less than any position."""

DAY_US = 86_400 * 1_000_000
COMPACTED_ROWS = 10_000
SMALL_ROWS = COMPACTED_ROWS // 2
"""A file of fewer rows may be merged with others; one of as many stays as it is."""
PIECE_ROWS = 1_000
"""Of a merged file that are in memory together."""
STALE_S = 3_600.0
"""A temporary file this old belongs to a process that died."""

_EPOCH = date(1970, 1, 1)
_METADATA = b"tollgate"
_LOG_NAME = re.compile(r"p(\d+)-(\d+)-(\d+)\.parquet")
_COMPACT_NAME = re.compile(r"compact-(\d+)-[0-9a-f]+\.parquet")
_READ_AGAIN = 5
_Found = TypeVar("_Found")


def _of(schema: pa.Schema, names: str, **more: pa.DataType) -> pa.Schema:
    return pa.schema(
        [*(schema.field(name) for name in names.split()), *(pa.field(*each) for each in more.items())]
    )


_TERMINAL = {"terminal_partition": pa.int32(), "terminal_position": pa.int64()}
_PRODUCT = {"product_partition": pa.int32(), "product_position": pa.int64()}

SCHEMAS: dict[str, pa.Schema] = {
    TRANSACTIONS: _of(
        SCORED_EVENT,
        "transaction_id event_time_us customer_id terminal_id amount currency channel country device_id ip "
        "merchant_category latitude longitude attributes appended_ms customer_partition customer_position",
        **_TERMINAL,
    ),
    LABELS: _of(
        SCORED_EVENT,
        "transaction_id event_time_us customer_id terminal_id amount label source paid_at_us appended_ms "
        "customer_partition customer_position",
        **_TERMINAL,
    ),
    QUOTES: _of(
        PRODUCT_EVENT,
        "quote_id event_time_us product_id segment objective price currency unit_cost list_price context "
        "exploration propensity held fraud_probability model_version feature_names features appended_ms",
        **_PRODUCT,
    ),
    OUTCOMES: _of(
        PRODUCT_EVENT,
        "quote_id event_time_us product_id price units quoted_at_us appended_ms",
        **_PRODUCT,
    ),
    DECISIONS: pa.schema(
        {
            "transaction_id": pa.string(),
            "event_time_us": pa.int64(),
            "customer_id": pa.string(),
            "terminal_id": pa.string(),
            "decision": pa.string(),
            "policy_decision": pa.string(),  # before the control group was drawn
            "propensity": pa.float64(),
            "control_group": pa.bool_(),
            "score": pa.float64(),
            "model_version": pa.string(),
            "policy_version": pa.string(),
            "feature_names": pa.list_(pa.string()),
            "features": pa.list_(pa.float64()),  # the vector that was used; null = NaN
            "json": pa.string(),  # the whole decision as it was published
            "appended_ms": pa.int64(),
            "terminal_partition": pa.int32(),  # place of its payment; null: not told
            "terminal_position": pa.int64(),
            "decision_partition": pa.int32(),
            "decision_position": pa.int64(),
        }
    ),
    SCORES: pa.schema(
        {
            "id": pa.string(),  # of the transaction or quote
            "event_time_us": pa.int64(),
            "score": pa.float64(),
            "champion_score": pa.float64(),  # by the champion of the moment when it was scored
            "champion_version": pa.string(),
            "decided_by": pa.string(),  # the version that truly decided
            "partition": pa.int32(),
            "position": pa.int64(),
        }
    ),
}
"""Columns of every table. `event_time_us` is microseconds since 1970 UTC; of a label, its arrival."""

PLACES = {
    TRANSACTIONS: ("terminal_partition", "terminal_position"),
    LABELS: ("terminal_partition", "terminal_position"),
    QUOTES: ("product_partition", "product_position"),
    OUTCOMES: ("product_partition", "product_position"),
    DECISIONS: ("decision_partition", "decision_position"),
    SCORES: ("partition", "position"),
}
"""Columns that say where in the log a row was read."""

_CUSTOMER = ("customer_partition", "customer_position")
ORIGINS = {TRANSACTIONS: _CUSTOMER, LABELS: _CUSTOMER, DECISIONS: ("terminal_partition", "terminal_position")}
"""Columns that say where in an earlier stream the event lies that a row was made of."""


@dataclass(frozen=True)
class Segment:
    """What a file holds of one partition of the log."""

    first: int
    last: int
    origins: Mapping[int, int]
    """Greatest position of each partition of the stream that its rows were made of."""


@dataclass(frozen=True)
class _Contents:
    """What a file says about itself."""

    segments: Mapping[int, Segment]
    replaces: frozenset[str]


class History:
    """Tables in a folder. Several processes may append; readers never wait."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._greatest: dict[tuple[str, str], dict[int, int]] = {}
        self._settled: dict[tuple[Path, int], int] = {}
        """When a folder that had nothing to merge was changed last, ns."""
        self._reach: Mapping[str, Reach] = {}

    @property
    def folder(self) -> Path:
        """Where it is."""
        return self._folder

    def reach(self, tables: Sequence[str]) -> dict[str, Reach]:
        """How far each of the tables reaches now."""
        return {table: Reach.of(*_places(table, self._placed(table))) for table in tables}

    def upto(self, reach: Mapping[str, Reach]) -> "History":
        """The same as it was when it reached so far: what came later is not read, a late event neither.

        Rows of these tables come in order of day, partition and position, whatever file they lie in.
        """
        past = History(self._folder)
        past._reach = reach
        return past

    def _placed(self, table: str) -> pa.Table:
        return self.read(table, columns=["event_time_us", *PLACES[table]])

    def append(self, table: str, rows: pa.Table) -> int:
        """Add rows of a table, each once, and give how many were new.

        Rows of one partition of the log must come in its order, as they do from a consumer.
        """
        rows = rows.select(SCHEMAS[table].names).cast(SCHEMAS[table]).combine_chunks()
        return sum(self._append(table, *part) for part in _parts(table, rows))

    def _append(self, table: str, day: str, partition: int, rows: pa.Table) -> int:
        folder = self._folder / table / f"day={day}"
        if partition == BACKFILLED:
            _write(folder, f"backfill-{_digest(rows)}.parquet", rows, _contents(table, rows))
            return int(rows.num_rows)
        greatest = self._greatest_in(table, day)
        rows = rows.filter(pc.greater(rows[PLACES[table][1]], greatest.get(partition, FROM_THE_START)))
        if rows.num_rows:
            contents = _contents(table, rows)
            segment = contents.segments[partition]
            _write(folder, f"p{partition}-{segment.first}-{segment.last}.parquet", rows, contents)
            greatest[partition] = segment.last
        return int(rows.num_rows)

    def backfill(self, tables: Mapping[str, pa.Table]) -> None:
        """Add backfilled rows of several tables, all or none; the same rows again change nothing.

        A process that dies leaves either nothing, or files that are complete and only need to be moved into
        place: `repair` does so.
        """
        staged = self._folder / f".staged-{uuid.uuid4().hex}"
        for table, rows in tables.items():
            rows = rows.select(SCHEMAS[table].names).cast(SCHEMAS[table]).combine_chunks()
            for day, _, part in _parts(table, rows):
                folder = staged / table / f"day={day}"
                _write(folder, f"backfill-{_digest(part)}.parquet", part, _contents(table, part))
        if staged.exists():
            complete = staged.rename(staged.with_name(staged.name.replace("staged", "complete")))
            synced(self._folder)
            _move(complete, self._folder)

    def _greatest_in(self, table: str, day: str) -> dict[int, int]:
        """Last position that a day has of each partition; kept, as our partitions have no other writer."""
        if (table, day) not in self._greatest:
            self._greatest[table, day] = self.reached(table, day)
        return self._greatest[table, day]

    def forget_positions(self) -> None:
        """Look at the files again: another process may have written meanwhile."""
        self._greatest.clear()

    def read(
        self,
        table: str,
        start_us: int | None = None,
        end_us: int | None = None,
        columns: Sequence[str] | None = None,
    ) -> pa.Table:
        """Rows with event time in [start_us, end_us), by day, without any other order."""
        names = SCHEMAS[table].names if columns is None else list(columns)
        there = table in self._reach
        placed = list(dict.fromkeys([*names, "event_time_us", *PLACES[table]])) if there else names
        days = self.days(table, start_us, end_us)
        parts = [_steady(partial(self._scan, table, day, between(start_us, end_us), placed)) for day in days]
        rows = pa.concat_tables([empty(table).select(placed), *parts])
        return _as_it_was(table, rows, self._reach[table]).select(names) if there else rows

    def _scan(self, table: str, day: str, wanted: ds.Expression | None, columns: list[str]) -> pa.Table:
        files = [str(file) for file in self._files(table, day)]
        return ds.dataset(files, schema=SCHEMAS[table], format="parquet").to_table(columns, wanted)

    def days(self, table: str, start_us: int | None = None, end_us: int | None = None) -> list[str]:
        """Days (YYYY-MM-DD) of the table that may have event times in [start_us, end_us), in order."""
        first = "" if start_us is None else day_of(start_us)
        last = "9999-99-99" if end_us is None else day_of(end_us - 1)
        found = (folder.name.removeprefix("day=") for folder in (self._folder / table).glob("day=*"))
        return sorted(day for day in found if first <= day <= last)

    def reached(self, table: str, day: str) -> dict[int, int]:
        """Greatest position that a day has now of each partition of the log."""
        return _steady(lambda: _last_positions(self._folder / table / f"day={day}"))

    def _files(self, table: str, day: str) -> list[Path]:
        return _current(self._folder / table / f"day={day}")

    def last_backfilled(self) -> int:
        """Greatest position that a backfill has given; -1 before the first."""
        return _steady(self._last_backfilled)

    def _last_backfilled(self) -> int:
        tables = (TRANSACTIONS, LABELS, QUOTES, OUTCOMES)
        files = (file for table in tables for day in self.days(table) for file in self._files(table, day))
        segments = (_contents_of(file).segments.get(BACKFILLED) for file in files)
        return max((segment.last for segment in segments if segment), default=-1)

    def origins(self, tables: Sequence[str], partition: int, before: int) -> dict[int, int]:
        """Greatest position of each partition of origin that a partition of the log has before a position.

        A worker that died between sending and committing sends the same events again; theirs are not greater.
        """
        return _steady(lambda: self._origins(tables, partition, before))

    def _origins(self, tables: Sequence[str], partition: int, before: int) -> dict[int, int]:
        greatest: dict[int, int] = {}
        for table in tables:
            for day in self.days(table):
                for file in self._files(table, day):
                    _raise(greatest, _origins_before(table, file, partition, before))
        return greatest

    def repair(self) -> None:
        """Finish what a process that died left behind: backfills, compacted and temporary files."""
        with self._alone():
            for complete in self._folder.glob(".complete-*"):
                _move(complete, self._folder)
            for staged in self._folder.glob(".staged-*"):
                if _stale(staged):
                    shutil.rmtree(staged)
            for folder in self._folder.glob("*/day=*"):
                _repair(folder)

    def compact(self, table: str, before_day: str | None = None, at_least: int = 8) -> int:
        """Make large files of a table's small ones, wherever a day has `at_least`; gives how many went.

        No file gets more than `COMPACTED_ROWS` rows, so that this takes little memory however long a day is.

        Args:
            table: its name.
            before_day: only days before this; None: all.
            at_least: so many small files of a day make it worth while.
        """
        with self._alone():
            days = [day for day in self.days(table) if before_day is None or day < before_day]
            return sum(self._compact(table, self._folder / table / f"day={day}", at_least) for day in days)

    def _compact(self, table: str, folder: Path, at_least: int) -> int:
        changed_ns = folder.stat().st_mtime_ns
        if self._settled.get((folder, at_least)) == changed_ns:
            return 0
        counts = {file: _rows(file) for file in _repair(folder)}
        small = {file: rows for file, rows in counts.items() if rows < SMALL_ROWS}
        if len(small) < at_least:
            self._settled[folder, at_least] = changed_ns
            return 0
        fewest = min(2, at_least)
        groups = (group for group in _packed(small) if len(group) >= fewest)
        return sum(_merge(table, folder, group, sum(small[file] for file in group)) for group in groups)

    def rewrite(self, table: str, changed: Callable[[pa.Table], pa.Table]) -> int:
        """Put other rows in place of a table's, file by file; gives how many are gone or not as they were.

        A file keeps its name and what it says about itself, so what it no longer has is still known when it
        comes again. Each file is replaced at once: who dies leaves some as they were, and may begin anew.

        Args:
            table: its name.
            changed: the rows of a file as they shall be, without a row too many; the very same if all stay.
        """
        self.repair()
        with self._alone():
            folders = [self._folder / table / f"day={day}" for day in self.days(table)]
            return sum(_rewrite(file, changed) for folder in folders for file in _current(folder))

    def prune(self, table: str, before_day: str) -> list[str]:
        """Delete all days before a day; gives them."""
        with self._alone():
            old = [day for day in self.days(table) if day < before_day]
            for day in old:
                shutil.rmtree(self._folder / table / f"day={day}")
        return old

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One process at a time compacts or repairs."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / ".compacting").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _steady(look: Callable[[], _Found]) -> _Found:
    """What is found in files; looked for again if some of them were merged meanwhile."""
    for _ in range(_READ_AGAIN):
        try:
            return look()
        except FileNotFoundError:
            continue
    return look()


def day_of(time_us: int) -> str:
    """Day in UTC.

    >>> day_of(-1), day_of(0)
    ('1969-12-31', '1970-01-01')
    """
    return (_EPOCH + timedelta(days=time_us // DAY_US)).isoformat()


def day_start_us(day: str) -> int:
    """First microsecond of a day in UTC.

    >>> day_start_us("1970-01-02") == DAY_US
    True
    """
    return (date.fromisoformat(day) - _EPOCH).days * DAY_US


def empty(table: str) -> pa.Table:
    """No rows of a table."""
    return SCHEMAS[table].empty_table()


def completed(table: str, rows: pa.Table) -> pa.Table:
    """Rows with all columns of the table: what they lack is null, what the table lacks is dropped."""
    arrays = [
        rows[field.name].cast(field.type)
        if field.name in rows.column_names
        else pa.nulls(rows.num_rows, field.type)
        for field in SCHEMAS[table]
    ]
    return pa.table(arrays, schema=SCHEMAS[table])


def _places(table: str, rows: pa.Table) -> tuple[Ints, Ints, Ints]:
    """Day, partition and position of each row."""
    partition, position = (rows[name].to_numpy().astype(np.int64) for name in PLACES[table])
    return rows["event_time_us"].to_numpy() // DAY_US, partition, position


def _as_it_was(table: str, rows: pa.Table, reach: Reach) -> pa.Table:
    day, partition, position = _places(table, rows)
    held: Flags = reach.holds(day, partition, position)
    order = np.lexsort((position, partition, day))
    return rows.take(pa.array(order[held[order]]))


def _parts(table: str, rows: pa.Table) -> Iterator[tuple[str, int, pa.Table]]:
    """Rows by day and partition, days in order."""
    day = rows["event_time_us"].to_numpy() // DAY_US
    partition = rows[PLACES[table][0]].to_numpy()
    for one_day in np.unique(day).tolist():
        mine = np.flatnonzero(day == one_day) if len(rows) else day
        for one in np.unique(partition[mine]).tolist():
            yield day_of(one_day * DAY_US), one, rows.take(pa.array(mine[partition[mine] == one]))


def between(start_us: int | None, end_us: int | None) -> ds.Expression | None:
    """Filter of event times in [start_us, end_us); None if neither is given."""
    conditions = []
    if start_us is not None:
        conditions.append(ds.field("event_time_us") >= start_us)
    if end_us is not None:
        conditions.append(ds.field("event_time_us") < end_us)
    return (
        None if not conditions else conditions[0] if len(conditions) == 1 else conditions[0] & conditions[1]
    )


def _digest(rows: pa.Table) -> str:
    """Of the rows' values; 16 hex digits."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema.remove_metadata()) as writer:
        writer.write_table(rows.replace_schema_metadata(None).combine_chunks())
    return hashlib.sha256(sink.getvalue()).hexdigest()[:16]


def _write(folder: Path, name: str, rows: pa.Table, contents: _Contents) -> None:
    _write_all(folder, name, [rows], rows.schema, contents)


def _write_all(
    folder: Path, name: str, parts: Iterable[pa.Table], schema: pa.Schema, contents: _Contents
) -> None:
    """Put a file into place whole: a reader, and a machine that loses power, has all of it or nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{name}.{uuid.uuid4().hex}.tmp"
    try:
        with temporary.open("wb") as file:
            told = schema.with_metadata({_METADATA: _encoded(contents)})
            with pq.ParquetWriter(file, told, compression="zstd") as writer:
                for part in parts:
                    writer.write_table(part)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(folder / name)
    except OSError:  # on a full disk every byte counts
        temporary.unlink(missing_ok=True)
        raise
    synced(folder)


def _contents(table: str, rows: pa.Table) -> _Contents:
    partition, position = (rows[name].to_numpy() for name in PLACES[table])
    segments = {}
    for one in np.unique(partition).tolist():
        mine = rows.filter(pa.array(partition == one))
        held = position[partition == one]
        segments[one] = Segment(int(held.min()), int(held.max()), _origins(table, mine))
    return _Contents(segments, frozenset())


def _origins(table: str, rows: pa.Table) -> dict[int, int]:
    if table not in ORIGINS:
        return {}
    partition, position = ORIGINS[table]
    found = rows.group_by(partition).aggregate([(position, "max")])
    greatest = zip(found[partition].to_pylist(), found[f"{position}_max"].to_pylist(), strict=True)
    return {each: reached for each, reached in greatest if each is not None}


def _encoded(contents: _Contents) -> bytes:
    segments = {key: [each.first, each.last, dict(each.origins)] for key, each in contents.segments.items()}
    return json.dumps({"segments": segments, "replaces": sorted(contents.replaces)}).encode()


def _contents_of(file: Path) -> _Contents:
    written = json.loads(pq.read_schema(file).metadata[_METADATA])
    segments = {
        int(key): Segment(first, last, {int(each): at for each, at in origins.items()})
        for key, (first, last, origins) in written["segments"].items()
    }
    return _Contents(segments, frozenset(written["replaces"]))


def _current(folder: Path) -> list[Path]:
    """Files of a day, without those that another file has replaced."""
    return _listed(folder)[0]


def _listed(folder: Path) -> tuple[list[Path], list[Path]]:
    """Files of a day that count, and those that another file has replaced."""
    files = _of_one_moment(folder)
    compacted = [file for file in files if file.name.startswith("compact-")] if len(files) > 1 else []
    replaced = {name for file in compacted for name in _contents_of(file).replaces}
    current = [each for each in files if each.name not in replaced]
    return current, [each for each in files if each.name in replaced]


def _of_one_moment(folder: Path) -> list[Path]:
    """Its files, in order: a long look might show neither what was merged meanwhile nor what came of it."""
    files: list[Path] = []
    for _ in range(_READ_AGAIN if folder.exists() else 0):
        changed_ns = folder.stat().st_mtime_ns
        files = sorted(folder.glob("*.parquet"))
        if folder.stat().st_mtime_ns == changed_ns:
            break
    return files


def _last_positions(folder: Path) -> dict[int, int]:
    greatest: dict[int, int] = {}
    for file in _current(folder):
        if named := _LOG_NAME.fullmatch(file.name):
            _raise(greatest, {int(named[1]): int(named[3])})
        elif file.name.startswith("compact-"):
            _raise(greatest, {key: each.last for key, each in _contents_of(file).segments.items()})
    return greatest


def _origins_before(table: str, file: Path, partition: int, before: int) -> Mapping[int, int]:
    segment = _contents_of(file).segments.get(partition)
    if segment is None or segment.first >= before:
        return {}
    if segment.last < before:
        return segment.origins
    of, at = PLACES[table]
    wanted = (pc.field(of) == partition) & (pc.field(at) < before)
    return _origins(table, pq.read_table(file, columns=[*ORIGINS[table], of, at], filters=wanted))


def _raise(greatest: dict[int, int], found: Mapping[int, int]) -> None:
    for key, value in found.items():
        greatest[key] = max(value, greatest.get(key, value))


def _repair(folder: Path) -> list[Path]:
    """Delete what other files have replaced; gives what counts."""
    current, replaced = _listed(folder)
    for file in replaced:
        file.unlink()
    for file in folder.glob(".*.tmp"):
        if _stale(file):
            file.unlink()
    return current


def _rows(file: Path) -> int:
    """So many rows a file has, or had before some were taken out."""
    named = _COMPACT_NAME.fullmatch(file.name)
    return int(named[1]) if named else int(pq.read_metadata(file).num_rows)


def _rewrite(file: Path, changed: Callable[[pa.Table], pa.Table]) -> int:
    rows = pq.ParquetFile(file).read()
    now = changed(rows)
    if now is rows:
        return 0
    _write(file.parent, file.name, now, _contents_of(file))
    if now.num_rows < rows.num_rows:
        return int(rows.num_rows - now.num_rows)
    return int(rows.num_rows - pc.sum(_same(rows, now)).as_py())


def _same(rows: pa.Table, now: pa.Table) -> pa.BooleanArray:
    """Which rows have the same texts as before; nothing else is ever changed."""
    same = pa.array(np.ones(rows.num_rows, np.bool_))
    for field in rows.schema:
        if pa.types.is_string(field.type):
            before, after = rows[field.name].fill_null(""), now[field.name].fill_null("")
            same = pc.and_(same, pc.equal(before, after).combine_chunks())
    return same


def _stale(path: Path) -> bool:
    return time.time() - path.stat().st_mtime > STALE_S


def _move(complete: Path, folder: Path) -> None:
    """Move every file to its place; whoever dies here is followed by another who goes on."""
    for file in sorted(complete.rglob("*.parquet")):
        place = folder / file.relative_to(complete)
        place.parent.mkdir(parents=True, exist_ok=True)
        file.rename(place)
        synced(place.parent)
    shutil.rmtree(complete)


def _packed(counts: Mapping[Path, int]) -> Iterator[list[Path]]:
    """Files of so many rows in groups of at most `COMPACTED_ROWS`."""
    group: list[Path] = []
    held = 0
    for file, rows in counts.items():
        if held + rows > COMPACTED_ROWS:
            yield group
            group, held = [], 0
        group.append(file)
        held += rows
    yield group


def _merged(files: Sequence[Path]) -> _Contents:
    """What the files say about themselves, together: they may know of rows that were taken out since."""
    segments: dict[int, Segment] = {}
    for file in files:
        for key, each in _contents_of(file).segments.items():
            known = segments.get(key, each)
            origins = dict(known.origins)
            _raise(origins, each.origins)
            segments[key] = Segment(min(known.first, each.first), max(known.last, each.last), origins)
    return _Contents(segments, frozenset(file.name for file in files))


def _merge(table: str, folder: Path, files: Sequence[Path], rows: int) -> int:
    contents = _merged(files)
    name = hashlib.sha256("\0".join(sorted(contents.replaces)).encode()).hexdigest()[:16]
    _write_all(folder, f"compact-{rows}-{name}.parquet", _pieces(table, files), SCHEMAS[table], contents)
    for file in files:
        file.unlink(missing_ok=True)
    return len(files)


def _pieces(table: str, files: Sequence[Path]) -> Iterator[pa.Table]:
    """The files' rows, file by file, with few of them in memory: who merges has little of it."""
    held: list[pa.Table] = []
    for file in files:
        held.append(completed(table, pq.ParquetFile(file).read(use_threads=False)))
        if sum(each.num_rows for each in held) >= PIECE_ROWS or file == files[-1]:
            yield pa.concat_tables(held)
            held = []
