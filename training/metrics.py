"""How good probabilities are, against what turned out to be true: `truth` is 1.0 for fraud, 0.0 for not.

`weight` says how often each row counts, where rows came to be known by chance; None counts every row once.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from features.state import Flags, Floats, Ints

Codes = NDArray[np.int8]

BINS = 20
DECLINED = 2
"""Code of a decline among decisions."""
_Z = 1.959963984540054
"""97.5 % of normal numbers lie below."""


@dataclass(frozen=True)
class Calibration:
    """What was predicted and what came, in bins of equal numbers of rows."""

    predicted: Floats
    observed: Floats
    rows: Ints
    weight: Floats
    """Of each bin."""


def auc_roc(truth: Floats, score: Floats, weight: Floats | None = None) -> float:
    """Area under the receiver operating characteristic; NaN if only one class is there."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(truth, score, sample_weight=weight)) if _both(truth) else np.nan


def average_precision(truth: Floats, score: Floats, weight: Floats | None = None) -> float:
    """Mean precision over the recall steps, not interpolated; NaN without both classes."""
    from sklearn.metrics import average_precision_score

    if not _both(truth):
        return np.nan
    return float(average_precision_score(truth, score, sample_weight=weight))


def brier(truth: Floats, probability: Floats, weight: Floats | None = None) -> float:
    """Mean squared error of the probability (Brier 1950); 0 is perfect."""
    return _mean((probability - truth) ** 2, weight) if len(truth) else np.nan


def calibration(
    truth: Floats, probability: Floats, bins: int = BINS, weight: Floats | None = None
) -> Calibration:
    """Rows in rising order of probability, cut into `bins` of equal size."""
    order = np.argsort(probability, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    weighted = [(part, None if weight is None else weight[part]) for part in parts]
    return Calibration(
        np.array([_mean(probability[part], weights) for part, weights in weighted]),
        np.array([_mean(truth[part], weights) for part, weights in weighted]),
        np.array([len(part) for part in parts], np.int64),
        np.array([len(part) if weights is None else weights.sum() for part, weights in weighted], np.float64),
    )


def expected_calibration_error(
    truth: Floats, probability: Floats, bins: int = BINS, weight: Floats | None = None
) -> float:
    """Mean gap between predicted and observed over bins of equal size (Naeini et al. 2015, adaptive bins)."""
    if not len(truth):
        return np.nan
    curve = calibration(truth, probability, bins, weight)
    return float(np.average(np.abs(curve.predicted - curve.observed), weights=curve.weight))


def card_precision(
    truth: Floats, score: Floats, card: NDArray[np.object_], day: Ints, top: int = 100
) -> float:
    """Share of truly compromised cards among each day's `top` most suspicious ones, mean over the days.

    The Fraud Detection Handbook's CP@k (chapter 4): a card's score is its greatest of the day; a card that
    was detected is removed from later days. Fewer cards than `top` on a day still divide by `top`.
    It counts cards, not payments, and takes no weights.
    """
    rows = pd.DataFrame({"card": card, "day": day, "score": score, "truth": truth})
    detected: set[object] = set()
    precisions = []
    for _, today in rows.groupby("day", sort=True):
        found = _detected(today[~today["card"].isin(detected)], top)
        precisions.append(len(found) / top)
        detected |= found
    return float(np.mean(precisions)) if precisions else np.nan


def _detected(today: pd.DataFrame, top: int) -> set[object]:
    """Compromised cards among the `top` of a day; ties keep the order of the cards' ids."""
    cards = today.groupby("card")[["score", "truth"]].max()
    highest = cards.sort_values("score", ascending=False, kind="stable").head(top)
    return set(highest.index[highest["truth"] > 0])


def of_scores(truth: Floats, probability: Floats, weight: Floats | None = None) -> dict[str, float]:
    """The figures that need nothing but truth and probability."""
    return {
        "auc_roc": auc_roc(truth, probability, weight),
        "average_precision": average_precision(truth, probability, weight),
        "brier": brier(truth, probability, weight),
        "expected_calibration_error": expected_calibration_error(truth, probability, weight=weight),
    }


def by_slice(
    truth: Floats,
    probability: Floats,
    slices: Mapping[str, NDArray[np.object_]],
    weight: Floats | None = None,
) -> dict[str, dict[str, float]]:
    """Figures of every value of every slice, under `slice:value`; rows, positives and `of_scores`."""
    found: dict[str, dict[str, float]] = {}
    for name, values in slices.items():
        for value in sorted(set(values)):
            rows: Flags = values == value
            counts = {"rows": float(rows.sum()), "positives": float(truth[rows].sum())}
            weights = None if weight is None else weight[rows]
            found[f"{name}:{value}"] = counts | of_scores(truth[rows], probability[rows], weights)
    return found


def of_decisions(truth: Floats, decision: Codes, weight: Floats | None = None) -> dict[str, float]:
    """Of 0 approve, 1 review, 2 decline: share of frauds not approved, and of good payments declined."""
    fraud = truth > 0
    return {
        "recall": _share(decision > 0, fraud, weight),
        "false_decline_rate": _share(decision == DECLINED, ~fraud, weight),
    }


def by_value(
    values: NDArray[np.object_],
    truth: Floats,
    probability: Floats,
    decision: Codes,
    weight: Floats | None = None,
) -> dict[str, dict[str, float]]:
    """What each group gets, by Fairlearn's MetricFrame (Bird et al. 2020).

    Rows, frauds, false declines, `of_decisions`, average precision, and mean predicted and observed fraud.
    """
    from fairlearn.metrics import MetricFrame

    if not len(truth):
        return {}
    each = {"probability": probability, "weight": np.ones(len(truth)) if weight is None else weight}
    frame = MetricFrame(
        metrics=_of_group, y_true=truth, y_pred=decision, sensitive_features=values, sample_params=each
    )
    return {str(value): figures for value, figures in frame.by_group.items()}


def _of_group(truth: Floats, decision: Codes, probability: Floats, weight: Floats) -> dict[str, float]:
    truth, decision = np.asarray(truth), np.asarray(decision)
    return {
        "rows": float(len(truth)),
        "frauds": float((truth > 0).sum()),
        "false_declines": float(((decision == DECLINED) & (truth == 0)).sum()),
        **of_decisions(truth, decision, weight),
        "average_precision": average_precision(truth, probability, weight),
        "predicted": _mean(probability, weight),
        "observed": _mean(truth, weight),
    }


def share_interval(share: float, n: float) -> tuple[float, float]:
    """Where a share of n lies, 95 % (Wilson 1927): it holds where all or none are counted.

    >>> [round(each, 2) for each in share_interval(0.0, 20)]
    [0.0, 0.16]
    """
    middle = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    spread = _Z / (1 + _Z**2 / n) * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
    return middle - spread, middle + spread


def _share(which: Flags, among: Flags, weight: Floats | None) -> float:
    if not among.any():
        return np.nan
    return _mean(which[among].astype(np.float64), None if weight is None else weight[among])


def _mean(values: Floats, weight: Floats | None) -> float:
    return float(values.mean() if weight is None else np.average(values, weights=weight))


def _both(truth: Floats) -> bool:
    return bool(len(truth)) and truth.min() != truth.max()
