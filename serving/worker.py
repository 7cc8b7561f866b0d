"""The stream worker: everything between an event in Kafka and its decision, in one loop.

Any number of workers share the partitions. Each turn of the loop computes, sends and has acknowledged, writes
the states, and commits, in this order; so whatever kills it, the same events come again and change nothing
that was done. It knows no recovery but that: on an error of a neighbour it ends, and its supervisor starts it
anew. So it does when it was stopped for so long that others may have its partitions: it makes sure that the
broker has heard of it lately before it sends, and who took over has closed its way to Redis (`ownership.py`).
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from features.connection import Connection, StoreError
from features.pause import PAUSE
from ingestion.broker import Consumer, Partition, Producer, Record
from serving.ownership import Ownership, heartbeat_key
from serving.stage import Stage, Work

HEARTBEAT_S = 0.5
HEARTBEAT_TTL_S = 5


@dataclass
class Timings:
    """Seconds spent in each stage of the loop."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of the block."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


class Watcher:
    """Told what each turn of the loop did; the process gives metrics, the bench a counter."""

    def turned(self, work: Sequence[Work], timings: Timings, now_s: float) -> None:
        """A turn that handled something is complete; `now_s` is seconds since 1970 UTC."""

    def lagging(self, records: Mapping[Partition, int]) -> None:
        """So many records of each partition waited for us just now."""


class Members:
    """Passes partitions that come and go on to the stages that read their topics."""

    def __init__(self, stages: Sequence[Stage], ownership: Ownership) -> None:
        self._stages = stages
        self._ownership = ownership

    def assigned(self, partitions: Sequence[Partition]) -> None:
        """These are ours from now on: nobody else writes their states once we look at them."""
        self._ownership.take(partitions)
        for stage in self._stages:
            stage.assigned([each for each in partitions if each.topic in stage.topics])

    def revoked(self, partitions: Sequence[Partition]) -> None:
        """These are no longer ours."""
        for stage in self._stages:
            stage.revoked([each for each in partitions if each.topic in stage.topics])


class Worker:
    """One member of the group of workers.

    Args:
        consumer: reads the topics of all stages.
        full: partitions that a stage wants read no further for now.
        name: of this worker, its own among all; its heartbeat and its connection to Redis carry it.
    """

    def __init__(
        self,
        consumer: Consumer,
        producer: Producer,
        store: Connection,
        stages: Sequence[Stage],
        full: Callable[[], Sequence[Partition]],
        name: str,
        watcher: Watcher | None = None,
    ) -> None:
        self._consumer = consumer
        self._producer = producer
        self._store = store
        self._stages = stages
        self._full = full
        self._name = name
        self._watcher = watcher or Watcher()
        self._paused: set[Partition] = set()
        self._halted = False
        self._held: list[Record] = []
        self._next_beat = 0.0

    def run(self, stopped: Callable[[], bool], wait_ms: int = 50) -> None:
        """Turn the loop until told to stop; then leave the group, so that the others take over at once."""
        try:
            while not stopped():
                self.turn(wait_ms)
        finally:
            with suppress(StoreError):  # it ends by itself
                self._store.execute([("DEL", heartbeat_key(self._name))])
            self._consumer.close()

    def turn(self, wait_ms: int) -> None:
        """Poll once and bring what came to its end."""
        timings = Timings()
        self._beat()
        self._throttle()
        with timings.stage("poll"):
            came = self._consumer.poll(wait_ms)
        records = self._still_ours() + came
        standing = self._halted or self._consumer.rebalancing()
        self._held = records if standing else []
        if standing:
            return
        works = self._work(records, timings)
        self._finish([work for work in works if work], timings)

    def _still_ours(self) -> list[Record]:
        """What came while we stood still, without that of partitions that went to others meanwhile."""
        mine = set(self._consumer.assignment()) if self._held else set()
        return [record for record in self._held if Partition(record.topic, record.partition) in mine]

    def _work(self, records: Sequence[Record], timings: Timings) -> list[Work]:
        """Every stage in turn; broker and Redis take what one sends and writes while the next works."""
        works, sent = [], Work()
        for stage in self._stages:
            work = self._handle(stage, records, timings)
            self._write(sent, timings)
            self._send(work, timings)
            works.append(sent := work)
        self._write(sent, timings)
        return works

    def _handle(self, stage: Stage, records: Sequence[Record], timings: Timings) -> Work:
        mine = [record for record in records if record.topic in stage.topics]
        if not mine and not stage.restless():
            return Work()
        with timings.stage(type(stage).__name__):
            return stage.handle(mine)

    def _finish(self, works: Sequence[Work], timings: Timings) -> None:
        if not works:
            return
        with timings.stage("write"):
            self._store.settle()
        with timings.stage("commit"):
            self._commit(works)
        self._watcher.turned(works, timings, time.time())

    def _commit(self, works: Sequence[Work]) -> None:
        offsets = {p: offset for work in works for p, offset in work.handled.items()}
        if offsets:
            self._consumer.commit(offsets)

    def _send(self, work: Work, timings: Timings) -> None:
        if work:
            self._consumer.refuse_if_gone()
        if work.notes:
            with timings.stage("write"):
                self._store.execute(work.notes)
        if work.outputs:
            with timings.stage("produce"):
                for out in work.outputs:
                    self._producer.send(out.topic, out.value, out.key, out.headers, out.partition)

    def _write(self, sent: Work, timings: Timings) -> None:
        """Not before the outputs are acknowledged."""
        if sent.outputs:
            with timings.stage("produce"):
                self._producer.flush()
        if sent.writes:
            with timings.stage("write"):
                self._store.post(sent.writes)

    def _throttle(self) -> None:
        """Stop reading partitions whose events wait for others', and go on when they have gone."""
        mine = set(self._consumer.assignment())
        wanted = mine if self._halted else set(self._full()) & mine
        if resumed := self._paused - wanted:
            self._consumer.resume(resumed & mine)
        if wanted:
            self._consumer.pause(wanted)
        self._paused = wanted

    def _beat(self) -> None:
        """Say twice a second that we live, and obey a pause."""
        now = time.monotonic()
        if now < self._next_beat:
            return
        self._next_beat = now + HEARTBEAT_S
        (paused,) = self._store.execute([("EXISTS", PAUSE)])
        self._halted = bool(paused)
        self._watcher.lagging(self._consumer.lag())
        state = "paused" if self._halted else "running"
        self._store.execute([("SET", heartbeat_key(self._name), state, "EX", HEARTBEAT_TTL_S)])
