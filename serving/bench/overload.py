"""`tollgate bench-overload`: twice as many calls as can be answered, and what becomes of each of them.

A closed loop finds the capacity; then calls arrive by chance at a multiple of it, whether or not the earlier
ones were answered. What is accepted must be answered in time and arrive once; the rest must hear 429.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from infra import progress
from infra.errors import UserError
from infra.progress import Display
from ingestion.topics import DECISIONS, QUOTES
from serving.bench.open_load import Calls, Plan, Sent
from serving.bench.slopes import Slope, slope
from serving.bench.under_load import (
    MIX,
    MOST_CONNECTIONS,
    Memory,
    Sampler,
    System,
    Topic,
    capacity,
    sending,
    system,
)
from training.runs import finite

P99_MS = 250.0
GROWTH = 0.02
"""Share of its memory by which the API may surely grow in a run."""
SETTLED = 1 / 4
"""Share of the run after which its memory must be flat: buffers have their size by then."""
EVERY_S = 0.25


@dataclass(frozen=True)
class Arrived:
    """What became of accepted events."""

    accepted: int
    missing: int
    copies: int
    """Messages beyond the first of an event."""
    strays: int
    """Events of calls that were refused, and came all the same."""


@dataclass(frozen=True)
class Overloaded:
    """What a run came to."""

    capacity_per_s: float
    offered_per_s: float
    seconds: float
    calls: int
    accepted: int
    refused: int
    untold: int
    """Refusals without `Retry-After`."""
    errors: int
    """Any other answer, or none."""
    accepted_per_s: float
    p50_ms: float
    """Of accepted calls, from when each was due."""
    p99_ms: float
    worst_ms: float
    list_p99_ms: float
    refused_p99_ms: float
    events: Arrived
    quotes: Arrived
    memory_mb_per_min: Slope
    memory_mb: float
    sender_core_share: float
    most_connections: int

    @property
    def faults(self) -> list[str]:
        """Each limit that was missed, as a sentence."""
        lost = (self.events, self.quotes)
        limits = {
            f"{self.errors} calls were neither accepted nor refused": self.errors == 0,
            f"{self.untold} refusals had no Retry-After": self.untold == 0,
            f"accepted calls have a p99 of {self.p99_ms:.0f} ms, more than {P99_MS:g}": self.p99_ms < P99_MS,
            f"{sum(each.missing for each in lost)} accepted events never came": not any(
                e.missing for e in lost
            ),
            f"{sum(each.copies for each in lost)} events came twice": not any(e.copies for e in lost),
            f"{sum(each.strays for each in lost)} refused events came": not any(e.strays for e in lost),
            f"the API's memory grows by {self.memory_mb_per_min.value:.1f} MB a minute": not self._grows,
        }
        return [sentence for sentence, kept in limits.items() if not kept]

    @property
    def _grows(self) -> bool:
        return self.memory_mb_per_min.grows(GROWTH * 60.0 / self.seconds)


def bench_overload(
    seconds: Annotated[float, typer.Option(min=5, help="Of load.")] = 60.0,
    factor: Annotated[float, typer.Option(min=0.1, help="Times the capacity that arrives.")] = 2.0,
    home: Annotated[Path | None, typer.Option(help="Folder for its own servers; removed at the end.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Send twice as many calls as can be answered, and count what is accepted, refused, late and lost.

    Example: tollgate bench-overload --seconds 60 --factor 2
    """
    with progress.shown(silent=as_json) as display, system(home, display) as running:
        found = overloaded(running, seconds, factor, display)
    typer.echo(json.dumps(finite(asdict(found) | {"faults": found.faults})) if as_json else told(found))
    if found.faults:
        raise UserError("; ".join(found.faults) + ".")


def overloaded(of: System, seconds: float, factor: float, display: Display) -> Overloaded:
    """Find the capacity, then send a multiple of it."""
    able = capacity(of, display)
    kafka = of.chosen.addresses.kafka
    topics = {
        DECISIONS: Topic(kafka, DECISIONS, "transaction_id"),
        QUOTES: Topic(kafka, QUOTES, "quote_id"),
    }
    plan = Plan(
        of.port,
        "o",
        seconds,
        able * factor,
        MOST_CONNECTIONS,
        3,
        MIX,
        of.chosen.api.headers,
        opened=MOST_CONNECTIONS,
    )
    task = display.task(f"Load of {factor:g} times the capacity", total=seconds, unit="s")
    memory = Memory(of.processes()["api"])

    def look() -> None:
        memory.look()
        task.advance(EVERY_S)

    with sending(plan) as result, Sampler(look, EVERY_S):
        sent = result()
    task.finish(f"{len(sent.calls.status):,} calls")
    task = display.task("Accepted events")
    arrived = {name: arrivals(plan, sent.calls, name, topic) for name, topic in topics.items()}
    task.finish("counted")
    return _judged(plan, able, sent, arrived, memory)


