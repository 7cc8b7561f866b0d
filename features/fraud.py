"""Fraud: what is remembered of a customer and a terminal, and the features read from it.

Event kinds of the customer and terminal streams: a payment, and a label at the moment it arrived.
"""

from collections.abc import Sequence

import numpy as np

from features.definition import feature_set, ratio
from features.state import Decayed, Entity, Floats, Ints, Latest

PAYMENT, LABEL = 0, 1

LIVES = ("1h", "1d", "7d", "30d")
LABEL_LIVES = ("1d", "7d", "30d")
VALUES = ("amount", "is_fraud", "time_s")
"""Columns of an event's value matrix: amount (payments), 1 or 0 (labels), its time in seconds since 1970."""

_AGGREGATES = (
    Decayed("amount", PAYMENT, "amount", LIVES),
    Decayed("fraud", LABEL, "is_fraud", LABEL_LIVES, squares=False),
    Latest("paid_at", PAYMENT, "time_s", clock="paid_at"),
)

CUSTOMER = Entity("customer", "customer_id", VALUES, _AGGREGATES)
TERMINAL = Entity("terminal", "terminal_id", VALUES, _AGGREGATES)

REQUEST = ("amount", "online")
"""Columns of a request: the amount; 1 for an online payment, 0 for another, NaN if not given."""

DAY_S = 86_400.0
THURSDAY = 4
"""Day of the week of 1970-01-01, Sunday = 0."""


def amount(amount: Floats) -> Floats:
    """Of this payment, in the currency's main unit."""
    return amount


def online(online: Floats) -> Floats:
    """1 for an online payment, 0 for another, NaN if not given."""
    return online


def hour_of_day(at_s: Floats) -> Floats:
    """Hours since midnight UTC, in [0, 24)."""
    return at_s % DAY_S / 3_600.0


def is_weekend(at_s: Floats) -> Floats:
    """1 on Saturday and Sunday UTC."""
    day = (at_s // DAY_S + THURSDAY) % 7
    weekend: Floats = ((day == 0) | (day == 6)).astype(np.float64)
    return weekend


def customer_payment_count(customer_amount_n: Floats) -> Floats:
    """Decayed number of the customer's earlier payments."""
    return customer_amount_n


def customer_amount_mean(customer_amount_n: Floats, customer_amount_sum: Floats) -> Floats:
    """Mean amount of the customer's earlier payments; NaN before the first."""
    return ratio(customer_amount_sum, customer_amount_n)


def customer_amount_zscore(
    amount: Floats, customer_amount_n: Floats, customer_amount_sum: Floats, customer_amount_squares: Floats
) -> Floats:
    """How many of the customer's usual spreads this amount lies above the usual mean."""
    return _zscore(amount, customer_amount_n, customer_amount_sum, customer_amount_squares)


def customer_idle_s(at_s: Floats, customer_paid_at: Floats) -> Floats:
    """Seconds since the customer's last payment; NaN before the first, 0 for a late one."""
    return np.maximum(at_s - customer_paid_at, 0.0)


def customer_fraud_rate(customer_fraud_n: Floats, customer_fraud_sum: Floats) -> Floats:
    """Share of fraud among the customer's labels that have arrived; NaN before the first."""
    return ratio(customer_fraud_sum, customer_fraud_n)


def terminal_payment_count(terminal_amount_n: Floats) -> Floats:
    """Decayed number of earlier payments at the terminal."""
    return terminal_amount_n


def terminal_amount_mean(terminal_amount_n: Floats, terminal_amount_sum: Floats) -> Floats:
    """Mean amount of earlier payments at the terminal; NaN before the first."""
    return ratio(terminal_amount_sum, terminal_amount_n)


def terminal_amount_zscore(
    amount: Floats, terminal_amount_n: Floats, terminal_amount_sum: Floats, terminal_amount_squares: Floats
) -> Floats:
    """How many of the terminal's usual spreads this amount lies above its usual mean."""
    return _zscore(amount, terminal_amount_n, terminal_amount_sum, terminal_amount_squares)


def terminal_idle_s(at_s: Floats, terminal_paid_at: Floats) -> Floats:
    """Seconds since the terminal's last payment; NaN before the first, 0 for a late one."""
    return np.maximum(at_s - terminal_paid_at, 0.0)


def terminal_label_count(terminal_fraud_n: Floats) -> Floats:
    """Decayed number of the terminal's labels that have arrived."""
    return terminal_fraud_n


def terminal_fraud_rate(terminal_fraud_n: Floats, terminal_fraud_sum: Floats) -> Floats:
    """Share of fraud among the terminal's labels that have arrived; NaN before the first."""
    return ratio(terminal_fraud_sum, terminal_fraud_n)


def _zscore(x: Floats, n: Floats, total: Floats, squares: Floats) -> Floats:
    """Against mean and spread, with one unit of money added to the spread: two payments tell little."""
    mean = ratio(total, n)
    return (x - mean) / (np.sqrt(np.maximum(squares / n - mean * mean, 0.0)) + 1.0)


FRAUD = feature_set(
    "fraud",
    (CUSTOMER, TERMINAL),
    REQUEST,
    (
        amount, online, hour_of_day, is_weekend,
        customer_payment_count, customer_amount_mean, customer_amount_zscore, customer_idle_s,
        customer_fraud_rate,
        terminal_payment_count, terminal_amount_mean, terminal_amount_zscore, terminal_idle_s,
        terminal_label_count, terminal_fraud_rate,
    ),
)  # fmt: skip
"""The features of the fraud model."""


def event_values(kind: Ints, amount: Floats, label: Sequence[str | None], event_time_us: Ints) -> Floats:
    """Value matrix of payments and labels in the order of `VALUES`, shape (n, 3)."""
    is_fraud = np.array([np.nan if each is None else float(each == "fraud") for each in label])
    return np.column_stack([np.where(kind == PAYMENT, amount, np.nan), is_fraud, event_time_us / 1e6])


def request_columns(amount: Floats, channel: Sequence[str | None]) -> dict[str, Floats]:
    """Columns of requests in the names of `REQUEST`, each of shape (n,)."""
    online = np.array([np.nan if each is None else float(each == "online") for each in channel])
    return {"amount": amount, "online": online}
