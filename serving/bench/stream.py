"""One stream worker at work, and where its time goes."""

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from infra.errors import UserError
from infra.progress import Task
from infra.settings import Settings
from ingestion.broker import Producer
from ingestion.simulators.wire import encoded
from ingestion.topics import TRANSACTIONS
from serving.processes import build_worker, settle
from serving.stage import Work
from serving.terminal_stage import Decider
from serving.worker import Timings, Watcher

PATIENCE_S = 180.0

type_of_payment = dict[str, Any]
"""A transaction event as JSON carries it."""


@dataclass
class Counter(Watcher):
    """Sums what the turns did."""

    counts: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def turned(self, work: Sequence[Work], timings: Timings, now_s: float) -> None:  # noqa: ARG002
        """Add a turn."""
        for each in work:
            for what, n in each.counts.items():
                self.counts[what] = self.counts.get(what, 0) + n
        for stage, spent in timings.seconds.items():
            self.seconds[stage] = self.seconds.get(stage, 0.0) + spent


@dataclass(frozen=True)
class Streamed:
    """What the worker managed."""

    payments: int
    events_per_s: float
    seconds: dict[str, float]
    """By stage of the loop."""

    def shares(self) -> dict[str, float]:
        """Each stage's share of the time, greatest first."""
        total = sum(self.seconds.values())
        return {
            stage: spent / total for stage, spent in sorted(self.seconds.items(), key=lambda each: -each[1])
        }


def stream(chosen: Settings, decider: Decider, payments: Sequence[type_of_payment], task: Task) -> Streamed:
    """Let one worker decide payments that wait in Kafka, from the first to the last.

    A tenth of them goes before, so that what is done once in a worker's life is not counted.
    """
    counter = Counter()
    worker = build_worker(chosen, decider, counter, group=f"bench-{time.time_ns()}")
    settle()
    warm = len(payments) // 10
    _send(chosen, payments[:warm])
    _until(worker.turn, counter, warm)
    counter.seconds.clear()
    _send(chosen, payments[warm:])
    start = time.perf_counter()
    _until(worker.turn, counter, len(payments))
    seconds = time.perf_counter() - start
    gc.unfreeze()  # else libraries complain at the end of what they think has leaked
    task.advance(len(payments))
    return Streamed(len(payments) - warm, (len(payments) - warm) / seconds, dict(counter.seconds))


def _send(chosen: Settings, payments: Sequence[type_of_payment]) -> None:
    producer = Producer(chosen.addresses.kafka, linger_ms=20)
    for payment, value in zip(payments, encoded(payments), strict=True):
        producer.send(TRANSACTIONS, value, payment["customer_id"].encode())
    producer.flush()
    producer.close()


def _until(turn: Callable[[int], None], counter: Counter, decisions: int) -> None:
    end = time.monotonic() + PATIENCE_S
    while counter.counts.get("decisions", 0) < decisions:
        turn(50)
        if time.monotonic() > end:
            raise UserError(
                f"the worker decided {counter.counts} of {decisions} payments in {PATIENCE_S:g} s"
            )
