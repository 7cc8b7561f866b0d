"""Simulated events as they go over the wire, named as in the contracts; a field without a value is left out.

Each function yields JSON-ready events; `encoded` makes them bytes.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import orjson

from ingestion.simulators.columns import Floats, Ints
from ingestion.simulators.market import PriceLog, Quotes
from ingestion.simulators.payments import PaymentLog

Event = dict[str, Any]

_TRANSACTION = (
    "event_time", "latitude", "longitude",
    "transaction_id", "customer_id", "terminal_id", "amount", "currency", "channel", "country", "device_id",
    "merchant_category",
)  # fmt: skip
_CONTEXT = ("competitor_price", "hours_to_departure", "inventory")


def encoded(events: Iterable[Event]) -> list[bytes]:
    """Each event as JSON in UTF-8."""
    return [orjson.dumps(event) for event in events]


def transactions(log: PaymentLog) -> Iterator[Event]:
    """Events of topic `transactions`, keyed by customer_id, in order; nothing in them tells the truth."""
    place = [_present(log.latitude), _present(log.longitude)]
    rest = [getattr(log, name).tolist() for name in _TRANSACTION[3:]]
    return _events(_TRANSACTION, [rfc3339(log.event_time_us), *place, *rest])


def labels(log: PaymentLog) -> Iterator[Event]:
    """Events of topic `labels`, keyed by transaction_id, in the log's order."""
    columns = [
        log.transaction_id.tolist(),
        log.label.tolist(),
        rfc3339(log.label_time_us),
        log.source.tolist(),
    ]
    return _events(("transaction_id", "label", "label_time", "source"), columns)


def quote_requests(quotes: Quotes, inventory: Floats | None = None) -> Iterator[Event]:
    """Bodies for `POST /v1/prices/quote`; the inventory of perishable products is the seller's to know."""
    left = np.full(len(quotes), np.nan) if inventory is None else inventory
    numbers = (quotes.competitor_price, np.round(quotes.hours_to_departure, 4), left)
    contexts = list(_events(_CONTEXT, [_present(column) for column in numbers]))
    words = [quotes.product_id.tolist(), quotes.segment.tolist()]
    columns = [quotes.quote_id.tolist(), rfc3339(quotes.event_time_us), *words, contexts]
    return _events(("quote_id", "event_time", "product_id", "segment", "context"), columns)


def outcomes(quote_id: Iterable[str], outcome_time_us: Ints, units: Ints) -> Iterator[Event]:
    """Events of topic `outcomes`, keyed by their product_id, for `POST /v1/prices/outcomes` too."""
    return _events(
        ("quote_id", "event_time", "units"), [list(quote_id), rfc3339(outcome_time_us), units.tolist()]
    )


def past_outcomes(log: PriceLog) -> Iterator[Event]:
    """Outcomes of a past seller's log, in the log's order."""
    return outcomes(log.quote_id, log.outcome_time_us, log.units)


def rfc3339(time_us: Ints) -> list[str]:
    """Times with microseconds and Z.

    >>> rfc3339(np.array([1_500_000]))
    ['1970-01-01T00:00:01.500000Z']
    """
    stamps: list[str] = np.datetime_as_string(time_us.astype("datetime64[us]"), timezone="UTC").tolist()
    return stamps


def _present(values: Floats) -> list[float | None]:
    """Python numbers, None for NaN."""
    column = values.astype(object)
    column[np.isnan(values)] = None
    present: list[float | None] = column.tolist()
    return present


def _events(names: tuple[str, ...], columns: list[list[Any]]) -> Iterator[Event]:
    for row in zip(*columns, strict=True):
        yield {name: value for name, value in zip(names, row, strict=True) if value is not None}
