from typing import Any

import numpy as np
import pytest

from infra.errors import UserError
from ingestion.tables import DAY_US
from training.dataset import Dataset, Span, Window, holdout_start

DAYS = np.arange(100) * DAY_US


def dataset(**changed: Any) -> Dataset:
    values: dict[str, Any] = {
        "features": ("a",),
        "feature_hash": "f00",
        "ids": np.array([f"t-{n}" for n in range(4)], object),
        "time_us": np.arange(4) * DAY_US,
        "matrix": np.array([[1.0], [2.0], [np.nan], [4.0]]),
        "target": np.array([0.0, 1.0, 0.0, 1.0]),
        "columns": {"amount": np.arange(4.0)},
        "cutoff_us": 9 * DAY_US,
    }
    return Dataset(**(values | changed))


def test_the_test_window_is_the_newest_week() -> None:
    assert holdout_start(DAYS, 7.0, None, 10) == 92 * DAY_US


def test_a_short_history_keeps_most_for_learning() -> None:
    assert holdout_start(DAYS[:10], 7.0, None, 10) == pytest.approx(0.7 * 9 * DAY_US)


def test_what_is_new_to_the_champion_is_shared_between_learning_and_test() -> None:
    assert holdout_start(DAYS, 7.0, 89 * DAY_US, 10) == 94 * DAY_US
    assert holdout_start(DAYS, 7.0, 40 * DAY_US, 10) == 92 * DAY_US


def test_no_events_are_a_clear_sentence() -> None:
    with pytest.raises(UserError, match="got none"):
        holdout_start(DAYS[:0], 7.0, None, 10)


def test_too_little_news_is_no_window() -> None:
    assert holdout_start(DAYS, 7.0, 98 * DAY_US, 10) == 92 * DAY_US


def test_a_split_is_by_time_and_loses_nothing() -> None:
    before, after = dataset(weight=np.arange(4.0)).split(2 * DAY_US)
    assert before.ids.tolist() == ["t-0", "t-1"]
    assert after.ids.tolist() == ["t-2", "t-3"]
    assert after.columns["amount"].tolist() == [2.0, 3.0]
    assert after.weight is not None
    assert after.weight.tolist() == [2.0, 3.0]


@pytest.mark.parametrize(
    "changed",
    [
        {"matrix": np.array([[1.0], [2.0], [3.0], [4.0]])},
        {"target": np.zeros(4)},
        {"time_us": np.arange(4)},
        {"ids": np.array(["a", "b", "c", "d"], object)},
        {"weight": np.ones(4)},
    ],
)
def test_the_version_tells_any_change(changed: dict[str, Any]) -> None:
    assert dataset().version == dataset().version
    assert dataset(**changed).version != dataset().version


def test_a_span_is_counted_back_from_its_end() -> None:
    assert Span().window(50) == Window(50)
    assert Span(until_us=5 * DAY_US, days=2).window(9 * DAY_US) == Window(5 * DAY_US, 3 * DAY_US)
