"""Alive, ready, and what is measured."""

from http import HTTPStatus

from fastapi import APIRouter, Request
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from features.connection import StoreError
from serving.guard import GuardedRoute
from serving.routes_fraud import answer
from serving.services import UsesServices

router = APIRouter(tags=["health"], route_class=GuardedRoute)


@router.get("/healthz")
async def healthz() -> Response:
    """The process answers."""
    return answer({"status": "alive"})


@router.get("/readyz")
async def readyz(services: UsesServices) -> Response:
    """Model, feature store and broker are usable; 503 names what is not. Baselines count as models."""
    parts = {
        "feature_store": await _store(services),
        "broker": await services.publisher.answers(),
    }
    models = {task: version(services, task) for task in ("fraud", "pricing")}
    ready = all(parts.values())
    status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
    return answer({"ready": ready, **parts, "models": models}, status)


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Prometheus."""
    registry: CollectorRegistry = request.app.state.metrics
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


async def _store(services: UsesServices) -> bool:
    try:
        await services.store.execute([("PING",)])
    except StoreError:
        return False
    return True


def version(services: UsesServices, task: str) -> str:
    """What answers for a task now."""
    model = services.models.current(task)
    return model.card.version if model else "baseline"
