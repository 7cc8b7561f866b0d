"""Names, labels and buckets of every Prometheus metric: dashboards and alerts rely on them.

Whoever measures builds the metric from its `Metric`:
`Histogram(*API_SECONDS.arguments, buckets=API_SECONDS.buckets)`.
"""

from dataclasses import dataclass

LATENCY_BUCKETS_S = (
    0.0001, 0.00025, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075,
    0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
)  # fmt: skip
"""From a feature read (0.1 ms) to a request that a client gives up on."""

BATCH_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Stages of a worker's batch, from a few events to thousands."""

FRESHNESS_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""From an event accepted until it counts in a score."""


@dataclass(frozen=True)
class Metric:
    """A metric's name, meaning and labels; `buckets` only for a histogram."""

    name: str
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def arguments(self) -> tuple[str, str, tuple[str, ...]]:
        """The first three arguments of each class of `prometheus_client`."""
        return self.name, self.help, self.labels


API_REQUESTS = Metric("tollgate_api_requests_total", "HTTP requests answered.", ("call", "status"))
API_SECONDS = Metric(
    "tollgate_api_request_seconds", "Time to answer an HTTP request.", ("call",), LATENCY_BUCKETS_S
)
API_REFUSED = Metric(
    "tollgate_api_refused_total", "HTTP requests refused because there were too many.", ("kind",)
)
API_LIMIT = Metric("tollgate_api_limit_calls", "Small calls that may be in work at the same time.")
API_STAGE_SECONDS = Metric(
    "tollgate_api_stage_seconds",
    "Time in a stage of an answer: parse, features, model, policy, publish.",
    ("call", "stage"),
    LATENCY_BUCKETS_S,
)
DECISIONS = Metric("tollgate_decisions_total", "Fraud decisions.", ("decision", "path"))
QUOTES = Metric("tollgate_quotes_total", "Prices quoted.", ("objective", "exploration"))
DEGRADED = Metric("tollgate_degraded_total", "Answers that lacked a model or features.", ("task", "reason"))
NEIGHBOUR_AWAY = Metric(
    "tollgate_neighbour_away", "1 while a neighbour does not answer, and nobody waits for it.", ("neighbour",)
)
OUTBOX = Metric("tollgate_outbox_records", "Decisions and quotes on disk that Kafka has not acknowledged.")

WORKER_STAGE_SECONDS = Metric(
    "tollgate_worker_stage_seconds",
    "Time in a stage of a worker's batch: poll, read, compute, produce, write, commit.",
    ("flow", "stage"),
    BATCH_BUCKETS_S,
)
EVENTS = Metric("tollgate_events_total", "Events handled.", ("topic",))
LAG = Metric("tollgate_consumer_lag_events", "Events waiting in a partition.", ("topic", "partition"))
FRESHNESS_SECONDS = Metric(
    "tollgate_freshness_seconds",
    "Time from an event accepted until it counts in a score.",
    ("entity",),
    FRESHNESS_BUCKETS_S,
)

MODEL_INFO = Metric(
    "tollgate_model_info", "1 for the version that decides now, else 0.", ("task", "version", "alias")
)
MODEL_SWAPS = Metric("tollgate_model_swaps_total", "Champions taken over without a restart.", ("task",))

POLICY_INFO = Metric(
    "tollgate_policy_info", "1 for the policy's version that decides now, else 0.", ("task", "version")
)
POLICY_REFUSALS = Metric(
    "tollgate_policy_refusals_total", "Changed policy files that were wrong and refused.", ("task",)
)

DRIFT_PSI = Metric(
    "tollgate_drift_psi",
    "Population stability index of a feature, or of the score, against the champion's training reference.",
    ("task", "feature"),
)
DRIFTED = Metric(
    "tollgate_drifted", "1 for a feature that drifted: far, and surely after correction.", ("task", "feature")
)
MATURED = Metric(
    "tollgate_matured_performance",
    "Figure of the champion on what it decided and whose truth is known.",
    ("task", "figure"),
)
ESTIMATED = Metric(
    "tollgate_estimated_performance",
    "Figure that the champion's scores promise on what has no labels yet.",
    ("task", "figure"),
)
SKEW_COMPARED = Metric(
    "tollgate_skew_compared_total", "Decisions whose features were recomputed from history.", ("task",)
)
SKEW_MISMATCHES = Metric(
    "tollgate_skew_mismatches_total",
    "Decisions whose logged feature is not the recomputed one.",
    ("task", "feature"),
)
EVENT_AGE_DAYS = Metric(
    "tollgate_event_age_days",
    "Event time since the newest event of a kind: decided or settled.",
    ("task", "kind"),
)
HISTORY_WAITING = Metric("tollgate_history_waiting_messages", "Messages that the history lacks.")
ALERTS = Metric("tollgate_alert", "1 while an alert goes on, 0 after it.", ("task", "alert", "severity"))
WATCH_SECONDS = Metric("tollgate_watch_seconds", "Time that the last look at a champion took.", ("task",))
