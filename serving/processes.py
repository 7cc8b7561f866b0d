"""The stream worker as a process: `tollgate run worker`."""

import logging
import os
import socket
import threading
from functools import partial
from uuid import uuid4

from prometheus_client import CollectorRegistry, start_http_server

from features.connection import Connection, StoreError
from infra import logs, ready
from infra.settings import Settings, load
from infra.signals import stop_signal
from ingestion.broker import Consumer, Producer
from ingestion.forgotten import Forgotten
from ingestion.pseudonyms import Pseudonyms
from ingestion.topics import ASK_AGAIN_S, await_topics
from serving.champions_watch import FEATURE_SETS, ChampionsWatch
from serving.customer_stage import CustomerStage
from serving.decision_log import decided_since
from serving.fraud import FraudDecider
from serving.measures import ModelMeasures, PolicyMeasures, WorkerMeasures
from serving.ownership import Ownership
from serving.policy_watch import PolicyWatch
from serving.product_stage import ProductStage
from serving.router import Router
from serving.settling import settle
from serving.stage import Stage
from serving.terminal_stage import Decider, TerminalStage
from serving.worker import Members, Watcher, Worker
from training.champions import Champions
from training.tracking import Registry

log = logging.getLogger(__name__)

DAY_S = 86_400
GROUP = "tollgate-workers"
WORKERS_READ = (*Router.topics, *CustomerStage.topics, *TerminalStage.topics, *ProductStage.topics)
"""Topics that workers read and commit."""
GATHER_MS = 20
"""A turn costs about as much for one event as for twenty; so long an event may wait before each stage."""
UNTIL_FLUSH_MS = 50
"""Every turn ends with a flush, which waits for nothing; before that, a batch may fill."""


def build_worker(
    settings: Settings, decider: Decider, watcher: Watcher | None = None, group: str = GROUP
) -> Worker:
    """A worker over the settings' addresses."""
    kafka, partitions = settings.addresses.kafka, settings.topics.partitions
    remember_s = int(settings.topics.idempotency_days * DAY_S)
    name = f"worker-{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}"
    store = Connection(settings.addresses.redis, name)
    pseudonyms, forgotten = Pseudonyms.by(settings.privacy), Forgotten(settings.forgotten)
    stages: list[Stage] = []
    members = Members(stages, Ownership(store, name))
    consumer = Consumer(kafka, WORKERS_READ, group, members, gather_ms=GATHER_MS)
    router = Router(store, partitions, remember_s, consumer.caught_up, pseudonyms, forgotten)
    stages += [  # the router last: it reads no states, so it works while Redis writes the others'
        TerminalStage(
            store, decider, partial(decided_since, kafka), int(settings.decisions.ttl_days * DAY_S), forgotten
        ),
        CustomerStage(store, partitions, remember_s, forgotten),
        ProductStage(store, partitions, remember_s),
        router,
    ]
    producer = Producer(kafka, linger_ms=UNTIL_FLUSH_MS)
    return Worker(consumer, producer, store, stages, router.full, name, watcher)


def worker(metrics_port: int = 0, metrics_host: str = "127.0.0.1") -> None:
    """Run a stream worker until told to stop."""
    logs.setup()
    settings, stop = load(), stop_signal()
    metrics = CollectorRegistry()
    policies = PolicyWatch(settings.fraud, PolicyMeasures(metrics))
    await_topics(settings, stop)
    await_store(settings, stop)
    policies.start()
    models = _models(settings, ModelMeasures(metrics))
    if metrics_port:
        start_http_server(metrics_port, metrics_host, metrics)
    running = build_worker(settings, FraudDecider(models, policies.current), WorkerMeasures(metrics))
    settle()
    ready.tell()
    try:
        running.run(stop.is_set)
    finally:
        models.stop()
        policies.stop()


def await_store(settings: Settings, stop: threading.Event) -> None:
    """Return when Redis answers: a worker would end without it, and take a core to start again and again."""
    store = Connection(settings.addresses.redis)
    while not stop.is_set():
        try:
            store.execute([("PING",)])
        except StoreError as error:
            log.warning("waiting for Redis: %s", error)
            stop.wait(ASK_AGAIN_S)
        else:
            break
    store.close()


def _models(settings: Settings, measures: ModelMeasures) -> ChampionsWatch:
    registry = Registry(settings.addresses.mlflow)
    models = ChampionsWatch(Champions(settings.home), registry, FEATURE_SETS, measures.swapped)
    models.start()
    return models
