"""First stage: what arrived from outside becomes events of an entity's stream, or a dead letter.

Events of all partitions are put in the order of event time as far as they are there, so that a label is
folded before the payments after it however fast the log is read. A label finds its customer and terminal by
the transaction it names; one that came before its transaction waits in Redis until the transaction comes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import orjson
from pydantic import BaseModel, ValidationError

from features.connection import Connection, set_expiring, type_of_command
from features.fraud import LABEL, PAYMENT
from features.index import (
    KnownQuote,
    KnownTransaction,
    known_entry,
    known_quote_key,
    known_transaction_key,
    label_orphans_key,
    outcome_orphans_key,
    read_quote,
    read_transaction,
)
from features.pricing import OUTCOME, QUOTE
from infra.card_numbers import masked
from ingestion.broker import MAX_MESSAGE_BYTES, Partition, Record
from ingestion.events import (
    MAX_AHEAD_US,
    Label,
    Outcome,
    Quote,
    Transaction,
    event_time,
    microseconds,
    reason,
)
from ingestion.forgotten import Forgotten
from ingestion.merge import EventTimeMerge
from ingestion.pseudonyms import MARK, NO_PSEUDONYMS, Pseudonyms
from ingestion.streams import FRAUD_EVENT, PRODUCT_EVENT, batch_of, encoded, partition_of
from ingestion.topics import (
    CUSTOMER_STREAM,
    EVENT_TYPES,
    LABELS,
    MASKED,
    OUTCOMES,
    PRODUCT_STREAM,
    QUOTES,
    TRANSACTIONS,
    dead_letters,
    unnumbered,
)
from serving.decision_log import Decided
from serving.stage import Outgoing, Work

DECISION_HEADER = "decision"
"""Header of a transaction that HTTP decided: the whole decision as JSON."""

MOST_LETTER_BYTES = MAX_MESSAGE_BYTES - 128 * 1024
MOST_KEY_BYTES, MOST_DECISION_BYTES, MOST_REASON = 64 * 1024, 64 * 1024, 1_000
TURN = 2_000
"""Events routed in a turn: the others' stages have theirs in between."""
BUFFER = 4_000
"""Events of one partition that may wait for another partition's; beyond, it is not read on."""

type_of_row = dict[str, Any]
E = TypeVar("E")


class Arrived(NamedTuple):
    """A valid event and where it came from."""

    event: BaseModel
    time_us: int
    record: Record


@dataclass(frozen=True)
class Rejected:
    """An event that can't be taken, and why."""

    reason: str
    record: Record


def parse(record: Record, pseudonyms: Pseudonyms = NO_PSEUDONYMS) -> Arrived | Rejected:
    """The record's event with pseudonyms for identifiers, or the reason why it is none."""
    decision = dict(record.headers).get(DECISION_HEADER)
    if len(decision or b"") > MOST_DECISION_BYTES:
        return Rejected(f"expected a decision of at most {MOST_DECISION_BYTES} bytes", record)
    try:
        event = EVENT_TYPES[record.topic].model_validate_json(record.value or b"")
        if decision is not None:
            Decided.model_validate_json(decision, context=event.__dict__)
    except ValidationError as error:
        return Rejected(reason(error), record)
    time_us = microseconds(event_time(event))  # type: ignore[arg-type]
    if time_us > record.timestamp * 1_000 + MAX_AHEAD_US:
        return Rejected(
            "expected a time at most a day ahead of the broker's clock, came one further ahead", record
        )
    return Arrived(pseudonyms.event(event), time_us, record)


