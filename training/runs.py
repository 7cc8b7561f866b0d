"""One training: learn, measure, judge, record, and let a winner take over. The same for every task."""

import fcntl
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import training
from infra import progress
from infra.errors import UserError
from infra.settings import Settings
from ingestion.history import History
from training import models, run_record, tasks
from training.champions import Champions
from training.data_tests import tested
from training.dataset import Dataset, Span
from training.freshness import present
from training.gate import Verdict, decisive, judge
from training.promotion import complete, follow, promote
from training.provenance import commit
from training.tasks import Incumbent, Task, Trial
from training.tracking import ASIDE, DIRECT, IN_SHADOW, Record, Registry, Tracking


@dataclass(frozen=True)
class Report:
    """What a training came to; printed, and given as JSON."""

    task: str
    verdict: Verdict
    metrics: Mapping[str, float]
    rivals: Mapping[str, Mapping[str, float]]
    headline: tuple[str, ...]
    rows_train: int
    rows_test: int
    data_version: str
    window: tuple[str, str]
    """Oldest and newest event that the model learned from."""
    test_start: str
    label_cutoff: str
    seconds: float
    run_id: str | None = None
    version: str | None = None
    promoted: bool = False
    in_shadow: bool = False
    """It scores live traffic beside the champion until it has proven itself."""
    notes: tuple[str, ...] = field(default=())

    def as_json(self) -> dict[str, Any]:
        """Plain values, as JSON has them."""
        values: dict[str, Any] = finite(asdict(self))
        return values


