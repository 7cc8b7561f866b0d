"""Whether events still come, in order and in time: of event time, whatever the clock on the wall says."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from features.state import Flags, Ints
from ingestion.history import History
from ingestion.tables import BACKFILLED, DAY_US, PLACES, day_start_us
from training.tasks import Task

COMPANY = 20
"""So many events of one day tell what day it is; fewer may be of a clock that is wrong."""
NEWEST = 2_000
"""Events of each partition, by order of arrival, that tell how many come late."""


@dataclass(frozen=True)
class Freshness:
    """How old what is known is, in event time."""

    present_us: int
    """Microseconds since 1970 UTC."""
    decided_days: float
    """Since the newest payment or quote; NaN if there never was one."""
    settled_days: float
    """Since the newest label or outcome arrived; NaN if none ever did."""
    ahead: int
    """Events that claim to be later than the present: a clock is wrong."""
    late_share: float
    """Share of the newest payments or quotes that came long after later ones; NaN if none came by the log."""
    waiting: int | None = None
    """Messages of the stream that the history lacks; None if Kafka was not asked, or did not answer."""


def present_us(times: Ints) -> int:
    """The latest event time that is not alone: with `COMPANY` events in the day that ends with it.

    A single event from the far future moves nothing. Of few events at all the latest counts.

    Args:
        times: microseconds since 1970 UTC, one at least.
    """
    return _accompanied(times)[0]


def _accompanied(times: Ints) -> tuple[int, int]:
    """The present, and the most events of any day: whether `COMPANY` came together at all."""
    ordered = np.sort(times)
    company = np.arange(1, len(ordered) + 1) - np.searchsorted(ordered, ordered - DAY_US, side="right")
    most = int(company.max())
    return int(ordered[np.flatnonzero(company >= min(COMPANY, most))[-1]]), most


def late(partition: Ints, position: Ints, times: Ints, now_us: int, days: float) -> Flags:
    """Which events came after others of their partition that are more than `days` later, shape (n,).

    What lies beyond the present makes no other event late. Backfilled events have no order of arrival.
    """
    found = np.zeros(len(times), np.bool_)
    for one in np.unique(partition[partition != BACKFILLED]).tolist():
        mine = np.flatnonzero(partition == one)
        mine = mine[np.argsort(position[mine], kind="stable")]
        credible = np.where(times[mine] <= now_us, times[mine], np.iinfo(np.int64).min)
        found[mine] = times[mine] < np.maximum.accumulate(credible) - round(days * DAY_US)
    return found


def newest(partition: Ints, position: Ints) -> Flags:
    """The `NEWEST` events of each partition of the log."""
    found = np.zeros(len(position), np.bool_)
    for one in np.unique(partition[partition != BACKFILLED]).tolist():
        mine = np.flatnonzero(partition == one)
        found[mine[np.argsort(position[mine], kind="stable")][-NEWEST:]] = True
    return found


def present(history: History, task: Task) -> int | None:
    """The present of a task in event time; None if it has no events.

    Read from the newest days, and from more of them only where these do not tell: a look costs the same
    however long the history is.
    """
    days = sorted({day for table in task.tables for day in history.days(table)}, reverse=True)
    for read in _doubled(len(days)):
        start_us = day_start_us(days[read - 1]) if read < len(days) else None
        times = np.concatenate([_times(history, table, start_us) for table in task.tables])
        if not len(times):
            continue
        found, company = _accompanied(times)
        if company >= COMPANY or start_us is None:
            return found
    return None


def _doubled(most: int) -> Iterator[int]:
    """2, 4, 8 and so on, and last `most` itself; nothing for 0."""
    read = 2
    while read < most:
        yield read
        read *= 2
    if most:
        yield most


def freshness(
    history: History, task: Task, now_us: int, late_days: float, waiting: int | None = None
) -> Freshness:
    """How fresh a task's events are at a moment, such as its `present`; later ones are ahead."""
    decided, settled = (table for table in sorted(task.tables, key=lambda each: each == task.settled))
    rows = history.read(decided, columns=["event_time_us", *PLACES[decided]])
    times, arrived = rows["event_time_us"].to_numpy(), _times(history, settled)
    return Freshness(
        present_us=now_us,
        decided_days=_age_days(times, now_us),
        settled_days=_age_days(arrived, now_us),
        ahead=int((times > now_us).sum() + (arrived > now_us).sum()),
        late_share=_late_share(rows, now_us, late_days),
        waiting=waiting,
    )


def _late_share(rows: pa.Table, now_us: int, days: float) -> float:
    times, partition, position = (rows[name].to_numpy() for name in rows.column_names)
    looked_at = newest(partition, position)
    if not looked_at.any():
        return np.nan
    return float(late(partition, position, times, now_us, days)[looked_at].mean())


def _times(history: History, table: str, start_us: int | None = None) -> Ints:
    found: Ints = history.read(table, start_us, columns=["event_time_us"])["event_time_us"].to_numpy()
    return found


def _age_days(times: Ints, now_us: int) -> float:
    known = times[times <= now_us]
    return float(now_us - known.max()) / DAY_US if len(known) else np.nan
