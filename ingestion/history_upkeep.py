"""Keeping the history's files: what died is cleared away, small files become large ones, rows are rewritten.

Who calls this is alone in it (`History` sees to that); others may append and read meanwhile.
"""

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from infra.files import synced
from ingestion.history_files import listed, rows_of, write_instead, write_merged
from ingestion.tables import completed

COMPACTED_ROWS = 10_000
SMALL_ROWS = COMPACTED_ROWS // 2
"""A file of fewer rows may be merged with others; one of as many stays as it is."""
PIECE_ROWS = 1_000
"""Of a merged file that are in memory together."""
STALE_S = 3_600.0
"""Nobody takes so long to write a file."""


def repaired(folder: Path) -> list[Path]:
    """Delete what other files have replaced; gives what counts."""
    counting, replaced = listed(folder)
    for file in replaced:
        file.unlink()
    for file in folder.glob(".*.tmp"):
        if stale(file):
            file.unlink()
    return counting


def stale(path: Path) -> bool:
    """Whether a temporary file belongs to a process that died."""
    return time.time() - path.stat().st_mtime > STALE_S


def moved(complete: Path, folder: Path) -> None:
    """Move every file to its place; whoever dies here is followed by another who goes on."""
    for file in sorted(complete.rglob("*.parquet")):
        place = folder / file.relative_to(complete)
        place.parent.mkdir(parents=True, exist_ok=True)
        file.rename(place)
        synced(place.parent)
    shutil.rmtree(complete)


def compacted(table: str, folder: Path, at_least: int) -> int:
    """Make large files of a day's small ones, if it has `at_least`; gives how many went.

    None gets more than `COMPACTED_ROWS` rows, so that this takes little memory however long a day is.
    """
    counts = {file: rows_of(file) for file in repaired(folder)}
    small = {file: rows for file, rows in counts.items() if rows < SMALL_ROWS}
    if len(small) < at_least:
        return 0
    fewest = min(2, at_least)
    groups = (group for group in _packed(small) if len(group) >= fewest)
    return sum(_merge(table, folder, group, sum(small[file] for file in group)) for group in groups)


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


def _merge(table: str, folder: Path, files: Sequence[Path], rows: int) -> int:
    write_merged(table, folder, files, rows, _pieces(table, files))
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


def rewritten(file: Path, changed: Callable[[pa.Table], pa.Table]) -> int:
    """Put other rows into a file; gives how many are gone or not as they were."""
    rows = pq.ParquetFile(file).read()
    now = changed(rows)
    if now is rows:
        return 0
    write_instead(file, now)
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
