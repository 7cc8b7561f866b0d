"""Search for the trees' parameters in order of time: learn, wait for the labels, judge by later days.

Optuna's tree-structured Parzen estimator (Akiba et al. 2019; Bergstra et al. 2011) proposes, the mean average
precision of the folds judges. Nothing after the day that is given is looked at, so that later weeks stay
unseen.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from training import booster, metrics
from training.booster import Parameters
from training.card import Card
from training.dataset import Dataset

type_of_fold = tuple[Dataset, Dataset]
"""What is learned from, and what is judged by."""

_SEED = 1


@dataclass(frozen=True)
class Found:
    """What a search came to."""

    parameters: Parameters
    average_precision: float
    """Mean of the folds; of the parameters in use under `in_use`."""
    in_use: float
    trials: int

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "parameters": dict(self.parameters),
            "average_precision": self.average_precision,
            "average_precision_in_use": self.in_use,
            "trials": self.trials,
        }


def search(
    folds: Sequence[type_of_fold], base: Parameters, trials: int, told: Callable[[str], None]
) -> Found:
    """The best of so many trials; the first is `base`, the parameters in use, so it is never worse.

    Args:
        folds: in order of time.
        base: what is not searched stays as it is here.
        trials: how many settings are tried.
        told: called with a line after each trial.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def objective(trial: Any) -> float:
        return _judged(folds, {**base, **_proposed(trial)})

    def line(study: Any, trial: Any) -> None:
        told(f"{trial.number + 1} of {trials}: {trial.value:.4f}, best {study.best_value:.4f}")

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=_SEED))
    study.enqueue_trial({name: base[name] for name in _SEARCHED if name in base})
    study.optimize(objective, n_trials=trials, callbacks=[line])
    in_use = study.trials[0].values[0]
    return Found({**base, **study.best_params}, study.best_value, in_use, trials)


def _judged(folds: Sequence[type_of_fold], parameters: Parameters) -> float:
    scores = []
    for train, test in folds:
        card = Card("fraud", "", train.features, train.feature_hash, train.trained)
        model = booster.train(train.matrix, train.target, card, parameters, train.weight)
        scores.append(metrics.average_precision(test.target, model.predict(test.matrix), test.weight))
    return float(np.mean(scores))


_SEARCHED = (
    "num_iterations", "num_leaves", "learning_rate", "min_data_in_leaf", "bagging_fraction",
    "feature_fraction", "lambda_l2",
)  # fmt: skip


def _proposed(trial: Any) -> dict[str, float | int]:
    """At most 240 trees of 20 leaves: a larger model takes too long to explain itself."""
    return {
        "num_iterations": trial.suggest_int("num_iterations", 80, 240, step=40),
        "num_leaves": trial.suggest_int("num_leaves", 6, 20),
        "learning_rate": trial.suggest_float("learning_rate", 0.02, 0.12, log=True),
        "min_data_in_leaf": trial.suggest_int("min_data_in_leaf", 20, 300, log=True),
        "bagging_fraction": trial.suggest_float("bagging_fraction", 0.5, 1.0),
        "feature_fraction": trial.suggest_float("feature_fraction", 0.25, 1.0),
        "lambda_l2": trial.suggest_float("lambda_l2", 0.3, 50.0, log=True),
    }
