from itertools import pairwise
from pathlib import Path

import pytest

from infra.errors import UserError
from infra.settings import Settings
from ingestion.tables import DAY_US
from training import findings, fraud
from training.retrainer import LONGEST_REST_S, Due, Retrainer, due
from training.runs import Desk
from training.tasks import Task

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


def test_findings_of_another_version_of_the_file_ask_for_nothing(tmp_path: Path) -> None:
    assert findings.asked(tmp_path, "fraud") is None
    findings.file_of(tmp_path, "fraud").write_text('{"task": "fraud", "reasons": ["drift"]}')
    assert findings.asked(tmp_path, "fraud") is None


class Barren(Retrainer):
    """Whatever it looks at fails."""

    tried: list[float]

    def look(self, task: Task) -> Due | None:
        self.tried.append(self._clock())
        raise UserError("nothing to learn from")


def test_what_fails_is_tried_again_ever_more_seldom(chosen: Settings) -> None:
    now = [0.0]
    retrainer = Barren(chosen, [fraud.TASK], Desk.of(chosen), clock=lambda: now[0])
    retrainer.tried = []
    for second in range(0, 4_000, 5):
        now[0] = float(second)
        retrainer.turn()
    gaps = [later - earlier for earlier, later in pairwise(retrainer.tried)]
    poll_s = chosen.retraining.poll_s
    assert gaps[:3] == [2 * poll_s, 4 * poll_s, 8 * poll_s]
    assert max(gaps) == LONGEST_REST_S
