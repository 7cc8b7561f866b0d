"""What any model of a task must do whatever it has learned: behavioural tests (Ribeiro et al. 2020).

Each check is given a model and vectors of live decisions, and gives what is wrong in a sentence, or nothing.
"""

from collections.abc import Callable, Sequence

import numpy as np

from features.fraud import FRAUD, at_amounts
from features.pricing import CODES, OF_PRICE, PRICING
from features.state import Flags, Floats
from infra.settings import Gate
from training.models import Scorer

ODD_SHARE = 0.1
"""So many of the payments, the riskiest, are odd."""
RAISED = (2.0, 5.0)
"""Times an odd payment's amount."""
PRICES = (0.9, 1.0, 1.1, 1.25)
"""Times a quote's price, rising."""
ROUNDING = 1e-9

type_of_check = Callable[[Scorer, Floats, Gate], str | None]


def probabilities(model: Scorer, matrix: Floats, gate: Gate) -> str | None:  # noqa: ARG001
    """Every score lies in [0, 1]."""
    return _beyond("a live decision", model.predict(matrix))


def nothing_known(model: Scorer, matrix: Floats, gate: Gate) -> str | None:  # noqa: ARG001
    """Where no feature is known there is a score, too."""
    return _beyond("a decision of which nothing is known", model.predict(np.full_like(matrix[:1], np.nan)))


def risk_rises_with_amount(model: Scorer, matrix: Floats, gate: Gate) -> str | None:
    """Odd payments of greater amounts are no less risky as a whole; a single one may be, by a leaf."""
    risk = model.predict(matrix)
    odd = np.argsort(-risk, kind="stable")[: max(1, round(ODD_SHARE * len(risk)))]
    before = float(risk[odd].mean())
    for times in RAISED:
        after = float(model.predict(at_amounts(matrix[odd], times)).mean())
        if after < (1.0 - gate.max_risk_fall) * before:
            return (
                f"odd payments of {times:g} times the amount have a risk of {after:.3g}, below the"
                f" {before:.3g} that they have as they are"
            )
    return None


def unknown_words(model: Scorer, matrix: Floats, gate: Gate) -> str | None:  # noqa: ARG001
    """A category, product or segment that nobody has seen gets a score."""
    return _beyond("an unknown category", model.predict(_with(matrix, PRICING.names, CODES, 0.5)))


def unknown_channel(model: Scorer, matrix: Floats, gate: Gate) -> str | None:  # noqa: ARG001
    """A channel, a merchant's category, a country that is not given gets a score."""
    given = [name for name in FRAUD.names if name == "online" or name.endswith("_familiarity")]
    return _beyond("an unknown category", model.predict(_with(matrix, FRAUD.names, given, np.nan)))


def demand_falls_in_price(model: Scorer, matrix: Floats, gate: Gate) -> str | None:  # noqa: ARG001
    """No quote is likelier bought at a higher price."""
    columns = [PRICING.names.index(name) for name in OF_PRICE]
    chances = []
    for times in PRICES:
        rows = matrix.copy()
        rows[:, columns] *= times
        chances.append(model.predict(rows))
    rising: Flags = (np.diff(chances, axis=0) > ROUNDING).any(axis=0)  # type: ignore[assignment]
    if not rising.any():
        return None
    return f"demand rises with the price in {int(rising.sum())} of {len(rising)} live quotes"


CHECKS: dict[str, tuple[type_of_check, ...]] = {
    "fraud": (probabilities, nothing_known, unknown_channel, risk_rises_with_amount),
    "pricing": (probabilities, nothing_known, unknown_words, demand_falls_in_price),
}
"""By task."""


def misbehaviour(task: str, model: Scorer, matrix: Floats, gate: Gate) -> list[str]:
    """What is wrong with a model, each in a sentence; `matrix` has at least one live decision's vector."""
    found = (check(model, matrix, gate) for check in CHECKS[task])
    return [each for each in found if each is not None]


def _with(matrix: Floats, names: Sequence[str], replaced: Sequence[str], value: float) -> Floats:
    found = matrix.copy()
    found[:, [names.index(name) for name in replaced]] = value
    return found


def _beyond(what: str, score: Floats) -> str | None:
    wrong = score[~((score >= 0.0) & (score <= 1.0))]
    return f"{what} gets the score {wrong[0]:g}, expected one in [0, 1]" if len(wrong) else None
