"""The contract of our broker module with the real Kafka, and the faults of its client that it goes round."""

import contextlib
import time
from collections.abc import Iterator, Sequence

import pytest
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition

from ingestion.broker import (
    Assignment,
    BrokerError,
    Consumer,
    Partition,
    Producer,
    Record,
    answers,
    create_topics,
)
from tests.servers import Servers, expel_all, until

pytestmark = pytest.mark.servers

ONE, TWO = "contract.one", "contract.two"


@pytest.fixture
def broker(servers: Servers) -> Iterator[str]:
    """The address of a broker with two topics, of one and of two partitions, and nothing in them."""
    create_topics(servers.kafka, [ONE], partitions=1)
    create_topics(servers.kafka, [TWO], partitions=2)
    yield servers.kafka
    admin = KafkaAdminClient(bootstrap_servers=servers.kafka)
    admin.delete_topics([ONE, TWO])
    until(lambda: not {ONE, TWO} & set(admin.list_topics()))
    admin.close()


def fill(address: str, n: int, topic: str = ONE, start: int = 0) -> None:
    with contextlib.closing(Producer(address)) as producer:
        for i in range(start, start + n):
            producer.send(topic, b"%d" % i, key=b"k", headers=[("h", b"\x00\xff")], partition=0)
        producer.flush()


@contextlib.contextmanager
def reading(
    address: str,
    topics: Sequence[str] = (ONE,),
    group: str | None = "g",
    max_records: int = 7,
    listener: Assignment | None = None,
) -> Iterator[Consumer]:
    with contextlib.closing(Consumer(address, topics, group, listener, max_records)) as consumer:
        yield consumer


class Told:
    """What a member of the group was told to have lost and got, in turn."""

    def __init__(self) -> None:
        self.changes: list[tuple[str, list[Partition]]] = []

    def assigned(self, partitions: Sequence[Partition]) -> None:
        self.changes.append(("assigned", list(partitions)))

    def revoked(self, partitions: Sequence[Partition]) -> None:
        self.changes.append(("revoked", list(partitions)))


def numbers(records: Sequence[Record]) -> list[int]:
    return [int(record.value or b"-1") for record in records]


def read(consumer: Consumer, n: int) -> list[int]:
    found: list[int] = []
    until(lambda: found.extend(numbers(consumer.poll(20))) or len(found) >= n, pause_s=0)
    return found


def quiet(consumer: Consumer, polls: int = 20) -> list[int]:
    return [number for _ in range(polls) for number in numbers(consumer.poll(20))]


def test_records_come_in_order_as_they_were_sent(broker: str) -> None:
    fill(broker, 100)
    with reading(broker) as consumer:
        records: list[Record] = []
        until(lambda: records.extend(consumer.poll(20)) or len(records) >= 100, pause_s=0)
    assert numbers(records) == list(range(100))
    assert [record.offset for record in records] == list(range(100))
    assert {(record.topic, record.partition, record.key) for record in records} == {(ONE, 0, b"k")}
    assert {tuple(record.headers) for record in records} == {(("h", b"\x00\xff"),)}
    stamps = [record.timestamp for record in records]
    assert stamps == sorted(stamps)


@pytest.mark.parametrize("pause_after", [1, 7, 10, 99])
def test_a_pause_in_mid_batch_loses_nothing(broker: str, pause_after: int) -> None:
    fill(broker, 100)
    fill(broker, 20, TWO)
    with reading(broker, [ONE, TWO]) as consumer:
        found: list[int] = []

        def of_one(records: Sequence[Record]) -> list[int]:
            return numbers([record for record in records if record.topic == ONE])

        until(lambda: found.extend(of_one(consumer.poll(20))) or len(found) >= pause_after, pause_s=0)
        for _ in range(3):
            consumer.pause([Partition(ONE, 0)])
            assert [number for _ in range(10) for number in of_one(consumer.poll(20))] == []
            consumer.resume([Partition(ONE, 0)])
            found += of_one(consumer.poll(200))
        until(lambda: found.extend(of_one(consumer.poll(20))) or len(found) >= 100, pause_s=0)
    assert found == list(range(100))


