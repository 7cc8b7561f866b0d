"""Who decides from now on: aliases in the registry, the champion on disk, and a line of history.

A promotion is written down before its first step, and every step may be done twice: whoever comes after a
process that died in the middle, `complete`s it.
"""

import json
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from infra.errors import UserError
from training.champions import Champion, Champions, Promotion
from training.tracking import (
    CHALLENGER,
    CHAMPION,
    DIRECT,
    HEADLINE,
    IN_SHADOW,
    PREVIOUS,
    PROMOTED,
    SHADOW,
    Registry,
    Version,
)

Clock = Callable[[], datetime]


def wall_clock() -> datetime:
    """Now, in UTC."""
    return datetime.now(UTC)


def promote(
    registry: Registry,
    champions: Champions,
    task: str,
    version: str,
    who: str,
    why: str,
    clock: Clock = wall_clock,
    evidence: Mapping[str, Any] | None = None,
) -> Promotion:
    """Make a registered version the champion; promoting the champion again only adds to the history.

    The model is whole on disk before the alias moves, so that whoever follows the alias finds it. `evidence`
    is what the shadow showed.

    Raises:
        UserError: there is no such version, or MLflow is down.
    """
    with champions.alone(task):
        _complete(registry, champions, task)
        order = _Order("promote", who, why, clock(), evidence or {})
        return _enthrone(registry, champions, _known(registry, task, version), order)


def rollback(
    registry: Registry, champions: Champions, task: str, who: str, why: str, clock: Clock = wall_clock
) -> Promotion:
    """Bring the previous champion back; rolling back twice is where it began.

    Raises:
        UserError: there was none before, or MLflow is down.
    """
    with champions.alone(task):
        _complete(registry, champions, task)
        version = registry.aliased(task, PREVIOUS)
        if version is None:
            raise UserError(
                f"expected a champion of {task} before the current one, there was none; promote a version."
            )
        return _enthrone(registry, champions, version, _Order("rollback", who, why, clock()))


def resume(registry: Registry, champions: Champions, task: str) -> Promotion | None:
    """Finish a promotion that was under way when its process died; gives it, or None if there was none.

    Raises:
        UserError: MLflow is down; the next call goes on.
    """
    if champions.begun(task) is None:
        return None
    with champions.alone(task):
        return _complete(registry, champions, task)


def complete(registry: Registry, champions: Champions, task: str) -> Promotion | None:
    """The same, and promote what a training that died had decided on but not begun.

    To be called where no training of the task runs, or by the training itself before it registers anything.

    Raises:
        UserError: MLflow is down; the next call goes on.
    """
    registry.champion(task)  # fails before anything is written, if MLflow is down
    with champions.alone(task):
        begun = _complete(registry, champions, task)
        version = _decided(registry, champions, task)
        if version is None:
            return begun
        order = _Order(
            "promote", version.tags.get("asked_by", ""), version.tags.get("reason", ""), wall_clock()
        )
        return _enthrone(registry, champions, version, order)


def _complete(registry: Registry, champions: Champions, task: str) -> Promotion | None:
    begun = champions.begun(task)
    if begun is None:
        return None
    version = registry.version(task, begun.version)
    if version is None:
        champions.ended(task)
        return None
    _carry_out(registry, champions, version, begun)
    return begun


def _decided(registry: Registry, champions: Champions, task: str) -> Version | None:
    """A version that was to take over on its trial alone and, newer than every champion so far, did not."""
    newest = next(iter(registry.versions(task)), None)
    if newest is None or newest.tags.get(SHADOW) != DIRECT:
        return None
    ever = [int(each.version) for each in champions.history(task)]
    champion = registry.champion(task)
    latest = max([*ever, int(champion.version) if champion else 0])
    return newest if int(newest.version) > latest else None


