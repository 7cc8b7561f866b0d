"""Open-loop load: requests and events leave when they are due, however long the answers take.

Everything that was accepted is written down, and every answer with its kind and its time. A client sends
again, under the same id, what got no answer or a refusal, as a good client does.
"""

import asyncio
import itertools
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import orjson
from kafka.errors import KafkaError

from ingestion.broker import BrokerError, Producer
from ingestion.topics import LABELS, OUTCOMES, QUOTES, TRANSACTIONS

TIMEOUT_S = 10.0
AGAIN_S = 3.0
"""After so long a client sends again what was not accepted, ..."""
TRIES = 3
"""... but no more often than this."""
CUSTOMERS, TERMINALS = 60, 12
PRODUCTS = ("p-1", "p-2", "p-3")
SCORE, EVENTS, QUOTE = "/v1/fraud/score", "/v1/transactions", "/v1/prices/quote"
LABEL, OUTCOME = "/v1/labels", "/v1/prices/outcomes"
REFUSED, CUT_OFF, NO_ANSWER = "connection refused", "connection cut off", "no answer"
HALF_S = 0.5

type_of_event = dict[str, Any]


@dataclass(frozen=True)
class Rates:
    """How many of each leave in a second."""

    scores: float = 10
    payments: float = 2
    """Calls with three payments each."""
    streamed: float = 6
    """Payments sent to Kafka itself."""
    labels: float = 1
    quotes: float = 2
    outcomes: float = 0.5

    @property
    def calls(self) -> float:
        """HTTP requests in a second."""
        return self.scores + self.payments + self.labels + self.quotes + self.outcomes


@dataclass(frozen=True)
class Answer:
    """What became of one request."""

    path: str
    kind: str
    """Such as `200`, `200 degraded`, `503 with Retry-After`, `connection refused`."""
    sent_s: float
    """By the monotonic clock."""
    took_s: float

    @property
    def normal(self) -> bool:
        """Whether all was as on a good day."""
        return self.kind in ("200", "202")


@dataclass
class Manner:
    """How events are sent; faults may change it."""

    copies: int = 1
    shuffled: bool = False
    """A second's events for Kafka leave in any order, labels before their payments, too."""
    skew_h: tuple[float, float] = (0.0, 0.0)
    """Event times are so many hours off, between the two."""


def kind_of(answer: httpx.Response) -> str:
    """The kind of an answer."""
    status = str(answer.status_code)
    if answer.status_code in (429, 503):
        return (
            f"{status} with Retry-After"
            if "retry-after" in answer.headers
            else f"{status} without Retry-After"
        )
    if answer.status_code == 200 and answer.json().get("degraded"):
        return f"{status} degraded"
    return status


