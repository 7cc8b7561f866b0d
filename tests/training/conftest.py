from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from infra import settings
from infra.settings import Settings

if TYPE_CHECKING:
    from training.runs import Desk


@pytest.fixture
def chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The default settings, in a home of their own."""
    monkeypatch.setenv("TOLLGATE_HOME", str(tmp_path / "home"))
    return settings.load()


@pytest.fixture
def desk(mlflow: str, tmp_path: Path) -> "Iterator[Desk]":
    """Champions in a home of their own, beside the registry of a real MLflow."""
    from training.champions import Champions
    from training.runs import Desk
    from training.tracking import Registry, Tracking

    registry = Registry(mlflow)
    yield Desk(Champions(tmp_path / "home"), registry, Tracking(mlflow))
    registry.close()
