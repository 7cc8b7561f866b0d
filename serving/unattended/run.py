"""Sixty days by themselves: a day's events, then watcher, retrainer and shadow take their turn.

Nobody promotes. Beside the system that learns another one plays the same events with its first champions,
frozen. Time is the events': one turn of each at the end of every day.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry

from infra.settings import Settings
from ingestion.broker import Record
from ingestion.historian import Historian
from ingestion.history import LABELS, OUTCOMES, QUOTES, TRANSACTIONS, History
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
    """A day of one system."""

    paid: PaidDay
    sold: SoldDay
    versions: tuple[str, ...]
    """That decided, in the order of `TASKS`."""


@dataclass(frozen=True)
class Training:
    """A training that the retrainer began by itself."""

    task: str
    why: str
    passed: bool
    """The trial's gate."""
    version: str | None
    reasons: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class Shadowed:
    """Where a challenger stands at the end of a day; told when it changed."""

    task: str
    version: str
    state: str
    evidence: str
    """JSON of what it showed; empty before the first look."""


@dataclass(frozen=True)
class Alarm:
    """An alert that was not there on the evening before."""

    task: str
    name: str
    summary: str


@dataclass(frozen=True)
class Day:
    """One simulated day of both systems."""

    number: int
    learning: Played
    frozen: Played
    alarms: tuple[Alarm, ...]
    trainings: tuple[Training, ...]
    shadow: tuple[Shadowed, ...]
    promotions: tuple[Promotion, ...]


class _Noted(Retrainer):
    """Remembers what it trained."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.trained: list[Training] = []

    def train(self, task: Task, found: Due) -> Report:
        report = super().train(task, found)
        verdict = report.verdict
        self.trained.append(
            Training(task.name, found.why, verdict.passed, report.version, verdict.reasons, report.seconds)
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

    def play(self, day: int) -> Played:
        """Decide a day's events and write them to the history."""
        found = Played(self._payments.play(day), self._prices.play(day), self._versions())
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
        for number in range(self._story.days):
            learning.models.refresh()
            yield self._day(number, learning.play(number), frozen.play(number))
        self.desk.registry.close()

    def _day(self, number: int, learning: Played, frozen: Played) -> Day:
        self._now_s = (number + 1) * DAY_S
        self._watcher.turn()
        self._retrainer.turn()
        self._shadow.turn()
        trained = tuple(self._retrainer.trained)
        self._retrainer.trained.clear()
        return Day(
            number,
            learning,
            frozen,
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
        return [Alarm(*key, active[key].summary) for key in new]

    def _moved(self) -> Iterator[Shadowed]:
        """Challengers that came, or of which something else is told than on the evening before."""
        for name in TASKS:
            for version in self.desk.registry.versions(name):
                now = Shadowed(
                    name, version.version, version.tags.get(SHADOW, ""), version.tags.get(EVIDENCE, "")
                )
                key, told = (name, version.version), now.state + now.evidence
                if self._shadowed.get(key) != told:
                    self._shadowed[key] = told
                    yield now

    def _new_promotions(self) -> list[Promotion]:
        found = []
        for name in TASKS:
            lines = self.desk.champions.history(name)
            found += lines[self._promoted[name] :]
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
