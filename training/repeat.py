"""A past run's model made again from the run's own record, and held to it byte for byte."""

import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from features.domains import domain
from infra import progress
from infra.errors import UserError
from infra.settings import Settings
from ingestion.history import History
from ingestion.tables import DAY_US
from training import card as cards
from training import run_record, runs
from training.data_tests import without
from training.dataset import Dataset, Span
from training.provenance import software
from training.run_record import Recorded
from training.sources import digest
from training.tasks import EventFile, Task, Trial
from training.tracking import MODEL_FOLDER, Registry


@dataclass(frozen=True)
class Repeated:
    """What came of a repetition."""

    run_id: str
    data_version: str
    same: bool
    """Whether every file of the model has the bytes that the run recorded."""
    files: dict[str, str]
    """SHA-256 of each file of the model that was made now."""
    recorded: dict[str, str]
    """The same of the run's."""
    differences: tuple[str, ...]
    """What is not as it was then; a model may be the same all the same."""
    rows: int
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def repeat(
    task: Task, run_id: str, settings: Settings, file: EventFile | None, out: Path | None, told: progress.Task
) -> Repeated:
    """Train as a past run did: on the rows that it read, with its settings; what came later is not seen.

    Nothing is recorded or registered.

    Args:
        task: that the run was of.
        run_id: of MLflow.
        settings: where history and MLflow are; what a model follows from is the run's.
        file: where the run's file of events lies now, if not where it lay.
        out: folder to write the model to.
        told: shows what is done.

    Raises:
        UserError: MLflow has no such run, or rows, file or feature definitions are no longer there.
    """
    began = time.perf_counter()
    with closing(Registry(settings.addresses.mlflow)) as registry:
        record, card = _recorded(registry, task, run_id)
    then = run_record.again(settings, record.values["settings"])
    told.say("reading what the run read")
    data = _read(task, record, then, file)
    told.say(f"learning from {len(data):,} events")
    trial = task.learn(data, None, then)
    files = _files(trial, out)
    return Repeated(
        run_id=run_id,
        data_version=record.values["data_version"],
        same=files == card["files"],
        files=files,
        recorded=card["files"],
        differences=tuple(_differences(record, card, data, trial.parameters, files)),
        rows=len(data),
        seconds=time.perf_counter() - began,
    )


def _recorded(registry: Registry, task: Task, run_id: str) -> tuple[Recorded, dict[str, Any]]:
    """The run's `data.json`, and the card of its model."""
    if not registry.has_run(run_id):
        raise UserError(
            f"MLflow has no run {run_id!r}; `tollgate train` prints a run's id, MLflow lists them."
        )
    found, card = (
        registry.document(run_id, name) for name in (run_record.DOCUMENT, f"{MODEL_FOLDER}/{cards.CARD}")
    )
    if found is None or card is None:
        raise UserError(f"run {run_id} has no {run_record.DOCUMENT} with a model; it can't be made again.")
    record = run_record.read(run_id, task.name, found)
    return record, json.loads(card)


def _read(task: Task, record: Recorded, settings: Settings, file: EventFile | None) -> Dataset:
    _same_features(task, record)
    if record.origin.files:
        data = _of_file(task, record, settings, file)
    else:
        data = _of_history(task, record, settings)
    kept = without(data, record.parts)
    return replace(kept, test_start_us=record.values["test_start_us"], settings=record.values["settings"])


def _of_history(task: Task, record: Recorded, settings: Settings) -> Dataset:
    reach = record.window.reach or {}
    now = History(settings.history).upto(reach).reach(list(reach))
    gone = [f"{table} {said}" for table, each in reach.items() for said in each.lacking(now[table])]
    if gone:
        more = f" and {len(gone) - 3} more" if len(gone) > 3 else ""
        raise UserError(
            f"run {record.run_id} read rows that {settings.history} no longer has:"
            f" {'; '.join(gone[:3])}{more}; bring the history back from a backup to make its model again."
        )
    return task.from_history(settings, record.window)


def _of_file(task: Task, record: Recorded, settings: Settings, file: EventFile | None) -> Dataset:
    paths = record.origin.paths
    chosen = file or EventFile(Path(paths["data"]), Path(paths["mapping"]))
    for name, path in (("data", chosen.data), ("mapping", chosen.mapping)):
        came = digest(path) if path.is_file() else "no file"
        if came != record.origin.files[name]:
            raise UserError(
                f"{path}: expected the file that run {record.run_id} read, with SHA-256"
                f" {record.origin.files[name][:12]}…, came {came[:12]}…; name it by --data and --mapping."
            )
    window = record.window
    days = None if window.start_us is None else (window.cutoff_us - window.start_us) / DAY_US
    return task.from_file(settings, chosen, Span(window.cutoff_us, days))


def _same_features(task: Task, record: Recorded) -> None:
    then, now = record.values["feature_hash"], domain(task.name).features.hash
    if then != now:
        raise UserError(
            f"run {record.run_id} learned from feature definitions {then}, these are {now}; check out commit"
            f" {record.values['git_commit']} to make its model again."
        )


def _files(trial: Trial, out: Path | None) -> dict[str, str]:
    """SHA-256 of each file of the model, and of what lies beside it, as a run keeps them."""
    with tempfile.TemporaryDirectory() as space:
        folder = out or Path(space)
        trial.model.save(folder)
        cards.add(folder, trial.beside)
        return dict(cards.read(folder).files)


def _differences(
    record: Recorded,
    card: dict[str, Any],
    data: Dataset,
    parameters: Mapping[str, object],
    files: Mapping[str, str],
) -> Iterator[str]:
    then = record.values
    if then["code"] != run_record.code():
        yield f"other code: sources {then['code']} then, {run_record.code()} now"
    yield from _changed("software", then["software"], software())
    if then["content_hash"] != data.version:
        yield (
            f"other rows: {then['rows']:,} with hash {then['content_hash']} then, {len(data):,} with"
            f" {data.version} now"
        )
    yield from _changed("parameter", then["parameters"], runs.finite(dict(parameters)))
    yield from _changed("SHA-256 of", card["files"], files)


def _changed(what: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted({*then, *now}):
        if then.get(name) != now.get(name):
            yield f"{what} {name}: {then.get(name)} then, {now.get(name)} now"
