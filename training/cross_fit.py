"""Predictions for every row by trees that did not see it (cross-fitting)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from features.state import Flags, Floats, Ints
from training import booster
from training.card import Card, Trained

FOLDS = 5

TREES: booster.Parameters = {
    "objective": "regression",
    "num_iterations": 200,
    "num_leaves": 15,
    "learning_rate": 0.05,
    "min_data_in_leaf": 50,
    "lambda_l2": 1.0,
}

TRIED = (10, 30, 70, 200)
"""Numbers of trees; the last is that of `TREES`."""

RIDGE = 1.0
"""Penalty of the straight lines, in rows."""

_SEED = 17


@dataclass(frozen=True)
class CrossFit:
    """Predictions for every row by a model of the usable rows of the other folds."""

    matrix: Floats
    names: tuple[str, ...]
    usable: Flags
    fold: Ints
    parameters: booster.Parameters = field(default_factory=dict)
    """Beside `TREES`."""
    design: Floats | None = None
    """Shape (n, columns): what `predict_nuisance` draws straight lines over before the trees."""

    def predict(self, target: Floats) -> Floats:
        """Of a target of shape (n,), of which only usable rows are read."""
        return self.predict_each(target, [self.matrix])[0]

    def predict_nuisance(self, target: Floats) -> Floats:
        """The same by as many trees as err least on rows they did not see.

        Too many learn noise, and of two targets the same: what they leave then goes together by itself.
        """
        straight = np.zeros(len(target)) if self.design is None else self._straight(self.design, target)
        found = np.empty((len(TRIED), len(target)))
        for held, model in self._models(target - straight):
            found[:, held] = [model.predict_by(self.matrix[held], trees) for trees in TRIED]
        found += straight
        errors = [float(np.mean((target - each)[self.usable] ** 2)) for each in found]
        best: Floats = found[int(np.argmin(errors))]
        return best

    def predict_each(self, target: Floats, matrices: Sequence[Floats]) -> list[Floats]:
        """The same for the rows as they are in each of these matrices."""
        predicted = [np.empty(len(target)) for _ in matrices]
        for held, model in self._models(target):
            for matrix, values in zip(matrices, predicted, strict=True):
                values[held] = model.predict(matrix[held])
        return predicted

    def _straight(self, design: Floats, target: Floats) -> Floats:
        """Ridge regression on the design, of each fold by the others."""
        found, ridge = np.empty(len(target)), RIDGE * np.eye(design.shape[1])
        for number in np.unique(self.fold):
            held = self.fold == number
            rows = design[self.usable & ~held]
            weights = np.linalg.solve(rows.T @ rows + ridge, rows.T @ target[self.usable & ~held])
            found[held] = design[held] @ weights
        return found

    def _models(self, target: Floats) -> Iterator[tuple[Flags, booster.Model]]:
        """The rows of each fold with the model of the others."""
        for number in np.unique(self.fold):
            held: Flags = self.fold == number
            rows = self.usable & ~held
            yield held, fit(self.matrix[rows], target[rows], self.names, self.parameters)


def fit(
    matrix: Floats, target: Floats, names: tuple[str, ...], parameters: booster.Parameters
) -> booster.Model:
    """Trees for a target of shape (n,), with these parameters beside `TREES`."""
    card = Card("pricing", "", names, "", Trained(0, 0, 0, len(target)))
    return booster.train(matrix, target, card, {**TREES, **parameters})


def folds(n: int, among: int = FOLDS) -> Ints:
    """Number of each row's fold, drawn by a fixed seed."""
    drawn: Ints = np.random.default_rng(_SEED).permutation(n) % among
    return drawn
