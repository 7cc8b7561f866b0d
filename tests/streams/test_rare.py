"""What a run seldom meets: each case is made to happen, on the real Kafka and Valkey."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import timedelta
from functools import partial
from typing import Any

import orjson
import pytest
from kafka import KafkaProducer

from features.connection import Connection
from features.index import read_transaction
from features.pause import PAUSE
from ingestion.broker import MAX_MESSAGE_BYTES, Consumer, Partition, Producer, Record
from ingestion.history import History
from ingestion.topics import DECISIONS, LABELS, TERMINAL_STREAM, TRANSACTIONS, dead_letters
from serving.decision_log import decided_since
from serving.entity_stage import read_batch
from serving.ownership import Ownership
from serving.router import DECISION_HEADER, Rejected, Router, dead_letter, parse
from serving.stage import Outgoing
from serving.terminal_stage import TerminalStage
from serving.worker import Members, Worker
from tests.payments import START, label, payment
from tests.servers import Servers, until

pytestmark = pytest.mark.servers

DAY_S = 86_400


def paid(i: int, customer: str = "c-1", **more: Any) -> Mapping[str, Any]:
    return payment(f"t-{i}", START + timedelta(seconds=i), customer, f"m-{i % 7}", 10.0, **more)


def letters(servers: Servers, topic: str = TRANSACTIONS) -> list[Record]:
    return servers.records(dead_letters(topic))


def test_a_dead_letter_is_sent_though_the_events_before_it_wait(servers: Servers) -> None:
    """Payments wait here for labels that are on their way; what is no payment must not be lost meanwhile."""
    awaited = {LABELS}
    stages: list[Any] = []
    consumer = Consumer(
        servers.kafka, Router.topics, "rare", Members(stages, Ownership(servers.store(), "rare"))
    )
    stages.append(Router(servers.store(), 4, DAY_S, lambda each: each.topic not in awaited))
    worker = Worker(consumer, Producer(servers.kafka), servers.store(), stages, stages[0].full, "rare")
    try:
        servers.send(TRANSACTIONS, [paid(1)])
        until(lambda: worker.turn(50) or stages[0].restless())
        worker.turn(50)
        servers.send_raw(TRANSACTIONS, [(b"no payment", b"c-1")])
        for _ in range(20):
            worker.turn(50)
        assert [record.value for record in letters(servers)] == [b"no payment"]
        awaited.clear()
        until(lambda: worker.turn(50) or not stages[0].restless())
        assert servers.lag("rare") == {Partition("stream.customer", n): 1 for n in owners(servers)}
    finally:
        consumer.close()


def owners(servers: Servers) -> set[int]:
    return {record.partition for record in servers.records("stream.customer")}


def test_decisions_of_a_crashed_owner_are_known_however_the_next_one_cuts_its_batches(
    servers: Servers,
) -> None:
    records = terminal_records(servers, customers=["c-1"] * 6)
    assert len(records) > 2
    send(servers, taken_over(servers, records).handle(records).outputs)  # and dies before it writes
    assert len(servers.decisions()) == 6
    heir = taken_over(servers, records)
    for record in records:
        work = heir.handle([record])
        assert work.outputs == []
        servers.store().execute(work.writes)
    assert {len(each) for each in servers.decisions().values()} == {1}
    assert servers.store().execute([("EXISTS", *(f"decision:t-{i}" for i in range(6)))]) == [6]


def taken_over(servers: Servers, records: Sequence[Record]) -> TerminalStage:
    stage = TerminalStage(servers.store(), servers.decider(), partial(decided_since, servers.kafka), DAY_S)
    stage.assigned(sorted({Partition(record.topic, record.partition) for record in records}))
    return stage


def terminal_records(servers: Servers, customers: Sequence[str]) -> list[Record]:
    """Payments at one terminal, as they lie in the terminal stream, one a message."""
    with servers.working(servers.worker()):
        for i, customer in enumerate(customers):
            servers.send(TRANSACTIONS, [{**paid(i, customer), "terminal_id": "m-1"}])
            servers.settle()
    records = servers.records(TERMINAL_STREAM)
    again = Servers(servers.stack, servers.home)
    again.clear()
    again.close()
    return records


def send(servers: Servers, outputs: Sequence[Outgoing]) -> None:
    producer = Producer(servers.kafka)
    for out in outputs:
        producer.send(out.topic, out.value, out.key, out.headers, out.partition)
    producer.flush()
    producer.close()


def test_payments_at_the_limit_of_their_size_do_not_fill_a_message_beyond_its_limit(servers: Servers) -> None:
    """64 attributes of 1,024 characters that take four bytes each: 60 payments are 15 MB."""
    full = {f"{i:064}": "\U0001f4b6" * 1_024 for i in range(64)}
    servers.send(TRANSACTIONS, [paid(i, attributes=full) for i in range(60)])
    with servers.working():
        servers.settle()
    assert len(servers.decisions()) == 60
    assert letters(servers) == []


def test_a_long_attribute_is_refused(servers: Servers) -> None:
    servers.send(TRANSACTIONS, [paid(1, attributes={"note": "x" * 2**20}), paid(2)])
    with servers.working():
        servers.settle()
    assert [dict(record.headers)["error"][:15] for record in letters(servers)] == [b"attributes.note"]
    assert servers.decisions().keys() == {"t-2"}


def test_a_backlog_of_payments_that_http_decided(servers: Servers) -> None:
    """More than a message of the stream can hold, from many customers at one terminal."""
    producer = Producer(servers.kafka)
    for i in range(3_000):
        headers = [(DECISION_HEADER, decision(f"t-{i}", padding="x" * 6_000))]
        event = {**paid(i, f"c-{i}"), "terminal_id": "m-1"}
        producer.send(TRANSACTIONS, orjson.dumps(event), b"c-%d" % i, headers)
    producer.flush()
    producer.close()
    with servers.working():
        servers.settle()
    assert {len(each) for each in servers.decisions().values()} == {1}
    assert len(servers.decisions()) == 3_000


def decision(name: str, **more: Any) -> bytes:
    fixed = {"transaction_id": name, "decision": "approve", "expected_cost": {"approve": 1.0}}
    return orjson.dumps({**fixed, **more})


@pytest.mark.parametrize(
    "forged",
    [
        b"",
        b"\xff\xfe",
        b"17",
        decision("t-other"),
        decision("t-1", decision="perhaps"),
        decision("t-1", expected_cost={}),
        decision("t-1", expected_cost={"approve": None}),
        decision("t-1", padding="x" * 2**20),
    ],
    ids=["empty", "no UTF-8", "number", "another's", "no decision", "no cost", "null cost", "1 MB"],
)
def test_a_decision_that_is_none_goes_with_its_payment_to_the_dead_letters(
    servers: Servers, forged: bytes
) -> None:
    outputs = [
        Outgoing(TRANSACTIONS, orjson.dumps(paid(1)), b"c-1", [(DECISION_HEADER, forged)]),
        Outgoing(TRANSACTIONS, orjson.dumps(paid(2)), b"c-1", [(DECISION_HEADER, decision("t-2"))]),
    ]
    send(servers, outputs)
    with servers.working():
        servers.settle()
    assert len(letters(servers)) == 1
    assert servers.decisions().keys() == {"t-2"}


@pytest.mark.parametrize(
    ("size", "compression"),
    [(MAX_MESSAGE_BYTES - 200, None), (4 * MAX_MESSAGE_BYTES, "gzip")],
    ids=["as large as may be", "larger than may be, compressed"],
)
def test_nothing_is_too_large_to_be_put_aside(servers: Servers, size: int, compression: str | None) -> None:
    producer = KafkaProducer(
        bootstrap_servers=servers.kafka, compression_type=compression, max_request_size=size + 1_000
    )
    name = b'{"' + b"x" * (size - 8) + b'":1}'
    producer.send(TRANSACTIONS, value=name, key=b"c-1").get(timeout=20)
    producer.close()
    servers.send(TRANSACTIONS, [paid(1)])
    with servers.working():
        servers.settle()
    (letter,) = letters(servers)
    headers = dict(letter.headers)
    assert name.startswith(letter.value or b"")
    assert int(headers["truncated"]) == len(name)
    assert len(headers["error"]) <= 1_000
    assert servers.decisions().keys() == {"t-1"}


def test_a_label_goes_where_the_first_copy_of_its_payment_went(servers: Servers) -> None:
    """A later copy that names another customer comes in one batch with the label."""
    with servers.working():
        servers.send(TRANSACTIONS, [paid(1)])
        servers.settle()
    servers.send(TRANSACTIONS, [{**paid(1), "customer_id": "c-other", "terminal_id": "m-other"}])
    servers.send(LABELS, [label("t-1", START + timedelta(days=1), fraud=True)])
    with servers.working():
        servers.settle()
    rows = servers.written_history().read(LABELS).to_pylist()
    assert [(row["customer_id"], row["terminal_id"]) for row in rows] == [("c-1", "m-1")]
    entry = servers.store().execute([("GET", "known:t:t-1")])[0]
    assert read_transaction(entry).customer_id == "c-1"


def worker_state(store: Connection) -> bytes | None:
    names = store.execute([("KEYS", "tollgate:worker:*")])[0]
    return store.execute([("GET", names[0])])[0] if names else None


def test_what_came_in_a_pause_is_handled_after_it(servers: Servers) -> None:
    store = servers.store()
    with servers.working():
        servers.send(TRANSACTIONS, [paid(1)])
        servers.settle()
        store.execute([("SET", PAUSE, "test", "EX", 30)])
        until(lambda: worker_state(store) == b"paused")
        servers.send(TRANSACTIONS, [paid(i) for i in range(2, 50)])
        until(lambda: worker_state(store) == b"paused")
        assert servers.decisions().keys() == {"t-1"}
        store.execute([("DEL", PAUSE)])
        servers.settle()
    assert {len(each) for each in servers.decisions().values()} == {1}
    assert len(servers.decisions()) == 49


def test_a_worker_that_starts_in_a_pause_loses_nothing(servers: Servers) -> None:
    """Its first poll gives it partitions, and their records, before it can say that it wants none."""
    store = servers.store()
    store.execute([("SET", PAUSE, "test", "EX", 120)])
    servers.send(TRANSACTIONS, [paid(i, f"c-{i}") for i in range(50)])
    worker = servers.worker()
    until(lambda: worker.turn(wait_ms=10_000) or worker._held)
    with servers.working(worker):
        assert not servers.decisions()
        store.execute([("DEL", PAUSE)])
        servers.settle()
    assert {len(each) for each in servers.decisions().values()} == {1}
    assert len(servers.decisions()) == 50


def test_labels_that_come_long_before_their_payment(servers: Servers) -> None:
    """They wait for it, are folded once, right after it, and the history has them."""
    told = [label("t-1", START - timedelta(days=3), True), label("t-1", START, False, "analyst")]
    with servers.working():
        servers.send(LABELS, [*told, told[0]])
        servers.settle()
        assert servers.store().execute([("LLEN", "orphans:t:t-1")]) == [3]
        servers.send(TRANSACTIONS, [paid(1)])
        servers.settle()
    history: History = servers.written_history()
    rows = history.read(LABELS).to_pylist()
    assert sorted(row["source"] for row in rows) == ["analyst", "chargeback"]
    (payment_row,) = history.read(TRANSACTIONS).to_pylist()
    assert all(row["customer_position"] > payment_row["customer_position"] for row in rows)
    assert servers.store().execute([("EXISTS", "orphans:t:t-1")]) == [0]
    assert letters(servers, LABELS) == []


def test_a_decision_is_kept_for_who_asks_by_transaction(servers: Servers) -> None:
    servers.send(TRANSACTIONS, [paid(1)])
    with servers.working():
        servers.settle()
    (kept,) = servers.store().execute([("GET", "decision:t-1")])
    assert orjson.loads(kept) == servers.decisions()["t-1"][0]
    (record,) = servers.records(DECISIONS)
    assert record.key == b"c-1"


def test_what_was_read_but_waits_survives_a_rebalance(servers: Servers) -> None:
    """Payments that wait for labels stay ours while another worker comes and goes."""
    awaited = {LABELS}
    stages: list[Any] = []
    consumer = Consumer(
        servers.kafka, Router.topics, "rare", Members(stages, Ownership(servers.store(), "rare"))
    )
    stages.append(Router(servers.store(), 4, DAY_S, lambda each: each.topic not in awaited))
    with closing(consumer), closing(Producer(servers.kafka)) as producer:
        worker = Worker(consumer, producer, servers.store(), stages, stages[0].full, "rare")
        servers.send(TRANSACTIONS, [paid(i, f"c-{i}") for i in range(100)])
        until(lambda: worker.turn(50) or (servers.lag("rare") and consumer.lag() and _all_read(consumer)))
        with closing(Consumer(servers.kafka, Router.topics, "rare")) as other:
            until(lambda: worker.turn(50) or other.poll(50) is None or _halved(consumer, other))
        awaited.clear()
        until(lambda: worker.turn(50) or routed(servers) == {f"t-{i}" for i in range(100)})


def _all_read(consumer: Consumer) -> bool:
    return not any(consumer.lag().values())


def _halved(one: Consumer, other: Consumer) -> bool:
    return 0 < len(one.assignment()) == len(other.assignment())


def routed(servers: Servers) -> set[str]:
    return {
        name
        for record in servers.records("stream.customer")
        for name in read_batch([record]).strings("transaction_id")
    }


def test_a_record_with_neither_key_nor_value_is_put_aside(servers: Servers) -> None:
    """Other clients can send one; ours refuses to, even as a dead letter."""

    class Nothing:
        topic, partition, offset, timestamp, key, value, headers = TRANSACTIONS, 2, 7, 0, None, None, ()

    rejected = parse(Nothing())
    assert isinstance(rejected, Rejected)
    send(servers, [dead_letter(rejected)])
    (letter,) = letters(servers)
    assert (letter.key, letter.value) == (None, b"")
    assert dict(letter.headers)["offset"] == b"7"
