"""How fast and how large a model is on this machine, beside the champion."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from features.state import Floats
from infra.settings import Gate
from training.models import Scorer

ROUNDS, CALLS = 5, 100
"""Of the rounds the calmest counts: a page that is not there yet is no fault of theirs either."""
MB = 1e6

Clock = Callable[[], float]


@dataclass(frozen=True)
class Latency:
    """Of predictions of one row, in milliseconds of this thread's processor time.

    Models predict on one thread; what else runs on the machine is no fault of theirs.
    """

    median_ms: float
    p99_ms: float


def latencies(
    models: tuple[Scorer, Scorer], matrix: Floats, clock: Clock = time.thread_time
) -> list[Latency]:
    """Of two models in turn, row by row, so that what disturbs one disturbs both."""
    rows = [matrix[i % len(matrix)][None] for i in range(CALLS)]
    rounds = np.array([[_spent(models, row, clock) for row in rows] for _ in range(ROUNDS)])
    medians, p99s = (np.percentile(rounds, q, axis=1).min(axis=0) * 1e3 for q in (50, 99))
    return [Latency(*each) for each in zip(medians.tolist(), p99s.tolist(), strict=True)]


def _spent(models: tuple[Scorer, Scorer], row: Floats, clock: Clock) -> list[float]:
    moments = [clock()]
    for model in models:
        model.predict(row)
        moments.append(clock())
    return np.diff(moments).tolist()


def size_mb(folder: Path) -> float:
    """Of a model's files, card and all."""
    return sum(file.stat().st_size for file in folder.iterdir()) / MB


def over_budget(own: Latency, champion: Latency, size: float, gate: Gate) -> list[str]:
    """What of the budget a model exceeds, each in a sentence. Pure."""
    faults = []
    if own.p99_ms > gate.max_latency_ms:
        faults.append(f"99 of 100 predictions take {own.p99_ms:.3g} ms, expected {gate.max_latency_ms:g}")
    if own.median_ms > gate.max_latency_ratio * champion.median_ms:
        faults.append(
            f"a prediction takes {own.median_ms:.3g} ms against the champion's {champion.median_ms:.3g} ms,"
            f" expected at most {gate.max_latency_ratio:g} times as long"
        )
    if size > gate.max_model_mb:
        faults.append(f"its files have {size:.3g} MB, expected at most {gate.max_model_mb:g}")
    return faults
