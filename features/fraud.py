"""Fraud: what is remembered of a customer and a terminal, and the features read from it.

Event kinds of the customer and terminal streams: a payment, and a label at the moment it arrived.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from features.definition import feature_set, ratio
from features.state import Began, Decayed, Entity, Floats, Ints, Latest, Peak, Recent, Run, code_of, recall

PAYMENT, LABEL = 0, 1

LIVES = ("1d", "7d", "30d")
LABEL_LIVES = ("1d", "7d", "30d")
CUSTOMER_LABEL_LIFE = ("30d",)
PACE_LIFE = ("1h",)
USUAL_LIFE = ("90d",)
"""Over which a customer's usual amount is the mean."""

CODES = {
    "terminal": "terminal_id",
    "device": "device_id",
    "network": "ip",
    "category": "merchant_category",
    "country": "country",
}
"""Columns of codes, and the payment's text field that each is the code of."""

VALUES = ("amount", "is_fraud", "is_good", "fraud_amount", "fraud_paid_s", "fraud_known_s", "time_s")
"""Columns of an event's value matrix: amount (payments); whether it was fraud, whether not, 1 or 0 (labels);
the amount that was fraud, when it was paid and when it was known (labels of frauds); the event's time. All
times in seconds since 1970 UTC. A customer's events have `CODES` after them; a terminal needs none."""

_PAYMENTS = (
    Decayed("pace", PAYMENT, "amount", PACE_LIFE, ("n",)),
    Latest("paid_at", PAYMENT, "time_s", clock="paid_at"),
)

CUSTOMER = Entity(
    "customer",
    "customer_id",
    (*VALUES, *CODES),
    (
        *_PAYMENTS,
        Decayed("amount", PAYMENT, "amount", LIVES),
        Decayed("fraud", LABEL, "is_fraud", CUSTOMER_LABEL_LIFE, ("n", "sum")),
        Decayed("usual", PAYMENT, "amount", USUAL_LIFE, ("n", "sum")),
        Peak("peak", PAYMENT, "amount", "10d"),
        Recent("terminals", PAYMENT, "terminal", columns=3),
        Recent("devices", PAYMENT, "device", columns=1),
        Recent("networks", PAYMENT, "network", columns=1),
        Recent("categories", PAYMENT, "category", columns=1),
        Recent("countries", PAYMENT, "country", columns=1),
    ),
)
TERMINAL = Entity(
    "terminal",
    "terminal_id",
    VALUES,
    (
        *_PAYMENTS,
        Decayed("amount", PAYMENT, "amount", LIVES, ("n", "sum")),
        Decayed("fraud", LABEL, "is_fraud", LABEL_LIVES, ("n", "sum")),
        Latest("fraud_known_at", LABEL, "fraud_known_s", clock="fraud_known_at"),
        Latest("fraud_amount", LABEL, "fraud_amount", clock="fraud_known_at"),
        Began("fraud_began_at", LABEL, "fraud_paid_s", run="fraud_run"),
        Run("fraud_run", LABEL, "is_good"),
        Run("good_run", LABEL, "is_fraud"),
    ),
)

REQUEST = ("amount", "online", *CODES)
"""Columns of a request: the amount; 1 for an online payment, 0 for another, NaN if not given; codes."""

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


def customer_pace(customer_pace_n: Floats) -> Floats:
    """Decayed number of the customer's payments in the last hour."""
    return customer_pace_n


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


def customer_amount_ratio(amount: Floats, customer_usual_n: Floats, customer_usual_sum: Floats) -> Floats:
    """This amount in usual amounts of the customer; NaN before the first payment."""
    return amount / ratio(customer_usual_sum, customer_usual_n)


def customer_amount_peak(
    customer_peak: Floats, customer_usual_n: Floats, customer_usual_sum: Floats
) -> Floats:
    """The customer's greatest earlier amount in usual amounts; each fades with a mean life of 10 days."""
    return customer_peak / ratio(customer_usual_sum, customer_usual_n)


