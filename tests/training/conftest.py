from pathlib import Path

import pytest

from infra import settings
from infra.settings import Settings


@pytest.fixture
def chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The default settings, in a home of their own."""
    monkeypatch.setenv("TOLLGATE_HOME", str(tmp_path / "home"))
    return settings.load()
