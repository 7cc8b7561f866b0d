"""Reason codes: what pushed a decision towards fraud, in sentences that an analyst can act on.

TreeSHAP gives every feature's share of the log odds. Features that tell of the same thing are one reason:
its contribution is their sum, its sentence is that of the feature that pushed most. Reasons, the base (the
model's mean) and the rest (all that is no reason) add up to the log odds of the score.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from features.definition import FeatureSet
from features.fraud import FRAUD
from features.state import Floats

MOST = 5
_DIGITS = 6

type_of_sentence = Callable[[float, str], str]

_WORDS = {"1h": "the last hour", "1d": "a day", "7d": "7 days", "30d": "30 days", "90d": "90 days"}


def _span(seconds: float) -> str:
    for unit, size in (("days", 86_400.0), ("hours", 3_600.0), ("minutes", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"


def _familiar(what: str, most: int) -> type_of_sentence:
    def sentence(x: float, _: str) -> str:
        if x >= most:
            return f"none of the last {most} {what} that this customer used"
        return f"{x:.0f} other {what} since this customer last used this one"

    return sentence


_SENTENCES: dict[str, tuple[str, type_of_sentence]] = {
    "amount": ("AMOUNT", lambda x, _: f"the amount is {x:.2f}"),
    "online": ("CHANNEL", lambda x, _: "paid online" if x else "paid in a store"),
    "hour_of_day": ("TIME", lambda x, _: f"paid at {int(x):02d}:{int(x % 1 * 60):02d} UTC"),
    "is_weekend": ("TIME", lambda x, _: "paid on a weekend" if x else "paid on a working day"),
    "customer_pace": ("CUSTOMER_PACE", lambda x, life: f"{x:.1f} payments of this customer in {life}"),
    "customer_payment_count": (
        "CUSTOMER_PACE",
        lambda x, life: f"{x:.1f} payments of this customer in {life}",
    ),
    "customer_idle_s": ("CUSTOMER_PACE", lambda x, _: f"{_span(x)} since this customer's last payment"),
    "customer_amount_mean": (
        "CUSTOMER_AMOUNT",
        lambda x, life: f"this customer usually pays {x:.2f} ({life})",
    ),
    "customer_amount_zscore": (
        "CUSTOMER_AMOUNT",
        lambda x, life: (
            f"{abs(x):.1f} spreads {'above' if x > 0 else 'below'} what this customer pays in {life}"
        ),
    ),
    "customer_amount_ratio": (
        "CUSTOMER_AMOUNT",
        lambda x, _: f"{x:.1f} times what this customer usually pays",
    ),
    "customer_amount_peak": (
        "CUSTOMER_PEAK",
        lambda x, _: f"this customer lately paid {x:.1f} times the usual amount",
    ),
    "customer_fraud_rate": (
        "CUSTOMER_RISK",
        lambda x, life: f"{100 * x:.0f} % of this customer's settled payments were fraud in {life}",
    ),
    "customer_terminal_familiarity": ("CUSTOMER_HABIT", _familiar("terminals", 9)),
    "customer_device_familiarity": ("CUSTOMER_HABIT", _familiar("devices", 3)),
    "customer_network_familiarity": ("CUSTOMER_HABIT", _familiar("networks", 3)),
    "customer_category_familiarity": ("CUSTOMER_HABIT", _familiar("kinds of merchant", 3)),
    "customer_country_familiarity": ("CUSTOMER_HABIT", _familiar("countries", 3)),
    "terminal_pace": ("TERMINAL_PACE", lambda x, life: f"{x:.1f} payments at this terminal in {life}"),
    "terminal_payment_count": (
        "TERMINAL_PACE",
        lambda x, life: f"{x:.1f} payments at this terminal in {life}",
    ),
    "terminal_idle_s": ("TERMINAL_PACE", lambda x, _: f"{_span(x)} since this terminal's last payment"),
    "terminal_amount_mean": (
        "TERMINAL_AMOUNT",
        lambda x, life: f"usual amount at this terminal is {x:.2f} ({life})",
    ),
    "terminal_fraud_rate": (
        "TERMINAL_RISK",
        lambda x, life: f"{100 * x:.0f} % of this terminal's settled payments were fraud in {life}",
    ),
    "terminal_fraud_known_s": (
        "TERMINAL_RISK",
        lambda x, _: f"{_span(x)} since a fraud at this terminal became known",
    ),
    "terminal_fraud_began_s": (
        "TERMINAL_RISK",
        lambda x, _: f"{_span(x)} since the first of this terminal's latest frauds",
    ),
    "terminal_fraud_run": (
        "TERMINAL_RISK",
        lambda x, _: (
            f"the last {x:.0f} settled payments here were fraud" if x else "the last one here was good"
        ),
    ),
    "terminal_good_run": (
        "TERMINAL_RISK",
        lambda x, _: f"{x:.0f} good payments settled here since the last fraud",
    ),
    "terminal_fraud_amount": (
        "TERMINAL_RISK",
        lambda x, _: f"the last known fraud at this terminal was of {x:.2f}",
    ),
}
"""For each feature function: the code it counts to, and the sentence for a value and a life."""

_UNKNOWN = {
    "AMOUNT": "the amount is not known",
    "CHANNEL": "how it was paid is not known",
    "TIME": "the time is not known",
    "CUSTOMER_PACE": "nothing is known of this customer's earlier payments",
    "CUSTOMER_AMOUNT": "nothing is known of what this customer usually pays",
    "CUSTOMER_PEAK": "nothing is known of what this customer usually pays",
    "CUSTOMER_RISK": "no payment of this customer has settled yet",
    "CUSTOMER_HABIT": "device, network, merchant or country is not given",
    "TERMINAL_PACE": "nothing is known of earlier payments at this terminal",
    "TERMINAL_AMOUNT": "nothing is known of what this terminal usually takes",
    "TERMINAL_RISK": "no fraud at this terminal is known",
}
"""Sentence of a code whose telling feature has no value."""


def _function_and_life(features: FeatureSet) -> Iterator[tuple[str, str]]:
    for family in features.families:
        function = family.function.__name__
        for name in family.names:
            yield function, name.removeprefix(function).removeprefix("_")


_READS = tuple(_function_and_life(FRAUD))
"""Function and life of every feature."""
_CODES = tuple(dict.fromkeys(_SENTENCES[function][0] for function, _ in _READS))
_OF_CODE = [
    np.array([i for i, (function, _) in enumerate(_READS) if _SENTENCES[function][0] == code])
    for code in _CODES
]
"""Features of each code."""


def explained(matrix: Floats, contributions: Floats, usual: Sequence[float]) -> list[dict[str, Any]]:
    """`reasons` and `explanation` of each row: at most five that pushed towards fraud, strongest first.

    Args:
        matrix: features in the order of `FRAUD.names`, shape (n, features).
        contributions: in log odds, shape (n, features + 1), the model's mean last.
        usual: median of each feature in training; NaN if it was never known.
    """
    of_codes = np.column_stack([contributions[:, each].sum(axis=1) for each in _OF_CODE])
    tellers = np.column_stack([each[contributions[:, each].argmax(axis=1)] for each in _OF_CODE])
    strongest = np.argsort(-of_codes, axis=1, kind="stable")[:, :MOST]
    pushes = np.round(np.take_along_axis(of_codes, strongest, axis=1), _DIGITS)
    telling = np.take_along_axis(tellers, strongest, axis=1)
    values = np.take_along_axis(matrix, telling, axis=1)
    base = contributions[:, -1]
    rest = contributions.sum(axis=1) - base - np.where(pushes > 0, pushes, 0.0).sum(axis=1)
    rows = zip(telling.tolist(), values.tolist(), pushes.tolist(), base.tolist(), rest.tolist(), strict=True)
    return [
        {
            "reasons": [
                _reason(feature, value, usual[feature], push)
                for feature, value, push in zip(features, known, pushed, strict=True)
                if push > 0
            ],
            "explanation": {"base": mean, "rest": other},
        }
        for features, known, pushed, mean, other in rows
    ]


def _reason(feature: int, value: float, usual: float, contribution: float) -> dict[str, Any]:
    function, life = _READS[feature]
    code, sentence = _SENTENCES[function]
    known = value == value
    return {
        "code": f"{code}_{life.upper()}" if life else code,
        "feature": FRAUD.names[feature],
        "value": value if known else None,
        "usual": usual if usual == usual else None,
        "contribution": contribution,
        "text": sentence(value, _WORDS[life] if life else "") if known else _UNKNOWN[code],
    }