def customer_idle_s(at_s: Floats, customer_paid_at: Floats) -> Floats:
    """Seconds since the customer's last payment; NaN before the first, 0 for a late one."""
    return np.maximum(at_s - customer_paid_at, 0.0)


def customer_fraud_rate(customer_fraud_n: Floats, customer_fraud_sum: Floats) -> Floats:
    """Share of fraud among the customer's labels that have arrived; NaN before the first."""
    return ratio(customer_fraud_sum, customer_fraud_n)


def customer_terminal_familiarity(terminal: Floats, customer_terminals: Floats) -> Floats:
    """How many other terminals the customer used since this one; 9 if it is none of the last nine."""
    return recall(customer_terminals, terminal)


def customer_device_familiarity(device: Floats, customer_devices: Floats) -> Floats:
    """How many other devices the customer used since this one; 3 if it is none of the last three."""
    return recall(customer_devices, device)


def customer_network_familiarity(network: Floats, customer_networks: Floats) -> Floats:
    """The same of the network that the payment's IP address is in."""
    return recall(customer_networks, network)


def customer_category_familiarity(category: Floats, customer_categories: Floats) -> Floats:
    """The same of the merchant's category."""
    return recall(customer_categories, category)


def customer_country_familiarity(country: Floats, customer_countries: Floats) -> Floats:
    """The same of the country."""
    return recall(customer_countries, country)


def terminal_pace(terminal_pace_n: Floats) -> Floats:
    """Decayed number of payments at the terminal in the last hour."""
    return terminal_pace_n


def terminal_payment_count(terminal_amount_n: Floats) -> Floats:
    """Decayed number of earlier payments at the terminal."""
    return terminal_amount_n


def terminal_amount_mean(terminal_amount_n: Floats, terminal_amount_sum: Floats) -> Floats:
    """Mean amount of earlier payments at the terminal; NaN before the first."""
    return ratio(terminal_amount_sum, terminal_amount_n)


def terminal_idle_s(at_s: Floats, terminal_paid_at: Floats) -> Floats:
    """Seconds since the terminal's last payment; NaN before the first, 0 for a late one."""
    return np.maximum(at_s - terminal_paid_at, 0.0)


def terminal_fraud_rate(terminal_fraud_n: Floats, terminal_fraud_sum: Floats) -> Floats:
    """Share of fraud among the terminal's labels that have arrived; NaN before the first."""
    return ratio(terminal_fraud_sum, terminal_fraud_n)


def terminal_fraud_known_s(at_s: Floats, terminal_fraud_known_at: Floats) -> Floats:
    """Seconds since it was last known that a payment at the terminal had been fraud; NaN before the first."""
    return np.maximum(at_s - terminal_fraud_known_at, 0.0)


def terminal_fraud_amount(terminal_fraud_amount: Floats) -> Floats:
    """Amount of the payment at the terminal that was the last to be known as fraud; NaN before the first."""
    return terminal_fraud_amount


def terminal_fraud_began_s(at_s: Floats, terminal_fraud_began_at: Floats) -> Floats:
    """Seconds since the first payment of the terminal's newest run of frauds; NaN before the first."""
    return np.maximum(at_s - terminal_fraud_began_at, 0.0)


def terminal_fraud_run(terminal_fraud_run: Floats) -> Floats:
    """How many of the terminal's labels in a row, up to the newest, were fraud."""
    return terminal_fraud_run


def terminal_good_run(terminal_good_run: Floats) -> Floats:
    """How many of the terminal's labels in a row, up to the newest, were legitimate."""
    return terminal_good_run


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
        customer_pace, customer_payment_count, customer_amount_mean, customer_amount_zscore,
        customer_amount_ratio, customer_amount_peak, customer_idle_s, customer_fraud_rate,
        customer_terminal_familiarity, customer_device_familiarity, customer_network_familiarity,
        customer_category_familiarity, customer_country_familiarity,
        terminal_pace, terminal_payment_count, terminal_amount_mean, terminal_idle_s,
        terminal_fraud_rate, terminal_fraud_known_s, terminal_fraud_amount,
        terminal_fraud_began_s, terminal_fraud_run, terminal_good_run,
    ),
)  # fmt: skip
"""The features of the fraud model."""


