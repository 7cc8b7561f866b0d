"""A model is text: nothing of ours unpickles, whatever lies in a folder or is imported."""

import ast
import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from training import baselines, booster, models
from training.card import Card, Trained
from training.models import Scorer

ROOT = Path(__file__).parents[2]
PACKAGES = ("infra", "ingestion", "features", "training", "serving")
UNPICKLERS = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "skops"}
LOADERS = {"allow_pickle", "read_pickle", "load_model", "unpickle"}
RIVAL = {("training/tracking.py", "load_model")}
"""What a bench measures us against; no process of ours calls it."""

MATRIX = np.random.default_rng(5).normal(size=(500, 3))
TARGET = (MATRIX[:, 0] > 0).astype(float)
CARD = Card("fraud", "", ("a", "b", "c"), "f00", Trained(1, 2, 3, 500))
MADE: dict[str, Callable[[], Scorer]] = {
    "lightgbm": lambda: booster.train(MATRIX, TARGET, CARD, booster.CLASSIFIER),
    "linear": lambda: baselines.train(MATRIX, TARGET, CARD),
}
OF_THESE = {"demand"}
"""Kinds whose files are those of others and JSON."""

_watching = False
_seen: list[str] = []


def _heard(event: str, arguments: tuple[object, ...]) -> None:
    if _watching and event in ("pickle.find_class", "marshal.loads"):
        _seen.append(f"{event} {arguments[:2]}")


@pytest.fixture
def unpickled() -> Iterator[list[str]]:
    """What is unpickled during the test; Python itself tells."""
    global _watching
    if _heard not in _hooks:
        sys.addaudithook(_heard)
        _hooks.append(_heard)
    _seen.clear()
    _watching = True
    yield _seen
    _watching = False


_hooks: list[object] = []


class Planted:
    """Would do harm to who unpickles it."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (list, ("harm",))


def test_the_watch_hears_a_pickle(unpickled: list[str]) -> None:
    assert pickle.loads(pickle.dumps(Planted())) == ["h", "a", "r", "m"]
    assert len(unpickled) == 1


@pytest.mark.parametrize("kind", MADE)
def test_a_model_is_loaded_without_unpickling(kind: str, tmp_path: Path, unpickled: list[str]) -> None:
    model = MADE[kind]()
    model.save(tmp_path)
    for name in ("model.pkl", "model.joblib", "python_model.pkl"):
        tmp_path.joinpath(name).write_bytes(pickle.dumps(Planted()))
    unpickled.clear()
    again = models.load(tmp_path)
    assert np.array_equal(again.predict(MATRIX), model.predict(MATRIX))
    assert not [each for each in unpickled if "pickle" in each]


def test_every_kind_of_model_is_looked_at() -> None:
    assert models.KINDS.keys() == MADE.keys() | OF_THESE


def test_nothing_of_ours_names_an_unpickler() -> None:
    found = {
        each for package in PACKAGES for file in ROOT.joinpath(package).rglob("*.py") for each in _named(file)
    }
    assert found == RIVAL


def _named(file: Path) -> Iterator[tuple[str, str]]:
    where = file.relative_to(ROOT).as_posix()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        match node:
            case ast.Import(names=names):
                yield from ((where, each.name) for each in names if each.name.split(".")[0] in UNPICKLERS)
            case ast.ImportFrom(module=str(module)) if module.split(".")[0] in UNPICKLERS:
                yield where, module
            case ast.Attribute(attr=name) | ast.keyword(arg=name) if name in LOADERS:
                yield where, str(name)
