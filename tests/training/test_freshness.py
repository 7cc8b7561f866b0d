"""The present, late events and silence, in event time: with outages, floods and clocks that jump."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from features.state import Ints
from infra import settings
from ingestion.history import History
from ingestion.tables import BACKFILLED, DAY_US, TRANSACTIONS, completed
from training.findings import Findings, judged
from training.freshness import COMPANY, Freshness, late, present, present_us
from training.tasks import task

HOUR_US = DAY_US // 24
WATCHING = settings.load().watching
START = 20_000 * DAY_US
FRAUD = task("fraud")


def hourly(days: float) -> Ints:
    return START + np.arange(round(days * 24)) * HOUR_US


def test_the_present_is_the_newest_event_that_is_not_alone() -> None:
    times = hourly(30)
    assert present_us(times) == times[-1]
    future = np.concatenate([times, times[-1] + np.array([400, 3_650, 3_651]) * DAY_US])
    assert present_us(future) == times[-1]


def test_a_stream_whose_clock_jumped_as_a_whole_has_a_new_present() -> None:
    jumped = np.concatenate([hourly(30), hourly(2) + 60 * DAY_US])
    assert present_us(jumped) == jumped[-1]


def test_of_few_events_the_latest_counts() -> None:
    assert present_us(np.array([START])) == START
    assert present_us(START + np.array([0, 5 * DAY_US, 9 * DAY_US])) == START + 9 * DAY_US
    assert COMPANY > 3


def test_the_present_is_told_by_the_newest_days_alone(tmp_path: Path) -> None:
    """Nothing else of the history is read where these are enough, and all of it where nothing is."""
    history = History(tmp_path)
    for times in (hourly(8), START + np.array([60, 900, 901]) * DAY_US):
        write(history, times)
    assert present(history, FRAUD) == hourly(8)[-1]
    oldest = tmp_path / TRANSACTIONS / f"day={history.days(TRANSACTIONS)[0]}"
    for file in oldest.glob("*.parquet"):
        file.write_bytes(b"not to be read")
    assert present(history, FRAUD) == hourly(8)[-1]
    few = History(tmp_path / "few")
    write(few, START + np.array([0, 5, 9]) * DAY_US)
    assert present(few, FRAUD) == START + 9 * DAY_US
    assert present(History(tmp_path / "none"), FRAUD) is None


@pytest.mark.parametrize("seed", range(6))
def test_the_present_by_the_newest_days_is_that_of_all(seed: int, tmp_path: Path) -> None:
    draw = np.random.default_rng(seed)
    times = START + np.sort(draw.integers(0, 10 * DAY_US, draw.integers(1, 250)))
    history = History(tmp_path)
    write(history, times)
    assert present(history, FRAUD) == present_us(times)


def write(history: History, times: Ints) -> None:
    """Payments of these times, by a backfill."""
    names = pa.array([f"t-{time_us}-{at}" for at, time_us in enumerate(times.tolist())])
    places: dict[str, pa.Array] = {}
    for name in ("customer", "terminal"):
        places[f"{name}_partition"] = pa.array([BACKFILLED] * len(times))
        places[f"{name}_position"] = pa.array(range(len(times)))
    rows = pa.table({"transaction_id": names, "event_time_us": times, **places})
    history.backfill({TRANSACTIONS: completed(TRANSACTIONS, rows)})


def test_late_is_what_comes_after_much_later_events_of_its_partition() -> None:
    times = hourly(10)
    order = np.arange(len(times))
    one = np.zeros(len(times), np.int64)
    assert not late(one, order, times, int(times[-1]), 1.0).any()
    delayed = np.where((order % 24 == 0) & (order > 96), times - 3 * DAY_US, times)
    assert np.array_equal(late(one, order, delayed, int(times[-1]), 1.0), delayed < times)
    assert not late(one, order, delayed, int(times[-1]), 4.0).any()
    assert not late(np.full(len(times), BACKFILLED), order, times[::-1], int(times[-1]), 1.0).any()


def test_a_clock_that_jumped_ahead_makes_no_other_event_late() -> None:
    times = hourly(10)
    times[100] += 400 * DAY_US
    one, order = np.zeros(len(times), np.int64), np.arange(len(times))
    assert not late(one, order, times, present_us(times), 1.0).any()


FRESH = Freshness(START, 0.1, 0.2, 0, 0.0)


@pytest.mark.parametrize(
    ("changed", "names"),
    [
        ({}, []),
        ({"settled_days": 20.0}, ["no_labels"]),
        ({"decided_days": 4.0}, ["no_payments"]),
        ({"settled_days": math.nan, "decided_days": math.nan, "late_share": math.nan}, []),
        ({"ahead": 3}, ["clock_ahead"]),
        ({"late_share": 0.3}, ["late_events"]),
        ({"waiting": 0}, []),
        ({"waiting": 1_000_000}, ["history_lag"]),
    ],
    ids=str,
)
def test_what_is_wrong_with_the_events_is_told_with_what_to_do(
    changed: dict[str, float], names: list[str]
) -> None:
    fresh = replace(FRESH, **changed)  # type: ignore[arg-type]
    found = judged(Findings("fraud", "1", START, "labels", fresh), WATCHING)
    assert [each.name for each in found.alerts] == names
    assert all(each.action and each.summary and math.isfinite(each.value) for each in found.alerts)
    assert found.due == (), "none of this is a reason to train"
