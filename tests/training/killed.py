"""A training with its promotion in a process that may be killed at any moment."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from infra import settings
from tests.training.live import Plain
from training import booster, runs
from training.card import Card, Trained
from training.champions import Champions
from training.dataset import Dataset
from training.gate import Comparison
from training.runs import Desk, Reason
from training.tasks import Task, Trial
from training.tracking import Registry, Tracking

TASK_NAME = "killed"
IMPORTED = ("tests.training.killed", "mlflow.lightgbm")
"""What a process that is to die often need not import each time."""


class DiedError(Exception):
    """As if the process were gone."""


def rows() -> Dataset:
    """Something to learn from."""
    draw, n = np.random.default_rng(7), 4_000
    matrix = draw.normal(size=(n, 2))
    ids = np.array([f"t-{i}" for i in range(n)], object)
    return Dataset(("a", "b"), "f00", ids, np.arange(n), matrix, (matrix[:, 0] > 1).astype(float), {}, 0)


def _learn(data: Dataset, _: Any, __: Any) -> Trial:
    card = Card(TASK_NAME, "", data.features, data.feature_hash, Trained(1, 2, 3, len(data)))
    learned = booster.train(data.matrix, data.target, replace(card, trained=data.trained), booster.CLASSIFIER)
    model = Plain(learned.text, learned.card)
    return Trial(
        model=model,
        parameters={},
        metrics={"gain": 0.6},
        rivals={"rules": {"gain": 0.5}},
        headline=("gain",),
        comparisons=(Comparison("gain", 0.6, 0.5, "rules"),),
        evidence=(),
        test_start_us=0,
        rows_train=1,
        rows_test=1,
    )


def _nothing(*_: Any) -> Any:
    raise AssertionError


WINNING = Task(TASK_NAME, (), "", lambda _: 0, _nothing, _nothing, _learn, _nothing)
"""Its every model wins its trial."""


def desk_of(home: Path, url: str) -> Desk:
    """Where it is recorded."""
    return Desk(Champions(home), Registry(url), Tracking(url))


def train(home: Path, url: str) -> None:
    """One training of the retrainer."""
    report = runs.train(WINNING, rows(), settings.load(), desk_of(home, url), Reason("retrainer", "news"))
    assert report.promoted
