"""A registry that does not answer is told to the user; it is no crash."""

from pathlib import Path

import pytest

from features.pricing import PRICING
from features.store import FeatureStore
from infra.errors import UserError

pytestmark = pytest.mark.slow


def test_it_is_told_in_a_sentence(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, "127.0.0.1:1", f"sqlite:///{tmp_path / 'nowhere' / 'registry.db'}")
    with pytest.raises(UserError, match="Feast's registry does not answer: unable to open database file"):
        store.apply([PRICING])
