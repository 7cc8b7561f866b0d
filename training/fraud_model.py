"""How a fraud model is made: trees whose scores become probabilities on payments that came later."""

from dataclasses import replace
from typing import Any

import numpy as np

from infra.settings import FraudPolicy
from ingestion.tables import DAY_US
from training import booster, calibration
from training.booster import Model
from training.calibration import Platt
from training.card import Card
from training.dataset import Dataset
from training.fraud_policy import AtStake

LATER_SHARE = 0.25
"""Share of the time, at its end, that a model is calibrated on before it learns from all."""


DOUBTFUL = 0.25
"""Rows count for the calibration whose probability is over this share of the usual one: below it nothing is
ever decided otherwise, and yet they are nearly all and would bend the line to themselves."""


def trees(data: Dataset) -> Model:
    """Trees that learned from all rows; not calibrated."""
    return booster.train(data.matrix, data.target, blank(data), booster.CLASSIFIER, data.weight)


def blank(data: Dataset) -> Card:
    """Card of a model that is about to learn from these rows."""
    return Card("fraud", "", data.features, data.feature_hash, data.trained)


def witness(data: Dataset) -> tuple[Model | None, Dataset]:
    """Trees that learned from the older rows, None if these show only one class; and the newer rows."""
    older, later = data.split(_later_start(data))
    both = 0 < (older.target > 0).sum() < len(older)
    return trees(older) if both else None, later


def learned(data: Dataset, policy: FraudPolicy) -> Model:
    """A model of all rows, finished by what one of the older rows says of the newer ones."""
    return finished(trees(data), *witness(data), policy)


def finished(model: Model, witness: Model | None, later: Dataset, policy: FraudPolicy) -> Model:
    """`model`, calibrated by what a model like it said of payments that it had not seen.

    The witness learned from less, so that there are such payments; None where too little is known.
    """
    if witness is None or not len(later):
        return model
    log_odds = witness.log_odds(later.matrix)
    doubtful = log_odds >= _log_odds(DOUBTFUL * later.target.mean())
    weight = None if later.weight is None else later.weight[doubtful]
    platt = calibration.fit(log_odds[doubtful], later.target[doubtful], weight)
    days = max(1.0, float(later.time_us[-1] - later.time_us[0]) / DAY_US)
    amount = later.columns["amount"].astype(np.float64)
    at_stake = AtStake.of(calibration.probability(platt, log_odds), amount, days, policy)
    done = model.calibrated(platt)
    done.card = replace(done.card, extra=_extra(platt, at_stake))
    return done


def _extra(platt: Platt, at_stake: AtStake) -> dict[str, Any]:
    return {
        "calibration": {"slope": platt.slope, "intercept": platt.intercept},
        "at_stake": at_stake.as_json(),
    }


def _log_odds(probability: float) -> float:
    return float(np.log(probability / (1.0 - probability))) if probability > 0 else -np.inf


def _later_start(data: Dataset) -> int:
    first, last = int(data.time_us[0]), int(data.time_us[-1])
    return last - round(LATER_SHARE * (last - first))