def dead_letter(rejected: Rejected) -> Outgoing:
    """The raw bytes as they came, with the reason and the place; a masked card number has a header, too.

    What would be too large with these is cut, and a header tells its length: nothing shall wait behind it.
    """
    record = rejected.record
    headers = [
        ("error", masked(rejected.reason)[:MOST_REASON].encode()),
        ("topic", record.topic.encode()),
        ("partition", str(record.partition).encode()),
        ("offset", str(record.offset).encode()),
    ]
    raw_key, raw_value = unnumbered(record.key), unnumbered(record.value)
    if (raw_key, raw_value) != (record.key, record.value):
        headers.append((MASKED, b"card number"))
    key, value = _cut(raw_key, MOST_KEY_BYTES), _cut(raw_value, MOST_LETTER_BYTES)
    if (key, value) != (raw_key, raw_value):
        headers.append(("truncated", str(len(record.value or b"")).encode()))
    return Outgoing(dead_letters(record.topic), value, key, headers)


def _cut(raw: bytes | None, most: int) -> bytes | None:
    return raw if raw is None or len(raw) <= most else raw[:most]


class Router:
    """Reads the external topics; `caught_up` tells whether the broker has more of a partition."""

    topics: Sequence[str] = (TRANSACTIONS, LABELS, QUOTES, OUTCOMES)

    def __init__(
        self,
        store: Connection,
        partitions: int,
        remember_s: int,
        caught_up: Callable[[Partition], bool],
        pseudonyms: Pseudonyms = NO_PSEUDONYMS,
        forgotten: Forgotten | None = None,
    ) -> None:
        self._store = store
        self._pseudonyms = pseudonyms
        self._forgotten = forgotten or Forgotten()
        self._remember_s = remember_s
        self._partitions = partitions
        self._caught_up = caught_up
        self._merge: EventTimeMerge[Partition, Arrived] = EventTimeMerge()
        self._ours: set[Partition] = set()
        self._next: dict[Partition, int] = {}
        self._routed: dict[Partition, int] = {}

    def assigned(self, partitions: Sequence[Partition]) -> None:
        """Wait for these partitions when merging."""
        self._ours |= set(partitions)

    def revoked(self, partitions: Sequence[Partition]) -> None:
        """Forget what waits of these: their next owner reads it again."""
        self._ours -= set(partitions)
        self._merge.drop(partitions)
        for partition in partitions:
            self._next.pop(partition, None)
            self._routed.pop(partition, None)

    def full(self) -> list[Partition]:
        """Partitions to read no further for now."""
        return [partition for partition in self._ours if self._merge.buffered(partition) > BUFFER]

    def restless(self) -> bool:
        """Events that waited for another partition may be due now."""
        return self._merge.waiting()

    def handle(self, records: Sequence[Record]) -> Work:
        """Route what is due in event time; keep the rest for a later call."""
        work = Work()
        for record in records:
            self._admit(record, work)
        awaited = [partition for partition in self._ours if not self._caught_up(partition)]
        due = [
            arrived for _, arrived in self._merge.take(awaited, TURN) if not self._passed_over(arrived, work)
        ]
        self._route_payments(due, work)
        self._route_sales(due, work)
        work.handled = self._handled()
        return work

    def _admit(self, record: Record, work: Work) -> None:
        partition = Partition(record.topic, record.partition)
        self._next[partition] = record.offset + 1
        match parse(record, self._pseudonyms):
            case Rejected() as rejected:
                work.outputs.append(dead_letter(rejected))
                work.count(f"{record.topic}_rejected")
            case Arrived() as arrived:
                self._merge.add(partition, arrived.time_us, arrived)

    def _passed_over(self, arrived: Arrived, work: Work) -> bool:
        """Whether it is of the time before its person was forgotten."""
        paid = arrived.event
        if not isinstance(paid, Transaction):
            return False
        gone = self._forgotten.holds(paid.customer_id, arrived.record.timestamp)
        work.count("forgotten", gone)
        return gone

    def _handled(self) -> dict[Partition, int]:
        """Next offsets that changed since the last call: everything before them has been routed."""
        reached = {partition: self._reached(partition, offset) for partition, offset in self._next.items()}
        changed = {p: offset for p, offset in reached.items() if self._routed.get(p) != offset}
        self._routed |= changed
        return changed

    def _reached(self, partition: Partition, read: int) -> int:
        oldest = self._merge.oldest(partition)
        return read if oldest is None else oldest.record.offset

    def _route_payments(self, due: Sequence[Arrived], work: Work) -> None:
        paid = {
            known_transaction_key(each.event.transaction_id): _known_payment(each.event, each.time_us)
            for each in reversed(due)
            if isinstance(each.event, Transaction)
        }
        labels = [each.event for each in due if isinstance(each.event, Label)]
        earlier = self._known(labels, _transaction_of)
        known = paid | {key: read_transaction(entry) for key, entry in earlier.items()}
        rows: list[type_of_row] = []
        for each in due:
            if isinstance(each.event, Transaction):
                rows.append(payment_row(each.event, each.time_us, each.record))
            elif isinstance(each.event, Label):
                of = known.get(_transaction_of(each.event)) or self._park_label(each.event, each.record)
                rows += [label_row(each.event, each.record.timestamp, of)] if of else []
        work.notes += [self._note(*each) for each in paid.items()]
        work.outputs += messages(CUSTOMER_STREAM, rows, "customer_id", FRAUD_EVENT, self._partitions)
        work.count("labels", len(labels))
        work.count("payments", sum(row["kind"] == PAYMENT for row in rows))

    def _route_sales(self, due: Sequence[Arrived], work: Work) -> None:
        quoted = {each.event.quote_id: each.event for each in reversed(due) if isinstance(each.event, Quote)}
        outcomes = [each.event for each in due if isinstance(each.event, Outcome)]
        known = {known_quote_key(name): _known_quote(each) for name, each in quoted.items()}
        known |= {key: read_quote(entry) for key, entry in self._known(outcomes, _quote_of).items()}
        rows: list[type_of_row] = []
        for each in due:
            if isinstance(each.event, Quote):
                rows.append(quote_row(each.event, each.record))
            elif isinstance(each.event, Outcome):
                of = known.get(_quote_of(each.event)) or self._park_outcome(each.event, each.record)
                rows += [outcome_row(each.event, each.record.timestamp, of)] if of else []
        work.notes += [self._note(known_quote_key(name), _known_quote(each)) for name, each in quoted.items()]
        work.outputs += messages(PRODUCT_STREAM, rows, "product_id", PRODUCT_EVENT, self._partitions)
        work.count("outcomes", len(outcomes))
        work.count("quotes", sum(row["kind"] == QUOTE for row in rows))

    def _known(self, events: Sequence[E], key: Callable[[E], bytes]) -> dict[bytes, bytes]:
        keys = list(dict.fromkeys(map(key, events)))
        entries = self._store.execute([("GET", each) for each in keys])
        return {each: entry for each, entry in zip(keys, entries, strict=True) if entry is not None}

    def _note(self, key: bytes, known: KnownTransaction | KnownQuote) -> type_of_command:
        """The first copy of an event is the one that counts."""
        return set_expiring(key, known_entry(known), self._remember_s, only_new=True)

    def _park_label(self, label: Label, record: Record) -> KnownTransaction | None:
        entry = self._park(label, record, label_orphans_key(label.transaction_id), _transaction_of(label))
        return read_transaction(entry) if entry else None

    def _park_outcome(self, outcome: Outcome, record: Record) -> KnownQuote | None:
        entry = self._park(outcome, record, outcome_orphans_key(outcome.quote_id), _quote_of(outcome))
        return read_quote(entry) if entry else None

    def _park(self, event: BaseModel, record: Record, orphans: bytes, known: bytes) -> bytes | None:
        """Keep what came before the event it belongs to, then ask again: that one may have come meanwhile.

        The other's router notes it before it sends it on, and its stage looks for orphans after: one of the
        two sees the other, and if both do, the second copy is dropped as seen.
        """
        parked = orjson.dumps({"event": event.model_dump(mode="json"), "appended_ms": record.timestamp})
        commands: list[type_of_command] = [
            ("RPUSH", orphans, parked),
            ("EXPIRE", orphans, self._remember_s),
            ("GET", known),
        ]
        entry: bytes | None = self._store.execute(commands)[-1]
        return entry