@dataclass
class Load:
    """Load from a thread of its own, between `start` and `stop`; may be started again.

    Args:
        api: address.
        key: value of the header `Authorization`.
        kafka: `host:port`.
        seed: of everything random.
    """

    api: str
    key: str
    kafka: str
    seed: int
    rates: Rates = Rates()
    manner: Manner = field(default_factory=Manner)
    answers: list[Answer] = field(default_factory=list)
    accepted: list[tuple[str, str]] = field(default_factory=list)
    """Topic and id of every event that the API or Kafka has taken."""
    refused: list[str] = field(default_factory=list)
    """What Kafka did not take, and why."""

    def __post_init__(self) -> None:
        self._chance = random.Random(self.seed)
        self._numbers = itertools.count()
        self._paid: list[str] = []
        self._quoted: list[str] = []
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()

    def start(self) -> None:
        """Begin to send."""
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._call), threading.Thread(target=self._stream)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Send nothing new; wait for the answers that are still to come."""
        self._stop.set()
        for thread in self._threads:
            thread.join(TIMEOUT_S * TRIES + 60)
        self._threads = []

    def since(self, moment_s: float) -> list[Answer]:
        """Answers to what was sent since a moment of the monotonic clock."""
        with self._lock:
            return [each for each in self.answers if each.sent_s >= moment_s]

    # HTTP

    def _call(self) -> None:
        asyncio.run(self._calls())

    async def _calls(self) -> None:
        rates = self.rates
        makers: list[Callable[[], tuple[str, str, list[str], Any]]] = [
            self._score,
            self._payments,
            self._label,
            self._quote,
            self._outcome,
        ]
        weights = [rates.scores, rates.payments, rates.labels, rates.quotes, rates.outcomes]
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=50)
        headers = {"Authorization": self.key}
        async with httpx.AsyncClient(
            base_url=self.api, headers=headers, timeout=TIMEOUT_S, limits=limits
        ) as client:
            tasks, due = set[asyncio.Task[None]](), time.monotonic()
            while not self._stop.is_set():
                (make,) = self._chance.choices(makers, weights)
                task = asyncio.create_task(self._told(client, *make()))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                due += self._chance.expovariate(rates.calls)
                await asyncio.sleep(max(0.0, due - time.monotonic()))
            await asyncio.gather(*tasks)

    async def _told(
        self, client: httpx.AsyncClient, path: str, topic: str, names: list[str], body: Any
    ) -> None:
        for number in range(TRIES):
            if number:
                await asyncio.sleep(AGAIN_S)
            answer = await self._asked(client, path, body)
            with self._lock:
                self.answers.append(answer)
                if answer.kind.startswith("20"):
                    self.accepted += [(topic, name) for name in names]
                    self._remember(topic, names)
                    return

    async def _asked(self, client: httpx.AsyncClient, path: str, body: Any) -> Answer:
        sent_s = time.monotonic()
        try:
            kind = kind_of(await client.post(path, content=orjson.dumps(body)))
        except httpx.ConnectError:
            kind = REFUSED
        except httpx.TimeoutException:
            kind = NO_ANSWER
        except httpx.TransportError:
            kind = CUT_OFF
        return Answer(path, kind, sent_s, time.monotonic() - sent_s)

    def _remember(self, topic: str, names: Sequence[str]) -> None:
        """What labels and outcomes may tell of."""
        if topic == TRANSACTIONS:
            self._paid.extend(names)
        elif topic == QUOTES:
            self._quoted.extend(names)

    def _score(self) -> tuple[str, str, list[str], Any]:
        paid = self._payment()
        return SCORE, TRANSACTIONS, [paid["transaction_id"]], paid

    def _payments(self) -> tuple[str, str, list[str], Any]:
        some = [self._payment() for _ in range(3)]
        return EVENTS, TRANSACTIONS, [each["transaction_id"] for each in some], some

    def _label(self) -> tuple[str, str, list[str], Any]:
        with self._lock:
            name = self._chance.choice(self._paid) if self._paid else None
        return (LABEL, LABELS, [name], self._said(name)) if name else self._score()

    def _quote(self) -> tuple[str, str, list[str], Any]:
        name = self._name("q")
        asked = {"quote_id": name, "event_time": self._now(), "product_id": self._chance.choice(PRODUCTS)}
        return (
            QUOTE,
            QUOTES,
            [name],
            asked | {"segment": "web", "context": {"hour": self._chance.randrange(24)}},
        )

    def _outcome(self) -> tuple[str, str, list[str], Any]:
        with self._lock:
            name = self._chance.choice(self._quoted) if self._quoted else None
        if not name:
            return self._score()
        return OUTCOME, OUTCOMES, [name], {"quote_id": name, "event_time": self._now(), "units": 1}

    # events

    def _name(self, kind: str) -> str:
        return f"{kind}-{self.seed}-{next(self._numbers)}"

    def _now(self) -> str:
        off = timedelta(hours=self._chance.uniform(*self.manner.skew_h))
        return (datetime.now(UTC) + off).isoformat()

    def _payment(self) -> type_of_event:
        return {
            "transaction_id": self._name("t"),
            "event_time": self._now(),
            "customer_id": f"c-{self._chance.randrange(CUSTOMERS)}",
            "terminal_id": f"m-{self._chance.randrange(TERMINALS)}",
            "amount": round(self._chance.lognormvariate(3.5, 1.2), 2),
            "currency": "EUR",
            "channel": self._chance.choice(["web", "pos"]),
        }

    def _said(self, name: str) -> type_of_event:
        word = self._chance.choice(["fraud", "legitimate"])
        source = self._chance.choice(["chargeback", "customer", "settlement"])
        return {"transaction_id": name, "label": word, "label_time": self._now(), "source": source}

    # Kafka

    def _stream(self) -> None:
        """Twice a second, what came together since; what the broker did not take is sent again."""
        unsent: list[tuple[str, type_of_event]] = []
        producer: Producer | None = None
        while not self._stop.wait(HALF_S):
            unsent += [each for _ in range(round(self.rates.streamed * HALF_S)) for each in self._streamed()]
            if self.manner.shuffled:
                self._chance.shuffle(unsent)
            producer, unsent = self._delivered(producer, unsent)
        producer, unsent = self._delivered(producer, unsent)
        if producer:
            producer.close()

    def _delivered(
        self, producer: Producer | None, unsent: list[tuple[str, type_of_event]]
    ) -> tuple[Producer | None, list[tuple[str, type_of_event]]]:
        """Send all; gives the producer to go on with, and what is still to be sent.

        One that failed may still deliver what it has: that is a second delivery, and must not count.
        """
        try:
            producer = producer or Producer(self.kafka)
            self._send(producer, unsent)
        except (BrokerError, KafkaError) as error:
            self.refused.append(str(error))
            if producer:
                threading.Thread(target=producer.close).start()
            return None, unsent
        return producer, []

    def _streamed(self) -> list[tuple[str, type_of_event]]:
        paid = self._payment()
        some = [(TRANSACTIONS, paid)]
        if self._chance.random() < 0.3:
            some.append((LABELS, self._said(paid["transaction_id"])))
        return some * self.manner.copies

    def _send(self, producer: Producer, some: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        for topic, event in some:
            key = event["customer_id"] if topic == TRANSACTIONS else event["transaction_id"]
            producer.send(topic, orjson.dumps(event), str(key).encode())
        producer.flush()
        with self._lock:
            names = [(topic, event["transaction_id"]) for topic, event in some]
            self.accepted += names
            self._remember(TRANSACTIONS, [name for topic, name in names if topic == TRANSACTIONS])
