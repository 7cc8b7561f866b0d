"""Alerts: what is wrong, since when, and what to do; told to a webhook and to Alertmanager.

The webhook hears of each change once: an alert that begins, one whose severity changes, one that ends.
Alertmanager's API v2 forgets an alert that is not repeated within its resolve timeout, so it is told again
before. A receiver that does not answer is tried again, ever more seldom, and never stops who watches.
"""

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Protocol

import httpx

from infra.files import replaced

log = logging.getLogger(__name__)

Severity = Literal["warning", "critical"]
type_of_clock = Callable[[], float]

TIMEOUT_S = 2.0
FIRST_REST_S, LONGEST_REST_S = 1.0, 300.0
MOST_WAITING = 1_000
"""Messages kept for a webhook that is away; the oldest go first."""


@dataclass(frozen=True)
class Alert:
    """One thing that is wrong."""

    name: str
    severity: Severity
    task: str
    summary: str
    action: str
    """What to do."""
    value: float
    limit: float
    starts_at: str
    """RFC 3339, UTC, event time: since when."""

    @property
    def fingerprint(self) -> str:
        """The same for as long as it is the same thing that is wrong, whatever its value; 16 hex digits."""
        return hashlib.sha256(f"{self.task}\0{self.name}".encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Change:
    """What became of an alert."""

    status: Literal["firing", "resolved"]
    alert: Alert
    at: str
    """RFC 3339, UTC, wall clock."""


@dataclass(frozen=True)
class Active:
    """An alert that goes on."""

    alert: Alert
    began_s: float
    """Wall clock, seconds since 1970."""


def changes(active: Mapping[str, Active], found: Iterable[Alert], now_s: float) -> list[Change]:
    """What is to be told, given what was told: begun or of another severity, then ended."""
    now = {alert.fingerprint: alert for alert in found}
    begun = [
        Change("firing", alert, wire_time(now_s))
        for name, alert in now.items()
        if name not in active or active[name].alert.severity != alert.severity
    ]
    ended = [
        Change("resolved", each.alert, wire_time(now_s)) for name, each in active.items() if name not in now
    ]
    return [*begun, *ended]


def wire_time(seconds: float) -> str:
    """RFC 3339 in UTC.

    >>> wire_time(0)
    '1970-01-01T00:00:00Z'
    """
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


class Receiver(Protocol):
    """Someone who is told."""

    def tell(self, told: list[Change], active: Mapping[str, Active], now_s: float) -> None:
        """Take changes, and what goes on; never raises, never waits longer than `TIMEOUT_S`."""


@dataclass
class Patience:
    """When someone who did not answer may be asked again."""

    failures: int = 0
    not_before_s: float = 0.0

    def failed(self, now_s: float) -> float:
        """Rest twice as long after each failure in a row; gives how long."""
        rest_s = min(FIRST_REST_S * 2.0**self.failures, LONGEST_REST_S)
        self.failures, self.not_before_s = self.failures + 1, now_s + rest_s
        return rest_s

    def answered(self) -> None:
        """Start anew."""
        self.failures, self.not_before_s = 0, 0.0


@dataclass
class Webhook:
    """Posts each change as JSON, in order."""

    url: str
    _waiting: list[Change] = field(default_factory=list)
    _patience: Patience = field(default_factory=Patience)

    def tell(self, told: list[Change], active: Mapping[str, Active], now_s: float) -> None:  # noqa: ARG002
        """Send what waits and what is new, as far as it is taken."""
        self._waiting = [*self._waiting, *told][-MOST_WAITING:]
        while self._waiting and now_s >= self._patience.not_before_s:
            first = self._waiting[0]
            body = {"status": first.status, "at": first.at, **_described(first.alert)}
            if not _posted(self.url, body, self._patience, now_s):
                return
            self._waiting.pop(0)


@dataclass
class Alertmanager:
    """Posts to `/api/v2/alerts`: changes at once, what goes on again every `resend_s`."""

    url: str
    resend_s: float
    _ended: dict[tuple[str, str], Change] = field(default_factory=dict)
    """By fingerprint and severity, until it is told."""
    _severity: dict[str, Severity] = field(default_factory=dict)
    """That was heard last, by fingerprint."""
    _again_at_s: float = 0.0
    _patience: Patience = field(default_factory=Patience)

    def tell(self, told: list[Change], active: Mapping[str, Active], now_s: float) -> None:
        """Send all that goes on and what has ended, if there is anything new or it is time."""
        for change in told:
            self._heard(change)
        due = bool(told) or bool(self._ended) or now_s >= self._again_at_s
        if not due or now_s < self._patience.not_before_s or not (active or self._ended):
            return
        body = [self._firing(each) for each in active.values()] + [*map(self._over, self._ended.values())]
        if _posted(f"{self.url.rstrip('/')}/api/v2/alerts", body, self._patience, now_s):
            self._ended.clear()
            self._again_at_s = now_s + self.resend_s

    def _heard(self, change: Change) -> None:
        """Severity is one of the labels that tell alerts apart: the same with another one ends."""
        name, severity = change.alert.fingerprint, change.alert.severity
        before = self._severity.pop(name, severity)
        if change.status == "resolved":
            self._ended[name, severity] = change
            return
        self._severity[name] = severity
        self._ended.pop((name, severity), None)
        if before != severity:
            self._ended[name, before] = replace(change, alert=replace(change.alert, severity=before))

    def _firing(self, each: Active) -> dict[str, Any]:
        return {**_labelled(each.alert), "startsAt": wire_time(each.began_s)}

    def _over(self, change: Change) -> dict[str, Any]:
        return {**_labelled(change.alert), "endsAt": change.at}


def _labelled(alert: Alert) -> dict[str, Any]:
    """As Alertmanager takes an alert: labels tell alerts apart and choose who hears of them."""
    said = asdict(alert)
    labels = {
        "alertname": f"tollgate_{alert.name}",
        "task": alert.task,
        "severity": alert.severity,
        "service": "tollgate",
    }
    names = ("summary", "action", "value", "limit", "starts_at")
    return {"labels": labels, "annotations": {name: str(said[name]) for name in names}}


def _described(alert: Alert) -> dict[str, Any]:
    """As the webhook takes it; null for what is not a number."""
    numbers = {
        name: value if math.isfinite(value) else None
        for name, value in (("value", alert.value), ("limit", alert.limit))
    }
    return {**asdict(alert), **numbers, "fingerprint": alert.fingerprint}


def _posted(url: str, body: object, patience: Patience, now_s: float) -> bool:
    """Whether the receiver took it; if not, it is left alone for a while."""
    try:
        httpx.post(url, json=body, timeout=TIMEOUT_S).raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        log.warning("alerts: %s: %s; again in %.0f s", url, error, patience.failed(now_s))
        return False
    patience.answered()
    return True


class Alerts:
    """What is wrong now, over all tasks; knows after a restart what was told before.

    Args:
        file: where what goes on is kept.
        receivers: who is told.
        clock: wall clock, seconds since 1970.
    """

    def __init__(self, file: Path, receivers: Iterable[Receiver], clock: type_of_clock = time.time) -> None:
        self._file = file
        self._receivers = list(receivers)
        self._clock = clock
        self._active = _read(file)

    @classmethod
    def of(cls, file: Path, webhook: str, alertmanager: str, resend_s: float) -> "Alerts":
        """With the receivers that have an address."""
        receivers: list[Receiver] = [Webhook(webhook)] if webhook else []
        if alertmanager:
            receivers.append(Alertmanager(alertmanager, resend_s))
        return cls(file, receivers)

    @property
    def active(self) -> list[Alert]:
        """What goes on."""
        return [each.alert for each in self._active.values()]

    def found(self, task: str, alerts: Iterable[Alert]) -> list[Change]:
        """Take what a look at a task found, tell the receivers what is new, and give it."""
        now_s = self._clock()
        mine = {name: each for name, each in self._active.items() if each.alert.task == task}
        now = {alert.fingerprint: alert for alert in alerts}
        told = changes(mine, now.values(), now_s)
        kept = {name: each for name, each in self._active.items() if each.alert.task != task}
        for name, alert in now.items():
            before = mine.get(name)
            began = alert if before is None else replace(alert, starts_at=before.alert.starts_at)
            kept[name] = Active(began, now_s if before is None else before.began_s)
        self._active = kept
        _write(self._file, kept)
        for change in told:
            level = logging.WARNING if change.status == "firing" else logging.INFO
            log.log(level, "%s: %s %s: %s", task, change.alert.name, change.status, change.alert.summary)
        self._tell(told, now_s)
        return told

    def again(self) -> None:
        """Let receivers send what they could not send, or must repeat."""
        self._tell([], self._clock())

    def _tell(self, told: list[Change], now_s: float) -> None:
        for receiver in self._receivers:
            receiver.tell(told, self._active, now_s)


def _read(file: Path) -> dict[str, Active]:
    if not file.exists():
        return {}
    kept = json.loads(file.read_text("utf-8"))
    found = [Active(Alert(**each["alert"]), each["began_s"]) for each in kept]
    return {each.alert.fingerprint: each for each in found}


def _write(file: Path, active: Mapping[str, Active]) -> None:
    replaced(file, json.dumps([asdict(each) for each in active.values()], indent=1))
