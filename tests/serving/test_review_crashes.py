"""What a worker's death leaves of the queue, and what the queue costs the worker."""

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

import httpx
import pytest

from features.connection import Connection, type_of_command
from ingestion.broker import Partition
from ingestion.topics import CUSTOMER_STREAM, LABELS, TERMINAL_STREAM, TRANSACTIONS
from serving.customer_stage import CustomerStage
from serving.review_queue import PENDING
from serving.terminal_stage import TerminalStage
from tests.api import serving
from tests.payments import START, label, payment
from tests.servers import Breaking, DiedError, Servers

pytestmark = pytest.mark.servers

DAY_S = 86_400


@pytest.fixture
def client(servers: Servers) -> Iterator[httpx.Client]:
    with serving(servers.settings) as client:
        yield client


def test_nothing_that_is_settled_is_pending_again(servers: Servers, client: httpx.Client) -> None:
    """A worker dies after each number of its writes. Meanwhile an analyst judges, and a chargeback comes."""
    servers.send(TRANSACTIONS, [payment(f"t-{i}", START, "c-1", "m-1", 1_500.0) for i in range(10)])
    judged = writes = 0
    while servers.lag():
        die_after(servers, writes)
        writes += 1
        if judged < 2 and client.get(f"/v1/decisions/t-{judged}").status_code == 200:
            answer = client.post(f"/v1/reviews/t-{judged}/verdict", json={"label": "fraud"})
            assert answer.status_code == 202
            judged += 1
            servers.send(LABELS, [label("t-2", START + timedelta(days=1), True)])
        names = {each["transaction_id"] for each in client.get("/v1/reviews").json()}
        assert names.isdisjoint({f"t-{i}" for i in range(judged)})
    assert judged == 2
    assert writes > 10, "it hardly died"
    waiting = [f"t-{i}" for i in reversed(range(3, 10))]
    assert servers.store().execute([("ZREVRANGE", PENDING, 0, -1)]) == [[each.encode() for each in waiting]]
    assert [each["transaction_id"] for each in client.get("/v1/reviews").json()] == waiting
    assert {len(each) for each in servers.decisions().values()} == {1}


def die_after(servers: Servers, writes: int) -> None:
    """Let a worker take what there is until it has written so often; it may have had less to write."""
    worker = servers.worker()
    worker._store = Breaking(servers.redis, writes)
    limit = time.monotonic() + 30
    with suppress(DiedError):
        worker.run(lambda: not servers.lag() or time.monotonic() > limit, wait_ms=20)


def test_a_repeated_batch_brings_back_what_was_judged_only_until_its_label_is_folded(
    servers: Servers, client: httpx.Client
) -> None:
    """The worst moment: all is written but that it is, the analyst judges, then the batch comes again."""
    servers.send(TRANSACTIONS, [payment("t-1", START, "c-1", "m-1", 1_500.0)])
    with servers.working():
        servers.settle()
    records = servers.records(TERMINAL_STREAM)
    assert client.post("/v1/reviews/t-1/verdict", json={"label": "legitimate"}).status_code == 202
    store = servers.store()
    store.execute([("DEL", f"progress:{TERMINAL_STREAM}:{records[0].partition}")])
    heir = terminal_stage(servers, store)
    store.execute(heir.handle(records).writes)
    assert store.execute([("ZCARD", PENDING)]) == [1]
    assert client.get("/v1/reviews").json() == [], "nobody sees it"
    assert store.execute([("ZCARD", PENDING)]) == [0]
    store.execute(heir.handle(records).writes)
    with servers.working():
        servers.settle()
    assert store.execute([("ZCARD", PENDING)]) == [0], "its label takes it out, though nobody looked"


def terminal_stage(servers: Servers, store: Connection) -> TerminalStage:
    """One that has just been given all partitions."""
    found = TerminalStage(store, servers.decider(), lambda since, partitions: {}, DAY_S)
    found.assigned([Partition(TERMINAL_STREAM, n) for n in range(4)])
    return found


class Counting(Connection):
    """Counts commands and round trips."""

    commands = trips = 0

    def execute(self, commands: Sequence[type_of_command]) -> list[Any]:
        self.commands += len(commands)
        self.trips += bool(commands)
        return super().execute(commands)


def test_approvals_cost_no_command_for_the_queue(servers: Servers) -> None:
    n = 300
    servers.send(TRANSACTIONS, [payment(f"t-{i}", START, f"c-{i}", f"m-{i % 50}", 10.0) for i in range(n)])
    with servers.working():
        servers.settle()
    customers, terminals = servers.records(CUSTOMER_STREAM), servers.records(TERMINAL_STREAM)
    servers.store().execute([("FLUSHALL",)])
    store = Counting(servers.redis)
    try:
        work = CustomerStage(store, 4, DAY_S).handle(customers)
        assert (store.commands, store.trips) == (2 + n, 2), "what was seen, who waits, and the states"
        assert len(work.writes) == 2 * n, "states, and what was seen"
        later = terminal_stage(servers, store)
        before, trips = store.commands, store.trips
        work = later.handle(terminals)
        assert (store.commands - before, store.trips - trips) == (50, 1), "states"
        pairs = {(terminal, customer) for terminal, each in later._progress.items() for customer in each}
        assert len(work.writes) == 50 + n + len(pairs), "states, decisions, and how far we are"
    finally:
        store.close()
