"""Redis as a pipe: many prepared commands out, as many replies back, in one round trip.

`Connection` is for processes that wait; `AsyncConnection` shares one socket among all requests of an event
loop, so that requests at the same time share round trips. Both speak through the packages `redis` and
`hiredis`.
"""

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from socket import socket as Socket  # noqa: N812 – a type here
from typing import Any, cast
from urllib.parse import urlsplit

import hiredis
from redis import Redis
from redis.exceptions import RedisError

READ_BYTES = 256 * 1024

type_of_command = bytes | tuple[bytes | str | int | float, ...]


class StoreError(RuntimeError):
    """The online store did not do what was asked; says what and why."""


def pack(command: type_of_command) -> bytes:
    """The command as Redis takes it; bytes are taken as packed already."""
    if isinstance(command, bytes):
        return command
    packed: bytes = hiredis.pack_command(command)
    return packed


def set_expiring(key: bytes, value: bytes, ttl_s: int, only_new: bool = False) -> bytes:
    """`SET key value EX ttl_s`, and `NX` if `only_new`, packed in a fifth of the time: every event needs it.

    >>> set_expiring(b"k", b"v", 60) == pack(("SET", b"k", b"v", "EX", 60))
    True
    >>> set_expiring(b"key", b"", 86400, only_new=True) == pack(("SET", b"key", b"", "EX", 86400, "NX"))
    True
    """
    ttl = b"%d" % ttl_s
    packed = b"$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n$2\r\nEX\r\n$%d\r\n%b\r\n" % (
        len(key), key, len(value), value, len(ttl), ttl,
    )  # fmt: skip
    return b"*6\r\n" + packed + b"$2\r\nNX\r\n" if only_new else b"*5\r\n" + packed


class Connection:
    """A connection of its own; reconnects when it was lost.

    `redis` connects and signs in; then we speak on its socket ourselves, because its own way of reading costs
    10 µs a reply.
    """

    def __init__(self, url: str) -> None:
        self._redis = Redis.from_url(url, socket_timeout=10, socket_connect_timeout=5)
        self._connection: Any = None
        self._reader = hiredis.Reader()
        self._posted = 0

    def execute(self, commands: Sequence[type_of_command]) -> list[Any]:
        """Replies in the order of the commands. Raises StoreError if one failed or the store is away."""
        if not commands:
            return []
        self.send(b"".join(map(pack, commands)))
        self.settle()
        return self.receive(len(commands))

    def post(self, commands: Sequence[type_of_command]) -> None:
        """Send commands and go on; `settle`, or the next `execute`, waits for them and raises what failed."""
        self.send(b"".join(map(pack, commands)))
        self._posted += len(commands)

    def settle(self) -> None:
        """Wait until all that was posted is done. Raises StoreError as `execute` does."""
        count, self._posted = self._posted, 0
        if count:
            self.receive(count)

    def send(self, commands: bytes) -> None:
        """Send packed commands without waiting for their replies, which `receive` must take."""
        with self._or_store_error():
            self._connected().sendall(commands)

    def receive(self, count: int) -> list[Any]:
        """Replies to the next so many commands that were sent. Raises StoreError as `execute` does."""
        with self._or_store_error():
            replies = self._read(self._connected(), count)
        refuse_errors(replies)
        return replies

    @contextmanager
    def _or_store_error(self) -> Iterator[None]:
        try:
            yield
        except (RedisError, hiredis.HiredisError, OSError) as error:
            self.close()
            raise StoreError(f"Redis failed: {error}") from error

    def _read(self, socket: Socket, count: int) -> list[Any]:
        replies: list[Any] = []
        while len(replies) < count:
            reply = self._reader.gets()
            if reply is not False:
                replies.append(reply)
            elif data := socket.recv(READ_BYTES):
                self._reader.feed(data)
            else:
                raise ConnectionResetError("Redis closed the connection")
        return replies

    def _connected(self) -> Socket:
        if self._connection is None:
            self._connection = self._redis.connection_pool.get_connection()
            self._reader = hiredis.Reader()
        socket: Socket = self._connection._sock
        return socket

    def close(self) -> None:
        """Disconnect; the next command connects again."""
        self._posted = 0
        if self._connection is not None:
            self._connection.disconnect()
            self._redis.connection_pool.release(self._connection)
            self._connection = None


def refuse_errors(replies: Sequence[Any]) -> None:
    """Raise StoreError for the first reply that is an error."""
    for reply in replies:
        if isinstance(reply, hiredis.ReplyError):
            raise StoreError(f"Redis refused a command: {reply}")


class _Pipe(asyncio.Protocol):
    """One socket; replies come in the order of the commands."""

    def __init__(self) -> None:
        self._reader = hiredis.Reader()
        self._waiting: deque[tuple[asyncio.Future[list[Any]], list[Any], int]] = deque()
        self._unsent: list[bytes] = []
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        while self._waiting:
            future, _, _ = self._waiting.popleft()
            if not future.done():
                future.set_exception(StoreError(f"Redis closed the connection: {exc}"))

    @property
    def open(self) -> bool:
        """Whether commands can be sent."""
        return self._transport is not None

    def ask(self, commands: bytes, count: int) -> asyncio.Future[list[Any]]:
        """Send what all requests of this turn of the event loop ask in one write."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[Any]] = loop.create_future()
        self._waiting.append((future, [], count))
        if not self._unsent:
            loop.call_soon(self._send)
        self._unsent.append(commands)
        return future

    def _send(self) -> None:
        data, self._unsent = b"".join(self._unsent), []
        if self._transport is not None:
            self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while self._waiting and (reply := self._reader.gets()) is not False:
            future, replies, count = self._waiting[0]
            replies.append(reply)
            if len(replies) == count:
                self._waiting.popleft()
                if not future.done():
                    future.set_result(replies)


class AsyncConnection:
    """One socket shared by all requests of an event loop; reconnects when it was lost."""

    def __init__(self, url: str, timeout_s: float = 1.0) -> None:
        self._address = urlsplit(url)
        self._timeout_s = timeout_s
        self._pipe: _Pipe | None = None
        self._connecting = asyncio.Lock()

    async def execute(self, commands: Sequence[type_of_command]) -> list[Any]:
        """Replies in the order of the commands. Raises StoreError if one failed, or none came in time."""
        try:
            pipe = self._pipe if self._pipe is not None and self._pipe.open else await self._connect()
            async with asyncio.timeout(self._timeout_s):
                replies = await pipe.ask(b"".join(map(pack, commands)), len(commands))
        except (OSError, TimeoutError) as error:
            raise StoreError(f"Redis did not answer: {error!r}") from error
        refuse_errors(replies)
        return replies

    async def _connect(self) -> _Pipe:
        async with self._connecting:
            if self._pipe is None or not self._pipe.open:
                async with asyncio.timeout(self._timeout_s):
                    self._pipe = await self._opened()
            return self._pipe

    async def _opened(self) -> _Pipe:
        loop = asyncio.get_running_loop()
        host, port = self._address.hostname or "127.0.0.1", self._address.port or 6379
        _, pipe = await loop.create_connection(_Pipe, host, port)
        setup = [("AUTH", self._address.password)] if self._address.password else []
        setup += [("SELECT", self._address.path.strip("/") or "0")]
        await pipe.ask(b"".join(map(pack, setup)), len(setup))
        return pipe

    def close(self) -> None:
        """Disconnect."""
        if self._pipe is not None and self._pipe._transport is not None:
            self._pipe._transport.close()
