"""The tasks that can be learned. A task adds a module of its name, and one line here."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from infra.errors import UserError
from infra.settings import Settings
from training.dataset import Dataset, Span, Window
from training.gate import Comparison, Evidence, Limit
from training.models import Scorer


@dataclass(frozen=True)
class EventFile:
    """A file of past events and the file that says which column is what."""

    data: Path
    mapping: Path


@dataclass(frozen=True)
class Trial:
    """A model, and how it did on events later than what it learned from."""

    model: Scorer
    """Learned from everything, the test window too, after the trial; what is registered."""
    parameters: Mapping[str, object]
    metrics: Mapping[str, float]
    """Figures on the test window of the same model learned from what is older."""
    rivals: Mapping[str, Mapping[str, float]]
    """The same figures of the baselines and of the champion."""
    headline: tuple[str, ...]
    """Names of the few most telling figures."""
    comparisons: tuple[Comparison, ...]
    evidence: tuple[Evidence, ...]
    test_start_us: int
    rows_train: int
    rows_test: int
    limits: tuple[Limit, ...] = ()
    """What must hold whatever the gain."""
    slices: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    documents: Mapping[str, Any] = field(default_factory=dict)
    figures: Mapping[str, bytes] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    """What a reader of the verdict should know."""


@dataclass(frozen=True)
class Incumbent:
    """The champion that a challenger must beat."""

    version: str
    model: Scorer

    def notes(self, feature_hash: str, test_start_us: int) -> tuple[str, ...]:
        """What a reader should know of a comparison with it on a window from `test_start_us` on."""
        card = self.model.card
        if card.feature_hash != feature_hash:
            return (f"champion {self.version} knows other features and was not compared",)
        if card.trained.end_us >= test_start_us:
            return (f"champion {self.version} has learned from part of the test window, which favours it",)
        return ()


@dataclass(frozen=True)
class EvaluateOptions:
    """What `tollgate evaluate` was asked; each task takes what it knows."""

    file: EventFile
    train_start: str | None = None
    train_days: int = 7
    delay_days: int = 7
    test_days: int = 7
    history_days: int | None = None
    by: str | None = None
    objective: str | None = None
    candidates: tuple[float, ...] = ()
    out: Path | None = None


@dataclass(frozen=True)
class Task:
    """What the shared parts need to know of a task."""

    name: str
    tables: tuple[str, ...]
    """Tables of the history whose newest event is the task's present."""
    settled: str
    """Table of the history whose rows (labels, outcomes) ask for a retraining."""
    least_settled: Callable[[Settings], int]
    """How many new ones make it due."""
    from_history: Callable[[Settings, Window], Dataset]
    """Known events through the feature store."""
    from_file: Callable[[Settings, EventFile, Span], Dataset]
    """Known events of a file, without the stack."""
    learn: Callable[[Dataset, Incumbent | None, Settings], Trial]
    evaluate: Callable[[Settings, EvaluateOptions], dict[str, Any]]


TASKS = {"fraud": "training.fraud:TASK", "pricing": "training.pricing:TASK"}
"""Where each task is; imported when it is asked for."""


def task(name: str) -> Task:
    """The task of that name. Raises UserError if there is none."""
    if name not in TASKS:
        raise UserError(f"expected a task, one of {', '.join(TASKS)}; came {name!r}.")
    module, _, attribute = TASKS[name].partition(":")
    found: Task = getattr(importlib.import_module(module), attribute)
    return found
