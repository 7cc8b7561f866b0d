"""The topics: what others send and read, and the entity streams between our stages."""

import logging
import re
import threading

from pydantic import BaseModel

from infra.card_numbers import masked_bytes
from infra.settings import Settings
from ingestion.broker import BrokerError, create_topics, type_of_headers
from ingestion.events import Label, Outcome, Quote, Transaction
from ingestion.streams import COUNTED_PRODUCT_EVENT, FRAUD_EVENT, PRODUCT_EVENT, SCORED_EVENT

log = logging.getLogger(__name__)

DAY_MS = 86_400_000
ASK_AGAIN_S = 2.0

TRANSACTIONS, LABELS, DECISIONS, QUOTES, OUTCOMES = (
    "transactions",
    "labels",
    "decisions",
    "quotes",
    "outcomes",
)
EXTERNAL = (TRANSACTIONS, LABELS, DECISIONS, QUOTES, OUTCOMES)
"""Topics of the contract; JSON values."""

CUSTOMER_STREAM, TERMINAL_STREAM, PRODUCT_STREAM = "stream.customer", "stream.terminal", "stream.product"
STREAMS = (CUSTOMER_STREAM, TERMINAL_STREAM, PRODUCT_STREAM)
"""One total order of all events of each entity; values are Arrow record batches."""
PRODUCT_COUNTED = "stream.product.counted"
"""What of the product stream counted, each with the place where it was folded: what the history keeps."""

MASKED = "masked"
"""Header of a dead letter that is not as it came: a card number was masked. It is not sent again."""

PLACE = "place"
"""Header of a decision: `partition:position` of its payment in the terminal stream, again if sent again."""

STREAM_SCHEMAS = {
    CUSTOMER_STREAM: FRAUD_EVENT,
    TERMINAL_STREAM: SCORED_EVENT,
    PRODUCT_STREAM: PRODUCT_EVENT,
    PRODUCT_COUNTED: COUNTED_PRODUCT_EVENT,
}
"""Columns of each."""

EVENT_TYPES: dict[str, type[BaseModel]] = {
    TRANSACTIONS: Transaction,
    LABELS: Label,
    QUOTES: Quote,
    OUTCOMES: Outcome,
}
"""What a value of an incoming topic must parse as."""


def dead_letters(topic: str) -> str:
    """Topic of what could not be taken from `topic`."""
    return f"{topic}.dlq"


def unnumbered(raw: bytes | None) -> bytes | None:
    """A dead letter's key or value without the digits of card numbers."""
    return None if raw is None else masked_bytes(raw)


def place_of(headers: type_of_headers) -> tuple[int, int] | None:
    """Partition and position in the terminal stream of the payment that a decision is on, if it tells.

    >>> place_of([(PLACE, b"3:42")]), place_of([(PLACE, b"3:-4")]), place_of([])
    ((3, 42), None, None)
    """
    told = re.fullmatch(rb"(\d{1,9}):(\d{1,18})", dict(headers).get(PLACE, b""))
    return (int(told[1]), int(told[2])) if told else None


def all_topics() -> tuple[str, ...]:
    """Every topic that must exist."""
    return (*EXTERNAL, *STREAMS, PRODUCT_COUNTED, *map(dead_letters, EXTERNAL))


def ensure_topics(settings: Settings) -> None:
    """Create the topics that are missing."""
    retention_ms = int(settings.topics.retention_days * DAY_MS)
    create_topics(settings.addresses.kafka, all_topics(), settings.topics.partitions, retention_ms)


def await_topics(settings: Settings, stop: threading.Event) -> None:
    """Create the topics that are missing, as soon as there is a broker; gives up when told to stop."""
    while not stop.is_set():
        try:
            ensure_topics(settings)
        except BrokerError as error:
            log.warning("waiting for Kafka: %s", error)
            stop.wait(ASK_AGAIN_S)
        else:
            return
