"""What is known of an event by its idempotency key: whom it concerns, and whether it counted already.

Entries live in Redis beside the states. `known:` tells a label its customer and terminal, and an outcome its
product. `seen:` remembers the place at which an event was folded, so that the same delivery coming again is
told from a second copy of the event. `orphans:` keeps what came before the event it belongs to.
"""

from typing import NamedTuple

SEPARATOR = "\x1f"
"""Between the parts of an entry. Not printable, so it cannot be in an id."""

KNOWN_TRANSACTION, KNOWN_QUOTE = "known:t:", "known:q:"
SEEN_TRANSACTION, SEEN_LABEL, SEEN_QUOTE, SEEN_OUTCOME = "seen:t:", "seen:l:", "seen:q:", "seen:o:"


class Place(NamedTuple):
    """A partition of an entity stream and a position in it; partition -1 is the backfill."""

    partition: int
    position: int


class KnownTransaction(NamedTuple):
    """What a label needs to find its way."""

    customer_id: str
    terminal_id: str
    event_time_us: int
    amount: float


class KnownQuote(NamedTuple):
    """What an outcome needs to find its way."""

    product_id: str
    price: float
    event_time_us: int


def known_transaction_key(transaction_id: str) -> bytes:
    """Redis key of what is known of a transaction."""
    return f"{KNOWN_TRANSACTION}{transaction_id}".encode()


def known_quote_key(quote_id: str) -> bytes:
    """Redis key of what is known of a quote."""
    return f"{KNOWN_QUOTE}{quote_id}".encode()


def transaction_seen_key(transaction_id: str) -> bytes:
    """Redis key of the place where a transaction was folded."""
    return f"{SEEN_TRANSACTION}{transaction_id}".encode()


def label_seen_key(transaction_id: str, source: str, label: str) -> bytes:
    """Redis key of the place where a label was folded: a source may say each label once."""
    return f"{SEEN_LABEL}{transaction_id}:{source}:{label}".encode()


def quote_seen_key(quote_id: str) -> bytes:
    """Redis key of the place where a quote was folded."""
    return f"{SEEN_QUOTE}{quote_id}".encode()


def outcome_seen_key(quote_id: str) -> bytes:
    """Redis key of the place where a quote's outcome was folded: a quote has one."""
    return f"{SEEN_OUTCOME}{quote_id}".encode()


def label_orphans_key(transaction_id: str) -> bytes:
    """Redis list of labels that came before their transaction, as JSON."""
    return b"orphans:t:" + transaction_id.encode()


def outcome_orphans_key(quote_id: str) -> bytes:
    """Redis list of outcomes that came before their quote, as JSON."""
    return b"orphans:q:" + quote_id.encode()


def known_entry(known: KnownTransaction | KnownQuote) -> bytes:
    """Value under a `known:` key."""
    return SEPARATOR.join(map(str, known)).encode()


def read_transaction(entry: bytes) -> KnownTransaction:
    """The transaction under a `known:` key."""
    customer, terminal, time_us, amount = entry.decode().split(SEPARATOR)
    return KnownTransaction(customer, terminal, int(time_us), float(amount))


def read_quote(entry: bytes) -> KnownQuote:
    """The quote under a `known:` key."""
    product, price, time_us = entry.decode().split(SEPARATOR)
    return KnownQuote(product, float(price), int(time_us))


def place_entry(place: Place) -> bytes:
    """Value under a `seen:` key."""
    return b"%d:%d" % place


def read_place(entry: bytes) -> Place:
    """The place under a `seen:` key."""
    partition, position = entry.split(b":")
    return Place(int(partition), int(position))
