"""The table at the end: what a manager wants to know, and how it was measured."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from features.state import Floats
from infra.metrics import API_STAGE_SECONDS
from infra.settings import FraudPolicy
from ingestion.simulators.columns import take
from ingestion.simulators.market import Market
from serving.demo.live import Sold

STOPPED = ("review", "decline")


@dataclass(frozen=True)
class Caught:
    """Fraud money that was stopped, of all fraud money, in the main currency unit."""

    fraud: float
    by_system: float
    by_rules: float
    """By the policy's rules alone, on the same payments."""

    def share(self, caught: float) -> float:
        """Of all fraud money; 0 if there was none."""
        return caught / self.fraud if self.fraud else 0.0


def caught(decisions: Iterable[Mapping[str, Any]], frauds: Mapping[str, bool], policy: FraudPolicy) -> Caught:
    """Count the money of decided payments whose truth is known."""
    outcomes = {rule.name: rule.outcome for rule in policy.rules}
    known = [each for each in decisions if frauds.get(each["transaction_id"])]
    return Caught(
        sum(each["amount"] for each in known),
        sum(each["amount"] for each in known if each["decision"] in STOPPED),
        sum(each["amount"] for each in known if _ruled(each, outcomes) in STOPPED),
    )


def stopped_share(decisions: Iterable[Mapping[str, Any]], wanted: Collection[str]) -> tuple[int, float]:
    """How many of the wanted payments were decided, and the share of them that was stopped; NaN of none."""
    chosen = [each["decision"] in STOPPED for each in decisions if each["transaction_id"] in wanted]
    return len(chosen), sum(chosen) / len(chosen) if chosen else np.nan


def _ruled(decision: Mapping[str, Any], outcomes: Mapping[str, str]) -> str:
    hits = [outcomes[rule["name"]] for rule in decision["rules"] if rule["outcome"] == "hit"]
    return hits[0] if hits else "approve"


@dataclass(frozen=True)
class Earned:
    """Expected margin of all quotes by the market's true demand, in the main currency unit."""

    shown: float
    at_list: float
    at_best: float
    """With the price that an all-knowing seller would show."""


def earned(market: Market, sold: Sold) -> Earned:
    """Judge prices by what the simulator alone knows."""
    terms = take(market.products, sold.quotes.product)

    def margin(prices: Floats) -> float:
        return float(((prices - terms.unit_cost) * market.probability(sold.quotes, prices)).sum())

    return Earned(
        margin(sold.prices), margin(terms.list_price), float(market.optimal(sold.quotes).expected.sum())
    )


@dataclass(frozen=True)
class Latency:
    """Milliseconds at three percentiles."""

    p50: float
    p95: float
    p99: float

    @classmethod
    def of(cls, values_ms: Sequence[float]) -> "Latency":
        """Percentiles of measured times; NaN of none."""
        if not len(values_ms):
            return cls(np.nan, np.nan, np.nan)
        return cls(*(float(each) for each in np.percentile(values_ms, (50, 95, 99))))


def stages(exposition: str) -> dict[str, Latency]:
    """Percentiles of every stage of the API's answers, from its Prometheus histograms.

    Between the borders of a bucket the times count as evenly spread.
    """
    buckets: dict[str, list[tuple[float, float]]] = {}
    for family in text_string_to_metric_families(exposition):
        if family.name == API_STAGE_SECONDS.name:
            for sample in family.samples:
                if sample.name.endswith("_bucket"):
                    name = f"{sample.labels['call']}: {sample.labels['stage']}"
                    buckets.setdefault(name, []).append((float(sample.labels["le"]), sample.value))
    return {
        name: Latency(*(quantile(found, q) * 1e3 for q in (0.5, 0.95, 0.99)))
        for name, found in buckets.items()
    }


def quantile(buckets: Sequence[tuple[float, float]], q: float) -> float:
    """Quantile of a histogram of (upper border, cumulative count), in the border's unit.

    >>> quantile([(1.0, 50.0), (2.0, 100.0), (float("inf"), 100.0)], 0.75)
    1.5
    """
    wanted = q * buckets[-1][1]
    below, seen = 0.0, 0.0
    for border, count in buckets:
        if count >= wanted and count > seen:
            return below if np.isinf(border) else below + (border - below) * (wanted - seen) / (count - seen)
        below, seen = border, count
    return float("nan")