_COLUMN = {name: column for column, name in enumerate(FRAUD.names)}


def at_amounts(matrix: Floats, times: float) -> Floats:
    """Features of the same payments with so many times their amounts; the rest of them is as it was.

    A z-score follows from its mean and its own spread, which is read from the score itself.
    """
    found, amounts = matrix.copy(), matrix[:, _COLUMN["amount"]]
    found[:, _COLUMN["amount"]] *= times
    found[:, _COLUMN[f"customer_amount_ratio_{USUAL_LIFE[0]}"]] *= times
    for life in LIVES:
        score, mean = (_COLUMN[f"customer_amount_{what}_{life}"] for what in ("zscore", "mean"))
        above = amounts - matrix[:, mean]
        grown = np.divide(above + (times - 1.0) * amounts, above, out=np.ones_like(above), where=above != 0)
        found[:, score] *= grown
    return found


def event_values(
    kind: Ints,
    amount: Floats,
    label: Sequence[str | None],
    event_time_us: Ints,
    paid_at_us: Floats,
    codes: Mapping[str, Floats],
) -> Floats:
    """Value matrix of payments and labels in the order of `VALUES`, then of `codes`, shape (n, columns).

    Args:
        kind: `PAYMENT` or `LABEL`.
        amount: of the payment, also of the one that a label tells of.
        label: "fraud" or "legitimate"; None for payments.
        event_time_us: of the payment, or of the label's arrival.
        paid_at_us: of the payment that a label tells of.
        codes: columns of `CODES`, or nothing where only terminals are folded.
    """
    is_fraud = np.array([np.nan if each is None else float(each == "fraud") for each in label])
    time_s = event_time_us / 1e6
    known = is_fraud == 1.0
    return np.column_stack(
        [
            np.where(kind == PAYMENT, amount, np.nan),
            is_fraud,
            1.0 - is_fraud,
            np.where(known, amount, np.nan),
            np.where(known, paid_at_us / 1e6, np.nan),
            np.where(known, time_s, np.nan),
            time_s,
            *(codes[name] for name in CODES if codes),
        ]
    )


def request_columns(
    amount: Floats, channel: Sequence[str | None], codes: Mapping[str, Floats]
) -> dict[str, Floats]:
    """Columns of requests in the names of `REQUEST`, each of shape (n,)."""
    online = np.array([np.nan if each is None else float(each == "online") for each in channel])
    return {"amount": amount, "online": online, **codes}


def codes_of_rows(rows: pa.Table | pa.RecordBatch) -> dict[str, Floats]:
    """Columns of `CODES` of events, each of shape (n,); NaN where a text is not given."""
    return {name: _codes_of_column(name, rows.column(field)) for name, field in CODES.items()}


def codes_of_payments(payments: Sequence[Mapping[str, Any]]) -> dict[str, Floats]:
    """The same of payments' fields."""
    return {name: _codes(name, [each.get(field) for each in payments]) for name, field in CODES.items()}


def _codes(name: str, texts: Sequence[str | None]) -> Floats:
    named = _network if name == "network" else str
    return np.array([np.nan if each is None else float(code_of(named(each))) for each in texts])


def _codes_of_column(name: str, column: pa.Array | pa.ChunkedArray) -> Floats:
    """The same for a long column of few distinct texts."""
    if column.null_count == len(column):
        return np.full(len(column), np.nan)
    whole = column if isinstance(column, pa.Array) else column.combine_chunks()
    coded = whole.dictionary_encode()
    distinct = _codes(name, [*coded.dictionary.to_pylist(), None])
    codes: Floats = distinct[coded.indices.fill_null(len(distinct) - 1).to_numpy()]
    return codes


def _network(ip: str) -> str:
    """The first three bytes of an IPv4 address, the first three groups of an IPv6 one.

    >>> _network("203.0.113.7"), _network("2001:db8:1::7")
    ('203.0.113', '2001:db8:1')
    """
    return ":".join(ip.split(":")[:3]) if ":" in ip else ip.rpartition(".")[0]
