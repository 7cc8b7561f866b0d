"""The topics: what others send and read, and the entity streams between our stages."""

from pydantic import BaseModel

from infra.settings import Settings
from ingestion.broker import create_topics
from ingestion.events import Label, Outcome, Quote, Transaction

DAY_MS = 86_400_000

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


def all_topics() -> tuple[str, ...]:
    """Every topic that must exist."""
    return (*EXTERNAL, *STREAMS, *map(dead_letters, EXTERNAL))


def ensure_topics(settings: Settings) -> None:
    """Create the topics that are missing."""
    retention_ms = int(settings.topics.retention_days * DAY_MS)
    create_topics(settings.addresses.kafka, all_topics(), settings.topics.partitions, retention_ms)
