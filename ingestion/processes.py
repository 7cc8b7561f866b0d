"""The history process: `tollgate run history`."""

import logging
import time
from collections.abc import Callable, Sequence

from infra import logs, ready
from infra.settings import load
from infra.signals import stop_signal
from ingestion import history as tables
from ingestion.broker import BrokerError, Consumer, Partition, Producer
from ingestion.historian import FLUSH_ROWS, GROUP, TOPICS, Historian, Progress, encoded_reason
from ingestion.history import History
from ingestion.topics import dead_letters, ensure_topics

FLUSH_S = 1.0
TIDY_S = 60.0

log = logging.getLogger(__name__)


class Loop:
    """Reads, writes, commits; the consumer calls it when partitions come and go."""

    def __init__(
        self, historian: Historian, progress: Progress, producer: Producer, clock: Callable[[], float]
    ) -> None:
        self._historian = historian
        self._progress = progress
        self._producer = producer
        self._clock = clock
        self._consumer: Consumer | None = None
        self._flush_at = clock() + FLUSH_S
        self._tidy_at = clock() + TIDY_S

    def run(self, consumer: Consumer, stopped: Callable[[], bool]) -> None:
        """Go on until told to stop; then write what was read."""
        self._consumer = consumer
        while not stopped():
            self.turn()
        self.finish()

    def turn(self) -> None:
        """Poll once; write when a second has gone by or enough has come."""
        assert self._consumer is not None
        self._historian.take(self._consumer.poll(200))
        now = self._clock()
        if now >= self._flush_at or self._historian.waiting >= FLUSH_ROWS:
            self.finish()
            self._flush_at = now + FLUSH_S
        if now >= self._tidy_at:
            tidy(self._historian.history)
            self._tidy_at = now + TIDY_S

    def finish(self) -> None:
        """Write, send what was no decision to its dead letters, commit."""
        offsets = self._historian.flush()
        for rejected in self._historian.rejected:
            record = rejected.record
            self._producer.send(
                dead_letters(record.topic), record.value, record.key, encoded_reason(rejected)
            )
        self._producer.flush()
        self._historian.rejected.clear()
        if offsets and self._consumer:
            self._consumer.commit(offsets)
            self._progress.reached(offsets)

    def assigned(self, partitions: Sequence[Partition]) -> None:
        """These are ours from now on."""
        self._historian.assigned(partitions)

    def revoked(self, partitions: Sequence[Partition]) -> None:  # noqa: ARG002
        """These will be another's; say how far we came while we may."""
        try:
            self.finish()
        except BrokerError as error:
            log.warning("partitions went before their offsets were committed: %s", error)
        self._historian.revoked()


def tidy(history: History) -> None:
    """Make one file of every day before each table's last."""
    for table in tables.SCHEMAS:
        days = history.days(table)
        if days and (files := history.compact(table, before_day=days[-1])):
            log.info("compacted", extra={"facts": {"table": table, "files": files}})


def history() -> None:
    """Write the stream to the history until told to stop."""
    logs.setup()
    settings, stop = load(), stop_signal()
    ensure_topics(settings)
    written = History(settings.history)
    written.repair()
    producer = Producer(settings.addresses.kafka)
    loop = Loop(Historian(written), Progress(settings.history), producer, time.monotonic)
    consumer = Consumer(settings.addresses.kafka, TOPICS, GROUP, loop, max_records=500)
    ready.tell()
    try:
        loop.run(consumer, stop.is_set)
    finally:
        consumer.close()
        producer.close()
