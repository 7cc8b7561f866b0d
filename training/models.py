"""Any model that may serve, loaded by what its card says it is."""

import importlib
from pathlib import Path
from typing import Any, Protocol

from features.state import Floats
from infra.errors import UserError
from training import card as cards
from training.card import Card


class Scorer(Protocol):
    """What a serving model can do, whatever it is inside."""

    card: Card

    def predict(self, matrix: Floats) -> Floats:
        """Prediction for each row, shape (n,)."""

    def contributions(self, matrix: Floats) -> Floats:
        """What each feature adds to each row's log odds, shape (n, features + 1); last the base."""

    def save(self, folder: Path) -> None:
        """Write the model and its card."""

    @property
    def native(self) -> Any:
        """The object that the registry knows by itself; None if there is none."""

    def importance(self) -> dict[str, float]:
        """How much each feature matters; comparable within a model only."""


KINDS = {
    "lightgbm": "training.booster:Model",
    "linear": "training.baselines:Linear",
    "demand": "training.demand_model:DemandModel",
}
"""Class of each kind; each has `load(folder)`."""


def load(folder: Path) -> Scorer:
    """The model of a folder. Raises UserError if it is not whole or of no known kind."""
    card = cards.read(folder)
    if card.kind not in KINDS:
        raise UserError(f"{folder}: expected a model of kind {sorted(KINDS)}, came {card.kind!r}.")
    module, _, name = KINDS[card.kind].partition(":")
    scorer: Scorer = getattr(importlib.import_module(module), name).load(folder)
    return scorer
