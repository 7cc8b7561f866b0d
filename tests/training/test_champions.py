from pathlib import Path

import pytest

from infra.errors import UserError
from training import card as cards
from training.card import Card, Trained
from training.champions import Champions, Promotion


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    card = Card("fraud", "lightgbm", ("a",), "f00", Trained(1, 2, 3, 4), reference=(1.0,), run_id="r-1")
    cards.write(folder, card, {"model.txt": b"tree"})
    return folder


@pytest.fixture
def champions(tmp_path: Path) -> Champions:
    return Champions(tmp_path / "home")


def test_there_is_none_before_the_first(champions: Champions) -> None:
    assert champions.current("fraud") is None
    assert champions.history("fraud") == []


def test_a_kept_version_knows_its_number(champions: Champions, source: Path) -> None:
    kept = champions.keep("fraud", "3", source)
    assert cards.read(kept.folder).version == "3"
    assert champions.kept("fraud", "3")
    assert champions.kept("fraud", "3", "r-1")
    assert not champions.kept("fraud", "3", "r-2")
    assert sorted(path.name for path in kept.folder.parent.iterdir()) == ["3"]


def test_the_one_before_is_remembered(champions: Champions, source: Path) -> None:
    for version in ("1", "2"):
        champions.keep("fraud", version, source)
        champions.set_current("fraud", version)
    champions.set_current("fraud", "2")
    assert champions.current("fraud").version == "2"
    assert champions.previous("fraud").version == "1"


def test_what_is_not_whole_never_decides(champions: Champions, source: Path) -> None:
    kept = champions.keep("fraud", "1", source)
    (kept.folder / "model.txt").write_bytes(b"tre")
    with pytest.raises(UserError, match="expected SHA-256"):
        champions.set_current("fraud", "1")
    assert champions.current("fraud") is None
    champions.keep("fraud", "1", source)
    champions.set_current("fraud", "1")
    assert champions.current("fraud").version == "1"


def test_a_damaged_source_is_not_kept(champions: Champions, source: Path) -> None:
    (source / "model.txt").unlink()
    with pytest.raises(UserError, match="came no file"):
        champions.keep("fraud", "1", source)
    assert not champions.kept("fraud", "1")


def test_the_history_only_grows_and_survives_a_cut_off_line(champions: Champions, tmp_path: Path) -> None:
    told = [
        Promotion("2026-01-01T00:00:00Z", "fraud", "promote", v, None, "me", "try", "r", {"ap": 0.7})
        for v in "12"
    ]
    for each in told:
        champions.record(each)
    with (tmp_path / "home/models/fraud/promotions.jsonl").open("a") as out:
        out.write('{"at": "2026')
    assert champions.history("fraud") == told
