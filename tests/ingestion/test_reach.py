"""A history can be read as it was, though it has grown, by late events too, and lies in other files."""

from pathlib import Path

import pyarrow as pa
import pytest

from ingestion.history import History
from ingestion.reach import Reach
from ingestion.tables import BACKFILLED, DAY_US, TRANSACTIONS, completed


def payments(places: list[int], day: int, partition: int = 0, late: bool = False) -> pa.Table:
    rows = pa.table(
        {
            "transaction_id": [f"{partition}-{place}" for place in places],
            "event_time_us": [day * DAY_US + (1_000 - place if late else place) for place in places],
            "customer_partition": [0] * len(places),
            "customer_position": places,
            "terminal_partition": [partition] * len(places),
            "terminal_position": places,
        }
    )
    return completed(TRANSACTIONS, rows)


@pytest.fixture
def history(tmp_path: Path) -> History:
    found = History(tmp_path)
    found.append(TRANSACTIONS, payments([1, 2, 5], day=0))
    found.append(TRANSACTIONS, payments([3, 4], day=1))
    found.append(TRANSACTIONS, payments([7, 9], day=1, partition=3))
    found.backfill({TRANSACTIONS: payments([0, 1], day=0, partition=BACKFILLED)})
    return found


def ids(history: History, *window: int) -> list[str]:
    return history.read(TRANSACTIONS, *window, columns=["transaction_id"])["transaction_id"].to_pylist()


def test_what_came_later_is_not_read_a_late_event_neither(history: History) -> None:
    reach = history.reach([TRANSACTIONS])
    before = ids(history.upto(reach))
    assert before == ["-1-0", "-1-1", "0-1", "0-2", "0-5", "0-3", "0-4", "3-7", "3-9"]
    history.append(TRANSACTIONS, payments([6, 8], day=0))
    history.append(TRANSACTIONS, payments([10], day=1, partition=3, late=True))
    history.append(TRANSACTIONS, payments([1], day=2, partition=2))
    history.backfill({TRANSACTIONS: payments([2, 3], day=0, partition=BACKFILLED)})
    assert ids(history.upto(reach)) == before
    assert len(ids(history)) == len(before) + 6
    history.compact(TRANSACTIONS, at_least=1)
    assert ids(history.upto(reach)) == before, "in the same order, whatever file a row is in"
    assert ids(history.upto(reach), DAY_US, DAY_US + 5) == ["0-3", "0-4"]


def test_it_comes_back_from_its_record(history: History) -> None:
    reach = history.reach([TRANSACTIONS])[TRANSACTIONS]
    assert Reach.from_json(reach.as_json()) == reach
    assert reach.as_json()["1970-01-02"] == {"0": [3, 4, 2], "3": [7, 9, 2]}
    assert reach.rows == 9


def test_rows_that_have_gone_are_told(history: History, tmp_path: Path) -> None:
    reach = history.reach([TRANSACTIONS])[TRANSACTIONS]
    assert reach.lacking(reach) == []
    [file] = (tmp_path / TRANSACTIONS / "day=1970-01-02").glob("p3-*")
    file.unlink()
    now = history.upto({TRANSACTIONS: reach}).reach([TRANSACTIONS])[TRANSACTIONS]
    assert reach.lacking(now) == ["1970-01-02: 0 of 2 rows of partition 3"]


def test_an_empty_table_reaches_nowhere(tmp_path: Path) -> None:
    history = History(tmp_path)
    reach = history.reach([TRANSACTIONS])
    assert reach[TRANSACTIONS].as_json() == {}
    history.append(TRANSACTIONS, payments([1], day=0))
    assert ids(history.upto(reach)) == []
    assert ids(history.upto({})) == ["0-1"], "a table that is not named is read as it is"
