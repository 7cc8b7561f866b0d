"""Who decides from now on: aliases in the registry, the champion on disk, and a line of history."""

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from infra.errors import UserError
from training.champions import Champion, Champions, Promotion
from training.tracking import CHALLENGER, CHAMPION, HEADLINE, PREVIOUS, Registry, Version

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
) -> Promotion:
    """Make a registered version the champion; promoting the champion again only adds to the history.

    The model is whole on disk before the alias moves, so that whoever follows the alias finds it.

    Raises:
        UserError: there is no such version, or MLflow is down.
    """
    return _enthrone(
        registry, champions, _known(registry, task, version), _Order("promote", who, why, clock())
    )


def rollback(
    registry: Registry, champions: Champions, task: str, who: str, why: str, clock: Clock = wall_clock
) -> Promotion:
    """Bring the previous champion back; rolling back twice is where it began.

    Raises:
        UserError: there was none before, or MLflow is down.
    """
    version = registry.aliased(task, PREVIOUS)
    if version is None:
        raise UserError(
            f"expected a champion of {task} before the current one, there was none; promote a version."
        )
    return _enthrone(registry, champions, version, _Order("rollback", who, why, clock()))


def follow(registry: Registry, champions: Champions, task: str) -> Champion | None:
    """Bring the registry's champion to the disk and let it decide; None if there is none yet.

    Raises:
        UserError: MLflow is down, or what it gave is not whole; the champion on disk is as it was.
    """
    version = registry.champion(task)
    if version is None:
        return None
    _fetch(registry, champions, version)
    champions.set_current(task, version.version)
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


def _enthrone(registry: Registry, champions: Champions, version: Version, order: _Order) -> Promotion:
    task, before = version.task, registry.champion(version.task)
    _fetch(registry, champions, version)
    promotion = _promotion(version, before, order)
    if before is not None and before.version != version.version:
        registry.set_alias(task, PREVIOUS, before.version)
    registry.set_alias(task, CHAMPION, version.version)
    champions.set_current(task, version.version)
    champions.record(promotion)
    _remember(registry, version, promotion)
    return promotion


def _fetch(registry: Registry, champions: Champions, version: Version) -> None:
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
    )


def headline(version: Version) -> Mapping[str, float]:
    """The few figures that a version was registered with."""
    figures: dict[str, float] = json.loads(version.tags.get(HEADLINE, "{}"))
    return figures


def _remember(registry: Registry, version: Version, promotion: Promotion) -> None:
    """The history beside the version in the registry, and no challenger that is the champion."""
    text = f"{promotion.action} {promotion.at} by {promotion.who}: {promotion.why}"
    registry.tag(version.task, version.version, f"history.{promotion.at}", text)
    challenger = registry.aliased(version.task, CHALLENGER)
    if challenger is not None and challenger.version == version.version:
        registry.drop_alias(version.task, CHALLENGER)
