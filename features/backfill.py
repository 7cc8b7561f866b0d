"""Past events in bulk: from a file into the history, and from the history into the feature store.

Nothing here folds by itself: the history is replayed, and its final states go to Redis in Feast's format,
with the keys by which later events find theirs.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from features import index
from features.connection import Connection, type_of_command
from features.domains import DOMAINS, Domain
from features.index import KnownQuote, KnownTransaction, Place
from features.online import Codec
from features.replay import Replayed, alone, refresh
from features.state import MICROSECONDS, States
from features.store import FeatureStore
from infra.progress import Display, Task
from ingestion.file_source import PastEvents, placed
from ingestion.history import DAY_US, LABELS, OUTCOMES, QUOTES, TRANSACTIONS, History, day_start_us

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


def rebuild(
    home: Path, history: History, store: Connection, feast_redis: str, remember_s: int, display: Display
) -> list[Replayed]:
    """Compute states, keys and Feast's registry anew from the history. Workers must be paused."""
    feast = FeatureStore(home, feast_redis)
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


def _states(domain: Domain, replayed: Replayed) -> Iterator[type_of_command]:
    for entity in domain.features.entities:
        ids, states = replayed.states[entity.name]
        codec = Codec(entity)
        for start in range(0, len(ids), PIPELINE):
            part = slice(start, start + PIPELINE)
            some = States(states.columns[part], states.stamp_us[part], states.position[part])
            yield from codec.write(ids[part], some)


def _execute(store: Connection, commands: Iterable[type_of_command], task: Task) -> None:
    remaining = iter(commands)
    while batch := list(islice(remaining, PIPELINE)):
        store.execute(batch)
        task.advance(len(batch))


def _keys(history: History, domain: Domain, remember_s: int) -> Iterator[type_of_command]:
    """Keys of the events of the last `remember_s`, as the worker would have left them."""
    expiry = str(remember_s).encode()
    for table in (domain.decided, domain.settled):
        columns, keys_of = _KEYS[table]
        days = history.days(table)
        oldest = 0 if not days else day_start_us(days[-1]) - remember_s * MICROSECONDS
        for day in days:
            start = day_start_us(day)
            if start >= oldest:
                rows = history.read(table, start, start + DAY_US, columns)
                for key, value in keys_of(*(rows[name].to_pylist() for name in columns)):
                    yield _set(key, value, expiry)


type_of_keys = Iterator[tuple[bytes, bytes]]


def _transaction_keys(
    names: Sequence[str],
    customers: Sequence[str],
    terminals: Sequence[str],
    times_us: Sequence[int],
    amounts: Sequence[float],
    partitions: Sequence[int],
    positions: Sequence[int],
) -> type_of_keys:
    known = map(KnownTransaction, customers, terminals, times_us, amounts)
    for name, entry, place in zip(names, known, map(Place, partitions, positions), strict=True):
        yield index.known_transaction_key(name), index.known_entry(entry)
        yield index.transaction_seen_key(name), index.place_entry(place)


def _label_keys(
    names: Sequence[str],
    sources: Sequence[str],
    labels: Sequence[str],
    partitions: Sequence[int],
    positions: Sequence[int],
) -> type_of_keys:
    for name, source, label, *place in zip(names, sources, labels, partitions, positions, strict=True):
        yield index.label_seen_key(name, source, label), index.place_entry(Place(*place))


def _quote_keys(
    names: Sequence[str],
    products: Sequence[str],
    prices: Sequence[float],
    times_us: Sequence[int],
    partitions: Sequence[int],
    positions: Sequence[int],
) -> type_of_keys:
    known = map(KnownQuote, products, prices, times_us)
    for name, entry, place in zip(names, known, map(Place, partitions, positions), strict=True):
        yield index.known_quote_key(name), index.known_entry(entry)
        yield index.quote_seen_key(name), index.place_entry(place)


def _outcome_keys(names: Sequence[str], partitions: Sequence[int], positions: Sequence[int]) -> type_of_keys:
    for name, place in zip(names, map(Place, partitions, positions), strict=True):
        yield index.outcome_seen_key(name), index.place_entry(place)


_CUSTOMER_PLACE = ("customer_partition", "customer_position")
_PRODUCT_PLACE = ("product_partition", "product_position")
_KEYS: dict[str, tuple[tuple[str, ...], Callable[..., type_of_keys]]] = {
    TRANSACTIONS: (
        ("transaction_id", "customer_id", "terminal_id", "event_time_us", "amount", *_CUSTOMER_PLACE),
        _transaction_keys,
    ),
    LABELS: (("transaction_id", "source", "label", *_CUSTOMER_PLACE), _label_keys),
    QUOTES: (("quote_id", "product_id", "price", "event_time_us", *_PRODUCT_PLACE), _quote_keys),
    OUTCOMES: (("quote_id", *_PRODUCT_PLACE), _outcome_keys),
}
"""Columns of each table, and the Redis keys and values that its events leave."""


def _set(key: bytes, value: bytes, seconds: bytes) -> bytes:
    return b"*5\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n$2\r\nEX\r\n$%d\r\n%b\r\n" % (
        len(key), key, len(value), value, len(seconds), seconds,
    )  # fmt: skip
