"""An open-loop load: requests leave when they are due, whether or not the earlier ones were answered.

Each call's time counts from when it was due, so that a server that falls behind can't hide it (coordinated
omission: Tene 2013). It runs in a process of its own, `python -m serving.bench.open_load PLAN.json`, and is
as lean as Python lets it be: uvloop, requests from templates, answers looked at and not parsed.
"""

import asyncio
import gc
import json
import sys
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import orjson
import uvloop

from features.state import Floats
from ingestion.simulators.payments import Payments, simulate
from ingestion.simulators.wire import transactions
from serving.bench.http_load import request

KINDS = ("score", "quote", "list", "label", "outcome")
PATHS = {
    "score": "/v1/fraud/score",
    "quote": "/v1/prices/quote",
    "list": "/v1/transactions",
    "label": "/v1/labels",
    "outcome": "/v1/prices/outcomes",
}
LISTED = 100
"""Payments in a list."""
PRODUCTS = ("p-1", "p-2", "p-3")
"""Of the catalogue that the settings bring."""
POOL = 5_000
ID, STAMP = b"%012d", b"2026-01-01T00:00:00.000000Z"
REST_S = 0.1
"""What a closed loop waits after a 429: else refusals would be most of what it measures."""
GRACE_S = 30.0
"""How long the last answers may take."""

type_of_ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Plan:
    """A load; `rate` 0: each connection sends as soon as it has its answer, or has rested after a 429."""

    port: int
    run: str
    """Beginning of all ids."""
    seconds: float
    rate: float
    """Arrivals a second, a Poisson process."""
    connections: int
    """At most; an open loop opens one when it has none left."""
    seed: int
    mix: Mapping[str, float]
    """Share of each kind of call."""
    headers: Mapping[str, str] = field(default_factory=dict)
    opened: int = 0
    """So many connections are open before the first call is due, as those of clients that keep them are."""
    late_s: float = 60.0
    """Labels and outcomes come so long after what they are of."""


@dataclass(frozen=True)
class Calls:
    """What became of each call, in the order in which they were due; times in seconds since 1970."""

    kind: type_of_ints
    """Its place in `KINDS`."""
    due_s: Floats
    done_s: Floats
    """NaN: never answered."""
    status: type_of_ints
    """0: never answered."""
    told_when: npt.NDArray[np.bool_]
    """Whether the answer had `Retry-After`."""

    def names(self, run: str, kind: str, status: int) -> list[str]:
        """Ids of the transactions or quotes of all calls that were answered so."""
        chosen = np.flatnonzero((self.kind == KINDS.index(kind)) & (self.status == status)).tolist()
        if kind != "list":
            return [named(run, number) for number in chosen]
        return [named(run, number, item) for number in chosen for item in range(LISTED)]

    def latency_ms(self, *kinds: str) -> Floats:
        """Of the accepted calls, from when each was due."""
        wanted = np.isin(self.kind, [KINDS.index(kind) for kind in kinds or KINDS])
        accepted = wanted & (self.status >= 200) & (self.status < 300)
        return np.asarray((self.done_s - self.due_s)[accepted] * 1e3)


@dataclass(frozen=True)
class Sent:
    """A load, and what it cost its sender."""

    calls: Calls
    core_share: float
    """Share of one core that the sender took."""
    most_open: int
    """Connections at the same time."""


def named(run: str, number: int, item: int = 0) -> str:
    """Id of a call's transaction or quote; `item` within a list."""
    return f"{run}-{number * 1_000 + item:012d}"


def read(folder: Path) -> Sent:
    """What the sender left there."""
    with np.load(folder / "calls.npz") as found:
        calls = Calls(**{name: found[name] for name in found.files})
    said = json.loads((folder / "sent.json").read_text("utf-8"))
    return Sent(calls, said["core_share"], said["most_open"])


def main() -> None:
    """Send the load of the plan named on the command line, and leave beside it what became of it."""
    path = Path(sys.argv[1])
    load = Load(Plan(**json.loads(path.read_text("utf-8"))))
    gc.collect()
    gc.freeze()
    start, cpu = time.perf_counter(), time.process_time()
    uvloop.run(load.run())
    share = (time.process_time() - cpu) / (time.perf_counter() - start)
    np.savez(path.parent / "calls.npz", **asdict(load.calls()))
    said = json.dumps({"core_share": share, "most_open": load.most_open})
    (path.parent / "sent.json").write_text(said, "utf-8")


