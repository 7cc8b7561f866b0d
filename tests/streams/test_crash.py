"""Workers that die at any moment: every payment is decided once, and no state shows it."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from itertools import cycle, pairwise
from pathlib import Path

import numpy as np
import orjson
import pytest
from kafka import KafkaAdminClient

from features.fraud import CUSTOMER, TERMINAL, codes_of_rows
from features.online import Codec
from features.state import Entity, Events, States, codes_of, fold
from ingestion import tables
from ingestion.broker import Consumer
from ingestion.historian import GROUP as HISTORY
from ingestion.history import History
from ingestion.simulators import wire
from ingestion.simulators.columns import stack, take
from ingestion.simulators.payments import PaymentLog, Payments, each_day
from ingestion.simulators.population import Population
from ingestion.topics import CUSTOMER_STREAM, DECISIONS, LABELS, TERMINAL_STREAM, TRANSACTIONS
from serving.customer_stage import values_of
from serving.entity_stage import StreamBatch, read_batch
from serving.processes import GROUP
from tests.payments import same_bits
from tests.servers import Breaking, DiedError, Servers, expel_all, until
from training.history_lag import HistoryLag

pytestmark = pytest.mark.servers

ROOT = Path(__file__).resolve().parents[2]
LABELLED = 5
"""One in so many payments gets a label."""


def test_a_worker_killed_ten_times(servers: Servers) -> None:
    chance, log, kills = random.Random(1), simulated(50_000), 10
    sent = at_work = 0
    with Decided(servers) as decided, Process(servers) as worker:
        for piece in pieces(log, kills):
            worker.start()
            send(servers, piece)
            decided.await_more(chance.randrange(1, 1_500), worker.assert_lives)
            time.sleep(chance.uniform(0, 0.3))
            worker.kill()
            sent += len(piece)
            at_work += decided.count() < sent
            expel_all(servers.kafka, GROUP)  # the broker's own 10 s of patience are the other tests'
        worker.start()
        decided.await_all(log, worker.assert_lives)
        servers.settle()
        decided.assert_each_once(log)
    assert_states_follow_from_streams(servers)
    assert at_work >= kills // 2, "most kills met a worker that had nothing to do; is a moment wrong?"


def test_two_workers_killed_in_turn(servers: Servers) -> None:
    """Whom the other's death makes fail may end too: it is started anew, as its supervisor does."""
    chance, log, kills = random.Random(2), simulated(20_000), 4
    with Decided(servers) as decided, Process(servers) as one, Process(servers) as other:
        tend = Tend([one, other])
        for number, piece in enumerate(pieces(log, kills)):
            tend()
            send(servers, piece)
            decided.await_more(chance.randrange(1, 2_500), tend)
            time.sleep(chance.uniform(0, 0.3))
            (one, other)[number % 2].kill()
        decided.await_all(log, tend)
        servers.settle()
        decided.assert_each_once(log)
    assert_states_follow_from_streams(servers)


@pytest.mark.slow
def test_a_worker_that_was_stopped_for_so_long_that_another_took_over(servers: Servers) -> None:
    """It wakes up in the middle of its work: no state goes back, and nothing is in the history twice."""
    chance, log, stops = random.Random(4), simulated(24_000), 3
    with Decided(servers) as decided, Process(servers) as stopped, Process(servers) as other:
        for piece in pieces(log, stops):
            Tend([stopped])()
            send(servers, piece)
            decided.await_more(chance.randrange(1, 2_000), stopped.assert_lives)
            time.sleep(chance.uniform(0, 0.2))
            stopped.signal(signal.SIGSTOP)
            _, before = members(servers, GROUP)
            sent = decided.drain()
            other.start()
            until(partial(taken_over, servers, before))
            decided.await_beyond(sent, other.assert_lives)
            stopped.signal(signal.SIGCONT)
            until(lambda: not stopped.lives())  # it finds its connection closed, sooner or later
            decided.await_settled(servers, Tend([stopped, other]))
            other.kill()
        Tend([stopped])()
        servers.settle()
    assert_states_follow_from_streams(servers)
    kept = servers.written_history().read(DECISIONS, columns=["transaction_id"])["transaction_id"].to_pylist()
    assert sorted(kept) == sorted(log.transaction_id.tolist())


