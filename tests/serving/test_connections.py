"""Clients that are slow, silent or too many, at a real uvicorn with our protocol and a small application."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import orjson
import pytest
import uvicorn

from infra.settings import Api
from serving.connections import server_options

Connect = Callable[[int], socket.socket]
LONG = b"x" * 8_000_000
"""More than the kernel takes from us for a client that reads nothing."""


pytestmark = pytest.mark.slow  # it waits for clients that are slow


class Echo:
    """Reads a body and answers at length; counts the calls that it is busy with."""

    def __init__(self, answer: bytes = LONG) -> None:
        self.busy, self._answer = 0, answer

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        self.busy += 1
        try:
            while (message := await receive()).get("more_body"):
                pass
            if message["type"] == "http.disconnect":
                return
            length = (b"content-length", b"%d" % len(self._answer))
            await send({"type": "http.response.start", "status": 200, "headers": [length]})
            await send({"type": "http.response.body", "body": self._answer})
        finally:
            self.busy -= 1


@contextmanager
def serving(app: Any, loop: str = "uvloop", **api: Any) -> Iterator[int]:
    """The application on a port, as `tollgate run api` would serve it."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        options = server_options(Api(**api))
        server = uvicorn.Server(uvicorn.Config(app, loop=loop, log_config=None, lifespan="off", **options))
        thread = threading.Thread(target=server.run, args=([listening],), name="server")
        thread.start()
        until(lambda: server.started)
        try:
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()


def until(true: Callable[[], object], limit_s: float = 15) -> None:
    deadline = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def connected() -> Iterator[Connect]:
    """Opens connections to a port; they are closed at the end."""
    opened: list[socket.socket] = []

    def connect(port: int) -> socket.socket:
        opened.append(socket.create_connection(("127.0.0.1", port), timeout=15))
        return opened[-1]

    yield connect
    for each in opened:
        each.close()


def post(body: bytes, length: int) -> bytes:
    return b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (length, body)


def everything(client: socket.socket, most: int = 100_000_000) -> bytes:
    """What comes until the server closes, or enough has come."""
    came = bytearray()
    while len(came) < most and (data := client.recv(min(262_144, most - len(came)))):
        came += data
    return bytes(came)


def problem(answer: bytes, status: int) -> dict[str, Any]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"content-type: application/problem+json" in head
    found: dict[str, Any] = orjson.loads(body)
    assert found["status"] == status
    return found


@pytest.mark.parametrize(
    "begun",
    [b"", b"POST / HTTP/1.1\r\nHo", post(b"", 10), post(b"x", 10)],
    ids=["silent", "head", "none", "part"],
)
def test_a_request_that_does_not_come_is_cut_off(connected: Connect, begun: bytes) -> None:
    app = Echo()
    with serving(app, read_timeout_s=0.2) as port:
        client = connected(port)
        client.sendall(begun)
        assert "send it at once" in problem(everything(client), 408)["detail"]
        until(lambda: app.busy == 0)


def test_a_byte_now_and_then_buys_no_time(connected: Connect) -> None:
    app = Echo()
    with serving(app, read_timeout_s=0.2) as port:
        client, start = connected(port), time.monotonic()
        client.sendall(post(b"", 1_000))
        with suppress(OSError):
            while time.monotonic() < start + 15:
                client.sendall(b"x")
                time.sleep(0.02)
        assert time.monotonic() < start + 15
        until(lambda: app.busy == 0)


def test_the_time_begins_anew_with_each_request(connected: Connect) -> None:
    with serving(Echo(), read_timeout_s=1.5) as port:
        client = connected(port)
        for _ in range(2):
            client.sendall(post(b"", 4))
            time.sleep(0.8)
            client.sendall(b"1234")
            answer = everything(client, most=200)
            assert answer.startswith(b"HTTP/1.1 200 ")
            everything(client, most=len(LONG) + answer.index(b"\r\n\r\n") + 4 - len(answer))


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
@pytest.mark.parametrize("asked", [1, 50])
def test_who_never_reads_the_answers_is_cut_off(connected: Connect, loop: str, asked: int) -> None:
    app = Echo()
    with serving(app, loop, write_timeout_s=0.2) as port:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            client.connect(("127.0.0.1", port))
            client.sendall(post(b"", 0) * asked)
            until(lambda: _reset(client))
        until(lambda: app.busy == 0)


def _reset(client: socket.socket) -> bool:
    """Whether the server ended the connection without the rest of the answers."""
    return bool(client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_who_sends_too_much_ahead_is_cut_off(connected: Connect, loop: str) -> None:
    app = Echo(b"here")
    with serving(app, loop) as port:
        client = connected(port)
        with suppress(ConnectionResetError):
            client.sendall(b"GET / HTTP/1.1\r\n\r\n" * 20_000)
            everything(client)
            pytest.fail("it was let go")
        until(lambda: app.busy == 0)
        assert _answers(connected(port))


@pytest.mark.parametrize("head", [b"GET / HTTP/1.1\r\nX: ", b"GET /", b"GET / HTTP/1.1\r\n"])
def test_a_head_without_end_is_refused(connected: Connect, head: bytes) -> None:
    with serving(Echo(b"here")) as port:
        client = connected(port)
        client.sendall(head)
        more = b"A: b\r\n" * 1_000 if head.endswith(b"\r\n") else b"x" * 6_000
        with suppress(OSError):
            for _ in range(200):
                client.sendall(more)
                time.sleep(0.001)
        assert "shorter headers" in problem(everything(client), 431)["detail"]


def test_empty_lines_keep_no_connection(connected: Connect) -> None:
    with serving(Echo(b"here"), read_timeout_s=0.3) as port:
        client = connected(port)
        client.sendall(post(b"", 0))
        assert everything(client, most=15).startswith(b"HTTP/1.1 200 ")
        time.sleep(0.2)
        client.sendall(b"\r\n")
        with pytest.raises(ConnectionResetError):
            everything(client)


def test_no_more_connections_than_settings_say(connected: Connect) -> None:
    with serving(Echo(b"here"), max_connections=5) as port:
        kept = [connected(port) for _ in range(5)]
        for client in kept:
            client.sendall(post(b"x", 10))
        answer = everything(connected(port))
        problem(answer, 429)
        assert b"\r\nretry-after: 1\r\n" in answer
        kept[0].close()
        until(lambda: _answers(connected(port)))
        for client in kept:
            client.close()


def _answers(client: socket.socket) -> bool:
    client.sendall(post(b"", 0))
    return client.recv(100).startswith(b"HTTP/1.1 200 ")