class Templates:
    """Requests that lack only their id and their time."""

    def __init__(self, plan: Plan) -> None:
        draw = np.random.default_rng(plan.seed)
        payments = _payments(plan.seed)
        self._headers = dict(plan.headers)
        self._score = [self._cut("score", _payment(plan.run, each)) for each in payments]
        self._quote = [self._cut("quote", _quote(plan.run, draw)) for _ in range(500)]
        self._list = [
            self._cut("list", b"[" + b",".join(_payment(plan.run, each) for each in part) + b"]")
            for part in (payments[i : i + LISTED] for i in range(0, 2_000, LISTED))
        ]
        self._label = [self._cut("label", _label(plan.run))]
        self._outcome = [self._cut("outcome", _outcome(plan.run))]

    def request(self, kind: str, number: int, stamp: bytes) -> bytes:
        """The request of a call; `number` is that of the call whose id it carries."""
        pool = cast(list[list[bytes]], getattr(self, f"_{kind}"))
        parts = pool[number % len(pool)]
        items = iter(range(number * 1_000, number * 1_000 + len(parts)))
        return b"".join(
            ID % next(items) if part is _HERE else stamp if part is _NOW else part for part in parts
        )

    def _cut(self, kind: str, body: bytes) -> list[bytes]:
        whole = request(PATHS[kind], body, self._headers)
        parts: list[bytes] = []
        for piece in whole.split(_ID):
            parts += [_HERE] if parts else []
            for position, text in enumerate(piece.split(STAMP)):
                parts += [_NOW] if position else []
                parts.append(text)
        return parts


_ID = b"#" * 12
_HERE, _NOW = b"\0id", b"\0now"
"""Known by identity: where an id, or the time, goes."""


def _payments(seed: int) -> list[dict[str, Any]]:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    return list(transactions(simulate(Payments(seed=seed, start=start), 1)))[:POOL]


def _payment(run: str, fields: Mapping[str, Any]) -> bytes:
    return orjson.dumps({**fields, "transaction_id": f"{run}-{_ID.decode()}", "event_time": STAMP.decode()})


def _quote(run: str, draw: np.random.Generator) -> bytes:
    context = {"inventory": int(draw.integers(1, 100)), "competitor_price": round(draw.uniform(10, 100), 2)}
    product = PRODUCTS[int(draw.integers(len(PRODUCTS)))]
    words = {"product_id": product, "segment": "web", "context": context}
    return orjson.dumps({"quote_id": f"{run}-{_ID.decode()}", "event_time": STAMP.decode(), **words})


def _label(run: str) -> bytes:
    words = {"label": "legitimate", "source": "settlement", "label_time": STAMP.decode()}
    return orjson.dumps({"transaction_id": f"{run}-{_ID.decode()}", **words})


def _outcome(run: str) -> bytes:
    return orjson.dumps({"quote_id": f"{run}-{_ID.decode()}", "event_time": STAMP.decode(), "units": 0})


