"""Our serving processes: the stream worker and the HTTP API. Each is `tollgate run NAME`."""

import gc
from functools import partial

from prometheus_client import CollectorRegistry, start_http_server

from features.connection import Connection
from infra import logs, ready
from infra.settings import Settings, load
from infra.signals import stop_signal
from ingestion.broker import Consumer, Producer
from ingestion.topics import ensure_topics
from serving.champions_watch import FEATURE_SETS, ChampionsWatch
from serving.customer_stage import CustomerStage
from serving.decision_log import decided_since
from serving.fraud import FraudDecider
from serving.measures import ModelMeasures, PolicyMeasures, WorkerMeasures
from serving.policy_watch import PolicyWatch
from serving.product_stage import ProductStage
from serving.router import Router
from serving.stage import Stage
from serving.terminal_stage import Decider, TerminalStage
from serving.worker import Members, Watcher, Worker
from training.champions import Champions
from training.tracking import Registry

DAY_S = 86_400
GARBAGE_OBJECTS = 50_000
"""The collector looks when there are so many more objects than at its last look."""
GROUP = "tollgate-workers"
UNTIL_FLUSH_MS = 50
"""Every turn ends with a flush, which waits for nothing; before that, a batch may fill."""


def build_worker(
    settings: Settings, decider: Decider, watcher: Watcher | None = None, group: str = GROUP
) -> Worker:
    """A worker over the settings' addresses."""
    kafka, partitions = settings.addresses.kafka, settings.topics.partitions
    remember_s = int(settings.topics.idempotency_days * DAY_S)
    store = Connection(settings.addresses.redis)
    stages: list[Stage] = []
    members = Members(stages)
    topics = [*Router.topics, *CustomerStage.topics, *TerminalStage.topics, *ProductStage.topics]
    consumer = Consumer(kafka, topics, group, members)
    router = Router(store, partitions, remember_s, consumer.caught_up)
    stages += [  # the router last: it reads no states, so it works while Redis writes the others'
        TerminalStage(
            store, decider, partial(decided_since, kafka), int(settings.decisions.ttl_days * DAY_S)
        ),
        CustomerStage(store, partitions, remember_s),
        ProductStage(store, partitions, remember_s),
        router,
    ]
    return Worker(
        consumer, Producer(kafka, linger_ms=UNTIL_FLUSH_MS), store, stages, router.full, watcher=watcher
    )


def worker(metrics_port: int = 0) -> None:
    """Run a stream worker until told to stop."""
    logs.setup()
    settings, stop = load(), stop_signal()
    metrics = CollectorRegistry()
    policies = PolicyWatch(settings.fraud, PolicyMeasures(metrics))
    ensure_topics(settings)
    policies.start()
    models = _models(settings, ModelMeasures(metrics))
    if metrics_port:
        start_http_server(metrics_port, "127.0.0.1", metrics)
    running = build_worker(settings, FraudDecider(models, policies.current), WorkerMeasures(metrics))
    settle()
    ready.tell()
    try:
        running.run(stop.is_set)
    finally:
        models.stop()
        policies.stop()


def settle() -> None:
    """Take what was loaded at the start out of the collector's sight, and let it look less often.

    It lives as long as the process; looking through it for garbage stops everything for a tenth of a second.
    What comes after has few cycles: a batch of decisions is tens of thousands of objects, and no garbage.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_OBJECTS)


def _models(settings: Settings, measures: ModelMeasures) -> ChampionsWatch:
    registry = Registry(settings.addresses.mlflow)
    models = ChampionsWatch(Champions(settings.home), registry, FEATURE_SETS, measures.swapped)
    models.start()
    return models


def api(host: str = "127.0.0.1", port: int = 0) -> None:
    """Serve HTTP until told to stop."""
    import uvicorn  # the worker does without

    from serving.app import create_app

    logs.setup()
    settings = load()
    app = create_app(settings, settle)  # before anything waits: it refuses a wrong rule
    ensure_topics(settings)
    default = int(settings.addresses.api.rpartition(":")[2])
    uvicorn.run(
        app,
        host=host,
        port=port or default,
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_config=None,
        timeout_graceful_shutdown=10,
    )
