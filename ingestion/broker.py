"""Kafka: the only module that speaks its protocol; what its client does wrong is mended in `kafka_mends`.

Delivery is at least once. The consumer never commits by itself: `commit` says what was handled, after its
results are safe. Every topic stamps records with the broker's clock (log append time).
"""

import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, Protocol

from kafka import (
    ConsumerRebalanceListener,
    KafkaAdminClient,
    KafkaConsumer,
    KafkaProducer,
    OffsetAndMetadata,
    TopicPartition,
)
from kafka.errors import KafkaError, TopicAlreadyExistsError

from ingestion import kafka_mends

MAX_MESSAGE_BYTES = 8 * 1024 * 1024
BATCH_BYTES = MAX_MESSAGE_BYTES // 4
"""More than comes before a flush: while a second batch waits, each record wakes kafka-python's sender."""
FLUSH_TIMEOUT_S = 30.0
GATHERED_BYTES = 256 * 1024
"""So much is given out at once, however long it might still be gathered."""
SEGMENTS_KEPT = 7
"""Kafka deletes whole segments, when their newest record is too old: so a record stays a seventh longer."""
SESSION_S = 10.0
"""A member that the broker has not heard for so long has left: others get its partitions."""
HEARTBEAT_S = 2.0
METADATA_TIMEOUT_S = 10.0
"""A broker that has just started may not know of its topics yet."""
BOOTSTRAP_MS = 10_000
"""How long a broker may take to answer a new client."""
RECONNECT_MS = 1_000
"""Longest pause before a lost connection is tried again; kafka-python's own 30 s would outlast an outage."""

type_of_headers = Sequence[tuple[str, bytes]]


class BrokerError(RuntimeError):
    """The broker did not take or give what was asked; says what and why."""


class Partition(NamedTuple):
    """One partition of a topic."""

    topic: str
    number: int


class Record(Protocol):
    """One record as it lies in the log; `timestamp` is its append time in milliseconds since 1970 UTC."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: type_of_headers


class Sent(Protocol):
    """A record on its way; callbacks run on the producer's own thread."""

    def add_both(self, done: Callable[[object], None]) -> object:
        """Call `done` with the metadata, or with the exception."""
        ...


@contextmanager
def _admin(address: str) -> Iterator[Any]:
    """A client for what concerns the broker itself. BrokerError if it does not answer."""
    if not answers(address):  # kafka-python 3.0.12 leaves the thread of a client that could not be made
        raise BrokerError(f"Kafka at {address} does not answer")
    try:
        admin = KafkaAdminClient(
            bootstrap_servers=address,
            bootstrap_timeout_ms=BOOTSTRAP_MS,
            request_timeout_ms=2 * BOOTSTRAP_MS,
            reconnect_backoff_max_ms=RECONNECT_MS,
        )
    except KafkaError as error:
        raise BrokerError(f"Kafka at {address} does not answer: {error}") from error
    try:
        yield admin
    finally:
        admin.close()
        kafka_mends.hang_up(admin)


