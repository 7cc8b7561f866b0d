"""What the tests of the local stack share."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.stack.local import Stack


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("TOLLGATE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TOLLGATE_HOME", str(tmp_path / "home"))


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """A stack of its own folder, that is down afterwards whatever happened."""
    stack = Stack(tmp_path / "home")
    yield stack
    stack.down(purge=True)
