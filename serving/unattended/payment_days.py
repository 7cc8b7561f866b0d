"""Payments of a part of a day, decided one after the other as the stream does, without the broker.

States, features, decider and the history's writer are those of the stream. What is declined gets no label.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.domains import domain
from features.fraud import FRAUD
from features.replay import event_log
from features.state import MICROSECONDS, Floats
from ingestion.broker import Record
from ingestion.file_source import merged_order
from ingestion.streams import SCORED_EVENT, encode, position
from ingestion.topics import DECISIONS, TERMINAL_STREAM
from serving.fraud import PAYMENT_FIELDS, FraudDecider, encoded
from serving.unattended.lanes import Arrived, Lane, warmed
from serving.unattended.story import Story

STOPPED = ("review", "decline")

type_of_keep = Callable[[Sequence[Record]], None]


@dataclass(frozen=True)
class PaidDay:
    """What became of the payments of a day, or of a part of one."""

    decided: dict[str, int]
    """Payments by decision."""
    new_pattern: int
    """Payments of the new fraud."""
    stopped: int
    """Of these, reviewed or declined."""
    labels_of_pattern: tuple[int, ...]
    """When labels of the new fraud arrived, microseconds since 1970 UTC."""

    @classmethod
    def whole(cls, parts: Sequence["PaidDay"]) -> "PaidDay":
        """All parts of a day together."""
        return cls(
            decided={word: sum(each.decided[word] for each in parts) for word in parts[0].decided},
            new_pattern=sum(each.new_pattern for each in parts),
            stopped=sum(each.stopped for each in parts),
            labels_of_pattern=tuple(time_us for each in parts for time_us in each.labels_of_pattern),
        )


@dataclass
class PaymentDays:
    """One system's payments, day after day.

    Args:
        keep: takes what the stream would write to the history.
    """

    story: Story
    decider: FraudDecider
    keep: type_of_keep
    _declined: set[str] = field(default_factory=set)
    _decisions: int = 0

    def __post_init__(self) -> None:
        """Fold the past."""
        ids = [self.story.paid.decided[entity.key].to_pylist() for entity in FRAUD.entities]
        self._lanes: tuple[Lane, ...] = warmed("fraud", self.story.past_of("fraud"), ids)

    def play(self, turn: int) -> PaidDay:
        """Decide the payments until the end of a turn and take the labels that arrive in it."""
        events = self.story.paid.between(self.story.turn_us(turn), self.story.turn_us(turn + 1))
        declined = pa.array(sorted(self._declined), pa.string())
        told = events.settled.filter(pc.invert(pc.is_in(events.settled["transaction_id"], declined)))
        rows = _rows(events.decided, told, turn)
        payments, matrix = self._seen(rows)
        decisions = self.decider.decide(payments, matrix)
        self._declined |= {each["transaction_id"] for each in decisions if each["decision"] == "decline"}
        self._write(rows, decisions, turn)
        return self._told(decisions, told)

    def _seen(self, rows: pa.Table) -> tuple[list[dict[str, Any]], Floats]:
        """The payments, and their features as known at each."""
        kind = rows["kind"].to_numpy()
        paid, labels = (rows.filter(pa.array(kind == each)) for each in (0, 1))
        log = event_log(domain("fraud"), paid, labels)
        before = {lane.entity.name: lane.fold(log)[: paid.num_rows] for lane in self._lanes}
        at_s = paid["event_time_us"].to_numpy() / MICROSECONDS
        matrix = FRAUD.matrix(before, domain("fraud").request(log.decided), at_s)
        return paid.select(PAYMENT_FIELDS).to_pylist(), matrix

    def _write(self, rows: pa.Table, decisions: Sequence[dict[str, Any]], turn: int) -> None:
        now_ms = self.story.turn_us(turn + 1) // 1_000
        batch = rows.select(SCORED_EVENT.names).combine_chunks().to_batches()[0]
        self.keep([Arrived(TERMINAL_STREAM, turn, now_ms, encode(batch))])
        first = self._decisions
        self._decisions += len(decisions)
        self.keep([Arrived(DECISIONS, first + i, now_ms, encoded(each)) for i, each in enumerate(decisions)])

    def _told(self, decisions: Sequence[dict[str, Any]], told: pa.Table) -> PaidDay:
        pattern = self.story.new_pattern
        mine = [each["decision"] for each in decisions if each["transaction_id"] in pattern]
        words = [each["decision"] for each in decisions]
        arrived = zip(told["transaction_id"].to_pylist(), told["event_time_us"].to_pylist(), strict=True)
        return PaidDay(
            decided={word: words.count(word) for word in ("approve", "review", "decline")},
            new_pattern=len(mine),
            stopped=sum(word in STOPPED for word in mine),
            labels_of_pattern=tuple(time_us for name, time_us in arrived if name in pattern),
        )


def _rows(paid: pa.Table, labels: pa.Table, turn: int) -> pa.Table:
    """Both in order of time, with their places in one partition of either stream."""
    rows = pa.concat_tables([_as_event(paid, 0), _as_event(labels, 1)])
    number = merged_order(paid["event_time_us"].to_numpy(), labels["event_time_us"].to_numpy())
    rows = rows.take(pa.array(np.argsort(number, kind="stable")))
    partition = pa.array(np.zeros(len(number), np.int32))
    place = pa.array(position(turn, 0) + np.arange(len(number)))
    for name, column in (("customer_partition", partition), ("customer_position", place)):
        rows = rows.set_column(rows.column_names.index(name), name, column)
    return rows.append_column("terminal_partition", partition).append_column("terminal_position", place)


def _as_event(rows: pa.Table, kind: int) -> pa.Table:
    """Rows of history as rows of the terminal stream; what they lack is null."""
    given = rows.append_column("kind", pa.array(np.full(rows.num_rows, kind, np.int8)))
    times = given["event_time_us"].to_numpy() // 1_000
    given = given.set_column(given.column_names.index("appended_ms"), "appended_ms", pa.array(times))
    columns = [
        given[each.name].cast(each.type)
        if each.name in given.column_names
        else pa.nulls(len(given), each.type)
        for each in SCORED_EVENT
    ]
    return pa.table(columns, schema=SCORED_EVENT)
