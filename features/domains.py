"""Where each domain's events lie in the history, and what the fold and the request take from them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import orjson
import pyarrow as pa

from features import fraud, pricing
from features.definition import FeatureSet
from features.state import Floats, Ints
from infra.errors import UserError
from ingestion import tables


@dataclass(frozen=True)
class Domain:
    """A domain's two tables of history, and its columns as arrays.

    Events of `decided` (payments, quotes) have kind 0, those of `settled` (labels, outcomes) kind 1.
    """

    features: FeatureSet
    decided: str
    settled: str
    key: str
    """Column that identifies a decided event."""
    decided_columns: tuple[str, ...]
    """Columns that `values` and `request` take, beside the entities' keys and `event_time_us`."""
    settled_columns: tuple[str, ...]
    values: Callable[[Ints, pa.Table], Floats]
    """Value matrix of events from their kinds and their columns, null where the event's table has no such."""
    request: Callable[[pa.Table], Mapping[str, Floats]]
    """Request columns of decided events."""

    @property
    def name(self) -> str:
        """As in `tollgate train NAME`."""
        return self.features.domain


def domain(name: str) -> Domain:
    """The domain of that name; UserError if there is none."""
    if name not in DOMAINS:
        raise UserError(f"expected a domain, one of {', '.join(DOMAINS)}; came {name!r}.")
    return DOMAINS[name]


def words(rows: pa.Table, column: str) -> list[str | None]:
    """A text column of few distinct values, whose equal values share one string."""
    coded = rows[column].combine_chunks().dictionary_encode()
    distinct = np.array([*coded.dictionary.to_pylist(), None], dtype=object)
    found: list[str | None] = distinct[coded.indices.fill_null(len(distinct) - 1).to_numpy()].tolist()
    return found


def numbers(rows: pa.Table, column: str) -> Floats:
    """A number column; NaN where null."""
    found: Floats = rows[column].to_numpy().astype(np.float64, copy=False)
    return found


def _fraud_values(kind: Ints, rows: pa.Table) -> Floats:
    return fraud.event_values(
        kind,
        numbers(rows, "amount"),
        words(rows, "label"),
        rows["event_time_us"].to_numpy(),
        numbers(rows, "paid_at_us"),
        fraud.codes_of_rows(rows),
    )


def _fraud_request(rows: pa.Table) -> Mapping[str, Floats]:
    return fraud.request_columns(numbers(rows, "amount"), words(rows, "channel"), fraud.codes_of_rows(rows))


def _pricing_values(kind: Ints, rows: pa.Table) -> Floats:
    price, units = numbers(rows, "price"), numbers(rows, "units")
    return pricing.event_values(kind, price, units, rows["event_time_us"].to_numpy())


def _pricing_request(rows: pa.Table) -> Mapping[str, Floats]:
    context = [orjson.loads(each or "{}") for each in rows["context"].to_pylist()]
    return pricing.request_columns(
        numbers(rows, "price"),
        numbers(rows, "list_price"),
        numbers(rows, "unit_cost"),
        (words(rows, "product_id"), words(rows, "segment")),
        context,
    )


DOMAINS = {
    "fraud": Domain(
        features=fraud.FRAUD,
        decided=tables.TRANSACTIONS,
        settled=tables.LABELS,
        key="transaction_id",
        decided_columns=("amount", "channel", "device_id", "ip", "merchant_category", "country"),
        settled_columns=("amount", "label", "paid_at_us"),
        values=_fraud_values,
        request=_fraud_request,
    ),
    "pricing": Domain(
        features=pricing.PRICING,
        decided=tables.QUOTES,
        settled=tables.OUTCOMES,
        key="quote_id",
        decided_columns=("price", "list_price", "unit_cost", "segment", "context"),
        settled_columns=("price", "units"),
        values=_pricing_values,
        request=_pricing_request,
    ),
}
"""Every domain by name."""
