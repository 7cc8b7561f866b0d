"""The outbox: records that were answered for and that Kafka has not acknowledged, on disk until it has.

One file a process, `<home>/outbox/<name>.outbox`, locked as long as its process lives; nobody but its owner
can read it. It is a row of frames: length and CRC-32 of what follows, little-endian, four bytes each, then
the record's fields. A frame counts once it is synced, and only then its caller is answered: a torn one at the
end of a dead process's file was never answered for.
"""

import asyncio
import fcntl
import logging
import os
import struct
import uuid
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Protocol

from infra.files import synced
from ingestion.broker import BrokerError
from serving.stage import Outgoing

log = logging.getLogger(__name__)

SUFFIX = ".outbox"
MOST_RECORD_BYTES = 1024 * 1024
"""A larger record is not kept."""
PIECE_BYTES = 4 * MOST_RECORD_BYTES
"""Of another's file that is read at a time."""
_HEAD = struct.Struct("<II")
_SIZE = struct.Struct("<I")
_NONE = 0xFFFFFFFF


class Kept(NamedTuple):
    """A record and the name by which the same is found again while it waits, such as `t:` and an id."""

    name: str
    record: Outgoing


class Way(Protocol):
    """A record's first way to the broker, which may still come to its end."""

    async def arrived(self) -> bool:
        """Whether it got there, once that is known."""
        ...


class Waiting(NamedTuple):
    """A record in the outbox."""

    name: str
    offset: int
    size: int
    """Of its frame in the file, in bytes."""
    way: Way | None
    """None if it was not sent at all."""


class OutboxFullError(BrokerError):
    """The outbox took no more; says why."""


def frame(kept: Kept) -> bytes:
    """The record as it lies in the file.

    >>> list(frames(frame(Kept("t:1", Outgoing("transactions", b"{}", b"c-1", [("decision", b"x")])))))
    [(0, 61, Kept(name='t:1', record=Outgoing(topic='transactions', value=b'{}', key=b'c-1', \
headers=[('decision', b'x')], partition=None)))]
    """
    record = kept.record
    texts: list[bytes | None] = [kept.name.encode(), record.topic.encode(), record.key, record.value]
    for name, value in record.headers:
        texts += [name.encode(), value]
    payload = b"".join(map(_field, texts))
    return _HEAD.pack(len(payload), zlib.crc32(payload)) + payload


def _field(text: bytes | None) -> bytes:
    return _SIZE.pack(_NONE) if text is None else _SIZE.pack(len(text)) + text


def frames(data: bytes) -> Iterator[tuple[int, int, Kept]]:
    """Offset, size and record of every whole frame, up to the first that is not."""
    at = 0
    while at + _HEAD.size <= len(data):
        length, checksum = _HEAD.unpack_from(data, at)
        payload = data[at + _HEAD.size : at + _HEAD.size + length]
        if len(payload) < length or zlib.crc32(payload) != checksum or not payload:
            return
        yield at, _HEAD.size + length, _kept(payload)
        at += _HEAD.size + length


def _kept(payload: bytes) -> Kept:
    texts, at = [], 0
    while at < len(payload):
        (size,) = _SIZE.unpack_from(payload, at)
        at += _SIZE.size
        texts.append(None if size == _NONE else payload[at : at + size])
        at += 0 if size == _NONE else size
    name, topic, key, value, *rest = texts
    headers = [((rest[i] or b"").decode(), rest[i + 1] or b"") for i in range(0, len(rest), 2)]
    return Kept((name or b"").decode(), Outgoing((topic or b"").decode(), value, key, headers))


class File:
    """An outbox file that is ours, by its lock."""

    def __init__(self, path: Path, handle: int) -> None:
        self.path = path
        self._handle = handle

    @classmethod
    def new(cls, folder: Path) -> "File":
        """A new, empty one."""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        while True:
            path = folder / f"{os.getpid()}-{uuid.uuid4().hex[:8]}{SUFFIX}"
            if mine := cls._locked(path, os.O_RDWR | os.O_CREAT | os.O_EXCL):
                synced(folder)
                return mine

    @classmethod
    def left_behind(cls, folder: Path) -> Iterator["File"]:
        """Those whose processes are dead."""
        for path in sorted(folder.glob(f"*{SUFFIX}")):
            with suppress(FileNotFoundError):
                if mine := cls._locked(path, os.O_RDWR):
                    yield mine

    @classmethod
    def _locked(cls, path: Path, flags: int) -> "File | None":
        """None if it is another's, or was taken over and removed just now."""
        handle = os.open(path, flags, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return None
        if os.fstat(handle).st_nlink == 0:
            os.close(handle)
            return None
        return cls(path, handle)

    def append(self, at: int, data: bytes) -> None:
        """Write at an offset and sync; whatever else lay behind it is gone."""
        try:
            written = 0
            while written < len(data):
                written += os.pwrite(self._handle, data[written:], at + written)
            os.fdatasync(self._handle)
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._handle, at)
            raise

    def read(self, at: int = 0, size: int | None = None) -> bytes:
        """Bytes from an offset on."""
        return os.pread(self._handle, self.size if size is None else size, at)

    @property
    def size(self) -> int:
        """Bytes."""
        return os.fstat(self._handle).st_size

    def clear(self) -> None:
        """Make it empty."""
        os.ftruncate(self._handle, 0)

    def remove(self) -> None:
        """Delete it and let it go."""
        self.path.unlink(missing_ok=True)
        os.close(self._handle)

    def close(self) -> None:
        """Let it go; it is deleted if nothing is in it."""
        if os.fstat(self._handle).st_size:
            os.close(self._handle)
        else:
            self.remove()


