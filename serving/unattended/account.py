"""What an unattended run came to: its figures, and its plot."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from serving.unattended.payment_days import PaidDay
from serving.unattended.run import TASKS, Alarm, Day, Played
from serving.unattended.story import SHOWING, Story
from training import plots

BEFORE_DAYS = 7
"""Days until a change that figures before it are told of, and the last days that those after it are."""
ENOUGH = 0.7
"""Share of it that is to be stopped by then."""
POOLED = 3
"""Days of a point of the plot's recall: a day has few payments of the new fraud."""

PERFORMANCE = {"fraud": ("drift", "missed_fraud"), "pricing": ("drift", "fewer_sales", "more_sales")}
"""Alerts that tell of a change of the world."""


@dataclass(frozen=True)
class Account:
    """Figures of one run. Days are counted from the first that was decided, with their fraction."""

    seed: int
    first_labels_day: float
    """When the first label of the new fraud arrived."""
    labels_day: float
    """When the 200th of them did; infinite if fewer came."""
    outcomes_day: float
    """The same of outcomes after the shift."""
    fraud_alarm_day: float
    """The first alert after the new fraud began; infinite if there was none."""
    pricing_alarm_day: float
    """The same after the shift."""
    fraud_promoted_day: float
    """The first promotion after the first of its labels."""
    caught_day: float
    """First day from which on, pooled over three days, more than `ENOUGH` is stopped; infinite if none."""
    recall_before: float
    """Of the new fraud until that promotion."""
    recall_after: float
    """From when the 200th of its labels came."""
    recall_frozen: float
    """The same days without retraining."""
    recall_frozen_ever: float
    """All days of the new fraud without retraining."""
    margin_before: float
    """Of the best possible, in the week before the shift."""
    margin_after: float
    """In the last week."""
    margin_frozen: float
    """The same week without retraining."""
    false_alarms: int
    """Alerts of a change before there was any."""
    trainings: int
    promotions: int
    refusals: int
    """Challengers that the shadow refused."""


def account(story: Story, days: Sequence[Day]) -> Account:
    """The figures of a run."""
    labels = np.array([at for day in days for at in day.learning.paid.labels_of_pattern], np.int64)
    later = days[story.shift_day :]
    outcomes = np.array([at for day in later for at in day.learning.sold.outcomes_us], np.int64)
    first, enough = story.nth(labels, 1), story.nth(labels, SHOWING)
    promoted = _first(at for at in _promoted(days, "fraud") if at > first)
    judged = _from(days, enough)
    week = days[story.shift_day - BEFORE_DAYS : story.shift_day], days[-BEFORE_DAYS:]
    begun = {"fraud": story.ring_day, "pricing": story.shift_day}
    alarms = {name: _alarms(days, name) for name in TASKS}
    return Account(
        seed=story.seed,
        first_labels_day=first,
        labels_day=enough,
        outcomes_day=story.nth(outcomes),
        fraud_alarm_day=_first(at for at in alarms["fraud"] if at > begun["fraud"]),
        pricing_alarm_day=_first(at for at in alarms["pricing"] if at > begun["pricing"]),
        fraud_promoted_day=promoted,
        caught_day=_caught(days, story.ring_day),
        recall_before=recall(each.learning.paid for each in days if each.number < promoted),
        recall_after=recall(each.learning.paid for each in judged),
        recall_frozen=recall(each.frozen.paid for each in judged),
        recall_frozen_ever=recall(each.frozen.paid for each in days),
        margin_before=_share([each.learning for each in week[0]]),
        margin_after=_share([each.learning for each in week[1]]),
        margin_frozen=_share([each.frozen for each in week[1]]),
        false_alarms=sum(at <= begun[name] for name in TASKS for at in alarms[name]),
        trainings=sum(len(each.trainings) for each in days),
        promotions=sum(len(each.promotions) for each in days),
        refusals=sum(each.state.startswith("refused") for day in days for each in day.shadow),
    )


def recall(days: Iterable[PaidDay]) -> float:
    """Share of the new fraud's payments that was stopped, over some days; NaN if there were none."""
    counted = [(each.stopped, each.new_pattern) for each in days]
    stopped, whole = np.sum(counted, axis=0) if counted else (0, 0)
    return float(stopped / whole) if whole else math.nan


def plot(story: Story, days: Sequence[Day]) -> bytes:
    """PNG: recall of the new fraud and margin by day, with and without retraining, and what happened."""
    systems = {
        "retrained by itself": [each.learning for each in days],
        "first champions, frozen": [each.frozen for each in days],
    }
    panels = {
        "recall of the new fraud\n(3 days)": {name: _recalls(each) for name, each in systems.items()},
        "margin, of the best\npossible": {
            name: [_share([day]) for day in each] for name, each in systems.items()
        },
        "margin sold to\nforecast": {
            name: [_to_forecast(day) for day in each] for name, each in systems.items()
        },
    }
    return plots.over_days(panels, _marks(story, days), f"{len(days)} days unattended, seed {story.seed}")


def _marks(story: Story, days: Sequence[Day]) -> dict[str, list[float]]:
    return {
        "begin of new fraud, of shift": [story.ring_day, story.shift_day],
        "alarm": [at for name in TASKS for at in _alarms(days, name)],
        "training": [each.at for day in days for each in day.trainings],
        "promotion": [each.at for day in days for each in day.promotions],
    }


def _recalls(played: Sequence[Played]) -> list[float]:
    """Of each day and those before it that are pooled with it."""
    return [recall(each.paid for each in played[max(0, i - POOLED + 1) : i + 1]) for i in range(len(played))]


def _caught(days: Sequence[Day], ring_day: int) -> float:
    """End of the first day from which on every pooled recall is high enough."""
    pooled = _recalls([each.learning for each in days])
    low = [i for i, each in enumerate(pooled) if i >= ring_day and not each > ENOUGH]
    first = max(low, default=ring_day - 1) + 1
    return first + 1.0 if first < len(days) else math.inf


def _share(played: Sequence[Played]) -> float:
    best = sum(each.sold.best for each in played)
    return sum(each.sold.earned for each in played) / best if best else math.nan


def _to_forecast(played: Played) -> float:
    return played.sold.margin / played.sold.forecast if played.sold.forecast else math.nan


def _alarms(days: Sequence[Day], task: str) -> list[float]:
    """When alerts of a change of the world began."""
    return [each.at for day in days for each in day.alarms if _tells(each, task)]


def _tells(alarm: Alarm, task: str) -> bool:
    return alarm.task == task and alarm.name in PERFORMANCE[task]


def _promoted(days: Sequence[Day], task: str) -> list[float]:
    return [each.at for day in days for each in day.promotions if each.promotion.task == task]


def _from(days: Sequence[Day], first: float) -> list[Day]:
    return [each for each in days if each.number >= first]


def _first(found: Iterable[float]) -> float:
    return min(found, default=math.inf)
