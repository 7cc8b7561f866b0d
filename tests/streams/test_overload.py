"""The API on real servers under twice the load it can bear, and with clients that are slow on purpose."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import orjson
import psutil
import pytest
import uvicorn

from infra.settings import Api, Settings
from serving.admission import START
from serving.app import create_app
from serving.bench.open_load import Plan
from serving.bench.under_load import send
from serving.connections import server_options
from tests.payments import START as TODAY
from tests.payments import payment
from tests.servers import Servers, until

pytestmark = pytest.mark.servers

PAYMENT = orjson.dumps(payment("t-1", TODAY, "c-1", "m-1", 10.0))
SCORE, LIST = "/v1/fraud/score", "/v1/transactions"
Connect = Callable[[int], socket.socket]
MIX = {"score": 0.9, "quote": 0.09, "list": 0.01}


@contextmanager
def serving(servers: Servers, **api: Any) -> Iterator[int]:
    """The application as `tollgate run api` serves it; gives its port."""
    chosen: Settings = servers.settings.model_copy(update={"api": Api(**api)})
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        config = uvicorn.Config(
            create_app(chosen), loop="uvloop", log_config=None, **server_options(chosen.api)
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listening],), name="api")
        thread.start()
        try:
            until(lambda: server.started or not thread.is_alive())
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(20)


def post(path: str, body: bytes, length: int | None = None) -> bytes:
    """A request, or the beginning of one of a greater `length`."""
    told = len(body) if length is None else length
    return b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (path.encode(), told, body)


@pytest.fixture
def connected() -> Iterator[Connect]:
    """Opens connections to a port; they are closed at the end."""
    opened: list[socket.socket] = []

    def connect(port: int) -> socket.socket:
        opened.append(socket.create_connection(("127.0.0.1", port), timeout=20))
        return opened[-1]

    yield connect
    for each in opened:
        each.close()


def everything(client: socket.socket) -> bytes:
    """What comes until the server closes."""
    came = b""
    while data := client.recv(65_536):
        came += data
    return came


def test_more_than_can_be_answered_is_refused_and_the_rest_arrives(servers: Servers) -> None:
    with serving(servers) as port, servers.working():
        able = send(Plan(port, "w", 3.0, 0.0, 32, 1, MIX)).calls
        rate = 2.5 * len(able.status) / 3.0
        statuses: list[int] = []
        stop = threading.Event()

        def look() -> None:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
                while not stop.is_set():
                    statuses.extend(client.get(path).status_code for path in ("/healthz", "/metrics"))
                    time.sleep(0.1)

        looking = threading.Thread(target=look)
        looking.start()
        calls = send(Plan(port, "o", 4.0, rate, 400, 2, MIX)).calls
        stop.set()
        looking.join()
        assert set(calls.status.tolist()) <= {200, 202, 429}
        refused = calls.status == 429
        assert refused.any()
        assert calls.told_when[refused].all()
        assert statuses
        assert set(statuses) == {200}
        accepted = calls.names("o", "score", 200) + calls.names("o", "list", 202)
        until(lambda: not servers.lag())
        decisions = servers.decisions()
    assert {name: len(decisions.get(name, ())) for name in accepted} == dict.fromkeys(accepted, 1)
    assert not decisions.keys() & set(calls.names("o", "score", 429))


def test_a_body_that_comes_by_the_byte_is_cut_off(servers: Servers, connected: Connect) -> None:
    with serving(servers, read_timeout_s=1.0) as port:
        slow = [connected(port) for _ in range(2 * START)]
        for client in slow:
            client.sendall(post(SCORE, b"{", length=300))
        silent, half = connected(port), connected(port)
        half.sendall(b"POST /v1/fraud/score HTTP/1.1\r\nHost")
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
            answer = client.post(SCORE, content=PAYMENT)
            assert answer.status_code == 200, "slow clients take nobody's place"
        start = time.monotonic()
        for each in (*slow, silent, half):
            head, _, body = everything(each).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 408 ")
            assert orjson.loads(body)["status"] == 408
        assert time.monotonic() - start < 15


def test_a_slow_body_within_its_time_is_taken(servers: Servers, connected: Connect) -> None:
    with serving(servers, read_timeout_s=5.0) as port:
        client, body = connected(port), PAYMENT
        client.sendall(post(SCORE, body[:10], length=len(body)))
        time.sleep(1.5)
        client.sendall(body[10:])
        assert client.recv(65_536).startswith(b"HTTP/1.1 200 ")
        time.sleep(1.0)
        client.sendall(post(SCORE, body))
        assert client.recv(65_536).startswith(b"HTTP/1.1 200 "), "its time begins anew with each request"


def test_many_lists_at_once_do_not_fill_the_memory(servers: Servers, connected: Connect) -> None:
    """Fifty clients with eight megabytes each would need several hundred."""
    body = b"[" + b",".join([PAYMENT + b" " * 8_000] * 1_000) + b"]"
    with serving(servers, large_calls=4) as port:
        before = psutil.Process().memory_info().rss
        most, statuses = 0, []
        clients = [
            threading.Thread(target=lambda: statuses.append(_posted(connected(port), body)))
            for _ in range(50)
        ]
        for each in clients:
            each.start()
        while any(each.is_alive() for each in clients):
            most = max(most, psutil.Process().memory_info().rss)
            time.sleep(0.02)
    assert set(statuses) <= {202, 429}
    assert {202, 429} <= set(statuses)
    assert most - before < 200e6


def _posted(client: socket.socket, body: bytes) -> int:
    client.sendall(post(LIST, b"", length=len(body)))
    view = memoryview(body)
    for start in range(0, len(body), 65_536):
        client.sendall(view[start : start + 65_536])
    return int(client.recv(65_536)[9:12])
