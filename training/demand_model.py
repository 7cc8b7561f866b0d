"""The demand model: a pooled curve for each product, and LightGBM's trees for what the curve leaves.

The curve knows how demand answers to prices between and beyond those that were tried; the trees know what no
curve has a term for, and can only steepen it: they are monotone in the price, too.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from features.pricing import OF_PRICE, PRICING
from features.state import Floats
from training import booster, demand, demand_curve
from training import card as cards
from training.card import Card
from training.demand_curve import DemandCurve

KIND = "demand"
CURVE = "curve.json"

TREES: booster.Parameters = {
    "objective": "binary",
    "num_iterations": 20,
    "num_leaves": 8,
    "learning_rate": 0.04,
    "min_data_in_leaf": 500,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "lambda_l2": 20.0,
    "monotone_constraints": ",".join("-1" if name in OF_PRICE else "0" for name in PRICING.names),
}
"""Small: the curve has said nearly all. Every feature is in every tree, so that the price is always there."""

_SEED = 17
_SUPPORTING = 8_000
_DOUBT_ROWS = 500


class DemandModel:
    """A curve and trees, and their card."""

    def __init__(self, curve: DemandCurve, trees: booster.Model, card: Card) -> None:
        self.card = card
        self.curve = curve
        self._trees = trees

    @classmethod
    def load(cls, folder: Path) -> "DemandModel":
        """Read a folder that `save` wrote. Raises UserError if it is not whole."""
        card = cards.read(folder)
        curve = demand_curve.from_json(json.loads((folder / CURVE).read_text("utf-8")))
        return cls(curve, booster.Model((folder / booster.FILE).read_text("utf-8"), card), card)

    def save(self, folder: Path) -> None:
        """Write the curve, the trees and the card."""
        curve = json.dumps(self.curve.as_json(), allow_nan=False).encode()
        self.card = cards.write(folder, self.card, {CURVE: curve, booster.FILE: self._trees.text.encode()})

    def predict(self, matrix: Floats) -> Floats:
        """Chance of purchase of each row of `PRICING`'s matrix, shape (n,)."""
        return _share(self.curve.log_odds(matrix) + self._trees.log_odds(matrix))

    def believed(self, matrix: Floats) -> Floats:
        """The same as likeliest and by each draw of what may be as true, shape (1 + k, n).

        The trees are the same for all.
        """
        return _share(self.curve.believed(matrix) + self._trees.log_odds(matrix))

    def contributions(self, matrix: Floats) -> Floats:
        """What the trees' features add to the log odds, shape (n, features + 1); the curve is in the last."""
        found = self._trees.contributions(matrix)
        found[:, -1] += self.curve.log_odds(matrix)
        return found

    def importance(self) -> dict[str, float]:
        """Loss that each feature's splits removed, in all trees; the curve's terms are not in it."""
        return self._trees.importance()

    @property
    def native(self) -> Any:
        """Nothing: half a model in the registry would mislead."""
        return None


def train(matrix: Floats, bought: Floats, card: Card) -> DemandModel:
    """Fit the curve to quotes in order of time, then the trees to what it leaves."""
    curve = demand_curve.fit(matrix, bought, _SEED)
    trees = booster.train(matrix, bought, card, TREES, start=curve.log_odds(matrix))
    return DemandModel(curve, trees, replace(trees.card, kind=KIND))


def with_doubt(model: DemandModel, matrix: Floats, units_per_sale: float) -> DemandModel:
    """The model with how unsure it is in its card; `matrix` are the quotes that it learned from, in order.

    Prices that the data support are those of the newest quotes: what was shown long ago, under another
    demand, supports none of today's.
    """
    newest = matrix[-_SUPPORTING:]
    some = np.random.default_rng(_SEED).choice(len(newest), min(_DOUBT_ROWS, len(newest)), replace=False)
    found = demand.doubt(lambda rows: model.believed(rows)[1:], newest, some, units_per_sale)
    model.card = replace(model.card, extra=demand.kept(found))
    return model


def _share(log_odds: Floats) -> Floats:
    found: Floats = 1.0 / (1.0 + np.exp(-log_odds))
    return found
