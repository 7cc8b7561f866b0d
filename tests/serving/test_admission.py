"""More calls than can be answered in time: who is let in, and what the others hear."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
import pytest

from infra.settings import Api
from serving.admission import CUT, LARGE_BYTES, LEAST, MOST, START, Admission, Limit

SCORE = "/v1/fraud/score"
App = Callable[[Any, Any, Any], Awaitable[None]]


class Counted:
    """What admission told."""

    def __init__(self) -> None:
        self.kinds: list[str] = []
        self.limit = 0

    def refused(self, kind: str) -> None:
        self.kinds.append(kind)

    def limited(self, calls: int) -> None:
        self.limit = calls


def windows(
    limit: Limit, service_s: Callable[[int], float], count: int, refusing: bool = True, now_s: float = 0.0
) -> list[int]:
    """The limit after each of some windows, in which calls take as long as the limit makes them."""
    found = []
    for _ in range(count):
        for _ in range(20):
            now_s += 0.011
            if refusing:
                limit.refused()
            limit.took(service_s(limit.calls), now_s)
        found.append(limit.calls)
    return found


@pytest.mark.parametrize("ms_a_call", [0.2, 0.5, 1.0, 4.0])
def test_the_limit_finds_what_takes_the_target(ms_a_call: float) -> None:
    found = windows(Limit(0.1), lambda calls: calls * ms_a_call / 1e3, 100)
    assert found[-1] == pytest.approx(100 / ms_a_call, rel=0.12)


def test_it_follows_a_machine_that_slows_down_and_recovers() -> None:
    limit = Limit(0.1)
    before = windows(limit, lambda calls: calls * 0.5e-3, 60)[-1]
    slow = windows(limit, lambda calls: calls * 2e-3, 20, now_s=100.0)[-1]
    after = windows(limit, lambda calls: calls * 0.5e-3, 60, now_s=200.0)[-1]
    assert slow == pytest.approx(before / 4, rel=0.2)
    assert after == pytest.approx(before, rel=0.1)


def test_it_stays_within_its_bounds() -> None:
    assert windows(Limit(0.1), lambda _: 0.5, 60)[-1] == LEAST
    assert windows(Limit(0.1), lambda _: 0.001, 100)[-1] == MOST


def test_a_machine_with_time_left_changes_nothing() -> None:
    assert set(windows(Limit(0.1), lambda _: 0.001, 50, refusing=False)) == {START}


def test_calls_from_before_a_cut_do_not_cut_again() -> None:
    limit = Limit(0.1)
    limit.took(0.05, 9.0)
    limit.took(0.4, 10.0)  # the window's end: one cut
    assert limit.calls == START * CUT
    for now_s in (10.1, 10.2, 10.3):
        limit.took(0.4, now_s)
        assert limit.calls == START * CUT


def test_a_crowd_that_is_done_at_once_hides_nobody() -> None:
    limit = Limit(0.1)
    limit.took(0.01, 9.0)
    for _ in range(1_000):
        limit.took(1e-5, 9.05)
    for _ in range(10):
        limit.took(0.2, 9.08)
    limit.took(0.2, 9.11)
    assert limit.calls == START * CUT


class Server:
    """An application that answers when told to, behind an admission."""

    def __init__(self, **api: Any) -> None:
        self.counted, self.go, self.now_s = Counted(), asyncio.Event(), 0.0
        self.inside = 0
        self._admission = Admission(self._app, Api(**api), self.counted, lambda: self.now_s)

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        self.inside += 1
        while (await receive()).get("more_body"):
            pass
        await self.go.wait()
        self.inside -= 1
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def call(
        self, path: str = SCORE, length: int | None = 100, sent: asyncio.Event | None = None
    ) -> Any:
        """The answer's start and body; `sent`: when the client has sent its body."""
        answer: list[Any] = []

        async def receive() -> Any:
            if sent is not None:
                await sent.wait()
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            answer.append(message)

        told = (
            [(b"transfer-encoding", b"chunked")] if length is None else [(b"content-length", b"%d" % length)]
        )
        await self._admission({"type": "http", "path": path, "headers": told}, receive, send)
        return answer[0]["status"], dict(answer[0]["headers"]), answer[1]["body"]

    def begin(self, n: int = 1, **call: Any) -> list["asyncio.Task[Any]"]:
        return [asyncio.create_task(self.call(**call)) for _ in range(n)]


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_what_is_too_many_hears_429_and_when_to_come_again() -> None:
    async def story() -> None:
        server = Server()
        inside = server.begin(START)
        await settled()
        status, headers, body = await server.call()
        assert (status, headers[b"retry-after"]) == (429, b"1")
        assert headers[b"content-type"] == b"application/problem+json"
        assert int(headers[b"content-length"]) == len(body)
        assert orjson.loads(body)["status"] == 429
        assert (server.inside, server.counted.kinds) == (START, ["small"])
        server.go.set()
        assert {status for status, _, _ in await asyncio.gather(*inside)} == {200}
        assert (await server.call())[0] == 200

    asyncio.run(story())


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
def test_health_and_metrics_always_answer(path: str) -> None:
    async def story() -> None:
        server = Server()
        inside = server.begin(START) + server.begin(4, length=LARGE_BYTES + 1)
        await settled()
        asked = server.begin(path=path)
        await settled()
        server.go.set()
        assert [status for status, _, _ in await asyncio.gather(*asked, *inside)] == [200] * (START + 5)

    asyncio.run(story())


def test_lists_are_few_and_small_calls_pass_them() -> None:
    async def story() -> None:
        server = Server(large_calls=2)
        lists = server.begin(2, length=LARGE_BYTES + 1)
        await settled()
        status, headers, _ = await server.call(length=LARGE_BYTES + 1)
        assert (status, headers[b"retry-after"]) == (429, b"1")
        assert (await server.call(length=None))[0] == 429, "who tells no length may send anything"
        small = server.begin(START)
        await settled()
        server.go.set()
        assert {status for status, _, _ in await asyncio.gather(*small, *lists)} == {200}
        assert server.counted.kinds == ["large", "large"]

    asyncio.run(story())


def test_lists_together_hold_no_more_than_one_body_may() -> None:
    async def story() -> None:
        server = Server(max_body_bytes=100_000)
        lists = server.begin(1, length=60_000)
        await settled()
        assert (await server.call(length=50_000))[0] == 429
        lists += server.begin(1, length=40_000)
        await settled()
        server.go.set()
        assert {status for status, _, _ in await asyncio.gather(*lists)} == {200}
        assert (await server.call(length=90_000))[0] == 200, "what is done is given back"

    asyncio.run(story())


def test_who_sends_slowly_takes_nobodys_place() -> None:
    async def story() -> None:
        server, sent = Server(), asyncio.Event()
        slow = server.begin(3 * START, sent=sent)
        await settled()
        server.go.set()
        assert (await server.call())[0] == 200
        server.now_s = 500.0  # the client's time is not ours
        sent.set()
        assert {status for status, _, _ in await asyncio.gather(*slow)} == {200}
        server.now_s += 1.0
        assert (await server.call())[0] == 200
        assert server.counted.limit == START

    asyncio.run(story())


def test_an_error_inside_gives_its_place_back() -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError

    async def story() -> None:
        admission = Admission(broken, Api(), Counted())
        for length in (b"10", b"10000"):
            for _ in range(2 * START):
                with pytest.raises(RuntimeError):
                    await admission(
                        {"type": "http", "path": SCORE, "headers": [(b"content-length", length)]}, None, None
                    )

    asyncio.run(story())
