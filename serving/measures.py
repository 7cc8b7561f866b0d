"""Prometheus metrics of the API and the worker, built once a process from the names in `infra.metrics`."""

from collections.abc import Mapping, Sequence
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from infra import metrics
from infra.objectives import label
from ingestion.broker import Partition
from serving.champions_watch import Swap
from serving.stage import Work
from serving.worker import Timings, Watcher

M = TypeVar("M", Counter, Histogram)

STORE, BROKER = "store", "broker"
"""Neighbours of the API: why an answer was degraded, and who is away."""


def _counter(metric: metrics.Metric, registry: CollectorRegistry) -> Counter:
    return Counter(*metric.arguments, registry=registry)


def _histogram(metric: metrics.Metric, registry: CollectorRegistry) -> Histogram:
    return Histogram(*metric.arguments, buckets=metric.buckets, registry=registry)


def _one_of_many(metric: metrics.Metric, registry: CollectorRegistry) -> Gauge:
    """1 where any process that lives says 1."""
    return Gauge(*metric.arguments, registry=registry, multiprocess_mode="livemax")


class _Labelled(Generic[M]):
    """A metric's children by their labels: `labels` of the library checks and locks at every call."""

    def __init__(self, metric: M) -> None:
        self._metric: M = metric
        self._children: dict[tuple[str, ...], M] = {}

    def __call__(self, *labels: str) -> M:
        child = self._children.get(labels)
        if child is None:
            child = self._children[labels] = self._metric.labels(*labels)
        return child


class ModelMeasures:
    """Which version decides."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._info = _one_of_many(metrics.MODEL_INFO, registry)
        self._swaps = _counter(metrics.MODEL_SWAPS, registry)
        self._versions: dict[str, str] = {}

    def swapped(self, swap: Swap) -> None:
        """A champion took over; the one before shows 0: in several processes labels can't be removed."""
        before = self._versions.get(swap.task)
        if before is not None:
            self._info.labels(swap.task, before, "champion").set(0)
        self._versions[swap.task] = swap.version
        self._info.labels(swap.task, swap.version, "champion").set(1)
        self._swaps.labels(swap.task).inc()


class PolicyMeasures:
    """Which fraud policy decides, and how often a file was refused."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._info = _one_of_many(metrics.POLICY_INFO, registry)
        self._refusals = _counter(metrics.POLICY_REFUSALS, registry).labels("fraud")
        self._version = ""

    def decides(self, version: str) -> None:
        """A policy took over; the one before shows 0: where Feast is loaded, labels can't be removed."""
        if self._version:
            self._info.labels("fraud", self._version).set(0)
        self._version = version
        self._info.labels("fraud", version).set(1)

    def refused(self) -> None:
        """A changed file was wrong."""
        self._refusals.inc()


class ApiMeasures:
    """Requests, their stages, and what was decided."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = _Labelled(_counter(metrics.API_REQUESTS, registry))
        self._seconds = _Labelled(_histogram(metrics.API_SECONDS, registry))
        self._refused = _Labelled(_counter(metrics.API_REFUSED, registry))
        self._limit = Gauge(*metrics.API_LIMIT.arguments, registry=registry, multiprocess_mode="livesum")
        self._stages = _Labelled(_histogram(metrics.API_STAGE_SECONDS, registry))
        self._decisions = _Labelled(_counter(metrics.DECISIONS, registry))
        self._quotes = _Labelled(_counter(metrics.QUOTES, registry))
        self._degraded = _Labelled(_counter(metrics.DEGRADED, registry))
        self._away = Gauge(*metrics.NEIGHBOUR_AWAY.arguments, registry=registry)
        self._outbox = Gauge(*metrics.OUTBOX.arguments, registry=registry)
        for neighbour in (STORE, BROKER):
            self.away(neighbour, False)

    def away(self, neighbour: str, away: bool) -> None:
        """A neighbour went away, or is back."""
        self._away.labels(neighbour).set(away)

    def outbox(self, records: int) -> None:
        """So many wait in the outbox."""
        self._outbox.set(records)

    def answered(self, call: str, status: int, seconds: float) -> None:
        """A request is done."""
        self._requests(call, str(status)).inc()
        self._seconds(call).observe(seconds)

    def refused(self, kind: str) -> None:
        """A call was sent away: too many of its kind, `small` or `large`."""
        self._refused(kind).inc()

    def limited(self, calls: int) -> None:
        """So many small calls may be in work now."""
        self._limit.set(calls)

    def stages(self, call: str, seconds: Mapping[str, float]) -> None:
        """Where an answer's time went."""
        for stage, spent in seconds.items():
            self._stages(call, stage).observe(spent)

    def decided(self, decision: str, lacking: Sequence[str] = ()) -> None:
        """A fraud decision was given, while these neighbours were away."""
        self._decisions(decision, "http").inc()
        for neighbour in lacking:
            self._degraded("fraud", neighbour).inc()

    def quoted(self, objective: str, exploration: bool, lacking: Sequence[str] = ()) -> None:
        """A price was given, while these neighbours were away."""
        self._quotes(label(objective), str(exploration).lower()).inc()
        for neighbour in lacking:
            self._degraded("pricing", neighbour).inc()


class WorkerMeasures(Watcher):
    """Events, stages and freshness of a worker."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._events = _counter(metrics.EVENTS, registry)
        self._stages = _histogram(metrics.WORKER_STAGE_SECONDS, registry)
        self._freshness = _histogram(metrics.FRESHNESS_SECONDS, registry)
        self._lag = Gauge(*metrics.LAG.arguments, registry=registry)
        self._mine: set[Partition] = set()

    def turned(self, work: Sequence[Work], timings: Timings, now_s: float) -> None:
        """Count a turn."""
        for stage, spent in timings.seconds.items():
            self._stages.labels("stream", stage).observe(spent)
        for each in work:
            for what, n in each.counts.items():
                self._events.labels(what).inc(n)
            for accepted_ms in each.accepted_ms:
                self._freshness.labels("terminal").observe(max(now_s - accepted_ms / 1e3, 0.0))

    def lagging(self, records: Mapping[Partition, int]) -> None:
        """Keep the last look; of partitions that are another worker's now nothing waits here."""
        gone = dict.fromkeys(self._mine - records.keys(), 0)
        self._mine = set(records)
        for partition, waiting in (gone | dict(records)).items():
            self._lag.labels(partition.topic, str(partition.number)).set(waiting)
