"""Simple models that a complicated one must beat: logistic regression, kept as plain coefficients."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from features.state import Floats
from training import card as cards
from training.card import Card

KIND = "linear"
FILE = "linear.json"

_INVERSE_STRENGTH = 1.0
_STEPS = 300


@dataclass(frozen=True)
class Coefficients:
    """Log odds = intercept + sum of weight × (value - mean) / scale; a value not known counts as the mean."""

    mean: Floats
    scale: Floats
    weight: Floats
    intercept: float


class Linear:
    """A logistic regression that can serve."""

    def __init__(self, coefficients: Coefficients, card: Card) -> None:
        self.card = card
        self._of = coefficients

    @classmethod
    def load(cls, folder: Path) -> "Linear":
        """Read a folder that `save` wrote. Raises UserError if it is not whole."""
        card = cards.read(folder)
        values = json.loads((folder / FILE).read_text("utf-8"))
        arrays = {name: np.array(values[name]) for name in ("mean", "scale", "weight")}
        return cls(Coefficients(**arrays, intercept=values["intercept"]), card)

    def save(self, folder: Path) -> None:
        """Write `linear.json` and `model.json`."""
        values = {name: getattr(self._of, name).tolist() for name in ("mean", "scale", "weight")}
        text = json.dumps({**values, "intercept": self._of.intercept})
        self.card = cards.write(folder, self.card, {FILE: text.encode()})

    def predict(self, matrix: Floats) -> Floats:
        """Probability of each row, shape (n,)."""
        log_odds: Floats = self._terms(matrix).sum(axis=1) + self._of.intercept
        return 1.0 / (1.0 + np.exp(-log_odds))

    def contributions(self, matrix: Floats) -> Floats:
        """What each feature adds to each row's log odds, shape (n, features + 1); last the intercept."""
        return np.column_stack([self._terms(matrix), np.full(len(matrix), self._of.intercept)])

    def importance(self) -> dict[str, float]:
        """Log odds that one standard deviation of each feature moves."""
        return dict(zip(self.card.features, np.abs(self._of.weight).tolist(), strict=True))

    @property
    def native(self) -> Any:
        """The registry has no form of its own for it."""
        return None

    def _terms(self, matrix: Floats) -> Floats:
        standard = (matrix - self._of.mean) / self._of.scale
        return np.where(np.isnan(standard), 0.0, standard) * self._of.weight


def train(matrix: Floats, target: Floats, card: Card, weight: Floats | None = None) -> Linear:
    """Fit scikit-learn's logistic regression (L2) on standardised columns.

    A value not known counts as its column's mean; a column that never differs has no weight. `weight` is of
    each row; None counts every row once.
    """
    from sklearn.linear_model import LogisticRegression

    mean, scale = _moments(matrix)
    standard = np.nan_to_num((matrix - mean) / scale)
    fitted = LogisticRegression(C=_INVERSE_STRENGTH, max_iter=_STEPS).fit(standard, target > 0, weight)
    found = Coefficients(mean, scale, fitted.coef_[0], float(fitted.intercept_[0]))
    return Linear(found, replace(card, kind=KIND, reference=tuple(mean.tolist())))


def _moments(matrix: Floats) -> tuple[Floats, Floats]:
    known = ~np.isnan(matrix)
    count = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, matrix, 0.0).sum(axis=0) / count
    spread = np.sqrt((np.where(known, matrix - mean, 0.0) ** 2).sum(axis=0) / count)
    return mean, np.where(spread > 0, spread, 1.0)
