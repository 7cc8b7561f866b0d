"""Shadowing day after day while labels and payments misbehave: nobody takes over who is not better."""

from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
import pytest

from features.state import Flags, Ints
from infra.settings import Settings
from ingestion.history import History
from ingestion.tables import DAY_US, DECISIONS, LABELS, TRANSACTIONS
from tests.training.live import DAYS, LEARNED_DAYS, live, write
from tests.training.made import MIDNIGHT_US
from tests.training.test_tracking import record
from training.champions import Champions
from training.promotion import promote
from training.runs import Desk
from training.shadow import Shadow
from training.tasks import task
from training.tracking import IN_SHADOW, SHADOW, Registry, Tracking

pytestmark = [pytest.mark.servers, pytest.mark.slow]

FIRST, LAST = LEARNED_DAYS + 1, DAYS + 4
"""Days after which is looked."""
type_of_arrival = Callable[[Ints, Flags], Ints]
"""When rows come, by their times and whether they are labels."""


@pytest.fixture
def desk(mlflow: str, chosen: Settings) -> Iterator[Desk]:
    registry = Registry(mlflow)
    yield Desk(Champions(chosen.home), registry, Tracking(mlflow))
    registry.close()


def outage(times: Ints, labels: Flags) -> Ints:
    """No label for twenty days; then all of them at once."""
    end = MIDNIGHT_US + (LAST - 1) * DAY_US
    held = labels & (times >= end - 20 * DAY_US) & (times < end)
    return np.where(held, end, times)


def three_days_late(times: Ints, labels: Flags) -> Ints:
    """Every third payment, with the decision on it."""
    return times + np.where(~labels & (np.arange(len(times)) % 3 == 0), 3 * DAY_US, 0)


def in_time(times: Ints, _: Flags) -> Ints:
    return times


@pytest.mark.parametrize("arrival", [in_time, outage, three_days_late])
@pytest.mark.parametrize("jumping", [False, True], ids=["clocks are right", "clocks jump"])
def test_nobody_takes_over_who_is_not_better(
    desk: Desk, chosen: Settings, arrival: type_of_arrival, jumping: bool
) -> None:
    payments, name = live(), "fraud"
    there = History(chosen.home / "all")
    write(there, payments, until_day=LAST)
    champion, some = payments.model(), np.arange(len(payments.fraud))
    first = str(desk.tracking.log(record(name), champion, True).version)
    promote(desk.registry, desk.champions, name, first, "me", "the first")
    challengers = [
        desk.tracking.log(record(name), model, True, IN_SHADOW).version
        for model in (payments.model(), payments.model(rows=some % 8 == 0), payments.model(rows=some < 2_000))
    ]
    shadow, history = Shadow(chosen, [task(name)], desk), History(chosen.history)
    for day in range(FIRST, LAST + 1):
        came_on(there, history, day, arrival, jumping)
        shadow.look(task(name))
    assert [each.version for each in desk.champions.history(name)] == [first]
    states = [found.tags[SHADOW] for each in challengers if (found := desk.registry.version(name, str(each)))]
    assert all(each == IN_SHADOW or each.startswith("refused") for each in states)
    assert any(each.startswith("refused: average precision") for each in states), "there was evidence"


def came_on(there: History, history: History, day: int, arrival: type_of_arrival, jumping: bool) -> None:
    """Write to the history what comes until the end of a day; on the first, all from before it too."""
    end = MIDNIGHT_US + day * DAY_US
    start = 0 if day == FIRST else end - DAY_US
    for table in (TRANSACTIONS, LABELS, DECISIONS):
        rows = there.read(table).sort_by("event_time_us")
        times = rows["event_time_us"].to_numpy()
        came = arrival(times, np.full(len(times), table == LABELS))
        new = rows.filter(pa.array((came >= start) & (came < end)))
        if jumping and table != DECISIONS and new.num_rows:
            new = jumped(new)
        if new.num_rows:
            history.append(table, new)


def jumped(rows: pa.Table) -> pa.Table:
    """The first event of a day is years ahead of its time, the last one years behind."""
    times = rows["event_time_us"].to_numpy().copy()
    times[0] += 2_000 * DAY_US
    times[-1] -= 2_000 * DAY_US
    return rows.set_column(rows.column_names.index("event_time_us"), "event_time_us", pa.array(times))


def test_arrivals_are_as_they_are_told() -> None:
    times = MIDNIGHT_US + np.arange(LAST + 5) * DAY_US
    labels = np.ones(len(times), np.bool_)
    found = (outage(times, labels) - MIDNIGHT_US) // DAY_US
    assert (found == LAST - 1).sum() == 21
    assert (outage(times, ~labels) == times).all()
    assert (three_days_late(times, ~labels) > times).sum() == -(-len(times) // 3)