def payment_row(paid: Transaction, time_us: int, record: Record) -> type_of_row:
    """A payment as a row of the customer stream; the schema leaves out what else it has."""
    decision = dict(record.headers).get(DECISION_HEADER)
    return paid.__dict__ | {
        "kind": PAYMENT,
        "event_time_us": time_us,
        "attributes": orjson.dumps(paid.attributes).decode() if paid.attributes else None,
        "appended_ms": record.timestamp,
        "decision": decision if decision is None else _of_same(paid, decision),
    }


def _of_same(paid: Transaction, decision: bytes) -> bytes:
    """The decision that came with a payment, whoever made it, naming the customer as the payment does now."""
    if not paid.customer_id.startswith(MARK) or paid.customer_id.encode() in decision:
        return decision
    return orjson.dumps(orjson.loads(decision) | {"customer_id": paid.customer_id})


def label_row(label: Label, appended_ms: int, of: KnownTransaction) -> type_of_row:
    """A label as a row of the customer stream."""
    return {
        "kind": LABEL,
        "transaction_id": label.transaction_id,
        "event_time_us": microseconds(label.label_time),
        "customer_id": of.customer_id,
        "terminal_id": of.terminal_id,
        "amount": of.amount,
        "label": label.label,
        "source": label.source,
        "paid_at_us": of.event_time_us,
        "appended_ms": appended_ms,
    }


