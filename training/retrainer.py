"""When a model is trained anew by itself: enough has been learned since, it has grown old, or it is off.

Old is meant in event time; off says the watcher, by drift or by matured performance (`training/watcher.py`).

A look costs little: counting what arrived since the champion's label cut-off. One training at a time; a
refusal by the gate is remembered, so that the same data are not tried again and again. While the challenger
that answers the watcher is in shadow, the watcher asks for no other; while many are, nobody does.
"""

import json
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.errors import UserError
from infra.files import replaced
from infra.settings import Settings
from ingestion.history import History
from ingestion.tables import DAY_US
from training import card as cards
from training import findings, runs
from training.dataset import Window
from training.freshness import present
from training.promotion import complete, follow, in_shadow
from training.runs import Desk, Reason, Report
from training.tasks import Task
from training.tracking import CANARY, IN_SHADOW, SHADOW

log = logging.getLogger(__name__)

WHO = "retrainer"
LONGEST_REST_S = 600.0
MOST_IN_SHADOW = 8
"""Challengers of a task that wait for live evidence before another is trained: each is scored and judged."""


@dataclass(frozen=True)
class Due:
    """A training that should begin, and why."""

    window: Window
    why: str
    watched: bool = False
    """Whether the watcher asks for it."""


def due(newest: int, learned_until: int | None, arrived: int, least: int, max_age_us: int) -> str | None:
    """Why a training is due, or None.

    Args:
        newest: the present in event time, microseconds since 1970 UTC.
        learned_until: label cut-off of the last training; None before the first.
        arrived: labels or outcomes since then.
        least: so many make it due; 0 is never enough to begin with.
        max_age_us: so old, with anything new at all, makes it due.
    """
    if arrived and arrived >= least:
        return f"{arrived:,} new labels or outcomes"
    if learned_until is not None and arrived and newest - learned_until >= max_age_us:
        return f"{(newest - learned_until) / DAY_US:.1f} days old with {arrived:,} new labels or outcomes"
    return None


def asked(found: findings.Asked, learned_until: int, arrived: int, least: int) -> str | None:
    """Why the watcher asks for a training, or None.

    Args:
        found: by the watcher, of the champion.
        learned_until: label cut-off of the last training: what was found before it has been learned from.
        arrived: labels or outcomes since then.
        least: so many must be new; the same few would give the same model again.
    """
    if not found.due or found.at_us <= learned_until or arrived < least:
        return None
    return "; ".join(found.due)


