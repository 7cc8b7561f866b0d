"""The history process on a full disk: it waits, loses nothing, and leaves no half file."""

import errno
import logging
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from ingestion import topics
from ingestion.broker import Partition
from ingestion.historian import Historian, Progress
from ingestion.history import History
from ingestion.processes import FLUSH_S, Loop
from ingestion.streams import PRODUCT_EVENT, batch_of, counted, encode, position
from ingestion.tables import QUOTES

ROWS = 200


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], check=False, capture_output=True
    )
    if mounted.returncode != 0:
        assert os.environ.get("TOLLGATE_REQUIRE_CONTAINERS") != "1", mounted.stderr.decode()
        pytest.skip("may not mount a small disk here")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


class Message:
    """Quotes that have counted."""

    topic, partition, key, headers = topics.PRODUCT_COUNTED, 0, None, ()

    def __init__(self, offset: int) -> None:
        self.offset, self.timestamp = offset, 1_700_000_000_000 + offset
        rows = pa.Table.from_batches([batch_of([quoted(offset, i) for i in range(ROWS)], PRODUCT_EVENT)])
        self.value = encode(counted(rows, 0, [position(offset, i) for i in range(ROWS)]))


def quoted(offset: int, i: int) -> Mapping[str, object]:
    return {
        "kind": 0,
        "quote_id": f"q-{offset}-{i}",
        "event_time_us": 1_700_000_000_000_000 + i,
        "product_id": "p-1",
        "context": os.urandom(40).hex(),
        "appended_ms": 1_700_000_000_000,
    }


class Reader:
    """A consumer that has a message at each poll, unless it is paused, and remembers what was committed."""

    def __init__(self) -> None:
        self.committed: dict[Partition, int] = {}
        self.read, self.paused = 0, False

    def poll(self, wait_ms: int) -> list[Message]:
        if self.paused:
            return []
        self.read += 1
        return [Message(self.read - 1)]

    def refuse_if_gone(self) -> None:
        pass

    def assignment(self) -> list[Partition]:
        return [Partition(topics.PRODUCT_COUNTED, 0)]

    def pause(self, partitions: Sequence[Partition]) -> None:
        self.paused = True

    def resume(self, partitions: Sequence[Partition]) -> None:
        self.paused = False

    def commit(self, offsets: Mapping[Partition, int]) -> None:
        self.committed |= offsets


class Nowhere:
    """A producer that is asked for nothing."""

    def flush(self) -> None:
        pass


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += FLUSH_S + 0.01
        return self.now


def test_it_waits_for_room_and_goes_on(small: Path, caplog: pytest.LogCaptureFixture) -> None:
    filler, history = small / "filler", History(small / "history")
    loop, reader = Loop(Historian(history), Progress(small / "history"), Nowhere(), Clock()), Reader()  # type: ignore[arg-type]
    loop._consumer = reader  # type: ignore[assignment]
    filler.write_bytes(bytes(220 * 1024))
    for _ in range(30):
        loop.turn()
    assert reader.paused
    (line,) = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert "no room" in line.getMessage()
    assert not list(small.rglob("*.parquet.*.tmp")), "half a file takes room that others need"
    before, read = reader.committed[Partition(topics.PRODUCT_COUNTED, 0)], reader.read
    assert ids(history) == expected(before)
    assert before <= read <= before + 2, "what is not written is not read on and on"
    filler.unlink()
    for _ in range(4):
        loop.turn()
    reader.paused = True
    loop.turn()
    assert reader.committed == {Partition(topics.PRODUCT_COUNTED, 0): reader.read}
    assert reader.read > read
    assert ids(history) == expected(reader.read)


def ids(history: History) -> list[str]:
    found: list[str] = sorted(history.read(QUOTES)["quote_id"].to_pylist())
    return found


def expected(messages: int) -> list[str]:
    return sorted(f"q-{offset}-{i}" for offset in range(messages) for i in range(ROWS))


def test_another_error_of_the_disk_ends_the_process(tmp_path: Path) -> None:
    history = History(tmp_path / "history")
    loop = Loop(Historian(history), Progress(tmp_path), Nowhere(), Clock())  # type: ignore[arg-type]
    loop._consumer = Reader()  # type: ignore[assignment]
    (tmp_path / "history").write_text("a file where the folder should be")
    with pytest.raises(OSError, match=r"Not a directory|File exists") as raised:
        loop.turn()
    assert raised.value.errno not in (errno.ENOSPC, errno.EDQUOT)
