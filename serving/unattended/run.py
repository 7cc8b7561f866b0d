"""Sixty days by themselves: half a day's events, then watcher, retrainer and shadow take their turn.

Nobody promotes. Beside the system that learns another one plays the same events with its first champions,
frozen. Time is the events': two turns of each a day.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry

from infra.settings import Settings
from ingestion.broker import Record
from ingestion.historian import Historian
from ingestion.history import History
from ingestion.processes import tidy
from ingestion.tables import LABELS, OUTCOMES, QUOTES, SCHEMAS, TRANSACTIONS
from serving.champions_watch import FEATURE_SETS, ChampionsWatch
from serving.fraud import FraudDecider
from serving.unattended.payment_days import PaidDay, PaymentDays
from serving.unattended.price_days import PriceDays, SoldDay
from serving.unattended.story import Story
from training.alerts import Alerts
from training.champions import Promotion
from training.retrainer import Due, Retrainer
from training.rule_book import rule_book
from training.runs import Desk, Report
from training.shadow import Shadow
from training.tasks import Task, task
from training.tracking import EVIDENCE, SHADOW
from training.watch_measures import WatchMeasures
from training.watcher import Looker, Watcher

TASKS = ("fraud", "pricing")
DAY_S = 86_400.0


@dataclass(frozen=True)
class Played:
    """A day, or a part of one, of one system."""

    paid: PaidDay
    sold: SoldDay
    versions: tuple[str, ...]
    """That decided, in the order of `TASKS`; of a day, in its last part."""

    @classmethod
    def whole(cls, parts: Sequence["Played"]) -> "Played":
        """All parts of a day together."""
        paid, sold = ([getattr(each, name) for each in parts] for name in ("paid", "sold"))
        return cls(PaidDay.whole(paid), SoldDay.whole(sold), parts[-1].versions)


@dataclass(frozen=True)
class Training:
    """A training that the retrainer began by itself."""

    at: float
    """Day of the turn in which it was, as of all that follow."""
    task: str
    why: str
    passed: bool
    """The trial's gate."""
    version: str | None
    reasons: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class Shadowed:
    """Where a challenger stands after a turn; told when it changed."""

    at: float
    task: str
    version: str
    state: str
    evidence: str
    """JSON of what it showed; empty before the first look."""


@dataclass(frozen=True)
class Alarm:
    """An alert that was not there the turn before."""

    at: float
    task: str
    name: str
    summary: str


@dataclass(frozen=True)
class Promoted:
    """A line of the promotion history, and when it was written in event time."""

    at: float
    promotion: Promotion


@dataclass(frozen=True)
class Day:
    """One simulated day of both systems, or a part of one."""

    number: int
    learning: Played
    frozen: Played
    alarms: tuple[Alarm, ...]
    trainings: tuple[Training, ...]
    shadow: tuple[Shadowed, ...]
    promotions: tuple[Promoted, ...]

    @classmethod
    def whole(cls, parts: Sequence["Day"]) -> "Day":
        """All parts of a day together."""
        return cls(
            parts[0].number,
            Played.whole([each.learning for each in parts]),
            Played.whole([each.frozen for each in parts]),
            alarms=tuple(told for each in parts for told in each.alarms),
            trainings=tuple(told for each in parts for told in each.trainings),
            shadow=tuple(told for each in parts for told in each.shadow),
            promotions=tuple(told for each in parts for told in each.promotions),
        )