def arrivals(plan: Plan, calls: Calls, name: str, topic: Topic) -> Arrived:
    """Which accepted events of a load came on a topic."""
    answers: Sequence[tuple[str, int]] = (
        (("score", 200), ("list", 202)) if name == DECISIONS else (("quote", 200),)
    )
    accepted = [each for kind, status in answers for each in calls.names(plan.run, kind, status)]
    refused = {each for kind, _ in answers for each in calls.names(plan.run, kind, 429)}
    found = topic.copies(plan.run, accepted)
    return Arrived(
        accepted=len(accepted),
        missing=sum(each not in found for each in accepted),
        copies=sum(found.values()) - len(found),
        strays=len(refused & found.keys()),
    )


def _judged(
    plan: Plan, able: float, sent: Sent, arrived: Mapping[str, Arrived], memory: Memory
) -> Overloaded:
    calls = sent.calls
    accepted = (calls.status >= 200) & (calls.status < 300)
    refused = calls.status == 429
    took = (calls.done_s - calls.due_s) * 1e3
    at_s, mb = np.array(memory.at_s), np.array(memory.mb)
    late = at_s > calls.due_s[0] + plan.seconds * SETTLED
    during = late & (at_s < calls.due_s[-1])
    p50, p99, worst = _percentiles(calls.latency_ms(), 50, 99, 100)
    return Overloaded(
        capacity_per_s=able,
        offered_per_s=len(calls.status) / plan.seconds,
        seconds=plan.seconds,
        calls=len(calls.status),
        accepted=int(accepted.sum()),
        refused=int(refused.sum()),
        untold=int((refused & ~calls.told_when).sum()),
        errors=int((~accepted & ~refused).sum()),
        accepted_per_s=float(accepted.sum() / plan.seconds),
        p50_ms=p50,
        p99_ms=p99,
        worst_ms=worst,
        list_p99_ms=_percentiles(calls.latency_ms("list"), 99)[0],
        refused_p99_ms=_percentiles(took[refused], 99)[0],
        events=arrived[DECISIONS],
        quotes=arrived[QUOTES],
        memory_mb_per_min=slope(at_s[during], mb[during]).scaled(60.0),
        memory_mb=float(mb.max(initial=0.0)),
        sender_core_share=sent.core_share,
        most_connections=sent.most_open,
    )


def _percentiles(values: "np.typing.NDArray[np.float64]", *shares: float) -> list[float]:
    return (
        [float(each) for each in np.percentile(values, shares)]
        if len(values)
        else [float("nan")] * len(shares)
    )


def told(found: Overloaded) -> str:
    """The run in words."""
    grown, events, quotes = found.memory_mb_per_min, found.events, found.quotes
    lines = (
        f"Capacity {found.capacity_per_s:,.0f} calls/s; {found.offered_per_s:,.0f} a second arrived for"
        f" {found.seconds:.0f} s: {found.accepted:,} accepted ({found.accepted_per_s:,.0f} a second),"
        f" {found.refused:,} refused ({found.untold} without Retry-After), {found.errors} errors.",
        f"Accepted, from when they were due: p50 {found.p50_ms:.0f} ms, p99 {found.p99_ms:.0f} ms, worst"
        f" {found.worst_ms:.0f} ms; lists p99 {found.list_p99_ms:.0f} ms. Refused: p99"
        f" {found.refused_p99_ms:.0f} ms.",
        f"Of {events.accepted:,} payments accepted {events.missing} were not decided, {events.copies} twice;"
        f" of {quotes.accepted:,} quotes {quotes.missing} are missing, {quotes.copies} came twice;"
        f" {events.strays + quotes.strays} refused ones came.",
        f"API: at most {found.memory_mb:.0f} MB, {grown.value:+.1f} MB a minute ({grown.low:+.1f} to"
        f" {grown.high:+.1f}). The sender took {found.sender_core_share:.0%} of a core, with up to"
        f" {found.most_connections} connections.",
    )
    return "\n".join(lines)
