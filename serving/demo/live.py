"""Live events of the demonstration: through Kafka and over HTTP, and what came back of them."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, TypeVar, cast

import httpx
import numpy as np
import orjson

from features.state import Floats
from infra.errors import UserError
from infra.progress import Task
from ingestion.broker import Consumer, Producer
from ingestion.playback import Message, messages
from ingestion.simulators.columns import take
from ingestion.simulators.market import Quotes
from ingestion.simulators.wire import encoded, outcomes, quote_requests
from ingestion.tables import DAY_US
from ingestion.topics import DECISIONS, LABELS, TRANSACTIONS
from serving.demo.story import Story, Stretch

HTTP_EVERY = 40
"""Every so many-th payment is scored over HTTP instead of being sent to Kafka."""
CONCURRENT = 4
MOST_AT_ONCE = 1_000
SETTLE_S = 120.0
R = TypeVar("R")


@dataclass
class Decided:
    """Decisions as they come out of the topic, by transaction."""

    decisions: dict[str, dict[str, Any]] = field(default_factory=dict)
    copies: int = 0
    """Messages on the topic beyond the first of a transaction."""

    def add(self, value: bytes) -> None:
        """Take a message of the topic."""
        decision = orjson.loads(value)
        decision.pop("features", None)
        name = decision["transaction_id"]
        self.copies += name in self.decisions
        self.decisions.setdefault(name, decision)


class Listener:
    """Collects every decision that is published while it is open."""

    def __init__(self, address: str) -> None:
        self.seen = Decided()
        self._consumer = Consumer(address, [DECISIONS], group=None)
        for partition, end in self._consumer.ends(self._consumer.assignment()).items():
            self._consumer.seek(partition, end)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def __enter__(self) -> "Listener":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._consumer.close()

    def _listen(self) -> None:
        while not self._stop.is_set():
            for record in self._consumer.poll(wait_ms=200):
                self.seen.add(record.value or b"")

    def wait_for(self, names: Sequence[str]) -> None:
        """Return when all these transactions are decided. UserError if some are not after two minutes."""
        end = time.monotonic() + SETTLE_S
        while missing := sum(name not in self.seen.decisions for name in names):
            if time.monotonic() > end:
                raise UserError(
                    f"{missing} of {len(names)} transactions were not decided; see the worker's log."
                )
            time.sleep(0.1)


@dataclass(frozen=True)
class Sold:
    """Quotes of a stretch, and the price that was shown for each."""

    quotes: Quotes
    prices: Floats


@dataclass(frozen=True)
class Streamed:
    """What a stretch came to."""

    names: list[str]
    """Its payments, in order of time."""
    seconds: float
    """From the first event sent until the last payment is decided."""
    score_ms: list[float]
    """Time of each score over HTTP, as the client saw it."""
    quote_ms: list[float]
    sold: Sold


@dataclass
class Client:
    """The API as a shop would call it; keeps how long each call took."""

    http: httpx.AsyncClient
    score_ms: list[float] = field(default_factory=list)
    quote_ms: list[float] = field(default_factory=list)

    async def score(self, body: bytes) -> None:
        """Have a payment decided and published."""
        self.score_ms.append((await self._timed("/v1/fraud/score", body))[1])

    async def quote(self, body: bytes) -> float:
        """Ask for a price."""
        answer, spent_ms = await self._timed("/v1/prices/quote", body)
        self.quote_ms.append(spent_ms)
        return float(orjson.loads(answer)["price"])

    async def tell(self, events: Sequence[bytes]) -> None:
        """Report what became of quotes."""
        for start in range(0, len(events), MOST_AT_ONCE):
            part = b"[" + b",".join(events[start : start + MOST_AT_ONCE]) + b"]"
            await self._timed("/v1/prices/outcomes", part)

    async def _timed(self, path: str, body: bytes) -> tuple[bytes, float]:
        start = time.perf_counter()
        answer = await self.http.post(path, content=body)
        if answer.is_error:
            raise UserError(f"the API refused POST {path}: {answer.status_code} {answer.text[:300]}")
        return answer.content, (time.perf_counter() - start) * 1e3


@dataclass
class Stage:
    """Where the live events are played. What is declined gets no label, as in life."""

    story: Story
    producer: Producer
    listener: Listener
    api: Callable[[], httpx.AsyncClient]
    """A new client of the API."""
    sent: set[str] = field(default_factory=set)
    """Payments of the days before."""

    async def run(self, stretch: Stretch, task: Task) -> Streamed:
        """Send a stretch's events day by day, and return when every payment of it is decided."""
        events = self.story.payments.between(stretch.start_us, stretch.end_us)
        names: list[str] = events.decided["transaction_id"].to_pylist()
        task.expect(len(events))
        quotes = self.story.quotes(stretch)
        start, prices = time.monotonic(), np.empty(len(quotes))
        async with self.api() as http:
            client = Client(http)
            for day, due in groupby(messages(events), key=lambda message: message.time_us // DAY_US):
                today = np.flatnonzero(quotes.event_time_us // DAY_US == day)
                _, prices[today] = await asyncio.gather(
                    self._payments(list(due), client, task), self._sales(take(quotes, today), client)
                )
        await asyncio.to_thread(self.listener.wait_for, names)
        seconds = time.monotonic() - start
        return Streamed(names, seconds, client.score_ms, client.quote_ms, Sold(quotes, prices))

    async def _payments(self, due: Sequence[Message], client: Client, task: Task) -> None:
        """Most over Kafka, some over HTTP: both are decided the same way."""
        paid = [each for each in due if each.topic == TRANSACTIONS]
        by_http = paid[::HTTP_EVERY]
        chosen = {id(each) for each in by_http}
        known = await asyncio.to_thread(self._knowable, due)
        rest = [each for each in known if id(each) not in chosen]
        await asyncio.gather(
            asyncio.to_thread(self._send, rest, task),
            _side_by_side(client.score, [each.value for each in by_http]),
        )
        task.advance(len(by_http) + len(due) - len(known))
        self.sent |= {orjson.loads(each.value)["transaction_id"] for each in paid}

    def _knowable(self, due: Sequence[Message]) -> list[Message]:
        """Without the labels of payments that were declined on a day before."""
        labels = {id(each): each.key.decode() for each in due if each.topic == LABELS}
        live = {name for name in labels.values() if name in self.sent}
        self.listener.wait_for(list(live))
        decisions = self.listener.seen.decisions
        declined = {name for name in live if decisions[name]["decision"] == "decline"}
        return [each for each in due if labels.get(id(each)) not in declined]

    def _send(self, due: Sequence[Message], task: Task) -> None:
        for message in due:
            self.producer.send(message.topic, message.value, message.key)
        self.producer.flush()
        task.advance(len(due))

    async def _sales(self, quotes: Quotes, client: Client) -> Floats:
        """Quote every price, let the market buy, and report what was bought."""
        prices = np.array(await _side_by_side(client.quote, encoded(quote_requests(quotes))))
        market = self.story.market
        units = market.purchase(quotes, prices)
        await client.tell(encoded(outcomes(quotes.quote_id, market.outcome_time_us(quotes), units)))
        return prices


async def _side_by_side(call: Callable[[bytes], Awaitable[R]], bodies: Sequence[bytes]) -> list[R]:
    """Answers in order; at most `CONCURRENT` calls at a time."""
    answers: list[R | None] = [None] * len(bodies)
    waiting = iter(enumerate(bodies))

    async def caller() -> None:
        for i, body in waiting:
            answers[i] = await call(body)

    await asyncio.gather(*(caller() for _ in range(CONCURRENT)))
    return cast(list[R], answers)
