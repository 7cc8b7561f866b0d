"""What a look at a champion found, kept as `watching/<task>.json`: judged into alerts and reasons to train.

Judging is pure: the same findings and limits give the same alerts.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from infra.files import replaced
from infra.settings import Watching
from ingestion.tables import DAY_US, day_of
from training.alerts import Alert, Severity
from training.drift import SCORE, Drift
from training.freshness import Freshness
from training.performance import Decline, Standard
from training.skew import Skew

_NAMED = 5
"""Features that a sentence names."""


@dataclass(frozen=True)
class Findings:
    """Everything that was found at one moment of event time."""

    task: str
    version: str
    """Of the champion; empty before the first."""
    at_us: int
    """The present in event time, microseconds since 1970 UTC."""
    settled: str
    """What truth comes by: labels or outcomes."""
    freshness: Freshness
    rows: int = 0
    """Payments or quotes later than what the champion learned from."""
    sampled: int = 0
    """The newest of them, that drift is told from."""
    drift: tuple[Drift, ...] = ()
    standard: Standard | None = None
    """What the champion showed on the window that it was tested on; None if it tells nothing."""
    matured: Mapping[str, float] | None = None
    days: tuple[Mapping[str, float], ...] = ()
    estimated: Mapping[str, float] | None = None
    declines: Mapping[str, Decline] | None = None
    skew: Skew | None = None
    alerts: tuple[Alert, ...] = ()
    due: tuple[str, ...] = ()
    """Why a training is due."""

    @property
    def drifted(self) -> list[str]:
        """Names of the columns that drifted, the most moved first."""
        return [each.name for each in self.drift if each.drifted]

    @property
    def drifted_share(self) -> float:
        """Share of features that drifted; NaN if none was compared."""
        features = [each.drifted for each in self.drift if each.name != SCORE]
        return sum(features) / len(features) if features else math.nan

    def as_json(self) -> dict[str, Any]:
        """Plain values as JSON has them, null for what is not a number."""
        values: dict[str, Any] = _finite(asdict(self))
        return {**values, "at": wire_time(self.at_us), "drifted_share": _finite(self.drifted_share)}


def wire_time(time_us: int) -> str:
    """RFC 3339 in UTC.

    >>> wire_time(0)
    '1970-01-01T00:00:00Z'
    """
    moment = datetime.fromtimestamp(time_us // 1_000_000, UTC)
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


def judged(found: Findings, limits: Watching) -> Findings:
    """The same with its alerts, and with those of them that ask for a training."""
    said = tuple(_alerts(found, limits))
    asking = tuple(
        each.summary for each in said if each.name == "drift" or each.name in (found.declines or {})
    )
    return replace(found, alerts=said, due=asking)


def _alerts(found: Findings, limits: Watching) -> Iterator[Alert]:
    yield from _drift(found, limits)
    yield from _declines(found)
    yield from _skew(found)
    yield from _silence(found, limits)
    yield from _order(found, limits)


def _drift(found: Findings, limits: Watching) -> Iterator[Alert]:
    names = found.drifted
    share = found.drifted_share
    if found.sampled < limits.min_rows or not (SCORE in names or share >= limits.drifted_share):
        return
    largest = found.drift[0]
    listed = ", ".join(names[:_NAMED]) + (" and others" if len(names) > _NAMED else "")
    yield _alert(
        found,
        "drift",
        "warning",
        f"drift of {len(names)} of {len(found.drift)} columns against the champion's training: {listed}"
        f" (index of {largest.name} {largest.psi:.2f})",
        "see whether a source of data changed (`tollgate watch`); if the world did, let it be trained anew",
        largest.psi,
        limits.psi_limit,
    )


_SAID = {
    "missed_fraud": "frauds among approved payments",
    "fewer_sales": "sales, fewer than forecast",
    "more_sales": "sales, more than forecast",
}


def _declines(found: Findings) -> Iterator[Alert]:
    for name, each in (found.declines or {}).items():
        if not each.alarm or each.since_day is None:
            continue
        yield _alert(
            found,
            name,
            "critical",
            f"{each.observed:.0f} {_SAID.get(name, name)} since {day_of(each.since_day * DAY_US)}, where the"
            f" champion has {each.expected:.1f} as usual",
            f"look at the newest {found.settled}; train anew, or `tollgate rollback {found.task}` if it began"
            " with the champion",
            each.evidence,
            each.limit,
        )


def _skew(found: Findings) -> Iterator[Alert]:
    if found.skew is None or not found.skew.different:
        return
    worst = sorted(found.skew.mismatches, key=lambda name: -found.skew.mismatches[name])  # type: ignore[union-attr]
    yield _alert(
        found,
        "skew",
        "critical",
        f"{found.skew.different} of {found.skew.compared} decisions used other features than the history"
        f" gives: {', '.join(worst[:_NAMED])}",
        "`tollgate rebuild` makes the store anew; see whether API, worker and history run the same code",
        found.skew.share,
        0.0,
    )


def _silence(found: Findings, limits: Watching) -> Iterator[Alert]:
    decided = "payments" if found.settled == "labels" else "quotes"
    ages = ((found.settled, found.freshness.settled_days), (decided, found.freshness.decided_days))
    for what, days in ages:
        if days >= limits.silent_days:
            yield _alert(
                found,
                f"no_{what}",
                "warning",
                f"no {what} for {days:.0f} days of event time",
                f"see whether the source of {what} still sends; until then figures of the champion are old",
                days,
                limits.silent_days,
            )


def _order(found: Findings, limits: Watching) -> Iterator[Alert]:
    """Wrong clocks, late events, and a history that lags."""
    fresh = found.freshness
    if fresh.ahead:
        said = f"{fresh.ahead} events are of a time after {wire_time(fresh.present_us)}, when nothing else is"
        do = "put the clock of their source right; they count from then on"
        yield _alert(found, "clock_ahead", "warning", said, do, float(fresh.ahead), 0.0)
    if fresh.late_share > limits.late_share:
        said = f"{fresh.late_share:.0%} of the newest events came {limits.late_days:g} days late or more"
        do = "see what held them back, or whether a clock jumped back; features knew too little meanwhile"
        yield _alert(found, "late_events", "warning", said, do, fresh.late_share, limits.late_share)
    if (fresh.waiting or 0) > limits.max_waiting:
        said = f"the history lacks {fresh.waiting:,} messages of the stream"
        do = "see whether the process `history` runs (`tollgate status`)"
        yield _alert(found, "history_lag", "warning", said, do, float(fresh.waiting or 0), limits.max_waiting)


def _alert(
    found: Findings, name: str, severity: Severity, summary: str, action: str, value: float, limit: float
) -> Alert:
    return Alert(name, severity, found.task, summary, action, value, limit, wire_time(found.at_us))


def file_of(folder: Path, task: str) -> Path:
    """Where a task's findings are kept, under `Settings.findings`."""
    return folder / f"{task}.json"


def write(folder: Path, found: Findings) -> None:
    """Keep the findings; a reader sees the old ones or these."""
    replaced(file_of(folder, found.task), json.dumps(found.as_json(), indent=1, allow_nan=False))


@dataclass(frozen=True)
class Asked:
    """What the newest findings say of a training."""

    version: str
    """Champion that they are of."""
    at_us: int
    due: tuple[str, ...]
    skew_until_ms: int | None = None


def asked(folder: Path, task: str) -> Asked | None:
    """What was found last; None if nothing was, or by another version of this file."""
    path = file_of(folder, task)
    if not path.exists():
        return None
    values = json.loads(path.read_text("utf-8"))
    if not {"version", "at_us", "due"} <= values.keys():
        return None
    skew = values.get("skew") or {}
    return Asked(values["version"], values["at_us"], tuple(values["due"]), skew.get("until_ms"))


def _finite(value: Any) -> Any:
    """The same with null for what is not a number, tuples as lists."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
