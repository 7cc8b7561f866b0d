"""Connections to clients that are slow, silent or too many: none of them holds memory or a place for ever.

Uvicorn times only the idle time between two requests, and bounds neither a request's head nor how many
requests come ahead of their answers. Here each connection has so long to send a request from its first byte,
or from its own beginning, so long to take an answer, and so many bytes and requests to send meanwhile.
"""

import asyncio
import resource
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.types import Message
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from infra.settings import Api
from serving.admission import rendered, type_of_answer

LOOK_EVERY_S = 1.0
KEEP_ALIVE_S = 5
MOST_AHEAD = 64
"""Requests of a connection that wait for the answers to those before them."""
MOST_HEAD_BYTES = 64 * 1_024
"""Of a request's head, after what came with its beginning, which is one read of the kernel's."""
BACKLOG = 1_024
"""Connections that the kernel holds until they are taken."""


@dataclass(frozen=True)
class Limits:
    """What clients may do."""

    read_s: float
    """A request has so long to come."""
    write_s: float
    """An answer has so long to be taken."""
    connections: int
    """At the same time, in each process."""

    @property
    def look_s(self) -> float:
        """Between two looks at a client."""
        return min(LOOK_EVERY_S, self.read_s / 2, self.write_s / 2)


def server_options(api: Api) -> dict[str, Any]:
    """Uvicorn's options for an API of these settings."""
    return {
        "http": partial(Connection, Limits(api.read_timeout_s, api.write_timeout_s, api.max_connections)),
        "backlog": BACKLOG,
        "timeout_keep_alive": KEEP_ALIVE_S,
        "ws": "none",
        "server_header": False,
        "access_log": False,
    }


def allow_files(wanted: int) -> None:
    """Let this process open so many files, as far as the machine lets it."""
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    allowed = wanted if most == unlimited else min(wanted, most)
    if now != unlimited and now < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, most))


class Connection(HttpToolsProtocol):
    """One client; looked at now and then. Uvicorn makes one for each, in each of its processes."""

    def __init__(self, limits: Limits, **of_uvicorn: Any) -> None:
        super().__init__(**of_uvicorn)
        self._limits = limits

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for its first request, or refuse it."""
        super().connection_made(transport)
        self._answered: RequestResponseCycle | None = None
        self._stuck_since: float | None = None
        self._coming_since: float | None = self.loop.time()
        self._head_bytes: int | None = None
        self._look = self.loop.call_later(self._limits.look_s, self._watch)
        most = self._limits.connections
        if len(self.connections) > most:
            detail = f"expected at most {most} connections at a time, came more; keep fewer open"
            self._end(rendered(429, "Too Many Requests", detail))

    def connection_lost(self, exc: Exception | None) -> None:
        """Look no more; and tell the call that is answered, of which uvicorn forgets if another one waits."""
        self._look.cancel()
        if self._answered is not None and not self._answered.response_complete:
            self._answered.disconnected = True
            self._answered.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what has come; a head without an end is refused."""
        if self._head_bytes is not None:
            self._head_bytes += len(data)
            if self._head_bytes > MOST_HEAD_BYTES:
                self._refuse_head()
                return
        super().data_received(data)
        if self._coming_since is None and self._idle() and self.timeout_keep_alive_task is None:
            self._coming_since = self.loop.time()  # empty lines end uvicorn's own wait and begin no request

    def on_message_begin(self) -> None:
        """Its request begins to come."""
        self._coming_since = self.loop.time()
        self._head_bytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The head of its request is there."""
        self._head_bytes = None
        if len(self.pipeline) >= MOST_AHEAD:
            self._drop()
            raise ValueError("too many requests came ahead of their answers")
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Tell a client that is still there that this is no HTTP."""
        if not self.transport.is_closing():
            super().send_400_response(msg)

    def on_message_complete(self) -> None:
        """Its request is there."""
        self._coming_since = None
        super().on_message_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answered = cycle
        super()._start_asgi_task(cycle, app)

    def pause_writing(self) -> None:
        """It takes its answer more slowly than we have it."""
        self._stuck_since = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        """It has taken enough."""
        self._stuck_since = None
        super().resume_writing()

    def _watch(self) -> None:
        now_s = self.loop.time()
        self._look = self.loop.call_later(self._limits.look_s, self._watch)
        if self._stuck_since is None and self.transport.is_closing():
            self._stuck_since = now_s  # what is left of its last answer
        if self._stuck_since is not None and now_s - self._stuck_since > self._limits.write_s:
            self._drop()
        elif self._coming_since is not None and now_s - self._coming_since > self._limits.read_s:
            self._cut_off(now_s)

    def _cut_off(self, now_s: float) -> None:
        """End a request that does not come; one that we ourselves keep waiting has its time again."""
        if self.flow.read_paused or self.pipeline:
            self._coming_since = now_s
        elif self._answering():
            self._drop()
        else:
            detail = (
                f"expected a request within {self._limits.read_s:g} s, came a part of one; send it at once"
            )
            self._end(rendered(408, "Request Timeout", detail))

    def _refuse_head(self) -> None:
        """An answer would come between those that wait; without any, it says what is wrong."""
        if self.cycle is not None and not self._idle():
            self._drop()
            return
        detail = (
            f"expected a head of at most {MOST_HEAD_BYTES:,} bytes, came more; send fewer and shorter headers"
        )
        self._end(rendered(431, "Request Header Fields Too Large", detail))

    def _idle(self) -> bool:
        """Whether all requests that came are answered."""
        return self.cycle is not None and self.cycle.response_complete and not self.pipeline

    def _drop(self) -> None:
        """End the connection and forget what was not taken, in the kernel too."""
        client = self.transport.get_extra_info("socket")
        with suppress(OSError):
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def _answering(self) -> bool:
        """Whether the request that comes is being answered already: one with a body may be."""
        cycle = self.cycle
        return cycle is not None and cycle.scope is self.scope and cycle.response_started

    def _end(self, answer: type_of_answer) -> None:
        """Send an answer that is nobody's and close; what has not left by the next look is given up."""
        self.transport.write(raw(answer))
        self.transport.close()
        self._coming_since, self._stuck_since = None, self.loop.time()


def raw(answer: type_of_answer) -> bytes:
    """The answer as it goes over the wire, the last of its connection."""
    start: Message = answer[0]
    lines = [b"HTTP/1.1 %d " % start["status"], *(b"%b: %b" % each for each in start["headers"])]
    body: bytes = answer[1]["body"]
    return b"\r\n".join([*lines, b"connection: close", b"", body])