def create_topics(address: str, topics: Iterable[str], partitions: int, retention_ms: int = -1) -> None:
    """Create the topics that are missing; existing ones stay as they are."""
    configs = {
        "message.timestamp.type": "LogAppendTime",
        "max.message.bytes": str(MAX_MESSAGE_BYTES),
        "retention.ms": str(retention_ms),
        **({"segment.ms": str(retention_ms // SEGMENTS_KEPT)} if retention_ms > 0 else {}),
    }
    options = {"num_partitions": partitions, "replication_factor": 1, "configs": configs}
    with _admin(address) as admin:
        try:
            if missing := set(topics) - set(admin.list_topics()):
                admin.create_topics(dict.fromkeys(sorted(missing), options), wait_for_metadata=True)
        except TopicAlreadyExistsError:
            return  # another process was faster
        except KafkaError as error:
            raise BrokerError(f"could not create topics at {address}: {error}") from error


def answers(address: str, timeout_s: float = 0.5) -> bool:
    """Whether a broker accepts connections."""
    host, _, port = address.partition(",")[0].rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout_s).close()
    except OSError:
        return False
    return True


def group_offsets(address: str, group: str) -> dict[Partition, int]:
    """What a group has committed, asked without joining it: the next offset of each partition it has read."""
    with _admin(address) as admin:
        try:
            found = admin.list_group_offsets([group])[group]
        except KafkaError as error:
            raise BrokerError(f"could not ask {address} for the offsets of group {group}: {error}") from error
    return {Partition(*key): int(offset.offset) for key, offset in found.items()}


class Producer:
    """Sends records; `flush` returns only when the broker has all of them.

    Args:
        address: `host:port` of a broker.
        linger_ms: how long a record may wait for company: throughput against latency.
        max_block_ms: how long `send` may wait for the broker's metadata.
        delivery_s: how long a record may be under way before it has failed; a connection on which nothing
            comes for half as long is given up.

    Raises:
        BrokerError: no broker answers.
    """

    def __init__(
        self, address: str, linger_ms: int = 0, max_block_ms: int = 10_000, delivery_s: float = 30.0
    ) -> None:
        try:
            self._kafka = KafkaProducer(
                bootstrap_servers=address,
                bootstrap_timeout_ms=BOOTSTRAP_MS,
                linger_ms=linger_ms,
                batch_size=BATCH_BYTES,
                max_request_size=MAX_MESSAGE_BYTES,
                max_block_ms=max_block_ms,
                delivery_timeout_ms=int(delivery_s * 1_000),
                request_timeout_ms=int(delivery_s * 500),
                reconnect_backoff_max_ms=RECONNECT_MS,
                allow_auto_create_topics=False,
                metrics_enabled=False,
            )
        except KafkaError as error:
            raise BrokerError(f"Kafka at {address} does not answer: {error}") from error
        kafka_mends.rest_while_unready(self._kafka)
        self._unflushed: list[Any] = []

    def send(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None = None,
        headers: type_of_headers = (),
        partition: int | None = None,
    ) -> None:
        """Queue a record; `flush` tells whether it arrived."""
        self._unflushed.append(self._send(topic, value, key, headers, partition))

    def publish(self, topic: str, value: bytes, key: bytes, headers: type_of_headers = ()) -> Sent:
        """Queue a record and return its future, for a caller that waits for this one alone."""
        sent: Sent = self._send(topic, value, key, headers, None)
        return sent

    def knows(self, topic: str) -> bool:
        """Whether a record of this topic can be queued without waiting for anything."""
        return self._kafka._metadata.partitions_for_topic(topic) is not None

    def learn(self, topics: Iterable[str]) -> None:
        """Wait until the producer knows all these topics. Raises BrokerError if it does not come to."""
        try:
            for topic in topics:
                self._kafka.partitions_for(topic)
        except KafkaError as error:
            raise BrokerError(f"the broker does not tell of its topics: {error}") from error

    def ask(self) -> Sent:
        """Ask the broker for something small; the future is done when it has answered."""
        asked: Sent = self._kafka._metadata.request_update()
        self._kafka._sender.wakeup()
        return asked

    def _send(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None,
        headers: type_of_headers,
        partition: int | None,
    ) -> Any:
        if value is None and key is None:
            value = b""  # kafka-python sends no record that has neither, though others do
        try:
            return self._kafka.send(topic, value=value, key=key, headers=list(headers), partition=partition)
        except KafkaError as error:
            raise BrokerError(f"could not send to topic {topic}: {error}") from error

    def flush(self) -> None:
        """Wait until all that `send` queued is acknowledged; BrokerError names the first that was not."""
        waiting, self._unflushed = self._unflushed, []
        try:
            self._kafka.flush(timeout=FLUSH_TIMEOUT_S)
            for future in waiting:
                future.get(timeout=FLUSH_TIMEOUT_S)
        except KafkaError as error:
            raise BrokerError(f"the broker did not acknowledge a record: {error}") from error

    def close(self, timeout_s: float = 10.0) -> None:
        """Send what is queued and disconnect; what the broker does not take in time is given up.

        Kafka-python 3.0.12 gives up the closing instead, and goes on looking for the broker.
        """
        try:
            self._kafka.flush(timeout=timeout_s)
        except KafkaError:
            self._kafka._sender.force_close()
            self._kafka._sender.join(timeout_s)
        with suppress(KafkaError):
            self._kafka.close(timeout=timeout_s)


class Assignment(Protocol):
    """Told when partitions come and go; what stays ours through a rebalance is not mentioned."""

    def assigned(self, partitions: Sequence[Partition]) -> None:
        """These are ours from now on, from what was committed."""
        ...

    def revoked(self, partitions: Sequence[Partition]) -> None:
        """These are no longer ours."""
        ...


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    """Passes on what a rebalance changed.

    Kafka-python says that all partitions go, then that some come, but those that stay keep their position:
    whoever forgot what had been read of them would never see it again.

    Args:
        consumer: kafka-python's, whose partitions they are.
        listener: of ours; None where nobody wants to know.
    """

    def __init__(self, consumer: KafkaConsumer, listener: Assignment | None) -> None:
        self._consumer = consumer
        self._listener = listener
        self._ours: set[Partition] = set()

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        self._become({Partition(*each) for each in assigned})

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Only a notice: the assignment that follows says what has gone."""

    def on_partitions_lost(self, lost: Iterable[TopicPartition]) -> None:  # noqa: ARG002
        self._become(set())

    def _become(self, ours: set[Partition]) -> None:
        gone, come = sorted(self._ours - ours), sorted(ours - self._ours)
        self._ours = ours
        if come:
            kafka_mends.ask_afresh(self._consumer)
        if gone and self._listener:
            self._listener.revoked(gone)
        if come and self._listener:
            self._listener.assigned(come)


class Consumer:
    """Reads topics as a member of a group, or as a lone reader of all partitions if `group` is None.

    A group that has committed nothing starts at the beginning of the log.

    Args:
        gather_ms: how long the broker gathers records before it answers; 0 answers with the first that comes.
    """

    def __init__(
        self,
        address: str,
        topics: Sequence[str],
        group: str | None,
        listener: Assignment | None = None,
        max_records: int = 2_000,
        gather_ms: int = 0,
    ) -> None:
        self._kafka = KafkaConsumer(
            bootstrap_servers=address,
            group_id=group,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            isolation_level="read_committed",
            max_poll_records=max_records,
            max_poll_interval_ms=300_000,
            session_timeout_ms=int(SESSION_S * 1e3),
            heartbeat_interval_ms=int(HEARTBEAT_S * 1e3),
            fetch_min_bytes=GATHERED_BYTES if gather_ms else 1,
            fetch_max_wait_ms=gather_ms or 100,
            max_partition_fetch_bytes=MAX_MESSAGE_BYTES,
            fetch_max_bytes=2 * MAX_MESSAGE_BYTES,
            metadata_max_age_ms=10_000,
            reconnect_backoff_max_ms=RECONNECT_MS,
            allow_auto_create_topics=False,
            metrics_enabled=False,
        )
        if group is None:
            self._kafka.assign([TopicPartition(t, p) for t in topics for p in self._partitions(t)])
        else:
            self._kafka.subscribe(list(topics), listener=_Listener(self._kafka, listener))

    def _partitions(self, topic: str) -> list[int]:
        end = time.monotonic() + METADATA_TIMEOUT_S
        while not (found := self._kafka.partitions_for_topic(topic)):
            if time.monotonic() > end:
                raise BrokerError(f"topic {topic} does not exist; `tollgate up` creates it")
            time.sleep(0.1)
        return sorted(found)

    def poll(self, wait_ms: int) -> list[Record]:
        """Records that came within `wait_ms`, in order within each partition."""
        kafka_mends.unpark(self._kafka)
        kafka_mends.finish_joining(self._kafka)
        given = self._kafka.poll(timeout_ms=kafka_mends.rested(self._kafka, wait_ms)).values()
        return [record for records in given for record in records]

    def commit(self, next_offsets: Mapping[Partition, int]) -> None:
        """Say that everything before these offsets is handled.

        Raises BrokerError if the partition has been given to another member meanwhile.
        """
        offsets = {
            TopicPartition(*p): OffsetAndMetadata(offset, "", -1) for p, offset in next_offsets.items()
        }
        try:
            self._kafka.commit(offsets)
        except KafkaError as error:
            raise BrokerError(f"could not commit {dict(next_offsets)}: {error}") from error

    def caught_up(self, partition: Partition) -> bool:
        """Whether everything that the broker had at the last fetch has been given out by `poll`."""
        return self._behind(partition) == 0

    def ends(self, partitions: Sequence[Partition]) -> dict[Partition, int]:
        """Offset after the last record of each partition, asked now."""
        found = self._kafka.end_offsets([TopicPartition(*each) for each in partitions])
        return {Partition(*key): offset for key, offset in found.items()}

    def to_the_end(self) -> Iterator[Record]:
        """All records from here to where the log ends now, for a lone reader."""
        ends = self.ends(self.assignment())
        while any(self.position(partition) < end for partition, end in ends.items()):
            yield from self.poll(wait_ms=200)

    def position(self, partition: Partition) -> int:
        """Offset of the next record that `poll` gives out."""
        offset: int = self._kafka.position(TopicPartition(*partition))
        return offset

    def committed(self, partition: Partition) -> int | None:
        """The group's next offset; None if it has committed nothing."""
        offset: int | None = self._kafka.committed(TopicPartition(*partition))
        return offset

    def rebalancing(self) -> bool:
        """Whether the group is about to share out its partitions anew: what is ours now may be another's."""
        return bool(self._kafka._coordinator.rejoining)

    def refuse_if_gone(self) -> None:
        """Return once the broker has answered a heartbeat lately, so that our partitions are still ours.

        A process that was stopped (a paused container, a laptop that slept) wakes up in the middle of what it
        did, and others may have its partitions by then. The heartbeats' thread slept as well, so their last
        answer is old; where only the broker was away, the next one comes soon.

        Raises:
            BrokerError: none comes; others may have taken over.
        """
        end = time.monotonic() + SESSION_S
        while self._silent_s() > SESSION_S / 2:
            if self.rebalancing() or time.monotonic() > end:
                raise BrokerError("the broker no longer counts this member; others may have taken over")
            time.sleep(0.05)

    def _silent_s(self) -> float:
        heartbeat = self._kafka._coordinator.heartbeat
        return float(time.monotonic() - max(heartbeat.last_receive, heartbeat.last_reset))

    def assignment(self) -> list[Partition]:
        """Partitions that are ours now."""
        return sorted(Partition(*each) for each in self._kafka.assignment())

    def lag(self) -> dict[Partition, int]:
        """Records the broker had at the last fetch that `poll` has not given out, by partition."""
        behind = {partition: self._behind(partition) for partition in self.assignment()}
        return {partition: records for partition, records in behind.items() if records is not None}

    def _behind(self, partition: Partition) -> int | None:
        """None before the first fetch.

        Not by `KafkaConsumer.position`, which looks for work of its own whenever it is asked, for 0.2 ms.
        """
        end = self._kafka.highwater(TopicPartition(*partition))
        reached = self._kafka._subscription.assignment[TopicPartition(*partition)].position
        return None if end is None or reached is None else max(0, end - reached.offset)

    def pause(self, partitions: Iterable[Partition]) -> None:
        """Give out nothing of these partitions until `resume`."""
        self._kafka.pause(*(TopicPartition(*each) for each in partitions))

    def resume(self, partitions: Iterable[Partition]) -> None:
        """Give out records of these partitions again."""
        self._kafka.resume(*(TopicPartition(*each) for each in partitions))

    def seek(self, partition: Partition, offset: int) -> None:
        """Go on with the record at this offset."""
        self._kafka.seek(TopicPartition(*partition), offset)

    def seek_to_time(self, partition: Partition, append_ms: int) -> None:
        """Go to the first record appended at or after a time, or to the end."""
        found = self._kafka.offsets_for_times({TopicPartition(*partition): append_ms})
        at = found[TopicPartition(*partition)]
        offset = at.offset if at is not None and at.offset >= 0 else self.ends([partition])[partition]
        self._kafka.seek(TopicPartition(*partition), offset)

    def close(self) -> None:
        """Leave the group."""
        self._kafka.close(autocommit=False, timeout_ms=5_000)
        kafka_mends.hang_up(self._kafka)
