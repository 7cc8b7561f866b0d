"""Champions on disk: serving goes on when the registry is down.

`models/<task>/<version>/` holds each version that was promoted or in shadow; `models/<task>/current.json`
says which one decides and which one for some customers, and `models/<task>/promotions.jsonl` what happened,
line by line, never rewritten. `models/<task>/promoting.json` is there while a promotion is under way: whoever
finds it goes on. `models/<task>/canary.json` says what the latest canary has shown.
"""

import fcntl
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from infra.errors import UserError
from training import card as cards
from training.canary import Canary

_CANARY = "canary"
"""Key of a file's part that says which canary it is."""


@dataclass(frozen=True)
class Champion:
    """A version on disk."""

    task: str
    version: str
    folder: Path


@dataclass(frozen=True)
class Promotion:
    """One line of the history: who or what made `version` the champion, or a canary, when and why."""

    at: str
    """RFC 3339, UTC, wall clock."""
    task: str
    action: str
    """`promote` or `rollback`; `canary`: it decides for some customers from now on; `return`: no more."""
    version: str
    previous: str | None
    """The champion until then; with `canary` and `return` it stays that."""
    who: str
    why: str
    run_id: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    evidence: Mapping[str, Any] = field(default_factory=dict)
    """What the shadow showed; nothing where it was not asked."""


class Champions:
    """The champion folders under `<home>/models`."""

    def __init__(self, home: Path) -> None:
        self._models = home / "models"

    def folder(self, task: str, version: str) -> Path:
        """Where a version lies, or would."""
        return self._models / task / version

    def keep(self, task: str, version: str, source: Path) -> Champion:
        """Copy a model's folder here as a version; whole or not at all.

        Raises:
            UserError: the source is not whole.
        """
        target = self.folder(task, version)
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".keep-") as space:
            copy = Path(space) / version
            shutil.copytree(source, copy)
            card = cards.read(copy).registered(version)
            cards.rewrite(copy, card)
            if not self.kept(task, version, card.run_id):
                _replace(copy, target)
        return Champion(task, version, target)

    def kept(self, task: str, version: str, run_id: str | None = None) -> bool:
        """Whether a whole copy of the version is here (made by this run, if one is given)."""
        try:
            found = cards.read(self.folder(task, version)).run_id
        except UserError:
            return False
        return run_id is None or found == run_id

    def current(self, task: str) -> Champion | None:
        """The version that decides; None before the first."""
        return self._named(task, "current")

    def previous(self, task: str) -> Champion | None:
        """The version that decided before it."""
        return self._named(task, "previous")

    def pair(self, task: str) -> tuple[str | None, str | None]:
        """Versions that decide now and decided before, as the disk says it."""
        pointer = self._pointer(task)
        return pointer.get("current"), pointer.get("previous")

    def set_current(self, task: str, version: str, previous: str | None = None) -> None:
        """Let a kept version decide; setting it again changes nothing, another one ends a canary.

        `previous` is the version before it; if it is not said, the one that decided until now.

        Raises:
            UserError: the version is not kept, or not whole.
        """
        cards.read(self.folder(task, version))
        pointer = self._pointer(task)
        before = pointer.get("previous" if pointer.get("current") == version else "current")
        known = previous if previous not in (None, version) else before
        wanted = {"current": version, "previous": known}
        if pointer.get("current") == version and _CANARY in pointer:
            wanted |= {_CANARY: pointer[_CANARY]}
        if wanted != pointer:
            _write(self._pointer_file(task), json.dumps(wanted))

    def canary(self, task: str) -> Canary | None:
        """The version that decides for some customers; None if the champion does for all."""
        found = self._pointer(task).get(_CANARY)
        return Canary(**found) if found else None

    def set_canary(self, task: str, canary: Canary | None) -> None:
        """Let a kept version decide for some customers, or none any more; setting it again changes nothing.

        Raises:
            UserError: the version is not kept, or not whole; or there is no champion beside it.
        """
        pointer = self._pointer(task)
        wanted = {name: each for name, each in pointer.items() if name != _CANARY}
        if canary is not None:
            cards.read(self.folder(task, canary.version))
            if not pointer:
                raise UserError(
                    f"expected a champion of {task} beside a canary, got none; promote a version."
                )
            wanted |= {_CANARY: asdict(canary)}
        if wanted != pointer:
            _write(self._pointer_file(task), json.dumps(wanted))

    def canary_evidence(self, task: str, canary: Canary) -> dict[str, Any]:
        """What it has shown so far, as it was told last; nothing before."""
        path = self._canary_file(task)
        found: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
        return found.get("evidence", {}) if found.get(_CANARY) == asdict(canary) else {}

    def tell_canary(self, task: str, canary: Canary, evidence: Mapping[str, Any]) -> None:
        """Keep what it has shown so far."""
        _write(self._canary_file(task), json.dumps({_CANARY: asdict(canary), "evidence": evidence}))

    def record(self, promotion: Promotion) -> None:
        """Append to the task's history, on disk before it returns; what it ends with already is not repeated.

        To be called inside `alone`: a last line that was cut off by a crash is cut away.
        """
        if self.history(promotion.task)[-1:] == [promotion]:
            return
        path = self._history_file(promotion.task)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as out:
            out.seek(0)
            out.truncate(out.read().rfind(b"\n") + 1)
            out.write(json.dumps(asdict(promotion)).encode() + b"\n")
            out.flush()
            os.fsync(out.fileno())

    def begin(self, promotion: Promotion) -> None:
        """Say what is about to happen, on disk before it returns; inside `alone`."""
        path = self._begun_file(promotion.task)
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, json.dumps(asdict(promotion)))

    def begun(self, task: str) -> Promotion | None:
        """The promotion that is under way, or was when its process died."""
        path = self._begun_file(task)
        return Promotion(**json.loads(path.read_text("utf-8"))) if path.exists() else None

    def ended(self, task: str) -> None:
        """Nothing is under way any more."""
        self._begun_file(task).unlink(missing_ok=True)

    @contextmanager
    def alone(self, task: str) -> Iterator[None]:
        """One promotion of a task at a time on this home; the lock goes with the process that held it."""
        path = self._models / task / "promotion.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def history(self, task: str) -> list[Promotion]:
        """Every promotion and rollback, oldest first; a last line that was cut off by a crash is left out."""
        path = self._history_file(task)
        lines = path.read_text("utf-8").split("\n")[:-1] if path.exists() else []
        return [Promotion(**json.loads(line)) for line in lines]

    def _named(self, task: str, name: str) -> Champion | None:
        version = self._pointer(task).get(name)
        return Champion(task, version, self.folder(task, version)) if version else None

    def _pointer(self, task: str) -> dict[str, Any]:
        path = self._pointer_file(task)
        pointer: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
        return pointer

    def _pointer_file(self, task: str) -> Path:
        return self._models / task / "current.json"

    def _begun_file(self, task: str) -> Path:
        return self._models / task / "promoting.json"

    def _canary_file(self, task: str) -> Path:
        return self._models / task / "canary.json"

    def _history_file(self, task: str) -> Path:
        return self._models / task / "promotions.jsonl"


def _write(path: Path, text: str) -> None:
    """Replace a file at once: a reader sees the old text or the new."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    with partial.open("w", encoding="utf-8") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    partial.replace(path)


def _replace(copy: Path, target: Path) -> None:
    """Put a folder in its place; a damaged one that stands there goes first."""
    if target.exists():
        shutil.rmtree(target)
    copy.rename(target)
