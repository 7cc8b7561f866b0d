"""Redis as a pipe: many prepared commands out, as many replies back, in one round trip.

`Connection` is for processes that wait; `AsyncConnection` shares one socket among all requests of an event
loop, so that requests at the same time share round trips. Both speak through the packages `redis` and
`hiredis`.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from socket import socket as Socket  # noqa: N812 – a type here
from typing import Any, NamedTuple, cast
from urllib.parse import unquote, urlsplit

import hiredis
from redis import Redis
from redis.exceptions import RedisError

from infra.patience import Patience

log = logging.getLogger(__name__)

READ_BYTES = 256 * 1024
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 1.0
"""Between two questions to a Redis that is away whether it is back."""
PROBE_S = 0.5
"""How long it may take to connect then; nobody waits for that."""

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
    """A connection of its own; reconnects when it was lost; Redis knows it by its `name`.

    `redis` connects and signs in; then we speak on its socket ourselves, because its own way of reading costs
    10 µs a reply.
    """

    def __init__(self, url: str, name: str | None = None) -> None:
        self._redis = Redis.from_url(url, socket_timeout=10, socket_connect_timeout=5, client_name=name)
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


class _Waiting(NamedTuple):
    """Who waits for replies."""

    future: "asyncio.Future[list[Any]]"
    replies: list[Any]
    expected: int
    stamp: int
    """Since when, by the patience of the pipe."""


class _Pipe(asyncio.Protocol):
    """One socket; replies come in the order of the commands.

    Who waits for longer than the timeout ends the pipe for all: what it still has to say belongs to questions
    that nobody asks any more.
    """

    def __init__(self, timeout_s: float) -> None:
        self._reader = hiredis.Reader()
        self._waiting: deque[_Waiting] = deque()
        self._unsent: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._patience = Patience(timeout_s, self._look)
        self._timeout_s = timeout_s

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(f"Redis closed the connection: {exc}")

    @property
    def open(self) -> bool:
        """Whether commands can be sent."""
        return self._transport is not None

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.close()

    def ask(self, commands: bytes, count: int) -> asyncio.Future[list[Any]]:
        """Send what all requests of this turn of the event loop ask in one write."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[Any]] = loop.create_future()
        self._waiting.append(_Waiting(future, [], count, self._patience.stamp()))
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
            first = self._waiting[0]
            first.replies.append(reply)
            if len(first.replies) == first.expected:
                self._waiting.popleft()
                if not first.future.done():
                    first.future.set_result(first.replies)

    def _look(self, overdue: int) -> bool:
        if self._waiting and self._waiting[0].stamp <= overdue:
            self.abort(f"Redis said nothing for {self._timeout_s:g} s")
        return bool(self._waiting)

    def abort(self, why: str) -> None:
        """Hang up; who waits gets a StoreError that says why."""
        if self._transport is not None:
            self._transport.abort()
        self._end(why)

    def _end(self, why: str) -> None:
        self._transport = None
        self._patience.stop()
        self._unsent = []
        while self._waiting:
            future = self._waiting.popleft().future
            if not future.done():
                future.set_exception(StoreError(why))


class AsyncConnection:
    """One socket shared by all requests of an event loop; reconnects when it was lost.

    When Redis is silent for longer than the timeout, or does not take a connection, it is away: every command
    fails at once, and one task asks it again, after pauses that grow to a second, until it answers.

    Args:
        url: `redis://[user:password@]host:port/number`.
        timeout_s: how long a command may wait for its reply, and for a connection that was lost.
        told: called with True when Redis is away, with False when it is back.
    """

    def __init__(
        self, url: str, timeout_s: float = 0.1, told: Callable[[bool], None] = lambda _: None
    ) -> None:
        self._address = urlsplit(url)
        self._timeout_s = timeout_s
        self._told = told
        self._pipe: _Pipe | None = None
        self._connecting = asyncio.Lock()
        self._mending: asyncio.Task[None] | None = None

    @property
    def away(self) -> bool:
        """Whether commands fail at once."""
        return self._mending is not None

    async def execute(self, commands: Sequence[type_of_command]) -> list[Any]:
        """Replies in the order of the commands. Raises StoreError if one failed, or none came in time."""
        pipe = self._pipe
        if pipe is None or not pipe.open:
            pipe = await self._connected()
        try:
            replies = await pipe.ask(b"".join(map(pack, commands)), len(commands))
        except StoreError as error:
            if not pipe.open:
                self._lost(error)
            raise
        refuse_errors(replies)
        return replies

    async def _connected(self) -> _Pipe:
        """A connection that was lost is opened anew at once, but only one request waits for that in vain."""
        self._refuse_if_away()
        async with self._connecting:
            if self._pipe is not None and self._pipe.open:
                return self._pipe
            self._refuse_if_away()
            try:
                self._pipe = await self._opened(self._timeout_s)
            except StoreError as error:
                self._lost(error)
                raise
            return self._pipe

    def _refuse_if_away(self) -> None:
        if self._mending is not None:
            raise StoreError("Redis is away")

    def _lost(self, error: StoreError) -> None:
        """Ask it again in the background, unless that is done, or another connection is open already."""
        if self._mending is None and (self._pipe is None or not self._pipe.open):
            log.warning("%s; answers do without it until it is back", error)
            self._pipe = None
            self._mending = asyncio.get_running_loop().create_task(self._mend())
            self._told(True)

    async def _mend(self) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            try:
                self._pipe = await self._opened(max(self._timeout_s, PROBE_S))
            except StoreError as error:
                log.debug("%s", error)
            else:
                self._mending = None
                log.warning("Redis answers again")
                self._told(False)
                return

    async def _opened(self, timeout_s: float) -> _Pipe:
        """A connection that has answered; StoreError if none comes, or it does not let us in."""
        loop = asyncio.get_running_loop()
        host, port = self._address.hostname or "127.0.0.1", self._address.port or 6379
        pipe = _Pipe(self._timeout_s)
        try:
            async with asyncio.timeout(timeout_s):
                await loop.create_connection(lambda: pipe, host, port)
            refuse_errors(await pipe.ask(b"".join(map(pack, self._setup())), len(self._setup())))
        except (OSError, TimeoutError) as error:
            pipe.abort("connecting took too long")
            raise StoreError(f"Redis took no connection: {error!r}") from error
        except StoreError:
            pipe.abort("it did not let us in")
            raise
        return pipe

    def _setup(self) -> list[type_of_command]:
        """Commands of a new connection; the last is refused as long as Redis loads what it has on disk."""
        user, password = self._address.username, self._address.password
        setup: list[type_of_command] = []
        if password:
            setup.append(("AUTH", *([unquote(user)] if user else []), unquote(password)))
        return [*setup, ("SELECT", self._address.path.strip("/") or "0"), ("PING",)]

    def close(self) -> None:
        """Disconnect."""
        if self._mending is not None:
            self._mending.cancel()
            self._mending = None
        if self._pipe is not None and self._pipe._transport is not None:
            self._pipe._transport.close()
