"""HTTP calls about models: which decides, what it was before, and how to change it."""

import asyncio
import json
from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from fastapi.responses import Response
from pydantic import BaseModel, Field

from serving.guard import GuardedRoute
from serving.routes_fraud import answer
from serving.services import Services, UsesServices
from training.promotion import promote, rollback
from training.tracking import EVIDENCE, IN_SHADOW, REFUSED, SHADOW, RegistryError, Version

router = APIRouter(prefix="/v1/models", tags=["models"], route_class=GuardedRoute)

Task = Literal["fraud", "pricing"]


class Promote(BaseModel):
    """Which version is to decide from now on, by whom and why."""

    version: Annotated[str, Field(pattern="^[0-9]{1,9}$")]
    who: Annotated[str, Field(max_length=128)] = "api"
    why: Annotated[str, Field(max_length=1_000)] = "asked for"


class Rollback(BaseModel):
    """Who brings the previous champion back, and why."""

    who: Annotated[str, Field(max_length=128)] = "api"
    why: Annotated[str, Field(max_length=1_000)] = "asked for"


@router.get("")
async def get_models(services: UsesServices) -> Response:
    """Champion, canary, challengers with what they have shown so far, refusals and history of each task."""
    tasks = ("fraud", "pricing")
    described = await asyncio.gather(*(asyncio.to_thread(describe, services, task) for task in tasks))
    return answer(dict(zip(tasks, described, strict=True)))


@router.post("/{task}/promote")
async def post_promote(task: Task, wanted: Promote, services: UsesServices) -> Response:
    """Make a registered version the champion; every API process takes it within seconds."""
    promoted = await asyncio.to_thread(
        promote, services.registry, services.champions, task, wanted.version, wanted.who, wanted.why
    )
    await asyncio.to_thread(services.models.refresh)
    return answer(asdict(promoted))


@router.post("/{task}/rollback")
async def post_rollback(task: Task, services: UsesServices, wanted: Rollback | None = None) -> Response:
    """Bring the previous champion back."""
    by = wanted or Rollback()
    rolled = await asyncio.to_thread(rollback, services.registry, services.champions, task, by.who, by.why)
    await asyncio.to_thread(services.models.refresh)
    return answer(asdict(rolled))


def describe(services: Services, task: str) -> dict[str, Any]:
    """What a task's models are and were; what only the registry knows is empty while it does not answer."""
    model, before = services.models.current(task), services.models.previous(task)
    try:
        versions = services.registry.versions(task)
        known = True
    except RegistryError:
        versions, known = [], False
    return {
        "deciding": model.card.version if model else "baseline",
        "registry": "answers" if known else "does not answer",
        "in_memory": {"previous": before.card.version if before else None},
        **{alias: _aliased(versions, alias) for alias in ("champion", "challenger", "previous")},
        "canary": _canary(services, task),
        "challengers": [_shadow(each) for each in versions if each.tags.get(SHADOW) == IN_SHADOW],
        "refused": [_shadow(each) for each in versions if each.tags.get(SHADOW, "").startswith(REFUSED)],
        "history": [asdict(each) for each in services.champions.history(task)],
    }


def _aliased(versions: list[Version], alias: str) -> dict[str, Any] | None:
    found = next((version for version in versions if alias in version.aliases), None)
    return asdict(found) if found else None


def _canary(services: Services, task: str) -> dict[str, Any] | None:
    """Who decides for some customers, as the disk says it, and what it has shown; None if nobody."""
    found = services.champions.canary(task)
    if found is None:
        return None
    return found.described | {"evidence": services.champions.canary_evidence(task, found)}


def _shadow(version: Version) -> dict[str, Any]:
    """A challenger and what it has shown; `shadow` is `on`, or why it was refused."""
    return {
        "version": version.version,
        "run_id": version.run_id,
        "shadow": version.tags[SHADOW],
        "asked_by": version.tags.get("asked_by", ""),
        "reason": version.tags.get("reason", ""),
        "evidence": json.loads(version.tags.get(EVIDENCE, "{}")),
    }