class Load:
    """Sends a plan's calls."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        draw = np.random.default_rng(plan.seed)
        self._count = n = round(plan.seconds * (plan.rate or 20_000))
        self._due = (draw.exponential(1.0, n) / plan.rate).cumsum() if plan.rate else np.zeros(n)
        shares = [plan.mix.get(kind, 0.0) for kind in KINDS]
        self._kinds = draw.choice(len(KINDS), n, p=shares).astype(np.int64)
        self._done = np.full(n, np.nan)
        self._status = np.zeros(n, np.int64)
        self._told_when = np.zeros(n, np.bool_)
        self._templates = Templates(plan)
        self._known: dict[str, deque[tuple[float, int]]] = {"score": deque(), "quote": deque()}
        self._idle: deque[Wire] = deque()
        self._waiting: deque[int] = deque()
        self._connecting: set[asyncio.Future[None]] = set()
        self._open = self._opening = self._next = 0
        self._start = self._end = 0.0
        self._stamp, self._stamped = STAMP, 0.0
        self.most_open = 0

    def calls(self) -> Calls:
        """What became of the calls that were sent."""
        zero = time.time() - time.perf_counter()
        sent = slice(0, self._next)
        due, done = self._due[sent] + self._start + zero, self._done[sent] + zero
        return Calls(self._kinds[sent], due, done, self._status[sent], self._told_when[sent])

    async def run(self) -> None:
        """Send everything, and wait for the last answers, but not for ever."""
        self._opening += self._plan.opened
        await asyncio.gather(*(self._connect() for _ in range(self._plan.opened)))
        self._start = time.perf_counter()
        self._end = self._start + self._plan.seconds
        await (self._openly() if self._plan.rate else self._closed())
        deadline = time.perf_counter() + GRACE_S
        while (self._waiting or self._open > len(self._idle)) and time.perf_counter() < deadline:
            await asyncio.sleep(0.05)

    async def _openly(self) -> None:
        due, count = self._due, self._count
        while self._next < count:
            now = time.perf_counter() - self._start
            while self._next < count and due[self._next] <= now:
                self._next += 1
                self._offer(self._next - 1)
            if self._next < count:
                await asyncio.sleep(max(0.0, due[self._next] - (time.perf_counter() - self._start)))

    async def _closed(self) -> None:
        for _ in range(self._plan.connections):
            self._take_next()
        await asyncio.sleep(self._plan.seconds)

    def _take_next(self) -> None:
        """One call more of a closed loop, due now."""
        now = time.perf_counter()
        if now < self._end and self._next < self._count:
            self._due[self._next] = now - self._start
            self._next += 1
            self._offer(self._next - 1)

    def _offer(self, number: int) -> None:
        if self._idle:
            self._idle.popleft().send(number, self._request(number))
            return
        self._waiting.append(number)
        if self._open + self._opening < self._plan.connections and self._opening < len(self._waiting):
            self._opening += 1
            task = asyncio.ensure_future(self._connect())
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)

    async def _connect(self) -> None:
        try:
            await asyncio.get_running_loop().create_connection(
                lambda: Wire(self), "127.0.0.1", self._plan.port
            )
        except OSError:
            if self._waiting:
                self._waiting.popleft()  # it has its place with status 0: never answered
        finally:
            self._opening -= 1

    def _request(self, number: int) -> bytes:
        now = time.perf_counter()
        if now - self._stamped > 0.001:
            self._stamped = now
            self._stamp = datetime.now(UTC).isoformat(timespec="microseconds")[:26].encode() + b"Z"
        kind = KINDS[self._kinds[number]]
        of = self._late(kind, number, now)
        return self._templates.request(KINDS[self._kinds[number]], of, self._stamp)  # it may be another now

    def _late(self, kind: str, number: int, now: float) -> int:
        """The call whose id this one carries: its own, or for a label or outcome one accepted long ago."""
        if kind not in ("label", "outcome"):
            return number
        of = "score" if kind == "label" else "quote"
        known = self._known[of]
        if known and known[0][0] < now - self._plan.late_s:
            return known.popleft()[1]
        self._kinds[number] = KINDS.index(of)
        return number

    def opened(self, wire: "Wire") -> None:
        """A connection can be used."""
        self._open += 1
        self.most_open = max(self.most_open, self._open)
        self.free(wire)

    def closed(self, wire: "Wire") -> None:
        """A connection is gone; what it waited for was never answered."""
        self._open -= 1
        if wire in self._idle:
            self._idle.remove(wire)
        if not self._plan.rate:
            self._take_next()

    def released(self, wire: "Wire", status: int) -> None:
        """A connection has its answer."""
        if status == 429 and not self._plan.rate:
            asyncio.get_running_loop().call_later(REST_S, self.free, wire)
        else:
            self.free(wire)

    def free(self, wire: "Wire") -> None:
        """A connection can take the next call."""
        if self._waiting:
            number = self._waiting.popleft()
            wire.send(number, self._request(number))
            return
        self._idle.append(wire)
        if not self._plan.rate:
            self._take_next()

    def answered(self, number: int, status: int, told_when: bool) -> None:
        """A call has its answer."""
        now = time.perf_counter()
        self._done[number] = now
        self._status[number] = status
        self._told_when[number] = told_when
        known = self._known.get(KINDS[self._kinds[number]])
        if known is not None and status == 200 and self._plan.mix.get("label"):
            known.append((now, number))


class Wire(asyncio.Protocol):
    """A connection that is kept alive, with one call at a time on it."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._number = -1
        self._came = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ready."""
        self._transport = cast(asyncio.Transport, transport)
        self._load.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Gone."""
        self._load.closed(self)

    def send(self, number: int, whole: bytes) -> None:
        """Send a call."""
        assert self._transport is not None, "connected before it is used"
        self._number = number
        self._transport.write(whole)

    def data_received(self, data: bytes) -> None:
        """An answer, or a part of one."""
        data = self._came + data if self._came else data
        head = data.find(b"\r\n\r\n")
        if head < 0 or len(data) < head + 4 + _length(data, head):
            self._came = data
            return
        self._came = b""
        number, self._number = self._number, -1
        status = int(data[9:12])
        self._load.answered(number, status, b"\r\nretry-after: " in data[:head])
        self._load.released(self, status)


def _length(data: bytes, head: int) -> int:
    at = data.find(b"\r\ncontent-length: ", 0, head)
    return int(data[at + 18 : data.find(b"\r", at + 18)]) if at >= 0 else 0


if __name__ == "__main__":
    main()