class Retrainer:
    """Looks, and trains what is due.

    Args:
        tasks: in the order they are looked at.
        desk: where champions live and runs are recorded.
        clock: seconds that only ever rise.
    """

    def __init__(
        self,
        settings: Settings,
        tasks: list[Task],
        desk: Desk,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._failures: dict[str, int] = {}
        self._not_before: dict[str, float] = {}
        self._waiting: set[str] = set()
        self._tasks = tasks
        self._desk = desk
        self._history = History(settings.history)

    def run(self, stop: threading.Event) -> None:
        """Look every `poll_s` until stopped. What fails is logged and looked at again, ever more seldom."""
        for task in self._tasks:
            self._completed(task)
        while not stop.is_set():
            self.turn()
            stop.wait(self._settings.retraining.poll_s)

    def turn(self) -> None:
        """Look once at every task that does not rest after a failure."""
        for task in self._tasks:
            if self._clock() >= self._not_before.get(task.name, 0.0):
                self._guarded(task)

    def look(self, task: Task) -> Due | None:
        """What is due of a task now."""
        newest = present(self._history, task)
        if newest is None:
            return None
        until = self._learned_until(task)
        arrived = self._arrived(task, until, newest)
        max_age_us = round(self._settings.retraining.max_age_days * DAY_US)
        told = self._watched(task, until, arrived)
        why = told or due(newest, until, arrived, task.least_settled(self._settings), max_age_us)
        window_us = round(self._settings.retraining.window_days * DAY_US)
        return Due(Window(newest, newest - window_us), why, watched=told is not None) if why else None

    def train(self, task: Task, found: Due) -> Report:
        """Train, and remember the cut-off whatever the gate says."""
        with runs.alone(self._settings.home, task.name, waiting=False):
            rows = task.from_history(self._settings, found.window)
            report = runs.train(task, rows, self._settings, self._desk, Reason(WHO, found.why))
            self._remember(task, found, report)
        return report

    def _guarded(self, task: Task) -> None:
        try:
            found = self.look(task)
            if found is not None and not self._crowded(task):
                log.info("training %s: %s", task.name, found.why)
                self._told(self.train(task, found))
            self._failures.pop(task.name, None)
        except UserError as error:
            self._rest(task, str(error))

    def _completed(self, task: Task) -> None:
        """Finish what a training or a promotion left when its process died."""
        try:
            with runs.alone(self._settings.home, task.name, waiting=False):
                done = complete(self._desk.registry, self._desk.champions, task.name)
        except UserError as error:
            log.warning("%s: %s", task.name, error)  # the next training completes it
            return
        if done is not None:
            log.info("%s: completed the %s of version %s", task.name, done.action, done.version)

    def _rest(self, task: Task, why: str) -> None:
        """Twice as long after each failure in a row: what lacks data would fail again at once."""
        failures = self._failures[task.name] = self._failures.get(task.name, 0) + 1
        seconds = min(self._settings.retraining.poll_s * 2.0**failures, LONGEST_REST_S)
        self._not_before[task.name] = self._clock() + seconds
        log.warning("training %s: %s; looking again in %.0f s", task.name, why, seconds)

    def _told(self, report: Report) -> None:
        said = "kept the champion (run %s)"
        if report.promoted or report.in_shadow:
            said = "promoted version %s" if report.promoted else "version %s is in shadow"
        log.info("%s: " + said, report.task, report.version or report.run_id)

    def _watched(self, task: Task, until: int | None, arrived: int) -> str | None:
        """What the watcher has against the champion, if there is anything new to learn from since."""
        found = findings.asked(self._settings.findings, task.name)
        champion = self._desk.champions.current(task.name)
        if found is None or champion is None or until is None or found.version != champion.version:
            return None
        why = asked(found, until, arrived, self._settings.watching.min_new_settled)
        return None if why and self._answered(task) else why

    def _answered(self, task: Task) -> bool:
        """Whether the challenger that was trained because the watcher asked still waits to take over."""
        answer = self._last(task).get("answer")
        version = self._desk.registry.version(task.name, answer) if answer else None
        return version is not None and version.tags.get(SHADOW) in (IN_SHADOW, CANARY)

    def _crowded(self, task: Task) -> bool:
        """Whether so many challengers are in shadow that one more would only be one more; told once."""
        many = len(in_shadow(self._desk.registry, task.name)) >= MOST_IN_SHADOW
        if many and task.name not in self._waiting:
            log.info("training %s waits: %d challengers are in shadow", task.name, MOST_IN_SHADOW)
        (self._waiting.add if many else self._waiting.discard)(task.name)
        return many

    def _learned_until(self, task: Task) -> int | None:
        """Newest label cut-off of what was tried or promoted."""
        champion = follow(self._desk.registry, self._desk.champions, task.name)
        known = [cards.read(champion.folder).trained.label_cutoff_us] if champion else []
        if last := self._last(task):
            known.append(int(last["cutoff_us"]))
        return max(known, default=None)

    def _remember(self, task: Task, found: Due, report: Report) -> None:
        """Until when was learned, and which challenger answers the watcher."""
        answer = report.version if found.watched and report.in_shadow else self._last(task).get("answer")
        text = json.dumps({"cutoff_us": found.window.cutoff_us, "answer": answer})
        replaced(self._tried(task), text)

    def _last(self, task: Task) -> dict[str, Any]:
        """What was remembered of the last training; nothing before the first."""
        path = self._tried(task)
        last: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
        return last

    def _arrived(self, task: Task, until: int | None, newest: int) -> int:
        since = None if until is None else until + 1
        return int(self._history.read(task.settled, since, newest + 1, ["event_time_us"]).num_rows)

    def _tried(self, task: Task) -> Path:
        return self._settings.home / "models" / task.name / "tried.json"