def follow(registry: Registry, champions: Champions, task: str) -> Champion | None:
    """Bring the registry's champion to the disk and let it decide, with the one before beside it.

    None if there is no champion yet.

    Raises:
        UserError: MLflow is down, or what it gave is not whole; the champion on disk is as it was.
    """
    seen = champions.pair(task)
    version = registry.champion(task)
    if version is None:
        return None
    fetch(registry, champions, version)
    before = registry.aliased(task, PREVIOUS)
    if seen != (version.version, before.version if before else None):
        with champions.alone(task):  # what was promoted since we asked is newer than the answer
            if champions.pair(task) == seen:
                champions.set_current(task, version.version, before.version if before else None)
    if before is not None:
        with suppress(UserError):  # the champion decides all the same
            fetch(registry, champions, before)
    return champions.current(task)


def _known(registry: Registry, task: str, version: str) -> Version:
    found = registry.version(task, version)
    if found is None:
        known = ", ".join(each.version for each in registry.versions(task)) or "none"
        raise UserError(f"there is no version {version} of {task}; registered are: {known}.")
    return found


@dataclass(frozen=True)
class _Order:
    action: str
    who: str
    why: str
    at: datetime
    evidence: Mapping[str, Any] = field(default_factory=dict)


def _enthrone(registry: Registry, champions: Champions, version: Version, order: _Order) -> Promotion:
    before = registry.champion(version.task)
    fetch(registry, champions, version)
    promotion = _promotion(version, before, order)
    champions.begin(promotion)
    _carry_out(registry, champions, version, promotion)
    return promotion


def _carry_out(registry: Registry, champions: Champions, version: Version, promotion: Promotion) -> None:
    """Every step may have been done before."""
    task = version.task
    fetch(registry, champions, version)
    if promotion.previous not in (None, version.version):
        registry.set_alias(task, PREVIOUS, str(promotion.previous))
    registry.set_alias(task, CHAMPION, version.version)
    champions.set_current(task, version.version, promotion.previous)
    champions.record(promotion)
    _remember(registry, version, promotion)
    champions.ended(task)


def fetch(registry: Registry, champions: Champions, version: Version) -> None:
    """Keep a version on disk, whole.

    Raises:
        UserError: MLflow is down, or what it gave is not whole.
    """
    if champions.kept(version.task, version.version, version.run_id):
        return
    with tempfile.TemporaryDirectory() as space:
        registry.download(version, Path(space))
        champions.keep(version.task, version.version, Path(space))


def _promotion(version: Version, before: Version | None, order: _Order) -> Promotion:
    return Promotion(
        at=order.at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        task=version.task,
        action=order.action,
        version=version.version,
        previous=before.version if before else None,
        who=order.who,
        why=order.why,
        run_id=version.run_id,
        metrics=headline(version),
        evidence=order.evidence,
    )


def headline(version: Version) -> Mapping[str, float]:
    """The few figures that a version was registered with."""
    figures: dict[str, float] = json.loads(version.tags.get(HEADLINE, "{}"))
    return figures


def _remember(registry: Registry, version: Version, promotion: Promotion) -> None:
    """The history beside the version in the registry, and no challenger that is the champion."""
    text = f"{promotion.action} {promotion.at} by {promotion.who}: {promotion.why}"
    registry.tag(version.task, version.version, f"history.{promotion.at}", text)
    leave_shadow(registry, version, PROMOTED)


def leave_shadow(registry: Registry, version: Version, state: str) -> None:
    """Say in the registry what became of a challenger; the alias goes to the newest still in shadow."""
    registry.tag(version.task, version.version, SHADOW, state)
    named = registry.aliased(version.task, CHALLENGER)
    if named is None or named.version != version.version:
        return
    others = [each for each in in_shadow(registry, version.task) if each.version != version.version]
    if others:
        registry.set_alias(version.task, CHALLENGER, others[0].version)
    else:
        registry.drop_alias(version.task, CHALLENGER)


def in_shadow(registry: Registry, task: str) -> list[Version]:
    """Versions that score live traffic beside the champion, newest first."""
    return registry.versions(task, IN_SHADOW)
