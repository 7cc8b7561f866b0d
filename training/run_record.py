"""What a run says of what it learned from (`data.json`), enough to make its model again.

A training set is named by the hash of what it was read from: how far each table of the history reached, or
the file's own hash; the label cut-off, the window and the parts left out; the sources of our code and the
feature definitions. Who reads the same by the same code gets the same rows.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import features
import ingestion
import training
from infra.errors import UserError
from infra.settings import FraudPolicy, Section, Settings
from ingestion.reach import Reach
from training.dataset import Dataset, Origin, Window
from training.provenance import commit, software, sources
from training.quarantine import Part

DOCUMENT, QUARANTINE = "data.json", "quarantine.json"
_SECTIONS = ("labels", "gate", "fraud", "pricing", "data_tests")
"""Of the settings, those that a model follows from."""
_SECRET = "control_group_salt"  # noqa: S105 - the name of the secret: it draws lots and trains nothing


@cache
def code() -> str:
    """Hash of the sources that make rows and models; read once a process."""
    return sources([Path(package.__file__ or "").parent for package in (ingestion, features, training)])


def chosen_settings(settings: Settings) -> dict[str, Any]:
    """The sections that a model follows from, as plain values, without secrets."""
    found = {name: getattr(settings, name).model_dump(mode="json") for name in _SECTIONS}
    found["fraud"].pop(_SECRET, None)
    return found


def again(settings: Settings, recorded: Mapping[str, Any]) -> Settings:
    """The settings with the sections that were recorded.

    Raises:
        UserError: a section has other fields now.
    """
    secret = {"fraud": {_SECRET: settings.fraud.control_group_salt}}
    try:
        sections: dict[str, Section] = {
            name: type(getattr(settings, name))(**{**values, **secret.get(name, {})})
            for name, values in recorded.items()
        }
    except (ValueError, AttributeError) as error:
        raise UserError(f"the run was made with settings that this code does not know: {error}.") from None
    assert isinstance(sections.get("fraud", settings.fraud), FraudPolicy)
    return settings.model_copy(update=sections)


def version(data: Dataset) -> str:
    """Name of a training set: 12 hex digits of what it was read from; of what was made up, its content."""
    if data.origin is None:
        return data.version
    text = json.dumps(_read(data), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _read(data: Dataset) -> dict[str, Any]:
    assert data.origin is not None
    window = data.origin.window
    return {
        "tables": {name: each.as_json() for name, each in sorted((window.reach or {}).items())},
        "files": dict(data.origin.files),
        "label_cutoff_us": window.cutoff_us,
        "start_us": window.start_us,
        "left_out": [part.as_json() for part in data.left_out.parts],
        "code": code(),
        "feature_hash": data.feature_hash,
    }


def document(
    task: str, data: Dataset, test_start_us: int, parameters: Mapping[str, object]
) -> dict[str, Any]:
    """What `data.json` says; `Recorded` reads it."""
    return {
        "task": task,
        "data_version": version(data),
        "content_hash": data.version,
        "rows": len(data),
        **(_read(data) if data.origin else {}),
        "paths": dict(data.origin.paths) if data.origin else {},
        "test_start_us": test_start_us,
        "parameters": dict(parameters),
        "settings": data.settings,
        "software": software(),
        "git_commit": commit(Path(training.__file__ or "").parent),
    }


def quarantine(data: Dataset) -> dict[str, Any]:
    """What `quarantine.json` says: the parts that were left out, and how much that was."""
    left = data.left_out
    return {"rows": left.rows, "share": left.share, "parts": [part.as_json() for part in left.parts]}


@dataclass(frozen=True)
class Recorded:
    """A run's own account of what it learned from."""

    run_id: str
    values: Mapping[str, Any]

    @property
    def window(self) -> Window:
        """What it read of the history."""
        reach = {name: Reach.from_json(each) for name, each in self.values["tables"].items()}
        return Window(self.values["label_cutoff_us"], self.values["start_us"], reach)

    @property
    def origin(self) -> Origin:
        """What it read, a file or the history."""
        return Origin(self.window, self.values["files"], self.values["paths"])

    @property
    def parts(self) -> tuple[Part, ...]:
        """What it left out."""
        return tuple(Part.from_json(each) for each in self.values["left_out"])


def read(run_id: str, task: str, text: bytes) -> Recorded:
    """A run's `data.json`.

    Raises:
        UserError: it is of another task, or its rows were made up and can't be read again.
    """
    values = json.loads(text)
    if values["task"] != task:
        raise UserError(f"run {run_id} trained {values['task']}, not {task}; say `train {values['task']}`.")
    if "tables" not in values:
        raise UserError(f"run {run_id} learned from rows that were neither history nor file.")
    return Recorded(run_id, values)
