"""How good probabilities are, against what turned out to be true: `truth` is 1.0 for fraud, 0.0 for not."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from features.state import Flags, Floats, Ints

BINS = 20


@dataclass(frozen=True)
class Calibration:
    """What was predicted and what came, in bins of equal numbers of rows."""

    predicted: Floats
    observed: Floats
    rows: Ints


def auc_roc(truth: Floats, score: Floats) -> float:
    """Area under the receiver operating characteristic; NaN if only one class is there."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(truth, score)) if _both(truth) else np.nan


def average_precision(truth: Floats, score: Floats) -> float:
    """Mean precision over the recall steps, not interpolated; NaN without both classes."""
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(truth, score)) if _both(truth) else np.nan


def brier(truth: Floats, probability: Floats) -> float:
    """Mean squared error of the probability (Brier 1950); 0 is perfect."""
    return float(np.mean((probability - truth) ** 2)) if len(truth) else np.nan


def calibration(truth: Floats, probability: Floats, bins: int = BINS) -> Calibration:
    """Rows in rising order of probability, cut into `bins` of equal size."""
    order = np.argsort(probability, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    return Calibration(
        np.array([probability[part].mean() for part in parts]),
        np.array([truth[part].mean() for part in parts]),
        np.array([len(part) for part in parts], np.int64),
    )


def expected_calibration_error(truth: Floats, probability: Floats, bins: int = BINS) -> float:
    """Mean gap between predicted and observed over bins of equal size (Naeini et al. 2015, adaptive bins)."""
    if not len(truth):
        return np.nan
    curve = calibration(truth, probability, bins)
    return float(np.average(np.abs(curve.predicted - curve.observed), weights=curve.rows))


def card_precision(
    truth: Floats, score: Floats, card: NDArray[np.object_], day: Ints, top: int = 100
) -> float:
    """Share of truly compromised cards among each day's `top` most suspicious ones, mean over the days.

    The Fraud Detection Handbook's CP@k (chapter 4): a card's score is its greatest of the day; a card that
    was detected is removed from later days. Fewer cards than `top` on a day still divide by `top`.
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


def of_scores(truth: Floats, probability: Floats) -> dict[str, float]:
    """The figures that need nothing but truth and probability."""
    return {
        "auc_roc": auc_roc(truth, probability),
        "average_precision": average_precision(truth, probability),
        "brier": brier(truth, probability),
        "expected_calibration_error": expected_calibration_error(truth, probability),
    }


def by_slice(
    truth: Floats, probability: Floats, slices: Mapping[str, NDArray[np.object_]]
) -> dict[str, dict[str, float]]:
    """Figures of every value of every slice, under `slice:value`; rows, positives and `of_scores`."""
    found: dict[str, dict[str, float]] = {}
    for name, values in slices.items():
        for value in sorted(set(values)):
            rows: Flags = values == value
            counts = {"rows": float(rows.sum()), "positives": float(truth[rows].sum())}
            found[f"{name}:{value}"] = counts | of_scores(truth[rows], probability[rows])
    return found


def _both(truth: Floats) -> bool:
    return bool(len(truth)) and truth.min() != truth.max()
