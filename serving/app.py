"""The HTTP application: `create_app` builds everything it works with, and nothing before it is called."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from features.connection import AsyncConnection, StoreError
from infra.settings import Settings, policy_version
from ingestion.broker import Producer
from serving import problems, routes_fraud, routes_health, routes_models, routes_pricing, routes_reviews
from serving.catalogue import Catalogue
from serving.champions_watch import FEATURE_SETS, ChampionsWatch
from serving.fraud import FraudDecider
from serving.measures import ApiMeasures, ModelMeasures, PolicyMeasures
from serving.policy_watch import PolicyWatch
from serving.pricing import Policy
from serving.publisher import Publisher
from serving.reviews import Reviews
from serving.scoring import Scoring
from serving.services import Services
from training.champions import Champions
from training.tracking import Registry

DAY_S = 86_400
SEED_AGAIN_S = 1.0
SWEEP_EVERY_S = 3_600.0
"""How often the queue of reviews is looked through for what nobody will review any more."""
LINGER_MS = 3
"""Requests at the same time share a batch to Kafka; a lone one waits this long more."""
MAX_BODY_BYTES = 8 * 1024 * 1024


def create_app(settings: Settings, settled: Callable[[], None] = lambda: None) -> FastAPI:
    """The application over the settings' addresses; it connects when it starts, and calls `settled` then.

    Raises:
        UserError: a rule of the fraud policy is wrong.
    """
    metrics = CollectorRegistry()
    measures = ApiMeasures(metrics)
    policies = PolicyWatch(settings.fraud, PolicyMeasures(metrics))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        services = build(settings, measures, ModelMeasures(metrics), policies)
        services.models.start()
        policies.start()
        aside = [asyncio.create_task(_seed(services)), asyncio.create_task(_sweep(services))]
        app.state.services = services
        settled()
        yield
        for task in aside:
            task.cancel()
        services.models.stop()
        policies.stop()
        services.publisher.close()
        services.store.close()

    app = FastAPI(title="Tollgate", version="1", lifespan=lifespan, docs_url="/docs", redoc_url=None)
    app.state.metrics = metrics
    for routes in (routes_fraud, routes_reviews, routes_pricing, routes_models, routes_health):
        app.include_router(routes.router)
    problems.install(app)
    app.add_middleware(Measured, measures=measures)
    return app


def build(
    settings: Settings, measures: ApiMeasures, models: ModelMeasures, policies: PolicyWatch
) -> Services:
    """Connect the services to their neighbours."""
    champions, registry = Champions(settings.home), Registry(settings.addresses.mlflow)
    watch = ChampionsWatch(champions, registry, FEATURE_SETS, models.swapped)
    store = AsyncConnection(settings.addresses.redis)
    publisher = Publisher(Producer(settings.addresses.kafka, LINGER_MS, max_block_ms=500))
    decider = FraudDecider(watch, policies.current)
    return Services(
        settings=settings,
        store=store,
        publisher=publisher,
        models=watch,
        champions=champions,
        registry=registry,
        scoring=Scoring(store, publisher, decider, measures),
        reviews=Reviews(store, publisher, int(settings.decisions.ttl_days * DAY_S)),
        pricing=Policy(settings.pricing, policy_version(settings.pricing), settings.fraud),
        catalogue=Catalogue(store),
        measures=measures,
    )


async def _seed(services: Services) -> None:
    """Put the settings' products into the catalogue as soon as the store answers."""
    while True:
        try:
            await services.catalogue.seed(services.settings.catalogue)
            return
        except StoreError:
            await asyncio.sleep(SEED_AGAIN_S)


async def _sweep(services: Services) -> None:
    while True:
        await asyncio.sleep(SWEEP_EVERY_S)
        with suppress(StoreError):
            await services.reviews.sweep()


class Measured:
    """Counts and times every call by the path of its route; refuses a body that is too large."""

    def __init__(self, app: ASGIApp, measures: ApiMeasures) -> None:
        self._app = app
        self._measures = measures

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the call on and look at its answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._passed(scope, receive, watched)
        finally:
            route = getattr(scope.get("route"), "path_format", "unknown")
            self._measures.answered(route, status, time.perf_counter() - start)

    async def _passed(self, scope: Scope, receive: Receive, send: Send) -> None:
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length) > MAX_BODY_BYTES:
            detail = f"expected a body of at most {MAX_BODY_BYTES} bytes, came {length.decode()}"
            await problems.problem_response(413, detail)(scope, receive, send)
            return
        await self._app(scope, receive, send)
