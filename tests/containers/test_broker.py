"""What we rely on of Kafka, through `ingestion.broker`."""

from collections.abc import Callable, Sequence

import orjson
import pytest

from ingestion.broker import BrokerError, Consumer, Partition, Producer, Record, answers, create_topics
from ingestion.topics import DECISIONS, LABELS, TRANSACTIONS, all_topics, dead_letters
from tests.servers import Servers, until

pytestmark = pytest.mark.containers

FIRST = Partition(LABELS, 0)


@pytest.fixture
def consume(servers: Servers, request: pytest.FixtureRequest) -> Callable[..., Consumer]:
    """Make consumers that are closed at the end."""

    def made(group: str | None, topics: Sequence[str] = (LABELS,), **options: int) -> Consumer:
        consumer = Consumer(servers.kafka, topics, group, **options)
        request.addfinalizer(consumer.close)
        return consumer

    return made


def taken(consumer: Consumer, count: int) -> list[Record]:
    """The next so many records, in the order they are given out."""
    records: list[Record] = []

    def enough() -> bool:
        records.extend(consumer.poll(wait_ms=100))
        return len(records) >= count

    until(enough, limit_s=30, pause_s=0)
    return records


def values(records: Sequence[Record]) -> list[int]:
    return [int(record.value or b"") for record in records]


def send(servers: Servers, numbers: range, partition: int = 0) -> None:
    servers.send_raw(LABELS, [(b"%d" % n, b"key") for n in numbers], partition)


def test_a_broker_answers(servers: Servers) -> None:
    assert answers(servers.kafka)
    assert not answers("127.0.0.1:1")


def test_creating_topics_again_changes_nothing(servers: Servers) -> None:
    send(servers, range(3))
    create_topics(servers.kafka, all_topics(), partitions=9)
    assert len(servers.records(LABELS)) == 3
    assert {record.partition for record in servers.records(LABELS)} == {0}


def test_a_record_comes_as_it_was_sent(servers: Servers) -> None:
    producer = Producer(servers.kafka)
    producer.send(LABELS, b"\x00value", b"key", [("error", "ü".encode())], partition=2)
    producer.send(LABELS, None, b"key", partition=2)
    producer.flush()
    producer.close()
    first, second = servers.records(LABELS)
    assert (first.partition, first.offset, first.key, first.value) == (2, 0, b"key", b"\x00value")
    assert list(first.headers) == [("error", "ü".encode())]
    assert (second.offset, second.key, second.value) == (1, b"key", None)
    assert 1.5e12 < first.timestamp <= second.timestamp  # the broker's clock, whatever we would say


def test_the_same_key_keeps_its_order(servers: Servers) -> None:
    servers.send_raw(LABELS, [(b"%d" % n, b"%d" % (n % 7)) for n in range(700)])
    records = servers.records(LABELS)
    for key in {record.key for record in records}:
        numbers = values([record for record in records if record.key == key])
        assert numbers == sorted(numbers)
        assert len(numbers) == 100


def test_a_message_may_be_megabytes(servers: Servers) -> None:
    servers.send_raw(LABELS, [(bytes(6_000_000), b"key")], partition=0)
    assert len(servers.records(LABELS)[0].value or b"") == 6_000_000


def test_a_topic_that_is_not_there(servers: Servers) -> None:
    with pytest.raises(BrokerError, match="nowhere does not exist"):
        Consumer(servers.kafka, ["nowhere"], group=None)


def test_a_new_group_begins_at_the_beginning(servers: Servers, consume: Callable[..., Consumer]) -> None:
    send(servers, range(5))
    consumer = consume("new")
    assert values(taken(consumer, 5)) == [0, 1, 2, 3, 4]
    assert consumer.committed(FIRST) is None
    assert consumer.position(FIRST) == 5


def test_the_next_member_goes_on_after_what_was_committed(
    servers: Servers, consume: Callable[..., Consumer]
) -> None:
    send(servers, range(10))
    consumer = consume("group")
    taken(consumer, 10)
    consumer.commit({FIRST: 4})
    consumer.close()
    again = consume("group")
    assert values(taken(again, 6)) == [4, 5, 6, 7, 8, 9]
    assert again.committed(FIRST) == 4


def test_a_pause_in_mid_batch_loses_nothing(servers: Servers, consume: Callable[..., Consumer]) -> None:
    send(servers, range(100))
    consumer = consume("slow", max_records=10)
    first = taken(consumer, 10)
    consumer.pause([FIRST])
    assert not [record for _ in range(3) for record in consumer.poll(wait_ms=50)]
    send(servers, range(5), partition=1)
    assert values(taken(consumer, 5)) == [0, 1, 2, 3, 4]
    consumer.resume([FIRST])
    assert values(first + taken(consumer, 90)) == list(range(100))


def test_lag_is_what_was_not_given_out(servers: Servers, consume: Callable[..., Consumer]) -> None:
    send(servers, range(20))
    consumer = consume("counted", max_records=5)
    taken(consumer, 5)
    assert consumer.lag()[FIRST] == 15
    assert not consumer.caught_up(FIRST)
    taken(consumer, 15)
    assert consumer.caught_up(FIRST)


def test_going_to_a_time(servers: Servers, consume: Callable[..., Consumer]) -> None:
    send(servers, range(3))
    latest = servers.records(LABELS)[-1].timestamp
    consumer = consume(None)
    consumer.seek_to_time(FIRST, latest + 60_000)
    assert consumer.position(FIRST) == 3
    consumer.seek_to_time(FIRST, 0)
    assert values(taken(consumer, 3)) == [0, 1, 2]


def test_a_bad_event_becomes_a_dead_letter_and_the_good_beside_it_is_decided(servers: Servers) -> None:
    good = {
        "transaction_id": "t-1",
        "event_time": "2026-03-01T12:00:00Z",
        "customer_id": "c-1",
        "terminal_id": "m-1",
        "amount": 12.5,
        "currency": "EUR",
    }
    bad = orjson.dumps(good | {"amount": -1})
    servers.send_raw(TRANSACTIONS, [(bad, b"c-1"), (orjson.dumps(good), b"c-1")], partition=3)
    with servers.working():
        servers.settle()
    (letter,) = servers.records(dead_letters(TRANSACTIONS))
    headers = dict(letter.headers)
    assert (letter.value, letter.key) == (bad, b"c-1")
    assert b"amount" in headers["error"]
    assert (headers["topic"], headers["partition"], headers["offset"]) == (b"transactions", b"3", b"0")
    assert len(servers.decisions()["t-1"]) == len(servers.records(DECISIONS)) == 1