class Outbox:
    """What waits in this process's file, in order. For one event loop; the disk is touched by a thread.

    Args:
        folder: where the files of all processes are.
        most_bytes: it may hold.
    """

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self._folder, self._most = folder, most_bytes
        self._file = File.new(folder)
        self._disk = ThreadPoolExecutor(1, "outbox")
        self._waiting: deque[Waiting] = deque()
        self._by_name: dict[str, Waiting] = {}
        self._end = 0
        self._gathered: list[tuple[Sequence[Kept], Way | None, asyncio.Future[None]]] = []
        self._writing: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    async def put(self, kept: Sequence[Kept], way: Way | None = None) -> None:
        """Return when the records are on disk, together with those that others put at the same time.

        Raises:
            OutboxFullError: there is no room for them, here or on the disk, and none was kept.
        """
        done = asyncio.get_running_loop().create_future()
        self._gathered.append((kept, way, done))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write())
        await done

    async def _write(self) -> None:
        """Group commit: what comes while a sync is under way goes into the next one."""
        try:
            while self._gathered:
                puts, self._gathered = self._gathered, []
                groups = [[(each, frame(each)) for each in kept] for kept, _, _ in puts]
                at, taken = self._end, []
                for group, (_, way, done) in zip(groups, puts, strict=True):
                    size = sum(len(data) for _, data in group)
                    if refusal := self._refusal(at + size, max((len(data) for _, data in group), default=0)):
                        _fail(done, refusal)
                    else:
                        taken.append((group, way, done))
                        at += size
                if taken:
                    await self._append(taken)
        finally:
            self._writing = None

    async def _append(
        self, taken: Sequence[tuple[Sequence[tuple[Kept, bytes]], Way | None, asyncio.Future[None]]]
    ) -> None:
        data = b"".join(data for group, _, _ in taken for _, data in group)
        try:
            await asyncio.get_running_loop().run_in_executor(self._disk, self._file.append, self._end, data)
        except OSError as error:
            for _, _, done in taken:
                _fail(done, OutboxFullError(f"the outbox {self._file.path} could not be written: {error}"))
            return
        for group, way, done in taken:
            for kept, each in group:
                self._note(kept.name, len(each), way)
            if not done.done():
                done.set_result(None)

    def _note(self, name: str, size: int, way: Way | None) -> None:
        entry = Waiting(name, self._end, size, way)
        self._end += size
        self._waiting.append(entry)
        self._by_name.setdefault(name, entry)

    def _refusal(self, end: int, largest: int) -> OutboxFullError | None:
        if largest > MOST_RECORD_BYTES:
            return OutboxFullError(f"a record of {largest} bytes is too large for the outbox")
        if end > self._most:
            return OutboxFullError(f"the outbox is full: {len(self)} records, {self._end} bytes")
        return None

    def find(self, name: str) -> Outgoing | None:
        """The record of this name, if it waits here."""
        entry = self._by_name.get(name)
        return None if entry is None else self._read(entry)

    def _read(self, entry: Waiting) -> Outgoing:
        ((_, _, kept),) = frames(self._file.read(entry.offset, entry.size))
        return kept.record

    def first(self, n: int, most_bytes: int) -> list[tuple[Waiting, Outgoing]]:
        """The oldest records, at most so many and not many more bytes, in order."""
        found: list[tuple[Waiting, Outgoing]] = []
        size = 0
        for entry in self._waiting:
            if len(found) == n or size >= most_bytes:
                break
            found.append((entry, self._read(entry)))
            size += entry.size
        return found

    def drop(self, n: int) -> None:
        """The oldest so many have arrived. The file is emptied when all have."""
        for _ in range(n):
            entry = self._waiting.popleft()
            if self._by_name.get(entry.name) is entry:
                del self._by_name[entry.name]
        if not self._waiting and self._writing is None:
            self._file.clear()
            self._end = 0

    async def take_over(self) -> int:
        """Take over what dead processes left behind; gives how many records that were.

        Each file goes when all of it is in ours; what dies in between is taken over twice, which changes
        nothing, as every event counts once.
        """
        loop, taken = asyncio.get_running_loop(), 0
        for left in await loop.run_in_executor(self._disk, lambda: list(File.left_behind(self._folder))):
            try:
                if refusal := self._refusal(self._end + left.size, 0):
                    raise refusal
                taken += await self._copy(left)
            except (OutboxFullError, OSError) as error:
                log.warning("%s is left for later: %s", left.path, error)
                left.close()
            else:
                await loop.run_in_executor(self._disk, left.remove)
        if taken:
            log.warning("took over %d records from the outbox of a process that died", taken)
        return taken

    async def _copy(self, left: File) -> int:
        """Put what another file has into ours, a piece after the other."""
        loop, taken, at = asyncio.get_running_loop(), 0, 0
        while data := await loop.run_in_executor(self._disk, left.read, at, PIECE_BYTES):
            whole = list(frames(data))
            if not whole:
                size = len(left.read(at))
                log.warning("%s: dropped its last %d bytes: nobody was answered for them", left.path, size)
                break
            await self.put([kept for _, _, kept in whole])
            taken, at = taken + len(whole), at + sum(size for _, size, _ in whole)
        return taken

    def close(self) -> None:
        """Let the file go: empty, it is deleted; else the next process takes it over."""
        self._disk.shutdown()
        self._file.close()


def _fail(done: "asyncio.Future[None]", error: OutboxFullError) -> None:
    if not done.done():
        done.set_exception(error)
