"""One stream worker at work, and where its time goes."""

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from infra.errors import UserError
from infra.progress import Task
from infra.settings import Settings
from ingestion.broker import Producer
from ingestion.simulators.wire import encoded
from ingestion.topics import TRANSACTIONS
from serving.bench.cores import Cores
from serving.processes import build_worker
from serving.settling import settle
from serving.stage import Work
from serving.terminal_stage import Decider
from serving.worker import Timings, Watcher, Worker

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
class Round:
    """What the worker managed in a round."""

    payments: int
    events_per_s: float
    seconds: dict[str, float]
    """By stage of the loop."""
    stolen: float
    """Share of all cores' time that the machine's host gave to others meanwhile; 0 where it does not say."""


@dataclass(frozen=True)
class Streamed:
    """What the worker managed, round by round."""

    rounds: Sequence[Round]

    @property
    def events_per_s(self) -> float:
        """Median of the rounds."""
        return median(each.events_per_s for each in self.rounds)

    def shares(self) -> dict[str, float]:
        """Each stage's share of the time of all rounds, greatest first."""
        sums: dict[str, float] = {}
        for each in self.rounds:
            for stage, spent in each.seconds.items():
                sums[stage] = sums.get(stage, 0.0) + spent
        total = sum(sums.values())
        return {stage: spent / total for stage, spent in sorted(sums.items(), key=lambda each: -each[1])}


def stream(
    chosen: Settings, decider: Decider, payments: Sequence[type_of_payment], rounds: int, task: Task
) -> Streamed:
    """Let one worker decide payments that wait in Kafka, in rounds, each from its first to its last.

    One round more goes before: a fresh broker compiles itself in it, as it does once in its life.
    """
    counter = Counter()
    worker = build_worker(chosen, decider, counter, group=f"bench-{time.time_ns()}")
    settle()
    size = len(payments) // (rounds + 1)
    done = [
        _round(chosen, worker, counter, payments[i * size : (i + 1) * size], task) for i in range(rounds + 1)
    ]
    gc.unfreeze()  # else libraries complain at the end of what they think has leaked
    return Streamed(done[1:])


def _round(
    chosen: Settings, worker: Worker, counter: Counter, payments: Sequence[type_of_payment], task: Task
) -> Round:
    counter.seconds.clear()
    _send(chosen, payments)
    start, cores = time.perf_counter(), Cores()
    _until(worker.turn, counter, counter.counts.get("decisions", 0) + len(payments))
    seconds = time.perf_counter() - start
    task.advance(len(payments))
    return Round(len(payments), len(payments) / seconds, dict(counter.seconds), cores.look().stolen)


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
