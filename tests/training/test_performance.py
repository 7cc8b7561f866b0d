"""Matured and estimated figures, and the alarm: soon after a change, seldom without one."""

import numpy as np
import pytest
from scipy.stats import binom

from features.state import Floats
from infra import settings
from training import performance
from training.fraud_policy import APPROVE, DECLINE, REVIEW, Codes
from training.performance import Decline, Known, Looked, Standard, Tally, ratio_interval

POLICY = settings.load().fraud
WATCHING = settings.load().watching
FALSE_ALARM_DAYS = WATCHING.false_alarm_days
STRETCH_DAYS = 60
FEWER = tuple(1.0 / ratio for ratio in WATCHING.demand_ratios)


def decline(tally: Tally, standard: Standard, ratios: tuple[float, ...], days: float) -> Decline:
    """Against the end of the standard's interval that lies towards the ratio."""
    usual = standard.usual.high if ratios[0] > 1 else standard.usual.low
    return performance.decline(tally, usual, standard.dispersion, Looked(ratios, days))


def known(draw: np.random.Generator, n: int = 20_000, days: int = 10) -> Known:
    """Payments whose scores are right."""
    score = draw.beta(0.3, 12.0, n)
    return Known(
        day=np.sort(draw.integers(0, days, n)),
        score=score,
        fraud=draw.random(n) < score,
        amount=draw.gamma(2.0, 25.0, n),
        decisions=decided(score),
        weight=np.ones(n),
    )


def decided(score: Floats) -> Codes:
    return np.select([score > 0.3, score > 0.1], [DECLINE, REVIEW], APPROVE).astype(np.int8)


def test_what_scores_promise_is_what_comes_if_they_are_right() -> None:
    rows = known(np.random.default_rng(3), 200_000)
    truth = performance.figures(rows, POLICY)
    promised = performance.estimated(rows.score, rows.amount, rows.decisions, POLICY)
    for name in ("recall", "average_precision", "cost_per_payment", "frauds"):
        assert promised[name] == pytest.approx(truth[name], rel=0.05), name
    stopped = rows.decisions != APPROVE
    assert promised["precision"] == pytest.approx(rows.fraud[stopped].mean(), rel=0.05)
    assert truth["observed_to_expected_low"] < 1.0 < truth["observed_to_expected_high"]
    assert truth["expected_calibration_error"] < 0.002


def test_a_row_of_weight_counts_as_often() -> None:
    rows = known(np.random.default_rng(3), 3_000, days=1)
    weight = np.where(np.arange(3_000) % 3 == 0, 2.0, 1.0)
    heavy = Known(**{**vars(rows), "weight": weight})
    again = np.repeat(np.arange(3_000), weight.astype(int))
    twice = Known(**{name: values[again] for name, values in vars(rows).items()})
    ours, theirs = performance.figures(heavy, POLICY), performance.figures(twice, POLICY)
    for name in ("observed", "expected", "average_precision", "cost_per_payment", "recall"):
        assert ours[name] == pytest.approx(theirs[name]), name


def test_days_are_apart_and_a_day_without_fraud_has_no_ranking() -> None:
    rows = known(np.random.default_rng(3), 2_000, days=4)
    rows.fraud[rows.day == 2] = False
    days = performance.by_day(rows, POLICY)
    assert [each["day"] for each in days] == [0, 1, 2, 3]
    assert np.isnan(days[2]["average_precision"])
    assert sum(each["rows"] for each in days) == 2_000


def test_nothing_known_is_no_error() -> None:
    rows = known(np.random.default_rng(3), 10)
    none = rows.rows(np.zeros(10, bool))
    assert performance.figures(none, POLICY) == {"rows": 0.0, "frauds": 0.0}
    assert performance.by_day(none, POLICY) == ()
    assert performance.estimated(none.score, none.amount, none.decisions, POLICY) == {"rows": 0.0}
    empty = decline(
        Tally.of(none.day, none.fraud * 1.0, none.score), Standard(), (1.5, 3.0), FALSE_ALARM_DAYS
    )
    assert not empty.alarm


def test_a_champion_that_was_never_tested_raises_nothing() -> None:
    found = decline(
        Tally(np.arange(3), np.full(3, 1e3), np.ones(3)), Standard(), (1.5, 3.0), FALSE_ALARM_DAYS
    )
    assert not found.alarm
    assert found.evidence == 0.0


def test_the_interval_holds_the_truth() -> None:
    draw, inside = np.random.default_rng(8), 0
    for _ in range(400):
        found = ratio_interval(float(draw.poisson(24.0)), 20.0)
        inside += found.low <= 1.2 <= found.high
    assert inside >= 372


def counts(draw: np.random.Generator, mean: Floats, scale: float = 1.0) -> Tally:
    return Tally(np.arange(len(mean)), draw.poisson(scale * mean).astype(float), mean)


def standard_of(draw: np.random.Generator, off: float, mean: float = 6.0) -> Standard:
    """Two weeks of test of a champion whose scores promise too little or too much."""
    return Standard.of(counts(draw, np.full(14, mean), off), {})


