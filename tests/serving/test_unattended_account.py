"""Figures and plot of unattended days that are written down by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest

from serving.unattended.account import account, plot, recall
from serving.unattended.payment_days import PaidDay, _rows
from serving.unattended.price_days import SoldDay
from serving.unattended.run import Alarm, Day, Played, Promoted, Shadowed, Training
from serving.unattended.story import Story
from training.champions import Promotion

STORY = Story(seed=3, days=20, past_days=2, ring_day=5, shift_day=10, customers=20, quotes_per_day=20.0)
CAUGHT = 9
"""Day from which on the new fraud is stopped."""


def played(day: int, stopped: int, share: float) -> Played:
    there = day >= STORY.ring_day
    labels = tuple(STORY.us(day + 0.01 * i) for i in range(100)) if day >= STORY.ring_day + 1 else ()
    outcomes = tuple(STORY.us(day + 0.001 * i) for i in range(150))
    return Played(
        PaidDay({"approve": 20}, 10 * there, stopped * there, labels),
        SoldDay(20, share * 100.0, 100.0, 90.0, 100.0, outcomes),
        ("1", "1"),
    )


def day_of(number: int) -> Day:
    caught, low = number >= CAUGHT, number >= STORY.shift_day
    alarms = {7: ("fraud", "missed_fraud"), 11: ("pricing", "fewer_sales"), 2: ("fraud", "late_events")}
    promoted = Promotion("2026-01-01T00:00:00Z", "fraud", "promote", "2", "1", "shadow", "better")
    return Day(
        number=number,
        learning=played(number, 9 if caught else 1, 0.9 if low else 0.95),
        frozen=played(number, 1, 0.7 if low else 0.95),
        alarms=(Alarm(number + 1.0, *alarms[number], "said"),) if number in alarms else (),
        trainings=(Training(8.0, "fraud", "labels", True, "2", ("better",), 1.0),) if number == 7 else (),
        shadow=(Shadowed(13.0, "fraud", "3", "refused: worse", ""),) if number == 12 else (),
        promotions=(Promoted(number + 1.0, promoted),) if number == CAUGHT - 1 else (),
    )


DAYS = [day_of(number) for number in range(STORY.days)]


def test_days_are_counted_to_the_end_of_the_look() -> None:
    found = account(STORY, DAYS)
    assert found.first_labels_day == pytest.approx(6.0)
    assert found.labels_day == pytest.approx(7.99)
    assert found.outcomes_day == pytest.approx(11.049)
    assert (found.fraud_alarm_day, found.pricing_alarm_day) == (8.0, 12.0)
    assert found.fraud_promoted_day == CAUGHT
    assert found.false_alarms == 0
    assert (found.trainings, found.promotions, found.refusals) == (1, 1, 1)


def test_recall_is_pooled_and_stays_high_from_the_day_it_is_caught() -> None:
    found = account(STORY, DAYS)
    assert found.recall_before == pytest.approx(0.1)
    assert found.recall_after == pytest.approx(100 / 120), (
        "from the labels on: a day before it is caught, too"
    )
    assert found.recall_frozen == found.recall_frozen_ever == pytest.approx(0.1)
    assert found.caught_day == 12.0, "of three days all three count"
    relapse = [*DAYS[:-1], replace(DAYS[-1], learning=played(19, 0, 0.9))]
    assert account(STORY, relapse).caught_day == math.inf
    assert math.isnan(recall([]))


def test_margins_are_of_the_best_possible() -> None:
    found = account(STORY, DAYS)
    assert (found.margin_before, found.margin_after, found.margin_frozen) == pytest.approx((0.95, 0.9, 0.7))


def test_an_alarm_before_the_change_is_a_false_one() -> None:
    early = replace(DAYS[3], alarms=(Alarm(4.0, "pricing", "more_sales", "said"),))
    assert account(STORY, [*DAYS[:3], early, *DAYS[4:]]).false_alarms == 1


@pytest.mark.slow  # matplotlib takes long to load
def test_the_plot_shows_every_day() -> None:
    assert plot(STORY, DAYS).startswith(b"\x89PNG")


def test_labels_and_payments_of_a_day_have_places_in_order_of_time() -> None:
    events = STORY.paid.between(STORY.us(5), STORY.us(6))
    rows = _rows(events.decided, events.settled, 5)
    assert rows.num_rows == len(events) > 0
    assert (np.diff(rows["event_time_us"].to_numpy()) >= 0).all()
    assert (np.diff(rows["terminal_position"].to_numpy()) == 1).all()
    assert set(rows["kind"].to_pylist()) == {0, 1}
