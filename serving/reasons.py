"""Reason codes: what pushed a decision towards fraud, in sentences that an analyst can act on."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from features.fraud import FRAUD
from features.state import Floats

MOST = 5

type_of_sentence = Callable[[float, str], str]

_WORDS = {"1h": "the last hour", "1d": "a day", "7d": "7 days", "30d": "30 days"}

_SENTENCES: dict[str, tuple[str, type_of_sentence]] = {
    "amount": ("AMOUNT", lambda x, _: f"the amount is {x:.2f}"),
    "online": ("CHANNEL", lambda x, _: "paid online" if x else "paid in a store"),
    "hour_of_day": ("HOUR", lambda x, _: f"paid at {int(x):02d}:{int(x % 1 * 60):02d} UTC"),
    "is_weekend": ("WEEKDAY", lambda x, _: "paid on a weekend" if x else "paid on a working day"),
    "customer_payment_count": (
        "CUSTOMER_PACE",
        lambda x, life: f"{x:.1f} payments of this customer in {life}",
    ),
    "customer_amount_mean": (
        "CUSTOMER_AMOUNT",
        lambda x, life: f"this customer usually pays {x:.2f} ({life})",
    ),
    "customer_amount_zscore": (
        "CUSTOMER_AMOUNT_UNUSUAL",
        lambda x, life: (
            f"{abs(x):.1f} spreads {'above' if x > 0 else 'below'} what this customer pays in {life}"
        ),
    ),
    "customer_idle_s": ("CUSTOMER_IDLE", lambda x, _: f"{_span(x)} since this customer's last payment"),
    "customer_fraud_rate": (
        "CUSTOMER_RISK",
        lambda x, life: f"{x:.0%} of this customer's settled payments were fraud in {life}",
    ),
    "terminal_payment_count": (
        "TERMINAL_PACE",
        lambda x, life: f"{x:.1f} payments at this terminal in {life}",
    ),
    "terminal_amount_mean": (
        "TERMINAL_AMOUNT",
        lambda x, life: f"usual amount at this terminal is {x:.2f} ({life})",
    ),
    "terminal_amount_zscore": (
        "TERMINAL_AMOUNT_UNUSUAL",
        lambda x, life: (
            f"{abs(x):.1f} spreads {'above' if x > 0 else 'below'} what this terminal takes in {life}"
        ),
    ),
    "terminal_idle_s": ("TERMINAL_IDLE", lambda x, _: f"{_span(x)} since this terminal's last payment"),
    "terminal_label_count": ("TERMINAL_LABELS", lambda x, life: f"{x:.1f} settled payments here in {life}"),
    "terminal_fraud_rate": (
        "TERMINAL_RISK",
        lambda x, life: f"{x:.0%} of this terminal's settled payments were fraud in {life}",
    ),
}
"""For each feature function: the code, and the sentence for a value and a life."""


def _span(seconds: float) -> str:
    for unit, size in (("days", 86_400.0), ("hours", 3_600.0), ("minutes", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"


def _parts(feature: str) -> tuple[str, str]:
    """Function and life of a feature's name.

    >>> _parts("terminal_fraud_rate_7d")
    ('terminal_fraud_rate', '7d')
    >>> _parts("amount")
    ('amount', '')
    """
    if feature in _SENTENCES:
        return feature, ""
    function, _, life = feature.rpartition("_")
    return function, life


def reasons_of(values: Sequence[float], contributions: Floats) -> list[dict[str, Any]]:
    """At most five reasons that pushed towards fraud, strongest first.

    Args:
        values: features in the order of `FRAUD.names`.
        contributions: TreeSHAP in log odds, the model's mean last.
    """
    pushing = [int(i) for i in np.argsort(-contributions[:-1], kind="stable")[:MOST] if contributions[i] > 0]
    return [_reason(FRAUD.names[i], values[i], float(contributions[i])) for i in pushing]


def _reason(feature: str, value: float, contribution: float) -> dict[str, Any]:
    function, life = _parts(feature)
    code, sentence = _SENTENCES[function]
    known = value == value
    return {
        "code": f"{code}_{life.upper()}" if life else code,
        "feature": feature,
        "value": value if known else None,
        "contribution": round(contribution, 4),
        "text": sentence(value, _WORDS.get(life, life)) if known else "nothing is known yet for this",
    }
