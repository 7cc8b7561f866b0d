"""Who decides from now on: aliases in the registry, the champion on disk, and a line of history.

A canary decides for some customers first: it has its alias, its line and its place beside the champion on
disk, and ends when it is promoted or returned, or when anybody promotes or rolls back.

A promotion is written down before its first step, and every step may be done twice: whoever comes after a
process that died in the middle, `complete`s it.
"""

import json
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from infra.errors import UserError
from training import card as cards
from training.canary import Canary
from training.champions import Champion, Champions, Promotion
from training.tracking import (
    CANARY,
    CHALLENGER,
    CHAMPION,
    DIRECT,
    HEADLINE,
    IN_SHADOW,
    PREVIOUS,
    PROMOTED,
    REFUSED,
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
        return _begun(registry, champions, _known(registry, task, version), order)


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
        return _begun(registry, champions, version, _Order("rollback", who, why, clock()))


def start_canary(
    registry: Registry,
    champions: Champions,
    task: str,
    canary: Canary,
    who: str,
    why: str,
    clock: Clock = wall_clock,
    evidence: Mapping[str, Any] | None = None,
) -> Promotion:
    """Let a registered version decide for some customers beside the champion.

    Raises:
        UserError: there is no such version, no champion, another canary already, or MLflow is down.
    """
    with champions.alone(task):
        _complete(registry, champions, task)
        other = champions.canary(task)
        if other is not None:
            raise UserError(
                f"expected no canary of {task}, version {other.version} is one; wait for its end."
            )
        if champions.current(task) is None:
            raise UserError(
                f"expected a champion of {task} beside a canary, there is none; promote a version."
            )
        terms = {"share": canary.share, "since_us": canary.since_us}
        order = _Order("canary", who, why, clock(), {**(evidence or {}), **terms})
        return _begun(registry, champions, _known(registry, task, canary.version), order)


def return_canary(
    registry: Registry,
    champions: Champions,
    task: str,
    who: str,
    why: str,
    clock: Clock = wall_clock,
    evidence: Mapping[str, Any] | None = None,
) -> Promotion | None:
    """Let the champion decide for everybody again, and refuse the canary; None if there was none.

    On disk it has ended before MLflow is asked: an outage keeps no bad canary.

    Raises:
        UserError: MLflow is down; the next `resume` goes on there.
    """
    with champions.alone(task):
        _complete(registry, champions, task)
        canary = champions.canary(task)
        if canary is None:
            return None
        card = cards.read(champions.folder(task, canary.version))
        order = _Order("return", who, why, clock(), evidence or {})
        version, champion = Version(task, canary.version, card.run_id), champions.pair(task)[0]
        promotion = _promotion(version, champion, order)
        champions.begin(promotion)
        _carry_out(registry, champions, version, promotion)
        return promotion


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
        return _begun(registry, champions, version, order)


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
    """Bring the registry's champion to the disk and let it decide, the one before and a canary beside it.

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
    _follow_canary(registry, champions, version)
    return champions.current(task)


def _follow_canary(registry: Registry, champions: Champions, champion: Version) -> None:
    """The same of the canary; what is under way on this home is left to who completes it."""
    task = champion.task
    seen = champions.canary(task)
    version = registry.aliased(task, CANARY)
    wanted = _terms(version) if version and version.version != champion.version else None
    if wanted == seen:
        return
    if version is not None:
        fetch(registry, champions, version)
    with champions.alone(task):
        if champions.begun(task) is None and champions.canary(task) == seen:
            champions.set_canary(task, wanted)


def _terms(version: Version) -> Canary | None:
    """For whom the version decides; None where nobody has said it, whatever the alias."""
    told = version.tags.get(CANARY)
    return Canary(**json.loads(told)) if told else None


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


def _begun(registry: Registry, champions: Champions, version: Version, order: _Order) -> Promotion:
    """Written down, then carried out."""
    before = registry.champion(version.task)
    fetch(registry, champions, version)
    promotion = _promotion(version, before.version if before else None, order)
    champions.begin(promotion)
    _carry_out(registry, champions, version, promotion)
    return promotion


def _carry_out(registry: Registry, champions: Champions, version: Version, promotion: Promotion) -> None:
    """Every step may have been done before."""
    steps = {"canary": _try_out, "return": _take_back}.get(promotion.action, _enthrone)
    steps(registry, champions, version, promotion)
    champions.ended(version.task)


def _enthrone(registry: Registry, champions: Champions, version: Version, promotion: Promotion) -> None:
    """The canary goes first: who follows the registry never sees it beside another champion than its own."""
    task = version.task
    fetch(registry, champions, version)
    _end_canary(registry, version, promotion)
    if promotion.previous not in (None, version.version):
        registry.set_alias(task, PREVIOUS, str(promotion.previous))
    registry.set_alias(task, CHAMPION, version.version)
    champions.set_current(task, version.version, promotion.previous)
    champions.set_canary(task, None)
    champions.record(promotion)
    _remember(registry, version, promotion, PROMOTED)


def _end_canary(registry: Registry, version: Version, promotion: Promotion) -> None:
    """Refuse a canary that is not the one promoted."""
    canary = registry.aliased(version.task, CANARY)
    if canary is None:
        return
    if canary.version != version.version:
        why = f"the {promotion.action} of version {version.version} by {promotion.who} ended its canary"
        leave_shadow(registry, canary, f"{REFUSED}: {why}")
    registry.drop_alias(version.task, CANARY)


def _try_out(registry: Registry, champions: Champions, version: Version, promotion: Promotion) -> None:
    task, terms = version.task, promotion.evidence
    canary = Canary(version.version, terms["share"], terms["since_us"])
    fetch(registry, champions, version)
    registry.tag(task, version.version, CANARY, json.dumps(asdict(canary)))
    registry.set_alias(task, CANARY, version.version)
    champions.set_canary(task, canary)
    champions.record(promotion)
    _remember(registry, version, promotion, CANARY)


def _take_back(registry: Registry, champions: Champions, version: Version, promotion: Promotion) -> None:
    champions.set_canary(version.task, None)
    champions.record(promotion)
    registry.drop_alias(version.task, CANARY)
    _remember(registry, version, promotion, f"{REFUSED}: {promotion.why}")


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


def _promotion(version: Version, champion: str | None, order: _Order) -> Promotion:
    return Promotion(
        at=order.at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        task=version.task,
        action=order.action,
        version=version.version,
        previous=champion,
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


def _remember(registry: Registry, version: Version, promotion: Promotion, state: str) -> None:
    """The history beside the version in the registry, and no challenger of what left the shadow."""
    text = f"{promotion.action} {promotion.at} by {promotion.who}: {promotion.why}"
    registry.tag(version.task, version.version, f"history.{promotion.at}", text)
    leave_shadow(registry, version, state)


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
