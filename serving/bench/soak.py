"""`tollgate soak`: for long at half the capacity, and whether memory, latency or lag grow.

Scores, quotes, lists, late labels and outcomes over HTTP, more payments by Kafka, all of a population that
stays the same. Decisions and ids are forgotten after minutes and Kafka's log is cut, so that what holds data
stops growing and what still grows is a leak. Only the history on disk grows by design.
"""

import json
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Annotated

import numpy as np
import orjson
import psutil
import typer
from rich.console import Console
from rich.table import Table

from features.connection import Connection
from features.state import Floats
from infra import progress
from infra.errors import UserError
from infra.progress import Display, Task
from ingestion.broker import Consumer, Partition, Producer, group_offsets
from ingestion.simulators.columns import take
from ingestion.simulators.payments import Payments, simulate
from ingestion.simulators.wire import transactions
from ingestion.topics import DECISIONS, TRANSACTIONS
from serving.bench.cores import Cores
from serving.bench.open_load import KINDS, LISTED, POOL, Calls, Plan, Sent
from serving.bench.slopes import Slope, slope
from serving.bench.under_load import MOST_CONNECTIONS, Sampler, System, Topic, capacity, sending, system
from serving.processes import GROUP, WORKERS_READ
from serving.review_queue import DONE, PENDING
from training.history_lag import HistoryLag
from training.plots import stacked_series
from training.runs import finite

MIX = {"score": 0.700, "quote": 0.098, "list": 0.002, "label": 0.150, "outcome": 0.050}
BY_KAFKA = 0.1
"""Payments by Kafka, as a share of the calls."""
LATE_S = 60.0
"""Labels and outcomes come so much later."""
OWN = {
    "JDK_JAVA_OPTIONS": "-XX:+AlwaysPreTouch",
    "TOLLGATE_DECISIONS__TTL_DAYS": 3 / 1_440,
    "TOLLGATE_TOPICS__IDEMPOTENCY_DAYS": 3 / 1_440,
    "TOLLGATE_TOPICS__RETENTION_DAYS": 10 / 1_440,
}
"""The soak's own settings: what is kept is kept for minutes, and Kafka's heap has its size from the start.

A JVM takes up all of its heap before it looks for garbage there, which looks like a leak for an hour.
"""
SAMPLE_S = 10.0
WARM_SHARE, WARM_S = 0.25, 600.0
"""A quarter of the run, at most ten minutes, is not judged: caches and heaps find their size."""
TOLERANCE = 0.02
"""Growth an hour, as a share of the level, that is none; for lag, of a second's events."""
SHORT_MIN = 30.0
DRAINED_S = 120.0
SHOWN_ONLY = ("valkey MB", "valkey keys", "p50 ms", "cores busy %", "cores stolen %")
"""Of data, or beside what is judged."""


@dataclass(frozen=True)
class Soaked:
    """What a run came to."""

    minutes: float
    capacity_per_s: float
    rate_per_s: float
    calls: int
    refused: int
    errors: Mapping[str, int]
    """What was neither accepted nor refused: such as `label 503`, and how often; 0 is no answer."""
    accepted_events: int
    decided: int
    """Decisions that came on the topic."""
    slopes: Mapping[str, Slope]
    """An hour; of each series after the warm-up."""
    last: Mapping[str, float]
    """Each series' last value."""
    most_lag: float
    sender_core_share: float

    @property
    def growing(self) -> list[str]:
        """Series whose interval lies wholly above the tolerance."""
        return [
            name for name, each in self.slopes.items() if name not in SHOWN_ONLY and self._grows(name, each)
        ]

    def _grows(self, name: str, each: Slope) -> bool:
        if name.endswith("lag"):
            return each.low > TOLERANCE * self.rate_per_s
        return each.grows(TOLERANCE)

    @property
    def faults(self) -> list[str]:
        """What is not as it should be, in sentences."""
        limits = {
            f"neither accepted nor refused: {_counted(self.errors)}": not self.errors,
            f"{self.decided} decisions on {self.accepted_events} payments": self.decided
            == self.accepted_events,
            f"these grow: {', '.join(self.growing)}": not self.growing,
        }
        return [sentence for sentence, kept in limits.items() if not kept]