class _Noted(Retrainer):
    """Remembers what it trained."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.trained: list[Training] = []

    @property
    def day(self) -> float:
        """Of event time."""
        return self._clock() / DAY_S

    def train(self, task: Task, found: Due) -> Report:
        report = super().train(task, found)
        verdict = report.verdict
        self.trained.append(
            Training(
                self.day,
                task.name,
                found.why,
                verdict.passed,
                report.version,
                verdict.reasons,
                report.seconds,
            )
        )
        return report


class _System:
    """Payments and prices decided by the champions that a watch knows."""

    def __init__(self, story: Story, chosen: Settings, desk: Desk, historian: Historian | None) -> None:
        self.models = ChampionsWatch(desk.champions, desk.registry, FEATURE_SETS)
        self._historian = historian
        book = rule_book(chosen.fraud)
        self._payments = PaymentDays(story, FraudDecider(self.models, lambda: book), self._keep)
        self._prices = PriceDays(story, chosen, self.models, self._keep)

    def play(self, turn: int) -> Played:
        """Decide the events until the end of a turn and write them to the history."""
        found = Played(self._payments.play(turn), self._prices.play(turn), self._versions())
        if self._historian is not None:
            self._historian.flush()
        return found

    def _keep(self, records: Sequence[Record]) -> None:
        if self._historian is not None:
            self._historian.take(records)

    def _versions(self) -> tuple[str, ...]:
        deciding = (self.models.current(name) for name in TASKS)
        return tuple(each.card.version if each else "" for each in deciding)


class Unattended:
    """One run.

    Args:
        chosen: with a home and an MLflow of its own; nothing may be there.
    """

    def __init__(self, story: Story, chosen: Settings) -> None:
        self._story = story
        self._chosen = compressed(chosen)
        self.desk = Desk.of(self._chosen)
        self._tasks: list[Task] = [task(name) for name in TASKS]
        self._now_s = 0.0
        self._retrainer = _Noted(self._chosen, self._tasks, self.desk, self._clock)
        self._shadow = Shadow(self._chosen, self._tasks, self.desk, self._clock)
        self._alerts = Alerts(self._chosen.findings / "alerts.json", [], self._clock)
        measures = WatchMeasures(CollectorRegistry())
        self._watcher = Watcher(Looker(self._chosen), self._tasks, self._alerts, measures, self._clock)
        self._alarmed: set[tuple[str, str]] = set()
        self._shadowed: dict[tuple[str, str], str] = {}
        self._promoted = dict.fromkeys(TASKS, 0)

    def run(self) -> Iterator[Day]:
        """The days in order; the first champions are learned from the past before day 0, by the retrainer."""
        with closing(self.desk.registry):
            yield from self._days()

    def _days(self) -> Iterator[Day]:
        history = History(self._chosen.history)
        past = {name: self._story.past_of(name) for name in TASKS}
        history.backfill({TRANSACTIONS: past["fraud"].decided, LABELS: past["fraud"].settled})
        history.backfill({QUOTES: past["pricing"].decided, OUTCOMES: past["pricing"].settled})
        self._retrainer.turn()
        learning = _System(self._story, self._chosen, self.desk, Historian(history))
        frozen = _System(self._story, self._chosen, self.desk, None)
        frozen.models.refresh()
        self._new_promotions()
        self._retrainer.trained.clear()
        turns = self._story.turns
        for number in range(self._story.days):
            parts = range(number * turns, (number + 1) * turns)
            yield Day.whole([self._turn(each, learning, frozen) for each in parts])
            for table in SCHEMAS:
                tidy(history, table)

    def _turn(self, turn: int, learning: _System, frozen: _System) -> Day:
        learning.models.refresh()
        played = learning.play(turn), frozen.play(turn)
        self._now_s = (turn + 1) * DAY_S / self._story.turns
        self._watcher.turn()
        self._retrainer.turn()
        self._shadow.turn()
        trained = tuple(self._retrainer.trained)
        self._retrainer.trained.clear()
        return Day(
            turn // self._story.turns,
            *played,
            tuple(self._new_alarms()),
            trained,
            tuple(self._moved()),
            tuple(self._new_promotions()),
        )

    def _clock(self) -> float:
        """Seconds of event time since day 0."""
        return self._now_s

    def _new_alarms(self) -> Iterable[Alarm]:
        active = {(each.task, each.name): each for each in self._alerts.active}
        new = sorted(set(active) - self._alarmed)
        self._alarmed = set(active)
        return [Alarm(self._day, *key, active[key].summary) for key in new]

    @property
    def _day(self) -> float:
        """Of event time, since day 0."""
        return self._now_s / DAY_S

    def _moved(self) -> Iterator[Shadowed]:
        """Challengers that came, or of which something else is told than the turn before."""
        for name in TASKS:
            for version in self.desk.registry.versions(name):
                now = Shadowed(
                    self._day,
                    name,
                    version.version,
                    version.tags.get(SHADOW, ""),
                    version.tags.get(EVIDENCE, ""),
                )
                key, told = (name, version.version), now.state + now.evidence
                if self._shadowed.get(key) != told:
                    self._shadowed[key] = told
                    yield now

    def _new_promotions(self) -> list[Promoted]:
        found = []
        for name in TASKS:
            lines = self.desk.champions.history(name)
            found += [Promoted(self._day, each) for each in lines[self._promoted[name] :]]
            self._promoted[name] = len(lines)
        return found


def compressed(chosen: Settings) -> Settings:
    """The settings that compressed time needs.

    No price is held for a context, as only Redis holds one; features are recomputed once a week instead of
    every quarter of an hour, as that takes a replay of the history.
    """
    pricing = chosen.pricing.model_copy(update={"same_price_s": 0.0})
    watching = chosen.watching.model_copy(update={"skew_period_s": 7 * DAY_S})
    return chosen.model_copy(update={"pricing": pricing, "watching": watching})
