"""The HTTP application: `create_app` builds everything it works with, and nothing before it is called."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from features.connection import AsyncConnection, StoreError
from infra.settings import Settings, policy_version
from ingestion.broker import BrokerError, Producer
from ingestion.pseudonyms import Pseudonyms
from ingestion.topics import ensure_topics
from serving import (
    described,
    problems,
    routes_fraud,
    routes_health,
    routes_models,
    routes_pricing,
    routes_reviews,
)
from serving.admission import Admission
from serving.catalogue import Catalogue
from serving.champions_watch import FEATURE_SETS, ChampionsWatch
from serving.fraud import FraudDecider
from serving.guard import Guard
from serving.measures import STORE, ApiMeasures, ModelMeasures, PolicyMeasures
from serving.outbox import Outbox
from serving.policy_watch import PolicyWatch
from serving.pricing import Policy
from serving.publisher import TOPICS, Publisher, Waits
from serving.reviews import Reviews
from serving.scoring import Scoring
from serving.services import Services
from serving.shared_metrics import together
from training.champions import Champions
from training.tracking import Registry

DAY_S = 86_400
SEED_EVERY_S = 2.0
SWEEP_EVERY_S = 3_600.0
"""How often the queue of reviews is looked through for what nobody will review any more."""
LINGER_MS = 3
"""Requests at the same time share a batch to Kafka; a lone one waits this long more."""
MAX_BLOCK_MS, DELIVERY_S = 5_000, 10.0
"""Of the producer: to learn of its topics; of a record, which is in the outbox long before that."""
REMEMBER_EVERY_S = 30.0
"""How often the whole catalogue is looked at."""


def create_app(
    settings: Settings, settled: Callable[[], None] = lambda: None, figures: Path | None = None
) -> FastAPI:
    """The application over the settings' addresses; it connects when it starts, and calls `settled` then.

    Args:
        settings: of this process.
        settled: called as soon as everything is loaded.
        figures: folder where several processes keep their metrics; None: this one is alone.

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
        await services.publisher.start()
        aside = [asyncio.create_task(each(services)) for each in (_seed, _sweep, _remember)]
        app.state.services = services
        settled()
        yield
        for task in aside:
            task.cancel()
        services.models.stop()
        policies.stop()
        await services.publisher.close()
        services.store.close()

    app = Application(
        title="Tollgate",
        version="1",
        lifespan=lifespan,
        docs_url="/docs",
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
    )
    app.state.metrics = metrics if figures is None else together(figures)
    for routes in (routes_fraud, routes_reviews, routes_pricing, routes_models, routes_health):
        app.include_router(routes.router)
    problems.install(app)
    app.add_middleware(Guard, api=settings.api)
    app.add_middleware(Admission, api=settings.api, counts=measures)
    app.add_middleware(Measured, measures=measures)
    return app


def build(
    settings: Settings, measures: ApiMeasures, models: ModelMeasures, policies: PolicyWatch
) -> Services:
    """Connect the services to their neighbours."""
    champions, registry = Champions(settings.home), Registry(settings.addresses.mlflow)
    watch = ChampionsWatch(champions, registry, FEATURE_SETS, models.swapped)
    waits = settings.neighbours
    store = AsyncConnection(
        settings.addresses.redis, waits.store_ms / 1e3, lambda away: measures.away(STORE, away)
    )
    publisher = Publisher(
        partial(producer, settings),
        Outbox(settings.outbox, int(waits.outbox_mb * 2**20)),
        Waits(waits.acknowledge_ms / 1e3, waits.accept_s),
        measures,
    )
    decider = FraudDecider(watch, policies.current)
    catalogue = Catalogue(store)
    catalogue.expect(settings.catalogue)
    return Services(
        settings=settings,
        pseudonyms=Pseudonyms.by(settings.privacy),
        store=store,
        publisher=publisher,
        models=watch,
        champions=champions,
        registry=registry,
        scoring=Scoring(store, publisher, decider, measures),
        reviews=Reviews(store, publisher, int(settings.decisions.ttl_days * DAY_S)),
        pricing=Policy(settings.pricing, policy_version(settings.pricing), settings.fraud),
        catalogue=catalogue,
        measures=measures,
    )


def producer(settings: Settings) -> Producer:
    """A producer that knows the topics, which are there then. Raises BrokerError while there is no broker."""
    ensure_topics(settings)
    made = Producer(settings.addresses.kafka, LINGER_MS, max_block_ms=MAX_BLOCK_MS, delivery_s=DELIVERY_S)
    try:
        made.learn(TOPICS)
    except BrokerError:
        made.close(0)
        raise
    return made


async def _seed(services: Services) -> None:
    """Put the settings' products into the catalogue as soon as the store answers; again if it was emptied."""
    while True:
        with suppress(StoreError):
            await services.catalogue.seed(services.settings.catalogue)
        await asyncio.sleep(SEED_EVERY_S)


async def _sweep(services: Services) -> None:
    while True:
        await asyncio.sleep(SWEEP_EVERY_S)
        with suppress(StoreError):
            await services.reviews.sweep()


async def _remember(services: Services) -> None:
    """Know the catalogue by heart, for when the store is away."""
    while True:
        with suppress(StoreError):
            await services.catalogue.remember()
        await asyncio.sleep(REMEMBER_EVERY_S)


class Application(FastAPI):
    """Described with what its routes answer, which they tell nobody but their callers."""

    def openapi(self) -> dict[str, Any]:
        """The description, made once."""
        if self.openapi_schema is None:
            described.completed(super().openapi())
        return self.openapi_schema or {}


class Measured:
    """Counts and times every call by the path of its route."""

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
            await self._app(scope, receive, watched)
        finally:
            route = getattr(scope.get("route"), "path_format", "unknown")
            self._measures.answered(route, status, time.perf_counter() - start)