def finite(value: Any) -> Any:
    """The same with null for what is not a number: JSON has no word for it."""
    if isinstance(value, dict):
        return {key: finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(frozen=True)
class Desk:
    """Where champions live and runs are recorded."""

    champions: Champions
    registry: Registry
    tracking: Tracking

    @classmethod
    def of(cls, settings: Settings) -> "Desk":
        """As the settings say."""
        url = settings.addresses.mlflow
        return cls(Champions(settings.home), Registry(url), Tracking(url))

    @classmethod
    @contextmanager
    def opened(cls, settings: Settings) -> Iterator["Desk"]:
        """The same, disconnected afterwards."""
        desk = cls.of(settings)
        try:
            yield desk
        finally:
            desk.registry.close()


@dataclass(frozen=True)
class Reason:
    """Who or what asked for a training, and why; kept with the run and with a promotion."""

    who: str
    why: str


def train_newest(
    task: Task, settings: Settings, span: Span, reason: Reason, promoting: bool, told: progress.Task
) -> Report:
    """Train on what the history has, up to its newest event unless `span` says until when.

    Raises:
        UserError: there is no history, too little is known to learn from, or MLflow is down.
    """
    with Desk.opened(settings) as desk:
        desk.registry.champion(task.name)  # fails now, not after the work, if MLflow is down
        newest = present(History(settings.history), task)
        if newest is None:
            raise UserError(f"expected past events of {task.name}, got none; `tollgate backfill` a file.")
        with alone(settings.home, task.name):
            told.say("joining what was known at each event")
            rows = task.from_history(settings, span.window(newest))
            told.say(f"learning from {len(rows):,} events")
            return train(task, rows, settings, desk, reason, promoting)


def train(
    task: Task, data: Dataset, settings: Settings, desk: Desk, reason: Reason, promoting: bool = True
) -> Report:
    """Train, judge against the champion (or the baselines), record, register a winner and let it into shadow.

    It takes over at once where there is nothing to shadow: no champion that knows these features, or the
    settings ask for no matured labels.

    Raises:
        UserError: too little is known to learn from, or MLflow is down.
    """
    began = time.perf_counter()
    complete(desk.registry, desk.champions, task.name)
    champion = incumbent(desk, task.name)
    data = prepared(task, data, settings)
    trial = task.learn(data, champion, settings)
    usual = way_of(task.name, data, champion, settings)
    verdict = _verdict(trial, settings, shadowed=usual == IN_SHADOW)
    way = usual if promoting else ASIDE
    record = record_of(task.name, data, trial, verdict, reason)
    logged = desk.tracking.log(record, trial.model, verdict.passed, way)
    registered = logged.version is not None
    if registered and way == DIRECT:
        why = f"{reason.why}; {verdict.reasons[0]}"
        promote(desk.registry, desk.champions, task.name, str(logged.version), reason.who, why)
    report = _report(task.name, data, trial, verdict, began, logged.run_id, logged.version)
    return replace(report, promoted=registered and way == DIRECT, in_shadow=registered and way == IN_SHADOW)


def way_of(task: str, data: Dataset, champion: Incumbent | None, settings: Settings) -> str:
    """How a winner of the trial goes on: through the shadow, or at once where that could show nothing."""
    comparable = champion is not None and champion.model.card.feature_hash == data.feature_hash
    shadowed = settings.gate.shadow_labels > 0 and tasks.traffic_of(task) is not None
    return IN_SHADOW if comparable and shadowed else DIRECT


def rehearse(task: Task, data: Dataset, settings: Settings) -> Report:
    """Train and judge against the baselines without the stack; nothing is recorded."""
    began = time.perf_counter()
    data = prepared(task, data, settings)
    trial = task.learn(data, None, settings)
    return _report(task.name, data, trial, _verdict(trial, settings), began)


def _verdict(trial: Trial, settings: Settings, shadowed: bool = False) -> Verdict:
    comparisons = decisive(trial.comparisons, shadowed)
    return judge(comparisons, trial.evidence, settings.gate.min_gain, trial.limits)


def prepared(task: Task, data: Dataset, settings: Settings) -> Dataset:
    """The rows that pass the task's data tests, with the settings that a model of them follows from.

    Raises:
        UserError: too much would be left out.
    """
    kept = tested(data, task.data_tests, settings.data_tests)
    return replace(kept, settings=run_record.chosen_settings(settings))


def incumbent(desk: Desk, task: str) -> Incumbent | None:
    """The registry's champion, fetched if it is not on disk; None before the first."""
    champion = follow(desk.registry, desk.champions, task)
    return Incumbent(champion.version, models.load(champion.folder)) if champion else None


def record_of(task: str, data: Dataset, trial: Trial, verdict: Verdict, reason: Reason) -> Record:
    """Everything that the run is to be known by."""
    return Record(
        task=task,
        name=f"{task} {_time(data.cutoff_us)}",
        parameters=trial.parameters,
        metrics={
            **trial.metrics,
            **_prefixed(trial.rivals),
            **_prefixed(trial.slices),
            **_sizes(trial),
            **_left_out(data),
        },
        tags=_tags(data, trial, verdict, reason),
        headline={name: trial.metrics[name] for name in trial.headline if name in trial.metrics},
        documents={
            "features.json": {"hash": data.feature_hash, "names": data.features},
            "importance.json": trial.model.importance(),
            "verdict.json": _judged(verdict, trial),
            run_record.DOCUMENT: _account(task, data, trial),
            run_record.QUARANTINE: run_record.quarantine(data),
            **trial.documents,
        },
        figures=trial.figures,
        beside=trial.beside,
    )


def _judged(verdict: Verdict, trial: Trial) -> dict[str, Any]:
    """The verdict, and what the log says of the model's decisions where it was asked."""
    plain: dict[str, Any] = finite(asdict(verdict))
    return plain | {"off_policy": finite(dict(trial.off_policy))} if trial.off_policy else plain


def _account(task: str, data: Dataset, trial: Trial) -> dict[str, Any]:
    values: dict[str, Any] = finite(run_record.document(task, data, trial.test_start_us, trial.parameters))
    return values


def _tags(data: Dataset, trial: Trial, verdict: Verdict, reason: Reason) -> dict[str, str]:
    start, end = _window(data)
    return {
        "git_commit": commit(Path(training.__file__).parent),
        "data_version": run_record.version(data),
        "content_hash": data.version,
        "code": run_record.code(),
        "feature_hash": data.feature_hash,
        "event_time_start": start,
        "event_time_end": end,
        "test_start": _time(trial.test_start_us),
        "label_cutoff": _time(data.cutoff_us),
        "gate": "passed" if verdict.passed else "refused",
        "gate_reasons": "; ".join((*verdict.reasons, *trial.notes)),
        "left_out": "; ".join(map(str, data.left_out.parts))[:5_000],
        "asked_by": reason.who,
        "reason": reason.why,
    }


def _prefixed(groups: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Metrics of rivals and slices as `group/figure`, in the characters that MLflow takes."""
    return {
        f"{_plain(group)}/{name}": value
        for group, figures in groups.items()
        for name, value in figures.items()
    }


def _plain(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "_-. :/" else "_" for letter in name)


def _sizes(trial: Trial) -> dict[str, float]:
    return {"rows_train": float(trial.rows_train), "rows_test": float(trial.rows_test)}


def _left_out(data: Dataset) -> dict[str, float]:
    left = data.left_out
    found = {"rows": float(left.rows), "share": left.share, "parts": float(len(left.parts))}
    return {f"left_out/{name}": value for name, value in found.items()}


def _report(
    task: str,
    data: Dataset,
    trial: Trial,
    verdict: Verdict,
    began: float,
    run_id: str | None = None,
    version: str | None = None,
) -> Report:
    return Report(
        task=task,
        verdict=verdict,
        metrics=trial.metrics,
        rivals=trial.rivals,
        headline=trial.headline,
        rows_train=trial.rows_train,
        rows_test=trial.rows_test,
        data_version=run_record.version(data),
        window=_window(data),
        test_start=_time(trial.test_start_us),
        label_cutoff=_time(data.cutoff_us),
        seconds=time.perf_counter() - began,
        run_id=run_id,
        version=version,
        notes=(*(f"left out {part}" for part in data.left_out.parts), *trial.notes),
    )


@contextmanager
def alone(home: Path, task: str, waiting: bool = True) -> Iterator[None]:
    """One training of a task at a time on this home; the lock goes with the process that held it.

    Raises:
        UserError: another process is training this task, and we are not waiting.
    """
    path = home / "models" / task / "training.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX if waiting else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"expected no other training of {task}, one is running; wait for it.") from None
        yield


def _window(data: Dataset) -> tuple[str, str]:
    return _time(data.trained.start_us), _time(data.trained.end_us)


def _time(time_us: int) -> str:
    """RFC 3339 in UTC."""
    return datetime.fromtimestamp(time_us / 1e6, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