def soak(
    minutes: Annotated[float, typer.Option(min=1, help="Of load.")] = 40.0,
    share: Annotated[float, typer.Option(min=0.05, max=1.0, help="Of the capacity.")] = 0.5,
    out: Annotated[Path, typer.Option(help="File of the samples, a JSON object a line.")] = Path(
        "soak.jsonl"
    ),
    plot: Annotated[Path | None, typer.Option(help="PNG file of all series.")] = None,
    home: Annotated[Path | None, typer.Option(help="Folder for its own servers; removed at the end.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Run for long at half the capacity, and tell with intervals whether memory, latency or lag grow.

    Example: tollgate soak --minutes 40 --plot soak.png
    """
    os.environ.update({name: str(value) for name, value in OWN.items()})
    with progress.shown(silent=as_json) as display, system(home, display) as running:
        found, series = soaked(running, minutes, share, out, display)
    if plot is not None:
        plot.write_bytes(stacked_series("Soak", "minutes", series.minutes, series.values))
    if as_json:
        typer.echo(json.dumps(finite(asdict(found) | {"faults": found.faults})))
    else:
        _print(found)
    if found.faults:
        raise UserError("; ".join(found.faults) + ".")


@dataclass(frozen=True)
class Series:
    """What was seen; a value of each name at each of the minutes, NaN where it is not known."""

    minutes: Floats
    values: Mapping[str, Floats]


def soaked(of: System, minutes: float, share: float, out: Path, display: Display) -> tuple[Soaked, Series]:
    """Find the capacity, then soak; writes the samples as they come."""
    able = capacity(of, display)
    plan = Plan(
        of.port,
        "s",
        minutes * 60,
        able * share,
        MOST_CONNECTIONS,
        4,
        MIX,
        of.chosen.api.headers,
        late_s=LATE_S,
    )
    drained(of, DRAINED_S)
    topic = Topic(of.chosen.addresses.kafka, DECISIONS, "transaction_id")
    task = display.task(f"Soak at {plan.rate:,.0f} calls/s", total=minutes, unit="minutes")
    samples = Samples(of, out, task)
    stream = ByKafka(of.chosen.addresses.kafka, plan.rate * BY_KAFKA)
    with (
        sending(plan) as result,
        Sampler(samples.look, SAMPLE_S, Random(plan.seed)),
        Sampler(stream.send_due, 0.2),
    ):
        sent = result()
    accepted = stream.close() + accepted_payments(sent.calls)
    drained(of, DRAINED_S)
    task.finish(f"{len(sent.calls.status):,} calls")
    series = joined(samples.taken, sent.calls)
    return judged(plan, able, sent, accepted, topic.count(), series), series


def accepted_payments(calls: Calls) -> int:
    """Payments whose acceptance was answered."""
    counts = {
        kind: int(((calls.kind == KINDS.index(kind)) & (calls.status == status)).sum())
        for kind, status in (("score", 200), ("list", 202))
    }
    return counts["score"] + LISTED * counts["list"]


def wrong(calls: Calls) -> dict[str, int]:
    """Calls that were neither accepted nor refused, by kind and status."""
    fine = (calls.status >= 200) & (calls.status < 300) | (calls.status == 429)
    of = zip(calls.kind[~fine].tolist(), calls.status[~fine].tolist(), strict=True)
    return dict(Counter(f"{KINDS[kind]} {status}" for kind, status in of))


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{n:,} of {name}" for name, n in counts.items()) or "none"


class ByKafka:
    """Payments that come by Kafka, at an even rate."""

    def __init__(self, address: str, rate: float) -> None:
        self._producer = Producer(address, linger_ms=20)
        log = simulate(Payments(seed=5), 1)
        self._pool = list(transactions(take(log, np.arange(min(POOL, len(log))))))
        self._rate, self._sent, self._start = rate, 0, time.perf_counter()

    def send_due(self) -> None:
        """Send what is due by now."""
        due = int((time.perf_counter() - self._start) * self._rate)
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        for number in range(self._sent, due):
            payment = self._pool[number % len(self._pool)]
            event = {**payment, "transaction_id": f"k-{number:012d}", "event_time": stamp}
            self._producer.send(TRANSACTIONS, orjson.dumps(event), payment["customer_id"].encode())
        self._producer.flush()
        self._sent = max(self._sent, due)

    def close(self) -> int:
        """Give how many were sent."""
        self._producer.close()
        return self._sent


@dataclass
class Samples:
    """What the system's parts hold and lack, looked at now and then, each look a line of a file."""

    of: System
    out: Path
    task: Task
    taken: list[dict[str, float]] = field(default_factory=list)
    cores: Cores = field(default_factory=Cores)

    def __post_init__(self) -> None:
        """Begin the file anew."""
        self.out.parent.mkdir(parents=True, exist_ok=True)
        self.out.write_text("", "utf-8")

    def look(self) -> None:
        """Add a line."""
        found = {"at_s": time.time(), **self._memory(), **self._valkey(), **lags(self.of), **self._machine()}
        self.taken.append(found)
        with self.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(finite(found)) + "\n")
        self.task.advance(SAMPLE_S / 60)

    def _machine(self) -> dict[str, float]:
        shares = self.cores.look()
        return {"cores busy %": 100 * shares.busy, "cores stolen %": 100 * shares.stolen}

    def _memory(self) -> dict[str, float]:
        found = {}
        for name, process in self.of.processes().items():
            try:
                every = [process, *process.children(recursive=True)]
                found[f"{name} MB"] = sum(map(own_bytes, every)) / 1e6
            except psutil.Error:
                found[f"{name} MB"] = float("nan")
        return found

    def _valkey(self) -> dict[str, float]:
        with connected(self.of) as store:
            info, keys, pending, done = store.execute(
                [("INFO", "memory"), ("DBSIZE",), ("ZCARD", PENDING), ("ZCARD", DONE)]
            )
        used = int(info.split(b"used_memory_dataset:")[1].split(b"\r")[0])
        entries = keys + pending + done
        return {"valkey keys": float(entries), "valkey bytes a key": used / max(1, entries)}


def own_bytes(process: psutil.Process) -> int:
    """Memory that is a process's own: pages of files (Kafka's indices) the kernel takes back at need."""
    memory = process.memory_info()
    return int(memory.rss - getattr(memory, "shared", 0))


@contextmanager
def connected(of: System) -> Iterator[Connection]:
    """To Valkey, for a moment."""
    store = Connection(of.chosen.addresses.redis)
    try:
        yield store
    finally:
        store.close()


def lags(of: System) -> dict[str, float]:
    """Messages that wait for the worker and for the history."""
    kafka = of.chosen.addresses.kafka
    committed = group_offsets(kafka, GROUP)
    consumer = Consumer(kafka, WORKERS_READ, group=None)
    ends = consumer.ends([Partition(*each) for each in consumer.assignment()])
    consumer.close()
    worker = sum(end - committed.get(partition, 0) for partition, end in ends.items())
    history = HistoryLag(kafka, of.chosen.history)()
    return {"worker lag": float(worker), "history lag": float("nan") if history is None else float(history)}


def drained(of: System, patience_s: float) -> None:
    """Return when the worker has nothing left. UserError if it does not come to that."""
    end = time.monotonic() + patience_s
    while lags(of)["worker lag"]:
        if time.monotonic() > end:
            raise UserError(f"the worker was behind for {patience_s:g} s after the load; see its log.")
        time.sleep(0.5)


def joined(taken: Sequence[Mapping[str, float]], calls: Calls) -> Series:
    """The samples, each with the latencies of the calls that were due in its `SAMPLE_S`."""
    at_s = np.array([each["at_s"] for each in taken])
    values = {
        name: np.array([each.get(name, np.nan) for each in taken]) for name in taken[0] if name != "at_s"
    }
    accepted = (calls.status >= 200) & (calls.status < 300)
    due_s, took_ms = calls.due_s[accepted], (calls.done_s - calls.due_s)[accepted] * 1e3
    edges = calls.due_s[0] + SAMPLE_S * np.arange(1, len(at_s) + 1)
    parts = np.split(took_ms, np.searchsorted(due_s, edges))[:-1]
    for share in (50, 99):
        values[f"p{share} ms"] = np.array(
            [np.percentile(part, share) if len(part) else np.nan for part in parts]
        )
    return Series((at_s - at_s[0]) / 60.0, values)


def judged(plan: Plan, able: float, sent: Sent, accepted: int, decided: int, series: Series) -> Soaked:
    """Slopes an hour of what came after the warm-up."""
    warm = min(WARM_SHARE * plan.seconds, WARM_S) / 60.0
    during = (series.minutes >= warm) & (series.minutes <= plan.seconds / 60.0)
    hours = series.minutes[during] / 60.0
    status = sent.calls.status
    return Soaked(
        minutes=plan.seconds / 60.0,
        capacity_per_s=able,
        rate_per_s=plan.rate,
        calls=len(status),
        refused=int((status == 429).sum()),
        errors=wrong(sent.calls),
        accepted_events=accepted,
        decided=decided,
        slopes={name: slope(hours, values[during]) for name, values in series.values.items()},
        last={name: float(values[-1]) for name, values in series.values.items()},
        most_lag=float(np.nanmax(series.values["worker lag"][during], initial=0.0)),
        sender_core_share=sent.core_share,
    )


def _print(found: Soaked) -> None:
    table = Table(title=f"{found.minutes:g} minutes at {found.rate_per_s:,.0f} calls/s")
    for heading in ("", "mean", "last", "an hour", "from", "to", ""):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for name, each in sorted(found.slopes.items()):
        figures = (each.level, found.last[name])
        signed = (each.value, each.low, each.high)
        words = "shown" if name in SHOWN_ONLY else "GROWS" if name in found.growing else "flat"
        table.add_row(name, *(f"{x:,.1f}" for x in figures), *(f"{x:+,.1f}" for x in signed), words)
    console = Console()
    console.print(table)
    console.print(
        f"Capacity {found.capacity_per_s:,.0f} calls/s. {found.calls:,} calls: {found.refused:,} refused,"
        f" errors: {_counted(found.errors)}."
        f" {found.decided:,} decisions on {found.accepted_events:,} payments; at most {found.most_lag:,.0f}"
        f" messages waited for the worker. The sender took {found.sender_core_share:.0%} of a core."
    )
    if found.minutes < SHORT_MIN:
        console.print(f"What grows in less than {SHORT_MIN:g} minutes may only be warming up.")
