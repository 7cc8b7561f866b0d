"""Third stage: what is known of customer and terminal meets, and the payment is decided."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import orjson

from features.connection import Connection, type_of_command
from features.fraud import CUSTOMER, FRAUD, LABEL, PAYMENT, TERMINAL, codes_of_rows, request_columns
from features.index import Place
from features.state import MICROSECONDS, Floats
from ingestion.broker import Partition, Record
from ingestion.forgotten import Forgotten
from ingestion.topics import TERMINAL_STREAM
from serving.customer_stage import values_of
from serving.decision_log import in_partition, keeping, outgoing
from serving.entity_stage import EntityFold, StreamBatch, read_batch, remembered
from serving.fraud import PAYMENT_FIELDS, encoded
from serving.review_queue import joining, leaving
from serving.stage import Work, next_offsets

type_of_decisions = Callable[[int, Sequence[int]], Mapping[Place, bytes]]
"""From an append time in milliseconds and partitions of the terminal stream to what is decided since."""


class Decider(Protocol):
    """Decides payments from their features."""

    def decide(self, payments: Sequence[Mapping[str, object]], matrix: Floats) -> list[dict[str, Any]]:
        """One decision a payment, in order; `matrix` has a row of `FRAUD.names` each."""
        ...


class TerminalStage:
    """Reads the terminal stream, writes the terminals' states and the decisions."""

    topics: Sequence[str] = (TERMINAL_STREAM,)

    def __init__(
        self,
        store: Connection,
        decider: Decider,
        decided_since: type_of_decisions,
        keep_decisions_s: int,
        forgotten: Forgotten | None = None,
    ) -> None:
        self._forgotten = forgotten or Forgotten()
        self._store = store
        self._decider = decider
        self._decided_since = decided_since
        self._keep_decisions_s = keep_decisions_s
        self._fold = EntityFold(TERMINAL, store)
        self._progress: dict[int, dict[int, int]] = {}
        self._unchecked: set[int] = set()
        self._decided: dict[Place, bytes] = {}

    def assigned(self, partitions: Sequence[Partition]) -> None:
        """Look up, before the first batch, how far each partition's last owner came."""
        mine = in_partition(partitions, TERMINAL_STREAM)
        replies = self._store.execute([("HGETALL", _progress_key(number)) for number in mine])
        for number, reply in zip(mine, replies, strict=True):
            self._progress[number] = _pairs(reply)
        self._unchecked |= set(mine)

    def revoked(self, partitions: Sequence[Partition]) -> None:
        """Forget how far they are: their next owner looks it up."""
        for number in in_partition(partitions, TERMINAL_STREAM):
            self._progress.pop(number, None)
            self._unchecked.discard(number)
        self._decided = {
            place: value for place, value in self._decided.items() if place.partition in self._progress
        }

    def restless(self) -> bool:
        """Nothing waits here."""
        return False

    def handle(self, records: Sequence[Record]) -> Work:
        """Fold payments and labels, decide the payments that HTTP has not decided."""
        work = Work(handled=next_offsets(records))
        self._look_up_decided(records)
        arrived = read_batch(records)
        new = arrived.take(self._new(arrived))
        work.count("repeated", len(arrived) - len(new))
        batch = remembered(new, self._forgotten)
        if len(batch):
            folded = self._fold(batch, values_of(batch, codes={}))
            work.writes += folded.writes
            work.accepted_ms += batch.integers("appended_ms").tolist()
            paid = np.flatnonzero(batch.integers("kind") == PAYMENT)
            self._decide(batch.take(paid), folded.folded.seen[paid], work)
            work.writes += leaving(_labelled(batch))
            work.writes += self._reached(batch)
        return work

    def _look_up_decided(self, records: Sequence[Record]) -> None:
        """Decisions that a crashed owner sent but did not finish; asked once for each partition we take over.

        The owner may have had more in one batch than we have in our first.
        """
        first = {record.partition: record.timestamp for record in reversed(records)}
        unchecked = self._unchecked & set(first)
        self._unchecked -= unchecked
        if unchecked:
            self._decided |= self._decided_since(min(first[p] for p in unchecked), sorted(unchecked))

    def _new(self, batch: StreamBatch) -> list[int]:
        """Rows that the customer stage has not sent before: its places rise, but for a crash's repeats."""
        origins = zip(
            batch.partition.tolist(),
            batch.integers("customer_partition").tolist(),
            batch.integers("customer_position").tolist(),
            strict=True,
        )
        keep: list[int] = []
        for i, (ours, theirs, position) in enumerate(origins):
            reached = self._progress.setdefault(ours, {})
            if position > reached.get(theirs, -1):
                reached[theirs] = position
                keep.append(i)
        return keep

    def _reached(self, batch: StreamBatch) -> list[type_of_command]:
        """Commands that remember how far we are, for the partitions' next owner."""
        return [
            ("HSET", _progress_key(ours), theirs, position)
            for ours in set(batch.partition.tolist())
            for theirs, position in self._progress[ours].items()
        ]

    def _decide(self, batch: StreamBatch, terminal_states: Floats, work: Work) -> None:
        places = [
            Place(*each) for each in zip(batch.partition.tolist(), batch.position.tolist(), strict=True)
        ]
        by_http = batch.strings("decision")
        decided = {place: value for place in places if (value := self._decided.pop(place, None)) is not None}
        undecided = [i for i, place in enumerate(places) if place not in decided and by_http[i] is None]
        ours = dict(
            zip(undecided, self._decisions(batch.take(undecided), terminal_states[undecided]), strict=True)
        )
        to_review: list[Mapping[str, Any]] = []
        customers, partitions = batch.strings("customer_id"), batch.integers("customer_partition").tolist()
        for i, place in enumerate(places):
            if (decision := ours.get(i)) is not None:
                value = encoded(decision)
            else:
                value = decided.get(place) or _bytes(by_http[i])
                decision = orjson.loads(value)
            work.writes.append(keeping(decision["transaction_id"], value, self._keep_decisions_s))
            if decision["decision"] == "review":
                to_review.append(decision)
            if place not in decided:
                work.outputs.append(outgoing(value, customers[i], partitions[i], place))
        work.writes += joining(to_review)
        work.count("decisions", len(places))
        work.count("decided_before", len(places) - len(undecided))

    def _decisions(self, batch: StreamBatch, terminal_states: Floats) -> list[dict[str, Any]]:
        if not len(batch):
            return []
        matrix = FRAUD.matrix(
            {CUSTOMER.name: customer_states(batch), TERMINAL.name: terminal_states},
            request_columns(batch.numbers("amount"), batch.strings("channel"), codes_of_rows(batch.rows)),
            batch.integers("event_time_us") / MICROSECONDS,
        )
        return self._decider.decide(batch.rows.select(PAYMENT_FIELDS).to_pylist(), matrix)


def _labelled(batch: StreamBatch) -> list[str]:
    """Transactions of the batch's labels."""
    rows = np.flatnonzero(batch.integers("kind") == LABEL)
    names: list[str] = batch.rows.column("transaction_id").take(rows).to_pylist()
    return names


def customer_states(batch: StreamBatch) -> Floats:
    """The customer's state that came with each row, shape (n, columns)."""
    column = batch.rows.column("customer_state").combine_chunks()
    flat: Floats = column.flatten().to_numpy()
    return flat.reshape(len(batch), -1)


def _progress_key(partition: int) -> bytes:
    return b"progress:%s:%d" % (TERMINAL_STREAM.encode(), partition)


def _pairs(reply: Sequence[bytes]) -> dict[int, int]:
    numbers = list(map(int, reply))
    return dict(zip(numbers[::2], numbers[1::2], strict=True))


def _bytes(value: object) -> bytes:
    assert isinstance(value, bytes)
    return value