@pytest.mark.parametrize("off", [1.0, 1.3, 0.7])
@pytest.mark.parametrize("ratios", [WATCHING.fraud_ratios, WATCHING.demand_ratios, FEWER], ids=str)
def test_false_alarms_stay_under_the_bound_on_200_stationary_stretches(
    off: float, ratios: tuple[float, ...]
) -> None:
    """A stretch of 60 days has one with a probability of 60 / 2,000 at most, and as often as the interval of
    its test window, of 95 %, lies beyond the truth."""
    draw, alarms = np.random.default_rng(21), 0
    for _ in range(200):
        standard = standard_of(draw, off)
        week = 6.0 * (1.0 + 0.3 * np.sin(np.arange(STRETCH_DAYS) * 2 * np.pi / 7))
        alarms += decline(counts(draw, week, off), standard, ratios, FALSE_ALARM_DAYS).alarm
    assert alarms <= binom.ppf(0.99, 200, STRETCH_DAYS / FALSE_ALARM_DAYS + 0.025)


def test_with_what_is_usual_known_for_certain_the_bound_alone_holds() -> None:
    draw, alarms = np.random.default_rng(22), 0
    for _ in range(200):
        tally = counts(draw, np.full(STRETCH_DAYS, 6.0))
        alarms += performance.decline(tally, 1.0, 1.0, Looked((1.5, 3.0), 200.0)).alarm
    assert 0 < alarms <= binom.ppf(0.99, 200, STRETCH_DAYS / 200.0), "a bound that is never met says nothing"


def test_frauds_that_come_in_groups_are_known_to() -> None:
    """Without the dispersion of the test window a stationary stretch of groups would raise it."""
    draw, alarms, deaf = np.random.default_rng(23), 0, 0
    for _ in range(200):
        groups = [
            Tally(np.arange(n), 5.0 * draw.poisson(2.0, n), np.full(n, 10.0)) for n in (28, STRETCH_DAYS)
        ]
        standard = Standard.of(groups[0], {})
        alarms += decline(groups[1], standard, (1.5, 3.0), FALSE_ALARM_DAYS).alarm
        plain = Standard(standard.observed, standard.expected)
        deaf += decline(groups[1], plain, (1.5, 3.0), FALSE_ALARM_DAYS).alarm
    assert alarms <= binom.ppf(0.99, 200, STRETCH_DAYS / FALSE_ALARM_DAYS + 0.05)
    assert deaf > 2 * max(alarms, 5)


@pytest.mark.parametrize(("a_day", "delay"), [(15, (3.0, 14.0)), (50, (1.0, 7.0)), (15, (1.0, 7.0))])
def test_the_first_200_labels_of_a_new_pattern_raise_it(a_day: int, delay: tuple[float, float]) -> None:
    """A pattern that the scores do not know, from day 30 on, as labels arrive; 6 frauds a day are usual."""
    late = 0
    for seed in range(40):
        draw = np.random.default_rng(seed)
        standard = standard_of(draw, 1.0)
        usual = np.repeat(np.arange(60), draw.poisson(6.0, 60))
        ring = np.repeat(np.arange(30, 60), draw.poisson(a_day, 30))
        paid = np.concatenate([usual, ring]) + draw.random(len(usual) + len(ring))
        arrived = paid + draw.uniform(*delay, len(paid))
        ring_arrivals = np.sort(arrived[len(usual) :])
        late += not raised(paid, arrived, float(ring_arrivals[199]) + 1.0, standard)
        assert not raised(paid, arrived, 30.0, standard)
    assert late == 0


def raised(paid: Floats, arrived: Floats, now: float, standard: Standard) -> bool:
    """By the labels that have arrived, among all payments up to now."""
    days = np.arange(int(now) + 1)
    known_by_now = paid[arrived <= now].astype(int)
    came = np.bincount(known_by_now, minlength=len(days)).astype(float)
    promised = np.where(days == int(now), 6.0 * (now % 1.0), 6.0)
    found = decline(
        Tally(days, came[: len(days)], promised), standard, WATCHING.fraud_ratios, FALSE_ALARM_DAYS
    )
    return found.alarm


def test_labels_that_do_not_come_raise_nothing_and_those_that_come_at_once_neither() -> None:
    """An outage of 20 days, then all labels of those days on one day."""
    for seed in range(40):
        draw = np.random.default_rng(seed)
        standard = standard_of(draw, 1.0)
        paid = np.repeat(np.arange(60), draw.poisson(6.0, 60)) + 0.5
        arrived = paid + draw.uniform(3.0, 14.0, len(paid))
        held = np.where((arrived > 25) & (arrived < 45), 45.0, arrived)
        for now in (30.0, 44.9, 45.1, 59.9):
            assert not raised(paid, held, now, standard)


def test_the_alarm_says_since_when_and_stays() -> None:
    came = np.where(np.arange(60) >= 40, 18.0, 6.0)
    tally = Tally(np.arange(100, 160), came, np.full(60, 6.0))
    found = decline(tally, Standard(84.0, 84.0), (1.5, 3.0), FALSE_ALARM_DAYS)
    assert found.alarm
    assert found.since_day == 140
    assert found.raised_day is not None
    assert 140 <= found.raised_day <= 143
    assert found.observed == 18.0 * (found.raised_day - 139)
    quiet_again = Tally(tally.day, np.where(np.arange(60) >= 50, 0.0, came), tally.expected)
    assert decline(quiet_again, Standard(84.0, 84.0), (1.5, 3.0), FALSE_ALARM_DAYS).alarm


def test_fewer_than_usual_is_another_alarm() -> None:
    came = np.where(np.arange(40) >= 20, 60.0, 100.0)
    tally = Tally(np.arange(40), came, np.full(40, 100.0))
    standard = Standard(1_400.0, 1_400.0)
    assert decline(tally, standard, FEWER, FALSE_ALARM_DAYS).since_day == 20
    assert not decline(tally, standard, WATCHING.demand_ratios, FALSE_ALARM_DAYS).alarm
