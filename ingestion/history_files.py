"""A file of the history: its name, what it says about itself, and which files of a day count.

A file appears whole, by rename. A name tells what the file holds:

* `p<partition>-<first>-<last>`: all rows of that day which the log's partition has from first to last.
  Rows that come again, because a process died before it could say that it was done, are known by it.
* `backfill-<hash>`: rows of a backfill, by content. They have partition -1.
* `compact-<rows>-<hash>`: what several files held. It names them, so that a reader takes them only once
  even if the process died before it could delete them.
"""

import hashlib
import json
import os
import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from infra.files import synced
from ingestion.tables import ORIGINS, PLACES, SCHEMAS

_METADATA = b"tollgate"
_LOG_NAME = re.compile(r"p(\d+)-(\d+)-(\d+)\.parquet")
_COMPACT_NAME = re.compile(r"compact-(\d+)-[0-9a-f]+\.parquet")
READ_AGAIN = 5
"""Times that files are looked for again if some of them were merged meanwhile."""


@dataclass(frozen=True)
class Segment:
    """What a file holds of one partition of the log."""

    first: int
    last: int
    origins: Mapping[int, int]
    """Greatest position of each partition of the stream that its rows were made of."""


@dataclass(frozen=True)
class Contents:
    """What a file says about itself."""

    segments: Mapping[int, Segment]
    replaces: frozenset[str]


def write_logged(table: str, folder: Path, rows: pa.Table) -> int:
    """Write rows of one partition of the log, in its order; gives the last position."""
    contents = _described(table, rows)
    [(partition, segment)] = contents.segments.items()
    _write(folder, f"p{partition}-{segment.first}-{segment.last}.parquet", [rows], rows.schema, contents)
    return segment.last


def write_backfilled(table: str, folder: Path, rows: pa.Table) -> None:
    """Write rows of a backfill; the same rows again are the same file."""
    _write(folder, f"backfill-{_digest(rows)}.parquet", [rows], rows.schema, _described(table, rows))


def write_merged(
    table: str, folder: Path, files: Sequence[Path], count: int, parts: Iterable[pa.Table]
) -> None:
    """Write the `count` rows of several files as one, which replaces them."""
    contents = _together(files)
    name = hashlib.sha256("\0".join(sorted(contents.replaces)).encode()).hexdigest()[:16]
    _write(folder, f"compact-{count}-{name}.parquet", parts, SCHEMAS[table], contents)


def write_instead(file: Path, rows: pa.Table) -> None:
    """Put other rows into a file, which keeps its name and what it says about itself."""
    _write(file.parent, file.name, [rows], rows.schema, contents_of(file))


def _write(folder: Path, name: str, parts: Iterable[pa.Table], schema: pa.Schema, contents: Contents) -> None:
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


def _digest(rows: pa.Table) -> str:
    """Of the rows' values; 16 hex digits."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema.remove_metadata()) as writer:
        writer.write_table(rows.replace_schema_metadata(None).combine_chunks())
    return hashlib.sha256(sink.getvalue()).hexdigest()[:16]


def _described(table: str, rows: pa.Table) -> Contents:
    partition, position = (rows[name].to_numpy() for name in PLACES[table])
    segments = {}
    for one in np.unique(partition).tolist():
        mine = rows.filter(pa.array(partition == one))
        held = position[partition == one]
        segments[one] = Segment(int(held.min()), int(held.max()), _origins(table, mine))
    return Contents(segments, frozenset())


def _origins(table: str, rows: pa.Table) -> dict[int, int]:
    if table not in ORIGINS:
        return {}
    partition, position = ORIGINS[table]
    found = rows.group_by(partition).aggregate([(position, "max")])
    greatest = zip(found[partition].to_pylist(), found[f"{position}_max"].to_pylist(), strict=True)
    return {each: reached for each, reached in greatest if each is not None}


def _together(files: Sequence[Path]) -> Contents:
    """What the files say about themselves: they may know of rows that were taken out since."""
    segments: dict[int, Segment] = {}
    for file in files:
        for key, each in contents_of(file).segments.items():
            known = segments.get(key, each)
            origins = dict(known.origins)
            rise(origins, each.origins)
            segments[key] = Segment(min(known.first, each.first), max(known.last, each.last), origins)
    return Contents(segments, frozenset(file.name for file in files))


def _encoded(contents: Contents) -> bytes:
    segments = {key: [each.first, each.last, dict(each.origins)] for key, each in contents.segments.items()}
    return json.dumps({"segments": segments, "replaces": sorted(contents.replaces)}).encode()


def contents_of(file: Path) -> Contents:
    """What a file says about itself."""
    written = json.loads(pq.read_schema(file).metadata[_METADATA])
    segments = {
        int(key): Segment(first, last, {int(each): at for each, at in origins.items()})
        for key, (first, last, origins) in written["segments"].items()
    }
    return Contents(segments, frozenset(written["replaces"]))


def current(folder: Path) -> list[Path]:
    """Files of a day, without those that another file has replaced."""
    return listed(folder)[0]


def listed(folder: Path) -> tuple[list[Path], list[Path]]:
    """Files of a day that count, and those that another file has replaced."""
    files = _of_one_moment(folder)
    compacted = [file for file in files if file.name.startswith("compact-")] if len(files) > 1 else []
    replaced = {name for file in compacted for name in contents_of(file).replaces}
    counting = [each for each in files if each.name not in replaced]
    return counting, [each for each in files if each.name in replaced]


def _of_one_moment(folder: Path) -> list[Path]:
    """Its files, in order: a long look might show neither what was merged meanwhile nor what came of it."""
    files: list[Path] = []
    for _ in range(READ_AGAIN if folder.exists() else 0):
        changed_ns = folder.stat().st_mtime_ns
        files = sorted(folder.glob("*.parquet"))
        if folder.stat().st_mtime_ns == changed_ns:
            break
    return files


def rows_of(file: Path) -> int:
    """So many rows a file has, or had before some were taken out."""
    named = _COMPACT_NAME.fullmatch(file.name)
    return int(named[1]) if named else int(pq.read_metadata(file).num_rows)


def last_positions(folder: Path) -> dict[int, int]:
    """Greatest position that a day has of each partition of the log."""
    greatest: dict[int, int] = {}
    for file in current(folder):
        if named := _LOG_NAME.fullmatch(file.name):
            rise(greatest, {int(named[1]): int(named[3])})
        elif file.name.startswith("compact-"):
            rise(greatest, {key: each.last for key, each in contents_of(file).segments.items()})
    return greatest


def origins_before(table: str, file: Path, partition: int, before: int) -> Mapping[int, int]:
    """Greatest position of each partition of origin that a file has of a partition before a position."""
    segment = contents_of(file).segments.get(partition)
    if segment is None or segment.first >= before:
        return {}
    if segment.last < before:
        return segment.origins
    of, at = PLACES[table]
    wanted = (pc.field(of) == partition) & (pc.field(at) < before)
    return _origins(table, pq.read_table(file, columns=[*ORIGINS[table], of, at], filters=wanted))


def rise(greatest: dict[int, int], found: Mapping[int, int]) -> None:
    """Let each of the greatest positions be at least what was found."""
    for key, value in found.items():
        greatest[key] = max(value, greatest.get(key, value))
