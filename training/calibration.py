"""From a score to a probability: Platt's two numbers, learned on payments later than those the model saw.

Calibrated log odds = slope × log odds + intercept (Platt 1999, with a prior that is worth a few frauds). Two
numbers, not isotonic steps: the order of payments stays, so that ranking figures do not change, and the
contributions of features, multiplied by the slope, still add up to the log odds.
"""

from dataclasses import dataclass

import numpy as np

from features.state import Floats

SPREAD = 0.3
"""Standard deviation of slope and intercept before anything is seen: around 1 and 0."""
_STEPS = 50
_ENOUGH = 1e-10


@dataclass(frozen=True)
class Platt:
    """Slope and intercept on the scale of log odds."""

    slope: float = 1.0
    intercept: float = 0.0


UNCHANGED = Platt()


def fit(log_odds: Floats, truth: Floats, weight: Floats | None = None) -> Platt:
    """The likeliest slope and intercept, by Newton's method.

    Args:
        log_odds: of a model that has not learned from these rows, shape (n,).
        truth: 1.0 for fraud, 0.0 for not.
        weight: of each row; None counts every row once.
    """
    x = np.column_stack([log_odds, np.ones(len(log_odds))])
    each = np.ones(len(truth)) if weight is None else weight
    prior, found = np.array([1.0, 0.0]), np.array([1.0, 0.0])
    for _ in range(_STEPS):
        expected = _probability(x @ found)
        slope = x.T @ (each * (truth - expected)) - (found - prior) / SPREAD**2
        curvature = (x * (each * expected * (1.0 - expected))[:, None]).T @ x + np.eye(2) / SPREAD**2
        step = np.linalg.solve(curvature, slope)
        found = found + step
        if np.abs(step).max() < _ENOUGH:
            break
    return Platt(float(found[0]), float(found[1]))


def probability(platt: Platt, log_odds: Floats) -> Floats:
    """Probability of each row."""
    return _probability(platt.slope * log_odds + platt.intercept)


def _probability(log_odds: Floats) -> Floats:
    found: Floats = 1.0 / (1.0 + np.exp(-np.clip(log_odds, -500.0, 500.0)))
    return found
