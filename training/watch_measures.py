"""Prometheus metrics of the watcher, built once a process from the names in `infra.metrics`."""

import math
from collections.abc import Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge

from infra import metrics
from training.alerts import Alert
from training.findings import Findings
from training.skew import Skew


class WatchMeasures:
    """What was found last, by task."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(metric: metrics.Metric) -> Gauge:
            return Gauge(*metric.arguments, registry=registry)

        self._psi, self._drifted = gauge(metrics.DRIFT_PSI), gauge(metrics.DRIFTED)
        self._matured, self._estimated = gauge(metrics.MATURED), gauge(metrics.ESTIMATED)
        self._age, self._waiting = gauge(metrics.EVENT_AGE_DAYS), gauge(metrics.HISTORY_WAITING)
        self._alerts, self._seconds = gauge(metrics.ALERTS), gauge(metrics.WATCH_SECONDS)
        self._compared = Counter(*metrics.SKEW_COMPARED.arguments, registry=registry)
        self._mismatches = Counter(*metrics.SKEW_MISMATCHES.arguments, registry=registry)
        self._told: set[tuple[str, str, str]] = set()

    def found(self, found: Findings, active: Sequence[Alert], seconds: float) -> None:
        """A look is done; figures that are not known now are told as NaN, not as they were."""
        task = found.task
        for each in found.drift:
            self._psi.labels(task, each.name).set(each.psi)
            self._drifted.labels(task, each.name).set(each.drifted)
        self._figures(self._matured, task, found.matured or {})
        self._figures(self._estimated, task, found.estimated or {})
        self._age.labels(task, "decided").set(found.freshness.decided_days)
        self._age.labels(task, "settled").set(found.freshness.settled_days)
        if found.freshness.waiting is not None:
            self._waiting.set(found.freshness.waiting)
        self._seconds.labels(task).set(seconds)
        self._alerting(active)

    def compared(self, task: str, skew: Skew) -> None:
        """Features were recomputed; counts what was not counted before."""
        self._compared.labels(task).inc(skew.compared)
        for feature, n in skew.mismatches.items():
            self._mismatches.labels(task, feature).inc(n)

    def _figures(self, gauge: Gauge, task: str, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            gauge.labels(task, name).set(value if math.isfinite(value) else math.nan)

    def _alerting(self, active: Sequence[Alert]) -> None:
        """What has ended shows 0: where Feast is loaded, labels can't be removed."""
        now = {(each.task, each.name, each.severity) for each in active}
        self._told |= now
        for labels in self._told:
            self._alerts.labels(*labels).set(labels in now)
