"""The champion in memory follows the disk; the one before stays loaded beside it."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from features.fraud import FRAUD
from serving.champions_watch import ChampionsWatch
from tests.training.live import live, with_other_features
from training.booster import Model
from training.champions import Champions
from training.tracking import Registry

NOBODY = "http://127.0.0.1:1"


@pytest.fixture(scope="module")
def model() -> Model:
    payments = live()
    return payments.model(rows=np.arange(len(payments.fraud)) < 500, parameters={"num_iterations": 2})


@pytest.fixture
def champions(tmp_path: Path, model: Model) -> Champions:
    kept = Champions(tmp_path / "home")
    for version in "123":
        keep(kept, model, version)
    return kept


def keep(champions: Champions, model: Model, version: str) -> None:
    folder = champions.folder("fraud", version).parent.parent / f"made-{version}"
    model.save(folder)
    champions.keep("fraud", version, folder)


def watching(champions: Champions) -> ChampionsWatch:
    """As of a process that starts now, while the registry is down."""
    watch = ChampionsWatch(champions, Registry(NOBODY), {"fraud": FRAUD})
    watch.refresh()
    return watch


def deciding(watch: ChampionsWatch) -> tuple[str | None, str | None]:
    return tuple(model and model.card.version for model in (watch.current("fraud"), watch.previous("fraud")))


def test_a_rollback_loads_nothing(champions: Champions) -> None:
    champions.set_current("fraud", "1")
    watch = watching(champions)
    champions.set_current("fraud", "2")
    watch.refresh()
    first = watch.previous("fraud")
    assert deciding(watch) == ("2", "1")
    champions.set_current("fraud", "1")
    shutil.rmtree(champions.folder("fraud", "1"))
    watch.refresh()
    assert deciding(watch) == ("1", "2")
    assert watch.current("fraud") is first


def test_a_process_that_starts_loads_the_one_before_too(champions: Champions) -> None:
    for version in "12":
        champions.set_current("fraud", version)
    watch = watching(champions)
    assert deciding(watch) == ("2", "1")
    champions.set_current("fraud", "3")
    watch.refresh()
    assert deciding(watch) == ("3", "2")


def test_the_one_before_is_the_registrys_not_the_one_seen_last(champions: Champions) -> None:
    champions.set_current("fraud", "1")
    watch = watching(champions)
    champions.set_current("fraud", "3", previous="2")
    watch.refresh()
    assert deciding(watch) == ("3", "2")


def test_a_champion_that_knows_other_features_does_not_decide(champions: Champions, model: Model) -> None:
    champions.set_current("fraud", "1")
    watch = watching(champions)
    keep(champions, with_other_features(model), "4")
    champions.set_current("fraud", "4")
    watch.refresh()
    assert deciding(watch) == ("1", None)
