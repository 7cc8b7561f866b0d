"""Past events in bulk: from a file into the history, and from the history into the feature store.

Nothing here folds by itself: the history is replayed, and its final states go to Redis in Feast's format,
with the keys by which later events find theirs.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ValidationError

from features import index
from features.connection import Connection
from features.domains import DOMAINS, Domain
from features.index import KnownQuote, KnownTransaction
from features.online import Codec
from features.replay import Replayed, alone, refresh
from features.state import MICROSECONDS, States
from features.store import FeatureStore
from infra.progress import Display, Task
from ingestion.broker import Record
from ingestion.file_source import PastEvents, placed
from ingestion.history import History
from ingestion.tables import DAY_US, LABELS, OUTCOMES, QUOTES, TRANSACTIONS, day_start_us
from ingestion.topics import EVENT_TYPES

PIPELINE = 5_000
"""Commands sent to Redis before their replies are read."""
IDENTITY = {
    TRANSACTIONS: ("transaction_id",),
    LABELS: ("transaction_id", "source", "label"),
    QUOTES: ("quote_id",),
    OUTCOMES: ("quote_id",),
}
"""Columns by which an event is known to have come before."""


def add_to_history(history: History, domain: Domain, events: PastEvents) -> int:
    """Add what the history does not have yet; gives how many events were new."""
    history.repair()
    new = PastEvents(
        _new(history, domain.decided, events.decided),
        _new(history, domain.settled, events.settled),
        events.rejects,
        events.duplicates,
    )
    names = [entity.name for entity in domain.features.entities]
    ready = placed(new, names, history.last_backfilled() + 1)
    history.backfill({domain.decided: ready.decided, domain.settled: ready.settled})
    return len(new)


def unsettled(history: History, domain: Domain, records: Iterable[Record]) -> Iterator[Record]:
    """Labels (outcomes) of the log that the history lacks, though it has what they tell of.

    Those that wait for what they tell of do so in Redis. If that was emptied, they are gone, or it did not
    know what had come long ago.
    """
    key, names = domain.key, IDENTITY[domain.settled]
    there = set(history.read(domain.decided, columns=[key])[key].to_pylist())
    settled = history.read(domain.settled, columns=list(names))
    known = set(zip(*(settled[name].to_pylist() for name in names), strict=True))
    for record in records:
        try:
            event = EVENT_TYPES[record.topic].model_validate_json(record.value or b"")
        except ValidationError:
            continue
        told = tuple(getattr(event, name) for name in names)
        if getattr(event, key) in there and told not in known:
            known.add(told)
            yield record


def rebuild(
    home: Path, history: History, store: Connection, feast: FeatureStore, remember_s: int, display: Display
) -> list[Replayed]:
    """Compute states, keys and Feast's registry anew from the history. Workers must be paused."""
    with ThreadPoolExecutor(1) as aside:  # Feast takes seconds to import
        applied = aside.submit(feast.apply, [domain.features for domain in DOMAINS.values()])
        replayed = [
            _rebuild(home, history, store, domain, remember_s, display) for domain in DOMAINS.values()
        ]
        applied.result()
    return replayed


def _rebuild(
    home: Path, history: History, store: Connection, domain: Domain, remember_s: int, display: Display
) -> Replayed:
    with alone(home, domain.name):
        done = refresh(home, history, domain.name, display.task(f"Replay {domain.name}", unit="events"))
    task = display.task(f"Store {domain.name}", unit="keys")
    _execute(store, _states(domain, done), task)
    _execute(store, _keys(history, domain, remember_s), task)
    return done


def _new(history: History, table: str, rows: pa.Table) -> pa.Table:
    if not rows.num_rows:
        return rows
    span = pc.min_max(rows["event_time_us"]).as_py()
    known = history.read(table, span["min"], span["max"] + 1, IDENTITY[table])
    if not known.num_rows:
        return rows
    return rows.filter(pc.invert(pc.is_in(_identity(rows, table), _identity(known, table).combine_chunks())))


def _identity(rows: pa.Table, table: str) -> pa.ChunkedArray:
    return pc.binary_join_element_wise(*(rows[name] for name in IDENTITY[table]), "\x1f")


type_of_batches = Iterator[tuple[bytes, int]]
"""Packed commands, and how many they are."""


def _states(domain: Domain, replayed: Replayed) -> type_of_batches:
    for entity in domain.features.entities:
        ids, states = replayed.states[entity.name]
        codec = Codec(entity)
        for start in range(0, len(ids), PIPELINE):
            part = slice(start, start + PIPELINE)
            some = States(states.columns[part], states.stamp_us[part], states.position[part])
            commands = codec.write(ids[part], some)
            yield b"".join(commands), len(commands)


