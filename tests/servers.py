"""Real Kafka and Valkey as the tests use them: empty at the start, filled and read with our own clients."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest
from kafka import KafkaAdminClient
from kafka.admin import MemberToRemove

from features.connection import Connection, StoreError, type_of_command
from infra.settings import Settings
from ingestion.broker import Consumer, Partition, Producer, Record
from ingestion.historian import TOPICS as HISTORY_TOPICS
from ingestion.historian import Historian
from ingestion.history import History
from ingestion.topics import (
    CUSTOMER_STREAM,
    DECISIONS,
    LABELS,
    OUTCOMES,
    PRODUCT_STREAM,
    QUOTES,
    TERMINAL_STREAM,
    TRANSACTIONS,
    all_topics,
    ensure_topics,
)
from serving.fraud import FraudDecider
from serving.processes import GROUP, build_worker
from serving.worker import Worker
from training.rule_book import rule_book

IN_ORDER = ((TRANSACTIONS, LABELS, QUOTES, OUTCOMES), (CUSTOMER_STREAM,), (TERMINAL_STREAM, PRODUCT_STREAM))
"""What the worker reads: each group of topics feeds the next."""
KEYS = {TRANSACTIONS: "customer_id", LABELS: "transaction_id", QUOTES: "product_id", OUTCOMES: "quote_id"}
"""Field of an event that is its record's key."""

type_of_event = Mapping[str, Any]


class DiedError(StoreError):
    """The store took no more."""


class Breaking(Connection):
    """Lets so many posted commands through, then none."""

    def __init__(self, url: str, writes: int) -> None:
        super().__init__(url)
        self._left = writes

    def post(self, commands: Sequence[type_of_command]) -> None:
        super().post(commands[: self._left])
        self._left -= len(commands)
        if self._left < 0:
            self.settle()
            raise DiedError("broken off")


def until(true: Callable[[], object], limit_s: float = 60, pause_s: float = 0.02) -> None:
    """Wait for it, but not for ever."""
    deadline = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < deadline, f"{true} did not come true within {limit_s} s"
        time.sleep(pause_s)


def expel_all(address: str, group: str) -> None:
    """Let the broker at this address give up all members of a group at once."""
    with closing(KafkaAdminClient(bootstrap_servers=address)) as admin:
        members = admin.describe_groups([group])[group]["members"]
        if members:
            admin.remove_group_members(group, [MemberToRemove(each["member_id"]) for each in members])


class NoChampion:
    """A system that has learned nothing yet: rules decide."""

    def current(self, task: str) -> None:
        """None."""

    def canary(self, task: str) -> None:
        """None."""