def quote_row(quote: Quote, record: Record) -> type_of_row:
    """A quote as a row of the product stream; the schema leaves out what else it has."""
    return quote.__dict__ | {
        "kind": QUOTE,
        "event_time_us": microseconds(quote.event_time),
        "context": orjson.dumps(quote.context).decode(),
        "model_version": str(quote.model.get("version", ""))[:64],
        "feature_names": list(quote.features),
        "features": list(quote.features.values()),
        "appended_ms": record.timestamp,
    }


def outcome_row(outcome: Outcome, appended_ms: int, of: KnownQuote) -> type_of_row:
    """An outcome as a row of the product stream."""
    return {
        "kind": OUTCOME,
        "quote_id": outcome.quote_id,
        "event_time_us": microseconds(outcome.event_time),
        "product_id": of.product_id,
        "price": of.price,
        "units": outcome.units,
        "quoted_at_us": of.event_time_us,
        "appended_ms": appended_ms,
    }


def parked_labels(replies: Sequence[bytes], of: KnownTransaction) -> list[type_of_row]:
    """Rows of labels that waited for their transaction."""
    parked = [orjson.loads(each) for each in replies]
    return [
        label_row(Label.model_validate(each["event"], strict=False), each["appended_ms"], of)
        for each in parked
    ]


def parked_outcomes(replies: Sequence[bytes], of: KnownQuote) -> list[type_of_row]:
    """Rows of outcomes that waited for their quote."""
    parked = [orjson.loads(each) for each in replies]
    return [
        outcome_row(Outcome.model_validate(each["event"], strict=False), each["appended_ms"], of)
        for each in parked
    ]


def _transaction_of(label: Label) -> bytes:
    return known_transaction_key(label.transaction_id)


def _quote_of(outcome: Outcome) -> bytes:
    return known_quote_key(outcome.quote_id)


def _known_payment(paid: Transaction, time_us: int) -> KnownTransaction:
    return KnownTransaction(paid.customer_id, paid.terminal_id, time_us, paid.amount)


def _known_quote(quote: Quote) -> KnownQuote:
    return KnownQuote(quote.product_id, quote.price, microseconds(quote.event_time))


def messages(
    stream: str, rows: Sequence[type_of_row], key: str, schema: Any, partitions: int
) -> list[Outgoing]:
    """Rows as one message for each partition of a stream, order kept within each."""
    parts: dict[int, list[type_of_row]] = {}
    for row in rows:
        parts.setdefault(partition_of(row[key], partitions), []).append(row)
    return [
        Outgoing(stream, value, partition=number)
        for number, mine in sorted(parts.items())
        for value in encoded(batch_of(mine, schema))
    ]
