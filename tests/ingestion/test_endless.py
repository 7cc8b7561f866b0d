"""An endless simulation goes on with the day that it had come to."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from infra import cli
from ingestion.commands import Diary
from ingestion.simulators.payments import PaymentLog, Payments, each_day
from ingestion.simulators.population import Population

START = datetime(2026, 1, 1, tzinfo=UTC)


def days(first: int) -> Iterator[PaymentLog]:
    return each_day(Payments(seed=7, start=START, population=Population(customers=5)), 10, first)


def test_it_goes_on_where_it_was(tmp_path: Path) -> None:
    file = tmp_path / "simulated.json"
    diary = Diary.opened(file, START, 0)
    kept = diary.kept(days(diary.day))
    seen = [next(kept) for _ in range(3)]  # stopped in the middle of the third
    later = Diary.opened(file, datetime(2027, 1, 1, tzinfo=UTC), 0)
    assert (later.start, later.day) == (START, 2)
    again = next(later.kept(days(later.day)))
    assert list(again.transaction_id) == list(seen[2].transaction_id)
    assert set(again.transaction_id).isdisjoint(seen[1].transaction_id)


def test_what_ends_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["simulate", "prices", "--endless"]) == 1
    assert "expected payments" in capsys.readouterr().err
