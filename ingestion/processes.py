"""The history process: `tollgate run history`."""

import errno
import logging
import time
from collections.abc import Callable, Sequence
from itertools import cycle

import pyarrow as pa

from infra import logs, ready
from infra.settings import load
from infra.signals import stop_signal
from ingestion import tables
from ingestion.broker import Consumer, Partition, Producer
from ingestion.forgotten import Forgotten
from ingestion.historian import FLUSH_ROWS, GROUP, TOPICS, Historian, Progress, encoded_reason
from ingestion.history import History
from ingestion.topics import await_topics, dead_letters, unnumbered

FLUSH_S = 1.0
GATHER_MS = 300
"""Files come once a second: a read of many records costs hardly more than one of a few."""
TIDY_S = 10.0
"""Then one table's files are merged: nothing is read meanwhile, so not all of them at a time."""
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)

log = logging.getLogger(__name__)


class Loop:
    """Reads, writes, commits; the consumer calls it when partitions come and go."""

    def __init__(
        self,
        historian: Historian,
        progress: Progress,
        producer: Producer,
        clock: Callable[[], float],
        retention_days: float = 0.0,
    ) -> None:
        self._retention_days = retention_days
        self._historian = historian
        self._progress = progress
        self._producer = producer
        self._clock = clock
        self._consumer: Consumer | None = None
        self._full = False
        self._unsaid: dict[Partition, int] = {}
        self._flush_at = clock() + FLUSH_S
        self._tidy_at = clock() + TIDY_S
        self._untidy = cycle(tables.SCHEMAS)

    def run(self, consumer: Consumer, stopped: Callable[[], bool]) -> None:
        """Go on until told to stop; then write what was read."""
        self._consumer = consumer
        while not stopped():
            self.turn()
        self.finish()

    def turn(self) -> None:
        """Poll once; write when a second has gone by or enough has come.

        While the disk is full nothing more is read; but it is polled, or the group would give our part away.
        """
        assert self._consumer is not None
        if self._full:
            self._consumer.pause(self._consumer.assignment())
        self._historian.take(self._consumer.poll(200))
        now = self._clock()
        if now >= self._flush_at or (self._historian.waiting >= FLUSH_ROWS and not self._full):
            self._write()
            self._flush_at = now + FLUSH_S
        if now >= self._tidy_at and not self._full:
            self._tidy()
            self._tidy_at = now + TIDY_S

    def _write(self) -> None:
        """As `finish`; what a full disk does not take is kept and not committed, and tried again."""
        assert self._consumer is not None
        try:
            self.finish()
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            if not self._full:
                log.error("no room in %s: %s; nothing is lost, waiting for room", self._folder, error)
            self._full = True
            return
        if self._full:
            log.warning("there is room in %s again", self._folder)
            self._consumer.resume(self._consumer.assignment())
            self._full = False

    def _tidy(self) -> None:
        try:
            tidy(self._historian.history, next(self._untidy))
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            log.warning("no room to compact %s: %s", self._folder, error)
        retire(self._historian.history, self._retention_days)
        pa.default_memory_pool().release_unused()  # Arrow keeps what merging took, each time a little more

    @property
    def _folder(self) -> str:
        return str(self._historian.history.folder)

    def finish(self) -> None:
        """Write, send what was no decision to its dead letters, commit.

        What was stopped for so long that another may write these partitions writes nothing, and ends.

        Raises:
            OSError: something could not be written; called again, it writes what is missing.
        """
        if self._consumer and self._historian.waiting:
            self._consumer.refuse_if_gone()
        self._unsaid |= self._historian.flush()
        for rejected in self._historian.rejected:
            record = rejected.record
            self._producer.send(
                dead_letters(record.topic),
                unnumbered(record.value),
                unnumbered(record.key),
                encoded_reason(rejected),
            )
        self._producer.flush()
        self._historian.rejected.clear()
        if self._unsaid and self._consumer:
            self._consumer.commit(self._unsaid)
            self._progress.reached(self._unsaid)
            self._unsaid = {}

    def assigned(self, partitions: Sequence[Partition]) -> None:
        """These are ours from now on."""
        self._historian.assigned(partitions)

    def revoked(self, partitions: Sequence[Partition]) -> None:
        """These are another's, who goes on from what was committed: it knows what is in the files already."""
        self._historian.revoked(partitions)
        self._unsaid = {each: offset for each, offset in self._unsaid.items() if each not in partitions}


def tidy(history: History, table: str) -> None:
    """Make large files of the small ones that were written every second, those of today among them."""
    if files := history.compact(table):
        log.info("compacted", extra={"facts": {"table": table, "files": files}})


def retire(history: History, retention_days: float) -> None:
    """Delete the days of each table that are so much older than its newest; 0 keeps all.

    Age counts in event time, as everything does: a replay of past events is as young as it was.
    """
    for table in tables.SCHEMAS if retention_days else ():
        days = history.days(table)
        if not days:
            continue
        newest = min(days[-1], tables.day_of(time.time_ns() // 1_000))  # a clock that is wrong ages nothing
        oldest_us = tables.day_start_us(newest) - int(retention_days * tables.DAY_US)
        if gone := history.prune(table, tables.day_of(oldest_us)):
            log.info("retired", extra={"facts": {"table": table, "days": len(gone), "last": gone[-1]}})


def history() -> None:
    """Write the stream to the history until told to stop."""
    logs.setup()
    settings, stop = load(), stop_signal()
    await_topics(settings, stop)
    written = History(settings.history)
    written.repair()
    producer = Producer(settings.addresses.kafka)
    historian = Historian(written, Forgotten(settings.forgotten))
    keep_days = settings.privacy.retention_days
    loop = Loop(historian, Progress(settings.history), producer, time.monotonic, keep_days)
    consumer = Consumer(settings.addresses.kafka, TOPICS, GROUP, loop, max_records=500, gather_ms=GATHER_MS)
    ready.tell()
    try:
        loop.run(consumer, stop.is_set)
    finally:
        consumer.close()
        producer.close()
