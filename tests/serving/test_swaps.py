"""Champions that change under load: no request fails, and each answer is that of the version it names."""

from pathlib import Path

import pytest

from infra import settings
from infra.progress import Silent
from serving.bench.swaps import swapped
from tests.stacks import running

pytestmark = [pytest.mark.servers, pytest.mark.slow]


def test_five_promotions_and_two_rollbacks_under_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOLLGATE_HOME", str(tmp_path / "home"))
    with running(tmp_path / "home", ["kafka", "valkey", "mlflow"]):
        found = swapped(settings.load(), 40.0, 200.0, Silent())
    assert (found.requests, found.errors, found.wrong) == (8_000, 0, 0)
    assert (found.promotions, found.rollbacks, found.versions) == (5, 2, 6)
    assert found.told_apart > 0.95, "versions must differ, or naming the wrong one would not show"
    assert found.slowest_swap_s < 5.0