@pytest.mark.slow
def test_two_histories_that_share_a_busy_stream_and_end_in_turn(servers: Servers) -> None:
    """Both are killed in the middle of writing, or one is told to stop: every row is there once."""
    chance, log = random.Random(5), simulated(12_000)
    parts = [take(log, slice(start, start + 150)) for start in range(0, len(log), 150)]
    left = HistoryLag(servers.kafka, servers.settings.history)
    with Process(servers, "history") as one, Process(servers, "history") as other, servers.working():
        tend, rounds, leaving = Tend([one, other]), 0, cycle([one, other])
        with trickling(servers, parts) as busy:
            while busy():
                tend()
                until(lambda: shared(servers, HISTORY) or not busy(), pause_s=0.1)
                time.sleep(chance.uniform(0, 2))
                if rounds % 2:
                    ending = next(leaving)
                    ending.signal(signal.SIGTERM)
                    until(lambda ending=ending: not ending.lives())  # type: ignore[misc]
                else:
                    files = written(servers)
                    until(lambda files=files: written(servers) - files or not busy(), pause_s=0)  # type: ignore[misc]
                    one.kill()
                    other.kill()
                rounds += 1
        tend()
        servers.settle()
        until(lambda: left() == 0, pause_s=0.2)
    assert rounds > 3
    history = History(servers.settings.history)
    for table in (tables.TRANSACTIONS, tables.DECISIONS):
        kept = history.read(table, columns=["transaction_id"])["transaction_id"].to_pylist()
        assert sorted(kept) == sorted(log.transaction_id.tolist())
    told = history.read(tables.LABELS, columns=["transaction_id"])["transaction_id"].to_pylist()
    assert sorted(told) == sorted(name for part in parts for name in labelled(part))


def written(servers: Servers) -> set[Path]:
    """The files of the history."""
    return set(servers.settings.history.rglob("*.parquet"))


@contextmanager
def trickling(servers: Servers, parts: Sequence[PaymentLog]) -> Iterator[Callable[[], bool]]:
    """Payments that go on coming; what is given says whether they still do."""

    def send_all() -> None:
        for part in parts:
            send(servers, part)
            time.sleep(0.5)

    thread = threading.Thread(target=send_all)
    thread.start()
    yield thread.is_alive
    thread.join()


def test_writes_that_break_off_anywhere(servers: Servers) -> None:
    """Redis may take any first part of a batch's writes; what comes again brings the rest."""
    log = simulated(3_000)
    with Decided(servers) as decided:
        send(servers, log)
        for writes in (1, 30, 2_500, 900, 200, 3_000, 1_500):
            worker = servers.worker()
            worker._store = Breaking(servers.redis, writes)
            limit = time.monotonic() + 60
            with pytest.raises(DiedError):
                worker.run(partial(past, limit), wait_ms=20)
        with servers.working():
            decided.await_all(log, lambda: None)
            servers.settle()
        decided.assert_each_once(log)
    assert_states_follow_from_streams(servers)


def past(limit: float) -> bool:
    return time.monotonic() > limit


def simulated(n: int) -> PaymentLog:
    days, rows = [], 0
    for day in each_day(Payments(seed=3, population=Population(customers=8_000, terminals=3_000)), days=60):
        days.append(day)
        rows += len(day)
        if rows >= n:
            return take(stack(days), slice(0, n))
    raise AssertionError(f"60 days have {rows} payments")