def test_a_paused_partition_does_not_hold_up_another(broker: str) -> None:
    fill(broker, 50)
    with reading(broker, [ONE, TWO]) as consumer:
        until(lambda: consumer.poll(20), pause_s=0)
        consumer.pause([Partition(ONE, 0)])
        fill(broker, 30, TWO)
        assert read(consumer, 30) == list(range(30))


def test_a_group_goes_on_where_it_committed(broker: str) -> None:
    fill(broker, 20)
    with reading(broker) as consumer:
        assert read(consumer, 20) == list(range(20))
        consumer.commit({Partition(ONE, 0): 13})
        assert consumer.committed(Partition(ONE, 0)) == 13
    with reading(broker) as consumer:
        assert read(consumer, 7) == list(range(13, 20))


def test_what_was_not_committed_comes_again(broker: str) -> None:
    fill(broker, 20)
    for _ in range(2):
        with reading(broker) as consumer:
            assert read(consumer, 20) == list(range(20))
            assert consumer.committed(Partition(ONE, 0)) is None


def test_members_of_a_group_share_the_partitions_and_take_over(broker: str) -> None:
    with reading(broker, [TWO]) as first:
        until(lambda: first.poll(20) or len(first.assignment()) == 2)
        with reading(broker, [TWO]) as second:
            until(lambda: (first.poll(20), second.poll(20)) and len(second.assignment()) == 1)
            assert first.assignment() != second.assignment()
        until(lambda: first.poll(20) or len(first.assignment()) == 2)


def test_members_that_poll_now_and_then_come_to_share_the_partitions(broker: str) -> None:
    """A rebalance that ends between two polls counts; kafka-python alone would begin another, for ever."""

    def both_poll() -> None:
        for each in (first, second):
            each.poll(5)
            time.sleep(0.2)

    with reading(broker, [TWO]) as first, reading(broker, [TWO]) as second:
        until(lambda: both_poll() or {len(each.assignment()) for each in (first, second)} == {1}, limit_s=20)


def test_a_group_whose_topics_come_late_gets_them(broker: str) -> None:
    """Its first assignment is empty; kafka-python alone would stay so, if its polls are short."""
    late = "contract.late"
    with reading(broker, [late]) as consumer:
        for _ in range(20):
            consumer.poll(10)
        create_topics(broker, [late], partitions=1)
        fill(broker, 3, late)
        assert read(consumer, 3) == [0, 1, 2]
    admin = KafkaAdminClient(bootstrap_servers=broker)
    admin.delete_topics([late])
    admin.close()


@pytest.mark.parametrize("poll_ms", [1, 3, 10])
def test_every_new_group_gets_its_partitions(broker: str, poll_ms: int) -> None:
    fill(broker, 1)
    for number in range(12):
        with reading(broker, [ONE, TWO], f"new-{poll_ms}-{number}") as consumer:
            until(lambda: consumer.poll(poll_ms), limit_s=15, pause_s=0)


def test_a_commit_is_refused_after_the_partition_went_to_another(broker: str) -> None:
    fill(broker, 5)
    with reading(broker) as consumer:
        read(consumer, 5)
        expel_all(broker, "g")
        with pytest.raises(BrokerError, match=r"could not commit.*contract\.one"):
            consumer.commit({Partition(ONE, 0): 5})


def test_caught_up_means_that_poll_gave_out_all_there_was(broker: str) -> None:
    mine = Partition(ONE, 0)
    fill(broker, 20)
    with reading(broker) as consumer:
        found: list[int] = []
        while len(found) < 20:
            found += numbers(consumer.poll(20))
            assert consumer.assignment() == [] or consumer.caught_up(mine) == (len(found) == 20)
        assert consumer.lag() == {mine: 0}
        fill(broker, 1, start=20)
        assert read(consumer, 1) == [20]
        assert consumer.caught_up(mine)


