"""Looks at the champions from time to time, keeps what it finds, and tells who must know.

It runs beside the retrainer, in its process, with a cadence of its own: a training that takes an hour does
not stop the alerts. What it finds lies in a file, so that retrainer, command line and people read the same.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from infra.errors import UserError
from infra.settings import Settings
from ingestion.history import History
from ingestion.tables import DAY_US, DECISIONS
from training import drift, findings, models, reference
from training.alerts import Alerts
from training.champions import Champion, Champions
from training.drift import Limits
from training.findings import Findings
from training.freshness import Freshness, freshness, present
from training.models import Scorer
from training.performance import Standard
from training.reference import Reference
from training.sight import Moment, Sight, Watched
from training.skew import Skew
from training.tasks import Task, watched
from training.watch_measures import WatchMeasures

log = logging.getLogger(__name__)

type_of_waiting = Callable[[], int | None]


def nothing_asked() -> int | None:
    """Where Kafka is not asked."""
    return None


@dataclass(frozen=True)
class Looker:
    """Finds what there is to find of a task at a moment; changes nothing.

    Args:
        settings: limits, and where history and champions lie.
        waiting: how many messages the history lacks; None if nobody knows.
    """

    settings: Settings
    waiting: type_of_waiting = nothing_asked

    def look(
        self, task: Task, until_us: int | None = None, skew_after_ms: int | None = None, skew: bool = True
    ) -> Findings | None:
        """Everything about a task's champion; None if there are no events.

        Args:
            task: that is looked at.
            until_us: the present in event time; else by the newest events.
            skew_after_ms: decisions until then, by the log's clock, were compared before.
            skew: whether features are recomputed, which takes a replay of the history.

        Raises:
            UserError: the champion is not whole, or knows other features than this code.
        """
        history = History(self.settings.history)
        now_us = present(history, task) if until_us is None else until_us
        if now_us is None:
            return None
        fresh = freshness(history, task, now_us, self.settings.watching.late_days, self.waiting())
        if until_us is not None:
            fresh = replace(fresh, ahead=0)  # a moment of the past: what comes after it is no wonder
        champion, how = Champions(self.settings.home).current(task.name), watched(task.name)
        if champion is None or how is None:
            return self._judged(Findings(task.name, "", now_us, _settled(how), fresh))
        model, moment = self._moment(champion, now_us)
        found = self._of_champion(champion, how, fresh, model, moment)
        if skew and how.skew is not None and self.settings.watching.skew_rows:
            found = replace(found, skew=how.skew(self.settings, skew_after_ms, moment.start_us))
        return self._judged(found)

    def _of_champion(
        self, champion: Champion, how: Watched, fresh: Freshness, model: Scorer, moment: Moment
    ) -> Findings:
        known = reference.read(champion.folder)
        standard = known.standard if known else Standard()
        sight = how.see(self.settings, model, standard, moment)
        return Findings(
            task=champion.task,
            version=champion.version,
            at_us=fresh.present_us,
            settled=how.settled,
            freshness=fresh,
            rows=sight.rows,
            sampled=_sampled(sight),
            drift=self._drift(known, sight),
            standard=known.standard if known else None,
            matured=sight.matured,
            days=sight.days,
            estimated=sight.estimated,
            declines=sight.declines,
        )

    def _moment(self, champion: Champion, now_us: int) -> tuple[Scorer, Moment]:
        model, chosen = models.load(champion.folder), self.settings.watching
        since = max(model.card.trained.end_us + 1, now_us - round(chosen.window_days * DAY_US))
        return model, Moment(now_us, since, chosen.drift_days)

    def _drift(self, known: Reference | None, sight: Sight) -> tuple[drift.Drift, ...]:
        """Nothing where too few rows prove nothing, or an older model has no reference."""
        chosen = self.settings.watching
        if known is None or _sampled(sight) < chosen.min_rows:
            return ()
        limits = Limits(chosen.psi_limit, chosen.false_discoveries)
        return drift.compare(known.columns, sight.columns, limits, sight.groups)

    def _judged(self, found: Findings) -> Findings:
        return findings.judged(found, self.settings.watching)


@dataclass
class Watcher:
    """Looks again whenever something is new.

    Args:
        looker: finds.
        tasks: in the order they are looked at.
        alerts: hears of every look.
        measures: publish what was found.
        clock: seconds that only ever rise.
    """

    looker: Looker
    tasks: Sequence[Task]
    alerts: Alerts
    measures: WatchMeasures
    clock: Callable[[], float] = time.monotonic
    _seen: dict[str, tuple[object, ...]] = field(default_factory=dict)
    _skew: dict[str, Skew] = field(default_factory=dict)
    _skew_at: dict[str, float] = field(default_factory=dict)

    def run(self, stop: threading.Event) -> None:
        """Look every `period_s` until stopped; a watcher that fails by a bug stops its process too."""
        try:
            while not stop.is_set():
                self.turn()
                stop.wait(self.looker.settings.watching.period_s)
        finally:
            stop.set()

    def turn(self) -> None:
        """Look once at every task of which something is new."""
        waiting = self.looker.waiting()
        looker = replace(self.looker, waiting=lambda: waiting)
        for task in self.tasks:
            try:
                self._look(looker, task)
            except (UserError, OSError) as error:
                log.warning("watching %s: %s", task.name, error)
        self.alerts.again()

    def _look(self, looker: Looker, task: Task) -> None:
        mark = self._mark(looker, task)
        if self._seen.get(task.name) == mark:
            return
        began = self.clock()
        found = self._found(looker, task, began)
        if found is None:
            return
        findings.write(looker.settings.findings, found)
        self.alerts.found(task.name, found.alerts)
        self.measures.found(found, self.alerts.active, self.clock() - began)
        self._seen[task.name] = mark

    def _found(self, looker: Looker, task: Task, now_s: float) -> Findings | None:
        """With the last comparison of features where it is not time for another."""
        chosen, name = looker.settings, task.name
        due = now_s >= self._skew_at.get(name, 0.0)
        before = self._skew.get(name)
        last = findings.asked(chosen.findings, name) if before is None else None
        after_ms = before.until_ms if before else last.skew_until_ms if last else None
        found = looker.look(task, skew_after_ms=after_ms, skew=due)
        if found is None or not found.version:
            return found
        if due and found.skew is not None:
            self._skew_at[name] = now_s + chosen.watching.skew_period_s
            self._skew[name] = found.skew
            self.measures.compared(name, found.skew)
        elif before is not None:
            found = findings.judged(replace(found, skew=before), chosen.watching)
        return found

    def _mark(self, looker: Looker, task: Task) -> tuple[object, ...]:
        """Another one as soon as there is anything new to look at."""
        settings = looker.settings
        history, champion = History(settings.history), Champions(settings.home).current(task.name)
        tables = (*task.tables, DECISIONS)
        rows = [history.read(table, columns=["event_time_us"]).num_rows for table in tables]
        waiting = (looker.waiting() or 0) > settings.watching.max_waiting
        return champion and champion.version, waiting, *rows


def _sampled(sight: Sight) -> int:
    return len(next(iter(sight.columns.values()), ()))


def _settled(how: Watched | None) -> str:
    return how.settled if how else "labels"