def pieces(log: PaymentLog, n: int) -> list[PaymentLog]:
    """The first is half of all, so that a worker always has more to do than it does before it is killed."""
    cuts = [0, *np.linspace(len(log) // 2, len(log), n).astype(int).tolist()]
    return [take(log, slice(a, b)) for a, b in pairwise(cuts)]


def send(servers: Servers, log: PaymentLog) -> None:
    servers.send(TRANSACTIONS, wire.transactions(log))
    servers.send(LABELS, wire.labels(take(log, slice(0, len(log), LABELLED))))


def labelled(log: PaymentLog) -> list[str]:
    """Payments of a piece that get a label."""
    return log.transaction_id.tolist()[::LABELLED]


def shared(servers: Servers, group: str) -> bool:
    """Whether two members have parts of what a group reads."""
    stable, now = members(servers, group)
    return stable and len(now) == 2


def taken_over(servers: Servers, before: set[str]) -> bool:
    """Whether others than these are the workers by now."""
    stable, now = members(servers, GROUP)
    return stable and bool(now) and not now & before


def members(servers: Servers, group: str) -> tuple[bool, set[str]]:
    """Whether a group has shared out what it reads, and who is in it."""
    with closing(KafkaAdminClient(bootstrap_servers=servers.kafka)) as admin:
        found = admin.describe_groups([group])[group]
    return found["group_state"] == "Stable", {each["member_id"] for each in found["members"]}


class Process:
    """The real process, and the next one after its death."""

    def __init__(self, servers: Servers, verb: str = "worker") -> None:
        self._verb = verb
        self._environment = {**os.environ, **servers.variables}
        self._log = servers.home.parent / f"{verb}-{id(self)}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()

    def start(self) -> None:
        with self._log.open("ab") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "infra.cli", "run", self._verb],
                cwd=ROOT, env=self._environment, stdout=out, stderr=out,
            )  # fmt: skip

    def lives(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def assert_lives(self) -> None:
        assert self.lives(), self._log.read_text()[-3_000:]

    def signal(self, number: signal.Signals) -> None:
        assert self._process
        self._process.send_signal(number)

    def kill(self) -> None:
        """Signal 9: nothing is finished, closed or said."""
        assert self._process
        self._process.kill()
        self._process.wait()


class Tend:
    """Starts what is dead."""

    def __init__(self, workers: Sequence[Process]) -> None:
        self._workers = workers

    def __call__(self) -> None:
        for worker in self._workers:
            if not worker.lives():
                worker.start()


class Decided:
    """Counts the decisions of each payment as they come."""

    def __init__(self, servers: Servers) -> None:
        self._consumer = Consumer(servers.kafka, [DECISIONS], group=None)
        self._times: Counter[str] = Counter()

    def __enter__(self) -> "Decided":
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()

    def _read(self) -> None:
        records = self._consumer.poll(wait_ms=10)
        self._times.update(orjson.loads(record.value or b"")["transaction_id"] for record in records)

    def count(self) -> int:
        """Payments that are decided by now."""
        self._read()
        return len(self._times)

    def await_more(self, n: int, meanwhile: Callable[[], None]) -> None:
        self._read()
        self.await_beyond(self._times.total() + n - 1, meanwhile)

    def await_beyond(self, total: int, meanwhile: Callable[[], None]) -> None:
        self._await(lambda: self._times.total() > total, meanwhile)

    def await_all(self, log: PaymentLog, meanwhile: Callable[[], None]) -> None:
        self._await(lambda: len(self._times) >= len(log), meanwhile)

    def _await(self, there: Callable[[], bool], meanwhile: Callable[[], None]) -> None:
        def reached() -> bool:
            meanwhile()
            self._read()
            return there()

        until(reached, limit_s=120, pause_s=0)

    def await_settled(self, servers: Servers, meanwhile: Callable[[], None]) -> None:
        self._await(lambda: not servers.lag(), meanwhile)

    def drain(self) -> int:
        """Decisions as far as the log goes."""
        self._read()
        while any(self._consumer.lag().values()):
            self._read()
        return self._times.total()

    def assert_each_once(self, log: PaymentLog) -> None:
        self.drain()
        assert self._times.keys() == set(log.transaction_id.tolist())
        again = {name: n for name, n in self._times.items() if n > 1}
        assert not again, f"{len(again)} payments were decided more than once: {list(again.items())[:5]}"


def assert_states_follow_from_streams(servers: Servers) -> int:
    """What Valkey has is, to the last bit, what the streams say; gives how often they say something again."""
    copies = 0
    for entity, topic, first_copies in (
        (CUSTOMER, CUSTOMER_STREAM, by_identity),
        (TERMINAL, TERMINAL_STREAM, by_rising_place),
    ):
        arrived = read_stream(servers, topic)
        batch = arrived.take(first_copies(arrived))
        copies += len(arrived) - len(batch)
        ids, expected = folded(entity, batch)
        codec = Codec(entity)
        online = codec.decode(servers.store().execute([codec.read(each) for each in ids]))
        assert online.position.tolist() == expected.position.tolist()
        assert online.stamp_us.tolist() == expected.stamp_us.tolist()
        assert same_bits(online.columns, expected.columns)
    return copies


def read_stream(servers: Servers, topic: str) -> StreamBatch:
    return read_batch(sorted(servers.records(topic), key=lambda record: (record.partition, record.offset)))


def by_identity(batch: StreamBatch) -> list[int]:
    """Each payment and each label once."""
    names = zip(*(batch.strings(name) for name in ("transaction_id", "source", "label")), strict=True)
    first: dict[tuple[str, ...], int] = {}
    for row, name in enumerate(names):
        first.setdefault(name, row)
    return list(first.values())


def by_rising_place(batch: StreamBatch) -> list[int]:
    """What comes again has a place in its customer stream that was passed."""
    reached: dict[tuple[int, int], int] = {}
    keep: list[int] = []
    origins = zip(
        batch.integers("customer_partition").tolist(),
        batch.integers("customer_position").tolist(),
        strict=True,
    )
    for row, (ours, (theirs, position)) in enumerate(zip(batch.partition.tolist(), origins, strict=True)):
        if position > reached.get((ours, theirs), -1):
            reached[ours, theirs] = position
            keep.append(row)
    return keep


def folded(entity: Entity, batch: StreamBatch) -> tuple[list[str], States]:
    kind, time_us = batch.integers("kind"), batch.integers("event_time_us")
    codes, ids = codes_of(batch.strings(entity.key))
    states = States.cold(entity, len(ids))
    fold(
        entity,
        states,
        Events(kind, time_us, codes, batch.position, values_of(batch, codes_of_rows(batch.rows))),
    )
    return ids, states
