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

TRIED = (0, 10, 30, 70, 200)
"""Numbers of trees after the straight lines; the last is that of `TREES`."""

PENALTIES = (0.1, 1.0, 10.0, 100.0, 1_000.0)
"""Penalties of the straight lines that are tried, in rows."""

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
        found = np.zeros((len(TRIED), len(target)))
        for held, model in self._models(target - straight):
            found[1:, held] = [model.predict_by(self.matrix[held], trees) for trees in TRIED[1:]]
        return self._best(target, found + straight)

    def _best(self, target: Floats, found: Floats) -> Floats:
        """The one of several predictions, shape (k, n), that errs least on the usable rows."""
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
        """Ridge regression on the design, of each fold by the others, by the penalty that errs least."""
        found = np.empty((len(PENALTIES), len(target)))
        for number in np.unique(self.fold):
            held = self.fold == number
            rows, known = design[self.usable & ~held], target[self.usable & ~held]
            usual = known.mean()
            spread, axes = np.linalg.eigh(rows.T @ rows)
            along = axes.T @ (rows.T @ (known - usual))
            for place, penalty in enumerate(PENALTIES):
                weights = axes @ (along / (np.maximum(spread, 0.0) + penalty))
                found[place, held] = usual + design[held] @ weights
        return self._best(target, found)

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