@dataclass
class Servers:
    """The stack's Kafka and Valkey, and a folder for what is written beside them."""

    stack: Settings
    home: Path
    _open: list[Callable[[], None]] = field(default_factory=list)
    _producer: Producer | None = None
    _admin: KafkaAdminClient | None = None
    _reader: Consumer | None = None

    @property
    def settings(self) -> Settings:
        """The stack's, with our own home, and with nobody where MLflow would be."""
        alone = self.stack.addresses.model_copy(update={"mlflow": "http://127.0.0.1:1"})
        return self.stack.model_copy(update={"home": self.home, "addresses": alone})

    @property
    def variables(self) -> dict[str, str]:
        """The environment in which a process, or the command line, finds these servers and our settings."""
        addresses = self.settings.addresses
        named = {name: str(getattr(addresses, name)) for name in ("kafka", "redis", "mlflow")}
        found = {f"TOLLGATE_ADDRESSES__{name.upper()}": address for name, address in named.items()}
        return {**found, "TOLLGATE_HOME": str(self.home)}

    def tell(self, environment: pytest.MonkeyPatch) -> None:
        """Let the command line of this very process find them."""
        for name, value in self.variables.items():
            environment.setenv(name, value)

    @property
    def kafka(self) -> str:
        """`host:port`."""
        return self.stack.addresses.kafka

    @property
    def redis(self) -> str:
        """`redis://host:port/0`."""
        return self.stack.addresses.redis

    def clear(self) -> None:
        """Forget all events, all offsets and all keys."""
        admin = KafkaAdminClient(bootstrap_servers=self.kafka)
        old = sorted(set(admin.list_topics()) & set(all_topics()))
        if old:
            admin.delete_topics(old)
        until(lambda: not set(admin.list_topics()) & set(old))
        groups = [each["group_id"] for each in admin.list_groups()]
        if groups:
            admin.delete_groups(groups)
        admin.close()
        ensure_topics(self.stack)
        self.store().execute([("FLUSHALL",)])

    def close(self) -> None:
        """Disconnect everything that was opened."""
        while self._open:
            self._open.pop()()

    def store(self) -> Connection:
        """A connection to Valkey."""
        connection = Connection(self.redis)
        self._open.append(connection.close)
        return connection

    def send(self, topic: str, events: Iterable[type_of_event]) -> None:
        """Events of a topic as JSON with their own key, acknowledged."""
        self.send_raw(topic, [(orjson.dumps(each), str(each[KEYS[topic]]).encode()) for each in events])

    def send_raw(
        self, topic: str, records: Iterable[tuple[bytes | None, bytes | None]], partition: int | None = None
    ) -> None:
        """Values and keys as they are, acknowledged."""
        if self._producer is None:
            self._producer = Producer(self.kafka, linger_ms=5)
            self._open.append(self._producer.close)
        for value, key in records:
            self._producer.send(topic, value, key, partition=partition)
        self._producer.flush()

    def records(self, topic: str) -> list[Record]:
        """All records of a topic, in order within each partition."""
        return list(self._read([topic]))

    def _read(self, topics: Sequence[str]) -> Iterator[Record]:
        consumer = Consumer(self.kafka, topics, group=None)
        try:
            yield from consumer.to_the_end()
        finally:
            consumer.close()

    def decisions(self) -> dict[str, list[dict[str, Any]]]:
        """Decisions on the topic by transaction."""
        found: dict[str, list[dict[str, Any]]] = {}
        for record in self.records(DECISIONS):
            decision = orjson.loads(record.value or b"")
            found.setdefault(decision["transaction_id"], []).append(decision)
        return found

    def written_history(self) -> History:
        """The history that the historian writes of everything there is now."""
        history = History(self.home / "history")
        historian = Historian(history)
        historian.take(list(self._read(HISTORY_TOPICS)))
        historian.flush()
        assert not historian.rejected
        return history

    def lag(self, group: str = GROUP) -> dict[Partition, int]:
        """Records that the workers have not handled; what they will yet send on is not among them."""
        for topics in IN_ORDER:
            ends, committed = self._ends(topics), self._committed(group)
            if behind := {
                at: end - committed.get(at, 0) for at, end in ends.items() if end != committed.get(at, 0)
            }:
                return behind
        return {}

    def settle(self, limit_s: float = 60, group: str = GROUP) -> None:
        """Wait until the workers have handled everything that was sent."""
        until(lambda: not self.lag(group), limit_s)

    def _committed(self, group: str) -> dict[Partition, int]:
        if self._admin is None:
            self._admin = KafkaAdminClient(bootstrap_servers=self.kafka)
            self._open.append(self._admin.close)
        found = self._admin.list_group_offsets([group])[group]
        return {Partition(*key): int(offset.offset) for key, offset in found.items()}

    def _ends(self, topics: Sequence[str]) -> dict[Partition, int]:
        if self._reader is None:
            self._reader = Consumer(self.kafka, [each for some in IN_ORDER for each in some], group=None)
            self._open.append(self._reader.close)
        parts = [Partition(topic, n) for topic in topics for n in range(self.stack.topics.partitions)]
        return self._reader.ends(parts)

    def decider(self) -> FraudDecider:
        """Rules, as on the first day."""
        book = rule_book(self.stack.fraud)
        return FraudDecider(NoChampion(), lambda: book)

    def worker(self, group: str = GROUP) -> Worker:
        """The real worker of our settings."""
        return build_worker(self.settings, self.decider(), group=group)

    @contextmanager
    def working(self, worker: Worker | None = None) -> Iterator[None]:
        """A worker that turns in a thread; what it raised is raised at the end."""
        running = Running(worker or self.worker())
        try:
            yield
        finally:
            running.stop()


@dataclass
class Keyed(Servers):
    """Servers where people have pseudonyms, if there are keys, and some attributes too."""

    keys: Sequence[str] = ()
    attributes: Sequence[str] = ()

    @property
    def settings(self) -> Settings:
        """The stack's, with our keys."""
        privacy = {"pseudonym_keys": list(self.keys), "attributes": list(self.attributes)}
        return Settings.model_validate(super().settings.model_dump() | {"privacy": privacy})

    @property
    def variables(self) -> dict[str, str]:
        """With our keys."""
        privacy = {"PSEUDONYM_KEYS": self.keys, "ATTRIBUTES": self.attributes}
        named = {f"TOLLGATE_PRIVACY__{name}": orjson.dumps(list(each)) for name, each in privacy.items()}
        return super().variables | {name: value.decode() for name, value in named.items()}


class Running:
    """A worker in a thread of its own."""

    def __init__(self, worker: Worker) -> None:
        self._stop = threading.Event()
        self._worker = worker
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="worker")
        self._thread.start()

    def _run(self) -> None:
        try:
            self._worker.run(self._stop.is_set, wait_ms=20)
        except BaseException as error:  # noqa: BLE001 - raised again in the test's thread
            self._error = error

    def stop(self) -> None:
        """End it; raises what it died of."""
        self._stop.set()
        self._thread.join(30)
        self._worker._producer.close()  # else it looks for the broker until it is collected
        if self._error:
            raise self._error