def _execute(store: Connection, batches: type_of_batches, task: Task) -> None:
    """Each batch is prepared while the store works on the one before."""
    waiting = 0
    for commands, count in batches:
        store.receive(waiting)
        store.send(commands)
        task.advance(count)
        waiting = count
    store.receive(waiting)


def _keys(history: History, domain: Domain, remember_s: int) -> type_of_batches:
    """Keys of the events of the last `remember_s`, as the worker would have left them."""
    for table in (domain.decided, domain.settled):
        columns, entries_of = _ENTRIES[table]
        days = history.days(table)
        oldest = 0 if not days else day_start_us(days[-1]) - remember_s * MICROSECONDS
        for day in days:
            start = day_start_us(day)
            if start >= oldest:
                rows = history.read(table, start, start + DAY_US, columns)
                for keys, values in entries_of(rows.combine_chunks()):
                    yield from _sets(keys, values, str(remember_s))


def _sets(keys: pa.Array, values: pa.Array, seconds: str) -> type_of_batches:
    """A SET with an expiry for each key, joined by Arrow."""
    commands = pc.binary_join_element_wise(
        "*5\r\n$3\r\nSET\r\n$", _length(keys), "\r\n", keys, "\r\n$", _length(values), "\r\n", values,
        f"\r\n$2\r\nEX\r\n${len(seconds)}\r\n{seconds}\r\n", "",
    )  # fmt: skip
    for start in range(0, len(commands), PIPELINE):
        some = commands.slice(start, PIPELINE)
        yield b"".join(some.cast(pa.binary()).to_pylist()), len(some)


def _length(texts: pa.Array) -> pa.Array:
    """Bytes of each text, as text."""
    return pc.binary_length(texts).cast(pa.string())


def _joined(*parts: pa.Array | str, separator: str = "") -> pa.Array:
    """Texts put together element by element."""
    return pc.binary_join_element_wise(*parts, separator)


type_of_entries = list[tuple[pa.Array, pa.Array]]
"""Keys and values of `features.index`, for many events at once."""


def _transaction_entries(rows: pa.Table) -> type_of_entries:
    name, *known = (_texts(rows, column) for column in _KNOWN_TRANSACTION)
    return [
        (_joined(index.KNOWN_TRANSACTION, name), _joined(*known, separator=index.SEPARATOR)),
        (_joined(index.SEEN_TRANSACTION, name), _places(rows, "customer")),
    ]


def _label_entries(rows: pa.Table) -> type_of_entries:
    label = _joined(*(_texts(rows, column) for column in IDENTITY[LABELS]), separator=":")
    return [(_joined(index.SEEN_LABEL, label), _places(rows, "customer"))]


def _quote_entries(rows: pa.Table) -> type_of_entries:
    name, *known = (_texts(rows, column) for column in _KNOWN_QUOTE)
    return [
        (_joined(index.KNOWN_QUOTE, name), _joined(*known, separator=index.SEPARATOR)),
        (_joined(index.SEEN_QUOTE, name), _places(rows, "product")),
    ]


def _outcome_entries(rows: pa.Table) -> type_of_entries:
    return [(_joined(index.SEEN_OUTCOME, _texts(rows, "quote_id")), _places(rows, "product"))]


def _places(rows: pa.Table, entity: str) -> pa.Array:
    return _joined(_texts(rows, f"{entity}_partition"), _texts(rows, f"{entity}_position"), separator=":")


def _texts(rows: pa.Table, column: str) -> pa.Array:
    return rows[column].cast(pa.string())


_KNOWN_TRANSACTION = ("transaction_id", *KnownTransaction._fields)
_KNOWN_QUOTE = ("quote_id", *KnownQuote._fields)
_CUSTOMER_PLACE = ("customer_partition", "customer_position")
_PRODUCT_PLACE = ("product_partition", "product_position")
_ENTRIES: dict[str, tuple[tuple[str, ...], Callable[[pa.Table], type_of_entries]]] = {
    TRANSACTIONS: ((*_KNOWN_TRANSACTION, *_CUSTOMER_PLACE), _transaction_entries),
    LABELS: ((*IDENTITY[LABELS], *_CUSTOMER_PLACE), _label_entries),
    QUOTES: ((*_KNOWN_QUOTE, *_PRODUCT_PLACE), _quote_entries),
    OUTCOMES: ((*IDENTITY[OUTCOMES], *_PRODUCT_PLACE), _outcome_entries),
}
"""Columns of each table, and the Redis keys and values that its events leave."""
