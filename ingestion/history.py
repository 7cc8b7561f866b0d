"""The history: all that was taken, as Parquet by day of event time.

`<table>/day=YYYY-MM-DD/<name>.parquet`. The columns are in `tables`, what a file tells in `history_files`,
and `history_upkeep` clears away and merges; nobody else reads or writes it.
"""

import fcntl
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from infra.files import synced
from ingestion.history_files import (
    READ_AGAIN,
    contents_of,
    current,
    last_positions,
    origins_before,
    rise,
    write_backfilled,
    write_logged,
)
from ingestion.history_upkeep import compacted, moved, repaired, rewritten, stale
from ingestion.reach import Flags, Ints, Reach
from ingestion.tables import (
    BACKFILLED,
    DAY_US,
    FROM_THE_START,
    LABELS,
    OUTCOMES,
    PLACES,
    QUOTES,
    SCHEMAS,
    TRANSACTIONS,
    between,
    day_of,
    empty,
)

_Found = TypeVar("_Found")


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
            write_backfilled(table, folder, rows)
            return int(rows.num_rows)
        greatest = self._greatest_in(table, day)
        rows = rows.filter(pc.greater(rows[PLACES[table][1]], greatest.get(partition, FROM_THE_START)))
        if rows.num_rows:
            greatest[partition] = write_logged(table, folder, rows)
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
                write_backfilled(table, staged / table / f"day={day}", part)
        if staged.exists():
            complete = staged.rename(staged.with_name(staged.name.replace("staged", "complete")))
            synced(self._folder)
            moved(complete, self._folder)

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
        return _steady(lambda: last_positions(self._folder / table / f"day={day}"))

    def _files(self, table: str, day: str) -> list[Path]:
        return current(self._folder / table / f"day={day}")

    def last_backfilled(self) -> int:
        """Greatest position that a backfill has given; -1 before the first."""
        return _steady(self._last_backfilled)

    def _last_backfilled(self) -> int:
        tables = (TRANSACTIONS, LABELS, QUOTES, OUTCOMES)
        files = (file for table in tables for day in self.days(table) for file in self._files(table, day))
        segments = (contents_of(file).segments.get(BACKFILLED) for file in files)
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
                    rise(greatest, origins_before(table, file, partition, before))
        return greatest

    def repair(self) -> None:
        """Finish what a process that died left behind: backfills, compacted and temporary files."""
        with self._alone():
            for complete in self._folder.glob(".complete-*"):
                moved(complete, self._folder)
            for staged in self._folder.glob(".staged-*"):
                if stale(staged):
                    shutil.rmtree(staged)
            for folder in self._folder.glob("*/day=*"):
                repaired(folder)

    def compact(self, table: str, before_day: str | None = None, at_least: int = 8) -> int:
        """Make large files of a table's small ones, wherever a day has `at_least`; gives how many went.

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
        went = compacted(table, folder, at_least)
        if not went:
            self._settled[folder, at_least] = changed_ns
        return went

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
            return sum(rewritten(file, changed) for folder in folders for file in current(folder))

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
    for _ in range(READ_AGAIN):
        try:
            return look()
        except FileNotFoundError:
            continue
    return look()


def _parts(table: str, rows: pa.Table) -> Iterator[tuple[str, int, pa.Table]]:
    """Rows by day and partition, days in order."""
    day = rows["event_time_us"].to_numpy() // DAY_US
    partition = rows[PLACES[table][0]].to_numpy()
    for one_day in np.unique(day).tolist():
        mine = np.flatnonzero(day == one_day) if len(rows) else day
        for one in np.unique(partition[mine]).tolist():
            yield day_of(one_day * DAY_US), one, rows.take(pa.array(mine[partition[mine] == one]))


def _places(table: str, rows: pa.Table) -> tuple[Ints, Ints, Ints]:
    """Day, partition and position of each row."""
    partition, position = (rows[name].to_numpy().astype(np.int64) for name in PLACES[table])
    return rows["event_time_us"].to_numpy() // DAY_US, partition, position


def _as_it_was(table: str, rows: pa.Table, reach: Reach) -> pa.Table:
    day, partition, position = _places(table, rows)
    held: Flags = reach.holds(day, partition, position)
    order = np.lexsort((position, partition, day))
    return rows.take(pa.array(order[held[order]]))