def test_an_empty_partition_is_caught_up_as_soon_as_that_is_known(broker: str) -> None:
    with reading(broker, [TWO]) as consumer:
        until(lambda: consumer.poll(20) or consumer.assignment())
        until(lambda: consumer.poll(20) or all(map(consumer.caught_up, consumer.assignment())))


def test_who_was_given_up_and_rejoins_knows_again_that_nothing_more_is_there(broker: str) -> None:
    fill(broker, 5)
    told = Told()
    with reading(broker, [ONE, TWO], listener=told) as consumer:
        read(consumer, 5)
        mine = consumer.assignment()
        consumer.commit(consumer.ends(mine))
        until(lambda: consumer.poll(20) or all(map(consumer.caught_up, mine)))
        expel_all(broker, "g")
        until(lambda: consumer.poll(20) or len(told.changes) == 3)
        assert told.changes == [("assigned", mine), ("revoked", mine), ("assigned", mine)]
        until(lambda: consumer.poll(20) or all(map(consumer.caught_up, mine)), limit_s=10)


def test_transactions_of_others_leave_nothing_that_is_waited_for(broker: str) -> None:
    """Their end in the log is a record that `poll` never gives out."""
    producer = KafkaProducer(bootstrap_servers=broker, transactional_id="theirs")
    producer.init_transactions()
    with reading(broker) as consumer:
        for i, end in enumerate((producer.commit_transaction, producer.abort_transaction)):
            producer.begin_transaction()
            producer.send(ONE, b"%d" % i, partition=0)
            end()
        assert read(consumer, 1) == [0]
        until(lambda: consumer.poll(20) or consumer.caught_up(Partition(ONE, 0)), limit_s=10)
        assert quiet(consumer, 5) == []
    producer.close()


def test_a_lone_reader_reads_all_partitions_and_finds_times(broker: str) -> None:
    fill(broker, 5)
    fill(broker, 5, TWO)
    with reading(broker, [ONE, TWO], group=None) as consumer:
        records: list[Record] = []
        until(lambda: records.extend(consumer.poll(20)) or len(records) == 10, pause_s=0)
        stamp = max(record.timestamp for record in records if record.topic == ONE)
        consumer.seek_to_time(Partition(ONE, 0), stamp)
        again = read(consumer, 1)
        assert again == [r.offset for r in records if r.topic == ONE and r.timestamp >= stamp][: len(again)]
        consumer.seek_to_time(Partition(ONE, 0), stamp + 60_000)
        assert consumer.position(Partition(ONE, 0)) == 5
        assert consumer.ends([Partition(ONE, 0), Partition(TWO, 1)]) == {
            Partition(ONE, 0): 5,
            Partition(TWO, 1): 0,
        }


def test_a_record_beyond_the_limit_is_an_error_of_the_sender(broker: str) -> None:
    with contextlib.closing(Producer(broker)) as producer, pytest.raises(BrokerError, match="could not send"):
        producer.send(ONE, bytes(9 * 1024 * 1024))


def test_a_topic_that_is_not_there_is_an_error_that_names_it(broker: str) -> None:
    with pytest.raises(BrokerError, match=r"contract\.none does not exist"):
        Consumer(broker, ["contract.none"], group=None)


def test_topics_that_are_there_stay_as_they_are(broker: str) -> None:
    fill(broker, 3)
    create_topics(broker, [ONE, TWO], partitions=5)
    with reading(broker, [ONE, TWO], group=None) as consumer:
        assert len(consumer.assignment()) == 3
        assert read(consumer, 3) == [0, 1, 2]


def test_a_broker_answers_or_does_not(broker: str) -> None:
    assert answers(broker)
    assert not answers("127.0.0.1:1")
    assert TopicPartition(*Partition(ONE, 0)) == (ONE, 0)
