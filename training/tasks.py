"""The tasks that can be learned. A task adds a module of its name, and one line here."""

import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from rich.console import RenderableType

from infra import progress
from infra.errors import UserError
from infra.settings import DataTests, RuleOutcome, Settings
from training.dataset import Dataset, Span, Window
from training.gate import Comparison, Evidence, Limit
from training.models import Scorer
from training.quarantine import Part
from training.sight import Watched
from training.traffic import Traffic


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
    beside: Mapping[str, bytes] = field(default_factory=dict)
    """Files that go with the model, by name: what it is watched by."""
    notes: tuple[str, ...] = ()
    """What a reader of the verdict should know."""
    off_policy: Mapping[str, float] = field(default_factory=dict)
    """What the log of past decisions says of the model's own; kept with the verdict."""


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
    test_from: str | None = None
    objective: str | None = None
    candidates: tuple[float, ...] = ()
    out: Path | None = None


@dataclass(frozen=True)
class BacktestOptions:
    """What `tollgate backtest` was asked; each task takes what it knows."""

    span: Span
    file: EventFile | None = None
    """Past events without the stack; else the history."""
    rule: str | None = None
    outcome: RuleOutcome = "review"
    policy: Path | None = None
    """TOML file of what differs from the settings' policy."""


class Backtest(Protocol):
    """What a backtest found."""

    def as_json(self) -> dict[str, Any]:
        """Plain values, as JSON has them."""
        ...

    def told(self) -> list[RenderableType]:
        """The same for people, one below the other."""
        ...


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
    check: Callable[[Settings], object] = lambda _: None
    """Raises UserError for settings that it can't use, before any work."""
    data_tests: Callable[[Dataset, DataTests], Iterable[Part]] = lambda data, limits: ()  # noqa: ARG005
    """What is to be left out of a training set."""


TASKS = {"fraud": "training.fraud:TASK", "pricing": "training.pricing:TASK"}
"""Where each task is; imported when it is asked for."""
BACKTESTS = {
    "fraud": "training.fraud_backtest:backtest",
    "pricing": "training.pricing_backtest:backtest",
}
"""Where each task's policy is tried on the past, if it can be."""

WATCHED = {
    "fraud": "training.fraud_watching:WATCHED",
    "pricing": "training.pricing_watching:WATCHED",
}
"""How each task's champion is watched, if it can be."""
TRAFFICS = {"fraud": "training.fraud_shadow:TRAFFIC", "pricing": "training.pricing_shadow:TRAFFIC"}
"""Where each task's live decisions are, by which challengers in shadow are judged."""

type_of_backtest = Callable[[Settings, BacktestOptions, progress.Task], Backtest]


def task(name: str) -> Task:
    """The task of that name. Raises UserError if there is none."""
    if name not in TASKS:
        raise UserError(f"expected a task, one of {', '.join(TASKS)}; came {name!r}.")
    found: Task = _found(TASKS[name])
    return found


def backtest_of(name: str) -> type_of_backtest:
    """The backtest of a task. Raises UserError if there is no such task, or it has none yet."""
    if name in TASKS and name not in BACKTESTS:
        raise UserError(f"there is no backtest of {name} yet, only of {', '.join(BACKTESTS)}.")
    if name not in BACKTESTS:
        raise UserError(f"expected a task, one of {', '.join(BACKTESTS)}; came {name!r}.")
    found: type_of_backtest = _found(BACKTESTS[name])
    return found


def watched(name: str) -> Watched | None:
    """How a task's champion is watched; None if it is not."""
    found: Watched | None = _found(WATCHED[name]) if name in WATCHED else None
    return found


def traffic_of(name: str) -> Traffic | None:
    """The live decisions of a task; None if its challengers can't be shadowed."""
    found: Traffic | None = _found(TRAFFICS[name]) if name in TRAFFICS else None
    return found


def _found(target: str) -> Any:
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)
