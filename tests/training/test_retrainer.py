import pytest

from ingestion.history import DAY_US
from training.retrainer import due

NOW = 100 * DAY_US


@pytest.mark.parametrize(
    ("learned_until", "arrived", "why"),
    [
        (None, 0, None),
        (None, 1_999, None),
        (None, 2_000, "2,000 new labels or outcomes"),
        (99 * DAY_US, 5_000, "5,000 new labels or outcomes"),
        (99 * DAY_US, 10, None),
        (93 * DAY_US, 10, "7.0 days old with 10 new labels or outcomes"),
        (10 * DAY_US, 0, None),
    ],
)
def test_due_by_labels_or_by_age_but_never_without_news(
    learned_until: int | None, arrived: int, why: str | None
) -> None:
    assert due(NOW, learned_until, arrived, 2_000, 7 * DAY_US) == why
