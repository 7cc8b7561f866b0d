"""Who is let in when more calls come than can be answered in time: the rest hears 429 at once.

By Little's law (1961) a call takes as long as all that are in work need to be done; so a limit of calls in
work is a limit of time. `Limit` finds it by the times themselves, as the ways of TCP and CoDel do (Jacobson
1988; Nichols & Jacobson 2012): no rate is guessed, and a slower machine or neighbour lets fewer in.
"""

import time
from collections.abc import Callable
from typing import Protocol

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from infra.settings import Api
from serving.access import HEALTH
from serving.problems import MEDIA_TYPE, SAFE

NEVER_REFUSED = HEALTH | {"/metrics"}
OF_MODELS = "/v1/models"
"""Who looks after an overloaded API needs these most, and a champion to roll back."""
TIMED = frozenset(
    {"/v1/fraud/score", "/v1/prices/quote", "/v1/transactions", "/v1/labels", "/v1/prices/outcomes"}
)
"""Calls whose times set the limit: the many that are alike."""
LARGE_BYTES = 4_096
"""A longer body is a list, or works like one."""
START, LEAST, MOST = 64, 16, 1_024
WINDOW_S = 0.1
GROWTH, CUT = 1.1, 0.5
"""A window changes the limit by no more than these factors."""
RETRY_AFTER_S = 1

type_of_answer = tuple[Message, Message]


class Limit:
    """How many calls may be in work, so that one takes `target_s` seconds; times are arguments.

    At the end of a window the limit is multiplied by target / time taken: if all calls share the machine, the
    next ones take the target. Up it goes only where it has refused somebody. In the mean each call weighs as
    long as it takes, so that crowds that are done at once (refused, cached) don't hide the others; and one
    that was let in before the last cut says nothing of the limit after it.

    >>> limit = Limit(target_s=0.1)
    >>> for _ in range(limit.calls): limit.took(0.2, now_s=10.0)
    >>> limit.took(0.2, now_s=10.2); limit.calls
    32
    """

    def __init__(self, target_s: float) -> None:
        self.calls = START
        self._target_s = target_s
        self._until_s = self._cut_s = float("-inf")
        self._time, self._square = 0.0, 0.0
        self._refused = False

    def refused(self) -> None:
        """Somebody was sent away for it."""
        self._refused = True

    def took(self, spent_s: float, now_s: float) -> None:
        """A call was answered at `now_s`, so long after it was let in."""
        if now_s - spent_s >= self._cut_s:
            self._time += spent_s
            self._square += spent_s * spent_s
        if now_s >= self._until_s:
            self._turn(now_s)

    def _turn(self, now_s: float) -> None:
        if self._time > 0.0 and self._until_s > float("-inf"):
            self._adapt(self._target_s * self._time / self._square, now_s)
        self._until_s = now_s + WINDOW_S
        self._time, self._square, self._refused = 0.0, 0.0, False

    def _adapt(self, factor: float, now_s: float) -> None:
        """`factor`: the target as a share of the mean time."""
        if factor < 1.0:
            self.calls, self._cut_s = max(LEAST, int(self.calls * max(CUT, factor))), now_s
        elif self._refused:
            self.calls = min(MOST, int(self.calls * min(GROWTH, factor)) + 1)


class Counts(Protocol):
    """Told what admission does."""

    def refused(self, kind: str) -> None:
        """A call was sent away; `kind` is `small` or `large`."""
        ...

    def limited(self, calls: int) -> None:
        """So many small calls may be in work now."""
        ...


class Admission:
    """Lets calls in, or answers 429 before anybody has looked at their key or body.

    Small calls: as many in work as `Limit` finds. Large ones, whose body is a list: a few, and together no
    more bytes than one may have, so that they neither starve the small ones nor fill the memory. A small call
    that waits for its client to send is not in work; the server ends that wait (`serving/connections.py`).
    """

    def __init__(
        self, app: ASGIApp, api: Api, counts: Counts, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._app, self._counts, self._clock = app, counts, clock
        self._limit = Limit(api.max_delay_ms / 1e3)
        self._calls = self._large = self._bytes = 0
        self._most_large, self._most_bytes = api.large_calls, api.max_body_bytes
        self._too_many = refusal(api.max_delay_ms)
        self._too_large = large_refusal(api.large_calls)
        counts.limited(self._limit.calls)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the call on, or refuse it."""
        if scope["type"] != "http" or never_refused(scope["path"]):
            await self._app(scope, receive, send)
        elif (length := told_length(scope)) > LARGE_BYTES:
            await self._take_large(scope, receive, send, length)
        elif self._calls >= self._limit.calls:
            self._limit.refused()
            self._counts.refused("small")
            await answered(self._too_many, send)
        else:
            await self._take_small(scope, receive, send)

    async def _take_small(self, scope: Scope, receive: Receive, send: Send) -> None:
        start_s = self._clock()

        async def from_client() -> Message:
            nonlocal start_s
            self._calls -= 1
            try:
                return await receive()
            finally:
                self._calls += 1
                start_s = self._clock()  # what came before was the client's time

        self._calls += 1
        try:
            await self._app(scope, from_client, send)
        finally:
            self._calls -= 1
            if scope["path"] in TIMED:
                self._time(start_s)

    def _time(self, start_s: float) -> None:
        before, now_s = self._limit.calls, self._clock()
        self._limit.took(now_s - start_s, now_s)
        if self._limit.calls != before:
            self._counts.limited(self._limit.calls)

    async def _take_large(self, scope: Scope, receive: Receive, send: Send, length: int) -> None:
        size = min(length, self._most_bytes)  # a longer one is refused inside
        if self._large >= self._most_large or self._bytes + size > self._most_bytes:
            self._counts.refused("large")
            await answered(self._too_large, send)
            return
        self._large += 1
        self._bytes += size
        try:
            await self._app(scope, receive, send)
        finally:
            self._large -= 1
            self._bytes -= size


def never_refused(path: str) -> bool:
    """Whether a call is let in whatever the load."""
    return path in NEVER_REFUSED or path.startswith(OF_MODELS)


def told_length(scope: Scope) -> int:
    """Bytes of the body as the client tells; more than any where it does not."""
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value) if value.isdigit() else 0  # the server refuses what is no number
        if name == b"transfer-encoding":
            return 1 << 62
    return 0


def refusal(max_delay_ms: float) -> type_of_answer:
    """429 for a small call."""
    detail = f"expected a load that is answered within {max_delay_ms:g} ms, came more; wait, then try again"
    return rendered(429, "Too Many Requests", detail)


def large_refusal(most: int) -> type_of_answer:
    """429 for a large one."""
    detail = f"expected at most {most} lists at a time, came more; wait for answers, then try again"
    return rendered(429, "Too Many Requests", detail)


def rendered(status: int, title: str, detail: str) -> type_of_answer:
    """A problem document with `Retry-After`, ready to be sent as often as needed."""
    body = orjson.dumps({"type": "about:blank", "title": title, "status": status, "detail": detail})
    headers = {
        "Content-Type": MEDIA_TYPE,
        "Content-Length": str(len(body)),
        "Retry-After": f"{RETRY_AFTER_S}",
    }
    lines = [(name.lower().encode(), value.encode()) for name, value in (headers | SAFE).items()]
    return (
        {"type": "http.response.start", "status": status, "headers": lines},
        {"type": "http.response.body", "body": body},
    )


async def answered(answer: type_of_answer, send: Send) -> None:
    """Send an answer that is ready."""
    for message in answer:
        await send(message)
