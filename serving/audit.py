"""What is true of a system if nothing was lost, doubled or wrongly remembered: comparisons, no I/O.

An event is known by its identity: the id of a transaction, quote or outcome; of a label the transaction, who
said it, and what. What is compared was read when nothing moved.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from pydantic import ValidationError

from features.state import Entity, States
from ingestion.broker import Record
from ingestion.events import Label, Outcome, Quote, Transaction
from ingestion.historian import DecisionRecord
from ingestion.tables import LABELS, OUTCOMES, QUOTES, TRANSACTIONS
from ingestion.topics import PLACE, place_of
from serving.router import Arrived, Rejected

TABLES = (TRANSACTIONS, LABELS, QUOTES, OUTCOMES)
"""Topics that events come by, and the tables of the history that they end in: the names are the same."""
IDENTITY = {
    TRANSACTIONS: ("transaction_id",),
    LABELS: ("transaction_id", "source", "label"),
    QUOTES: ("quote_id",),
    OUTCOMES: ("quote_id",),
}
"""Columns of the history by which an event is known."""
CONTRARY = {"fraud": "legitimate", "legitimate": "fraud"}

type_of_identity = tuple[str, ...]
type_of_place = tuple[str, int, int]
"""Topic, partition and offset of a record."""


@dataclass(frozen=True)
class Difference:
    """One thing that is not as it should be."""

    what: str
    """The kind, such as `transactions lost`."""
    name: str
    """The event or entity."""
    told: str
    """What was expected and what was found."""


@dataclass
class Sent:
    """What lies in one topic of events."""

    records: int = 0
    identities: Counter[type_of_identity] = field(default_factory=Counter)
    """Valid events, and how often each lies in the topic."""
    rejected: list[type_of_place] = field(default_factory=list)
    """What is no event: each must be a dead letter."""
    passed_over: int = 0
    """Events of a person who was forgotten later."""

    def take(self, parsed: Arrived | Rejected, forgotten: Callable[[str, int], bool]) -> None:
        """Count one record."""
        self.records += 1
        record = parsed.record
        if isinstance(parsed, Rejected):
            self.rejected.append((record.topic, record.partition, record.offset))
        elif isinstance(parsed.event, Transaction) and forgotten(parsed.event.customer_id, record.timestamp):
            self.passed_over += 1
        else:
            self.identities[identity(parsed.event)] += 1


def identity(event: object) -> type_of_identity:
    """By which an event is known to have come before."""
    match event:
        case Label():
            return (event.transaction_id, event.source, event.label)
        case Transaction():
            return (event.transaction_id,)
        case Quote() | Outcome():
            return (event.quote_id,)
    raise TypeError(f"expected an event of {', '.join(TABLES)}, came {type(event).__name__}")


def kept_times(table: str, rows: pa.Table) -> dict[type_of_identity, list[int]]:
    """Times of the rows that the history has of each event, in microseconds since 1970 UTC."""
    found: dict[type_of_identity, list[int]] = {}
    names = zip(*(rows[name].to_pylist() for name in IDENTITY[table]), strict=True)
    for name, time_us in zip(names, rows["event_time_us"].to_pylist(), strict=True):
        found.setdefault(name, []).append(time_us)
    return found


def once_in_history(
    table: str,
    sent: Iterable[type_of_identity],
    kept: Mapping[type_of_identity, Sequence[int]],
    waiting: Callable[[type_of_identity], bool],
) -> Iterator[Difference]:
    """Every event that was sent is in the history, and nothing is there twice.

    Args:
        table: its name.
        sent: events that lie in the topic.
        kept: times of the rows that the history has of each event, sent or backfilled.
        waiting: whether one that is not in the history waits for the event that it belongs to.
    """
    for name in sent:
        if name not in kept and not waiting(name):
            yield Difference(f"{table} lost", ":".join(name), "expected one row in the history, found none")
    for name, times in kept.items():
        if len(times) > 1 and not _said_again(table, name, kept):
            told = f"expected one row in the history, found {len(times)}"
            yield Difference(f"{table} doubled", ":".join(name), told)


def _said_again(table: str, name: type_of_identity, kept: Mapping[type_of_identity, Sequence[int]]) -> bool:
    """A source that has taken its word back may return to it later: that counts again."""
    times = kept[name]
    return table == LABELS and len(set(times)) == len(times) and (*name[:2], CONTRARY[name[2]]) in kept


@dataclass
class Decisions:
    """What lies in the topic of decisions."""

    of: dict[str, Counter[tuple[bytes, str]]] = field(default_factory=dict)
    """By transaction: how often each place, and what was decided there with which score."""
    places: list[type_of_place] = field(default_factory=list)
    """Every record that the history must have."""
    rejected: list[type_of_place] = field(default_factory=list)
    """What is no decision: each must be a dead letter."""
    _reached: dict[tuple[int, int], int] = field(default_factory=dict)

    def take(self, record: Record, forgotten: Callable[[str, int], bool]) -> None:
        """Count one record."""
        place = (record.topic, record.partition, record.offset)
        try:
            decision = DecisionRecord.model_validate_json(record.value or b"")
        except ValidationError:
            self.rejected.append(place)
            return
        if not forgotten(decision.customer_id, record.timestamp):
            made = (dict(record.headers).get(PLACE, b""), f"{decision.decision} {decision.score!r}")
            self.of.setdefault(decision.transaction_id, Counter())[made] += 1
            if self._first(record):
                self.places.append(place)

    def _first(self, record: Record) -> bool:
        """Whether the history takes it: places of payments rise, but for repeats (`historian.newly_sent`)."""
        told = place_of(record.headers)
        if told is None:
            return True
        lane, first = (
            (record.partition, told[0]),
            told[1] > self._reached.get((record.partition, told[0]), -1),
        )
        self._reached[lane] = max(told[1], self._reached.get(lane, -1))
        return first

    @property
    def repeated(self) -> int:
        """Records that say again what another said: same place, same decision and score."""
        return sum(made.total() - len(made) for made in self.of.values())


def decided_once(transactions: Iterable[str], decisions: Decisions) -> Iterator[Difference]:
    """Every transaction has one decision; a true repeat of it is no second one."""
    for name in transactions:
        if name not in decisions.of:
            yield Difference("transactions undecided", name, "expected one decision, found none")
    for name, made in decisions.of.items():
        if len(made) > 1:
            places = ", ".join(sorted({place.decode(errors="replace") for place, _ in made}))
            told = f"expected one decision, found {len(made)} at {places}"
            yield Difference("transactions decided again", name, told)


def each_once(
    what: str, expected: Sequence[Hashable], found: Sequence[Hashable], complete: bool = True
) -> Iterator[Difference]:
    """Every place of the log is found, and found once.

    Args:
        what: is looked for, such as `decisions`.
        expected: places.
        found: places, with those that the log no longer has.
        complete: whether finding one twice is wrong, too.
    """
    times = Counter(found)
    for place in expected:
        if place not in times:
            yield Difference(f"{what} lost", str(place), "expected it once, found none")
    for place, n in times.items() if complete else ():
        if n > 1:
            yield Difference(f"{what} doubled", str(place), f"expected it once, found {n} times")


def same_states(
    entity: Entity, ids: Sequence[str], replayed: States, online: States, strange: Iterable[str] = ()
) -> Iterator[Difference]:
    """Every entity's state is what a replay gives, bit for bit: columns, stamp and position.

    Args:
        entity: the kind.
        ids: of the entities, in the order of the states.
        replayed: what the history gives.
        online: what the online store has.
        strange: entities that have a state, though the history does not know them.
    """
    bits = replayed.columns.view(np.int64) != online.columns.view(np.int64)
    differs = bits.any(axis=1) | (replayed.stamp_us != online.stamp_us)
    differs |= replayed.position != online.position
    for i in np.flatnonzero(differs).tolist():
        yield Difference(f"{entity.name} states", ids[i], _told(entity, i, replayed, online, bits[i]))
    for name in strange:
        yield Difference(f"{entity.name} states", name, "the history does not know it")


def _told(
    entity: Entity,
    i: int,
    replayed: States,
    online: States,
    bits: "np.ndarray[tuple[int], np.dtype[np.bool_]]",
) -> str:
    columns = np.flatnonzero(bits).tolist()
    cells = [
        f"{entity.columns[c]} {replayed.columns[i, c].item()!r}, found {online.columns[i, c].item()!r}"
        for c in columns[:3]
    ]
    more = [f"{len(columns) - 3} more columns"] if len(columns) > 3 else []
    for name, wanted, found in (
        ("stamp", replayed.stamp_us[i], online.stamp_us[i]),
        ("position", replayed.position[i], online.position[i]),
    ):
        if wanted != found:
            more.append(f"{name} {wanted}, found {found}")
    return "expected " + "; ".join([*cells, *more])
