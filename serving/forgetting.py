"""Forgetting a person: out of Redis, the history and what was made of it; then a search that finds none.

What is needed to find the rest goes last: the keys of a person's payments before the payments. So whoever
dies in between is followed by one who begins anew and finishes. What belongs to others is not touched: rows
and states stay bit for bit. The states of terminals keep what the person's payments added to their sums:
numbers that nobody can take apart.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features import replay
from features.connection import Connection, type_of_command
from features.fraud import CUSTOMER, FRAUD
from features.index import (
    KNOWN_TRANSACTION,
    known_transaction_key,
    label_orphans_key,
    read_transaction,
    transaction_seen_key,
)
from features.online import entity_key
from features.store import PROJECT
from ingestion.history import History
from ingestion.pseudonyms import MARK
from ingestion.tables import DECISIONS, LABELS, QUOTES, SCORES, TRANSACTIONS
from serving.decision_log import decision_key
from serving.label_log import label_keys
from serving.review_queue import DONE, PENDING
from serving.reviews import keys_of

AT_ONCE = 1_000
"""Keys asked for, or taken out, in one round trip."""
SCANNED_AT_ONCE = 10_000
DISTINCTIVE = 8
"""Characters from which an identifier is hardly anything else, so that it is looked for in any text."""
SERVERS = ("kafka", "valkey")
"""Folders of the home folder that belong to servers: their logs keep the past for their own time."""
STARS = b"*"
TEXTS = ("logs", "rejects", "watching")
"""Folders of texts for people, in which a name is overwritten."""
NAMING = {QUOTES: "context", TRANSACTIONS: "attributes"}
"""Columns of the history in which one person's event may name another."""
PAYMENT_IDS = ("transaction_id", "id")
"""Columns of Parquet files that hold the ids of payments."""
FORGOTTEN = "forgotten"
"""Stands in for the person where another's event names them."""

_STRINGS = (b"seen:", b"known:", b"decision:", b"quote:", b"held:", b"verdict:claim:")
_READS: dict[bytes, Callable[[bytes], type_of_command]] = {
    b"string": lambda key: ("GET", key),
    b"list": lambda key: ("LRANGE", key, 0, -1),
    b"zset": lambda key: ("ZRANGE", key, 0, -1),
    b"set": lambda key: ("SMEMBERS", key),
    b"hash": lambda key: ("HGETALL", key),
}


@dataclass(frozen=True)
class Person:
    """Everything that one person is called: identifier and pseudonyms."""

    names: tuple[str, ...]

    def in_text(self, text: bytes) -> bool:
        """Whether a text names them.

        A short identifier such as `17` may be anything, so it counts only where a customer is named.
        """
        return any(pattern.search(text) for pattern in self.patterns)

    @cached_property
    def patterns(self) -> list[re.Pattern[bytes]]:
        """What to look for in bytes."""
        return [_pattern(name) for name in self.names]

    @property
    def entity_keys(self) -> list[bytes]:
        """Redis keys of their states."""
        return [entity_key(CUSTOMER, name) for name in self.names]


@dataclass
class Found:
    """What a search went through, and where it found the person."""

    files: int = 0
    rows: int = 0
    keys: int = 0
    places: list[str] = field(default_factory=list)


def _pattern(name: str) -> re.Pattern[bytes]:
    raw = re.escape(name.encode())
    if _distinctive(name):
        return re.compile(rb"(?<![A-Za-z0-9_-])" + raw + rb"(?![A-Za-z0-9_-])")
    return re.compile(rb'"customer_id":\s*"' + raw + rb'"|\A' + raw + rb"\x1f")


def _distinctive(name: str) -> bool:
    return name.startswith(MARK) or len(name) >= DISTINCTIVE


def payments_of(person: Person, history: History, store: Connection) -> set[str]:
    """Ids of all payments of theirs that anybody here remembers."""
    ids: set[str] = set()
    for table in (TRANSACTIONS, LABELS, DECISIONS):
        rows = history.read(table, columns=["transaction_id", "customer_id"])
        ids.update(rows.filter(_theirs(rows, person))["transaction_id"].to_pylist())
    known = KNOWN_TRANSACTION.encode()
    for key, texts in entries(store):
        if key.startswith(known) and read_transaction(texts[0]).customer_id in person.names:
            ids.add(key[len(known) :].decode())
        elif key.startswith(b"decision:") and person.in_text(texts[0]):
            decision = orjson.loads(texts[0])
            if decision.get("customer_id") in person.names:
                ids.add(decision["transaction_id"])
    return ids


def out_of_redis(person: Person, ids: Sequence[str], store: Connection) -> int:
    """Take their state, payments, decisions, labels, reviews and quotes out; gives how many entries went."""
    gone = 0
    for start in range(0, len(ids), AT_ONCE):
        some = ids[start : start + AT_ONCE]
        keys = [key for each in some for key in _keys(each)]
        gone += sum(store.execute([("DEL", *keys), ("ZREM", PENDING, *some), ("ZREM", DONE, *some)]))
    named = [key for key, texts in entries(store) if key.startswith(b"quote:") and _named(person, key, texts)]
    return gone + int(store.execute([("DEL", *person.entity_keys, *named)])[0])


def _keys(transaction_id: str) -> list[bytes]:
    """Every Redis key that a payment may have."""
    return [
        decision_key(transaction_id),
        known_transaction_key(transaction_id),
        transaction_seen_key(transaction_id),
        label_orphans_key(transaction_id),
        *label_keys(transaction_id),
        *keys_of(transaction_id),
    ]


def out_of_files(person: Person, ids: Sequence[str], home: Path, history: History) -> dict[str, int]:
    """Take them out of all that is kept in files; gives how many rows, by what they were."""
    wanted = pa.array(list(ids), pa.string())
    gone = {"shadow_scores": sum(_out_of_scores(folder, wanted) for folder in home.glob("shadow/*/*/"))}
    gone["states"] = replay.forget(home, CUSTOMER, FRAUD.domain, person.names)
    for table, column in NAMING.items():
        gone[f"{table}_naming_them"] = history.rewrite(table, partial(_unnamed, column, person))
    for table in (DECISIONS, LABELS, TRANSACTIONS):
        gone[table] = history.rewrite(table, partial(_of_others, person))
    return gone


def out_of_texts(person: Person, home: Path) -> int:
    """Overwrite their names in logs and reports, in place, as others may write there; gives how often."""
    files = (file for name in TEXTS for file in (home / name).rglob("*") if file.is_file())
    return sum(_starred(file, person) for file in files)


def search(person: Person, ids: Sequence[str], home: Path, store: Connection) -> Found:
    """Look for them in every file and every entry of Redis: bytes, and what Parquet files hold."""
    found = Found()
    for file in sorted(home.rglob("*")):
        if file.is_file() and file.relative_to(home).parts[0] not in SERVERS:
            found.files += 1
            _search_file(file, person, ids, found)
    lost = set(person.entity_keys) | {key for each in ids for key in _keys(each)}
    for key, texts in entries(store):
        found.keys += 1
        if key in lost or _named(person, key, texts):
            found.places.append(f"Redis: {key!r}")
    queued = [store.execute([("ZSCORE", queue, each) for each in ids]) for queue in (PENDING, DONE)]
    if any(score is not None for scores in queued for score in scores):
        found.places.append("Redis: the queue of reviews")
    return found


def entries(store: Connection) -> Iterator[tuple[bytes, list[bytes]]]:
    """Every key of Redis with the texts that it holds; states of entities are numbers and have none."""
    cursor = b"0"
    while True:
        ((cursor, keys),) = store.execute([("SCAN", cursor, "COUNT", SCANNED_AT_ONCE)])
        for start in range(0, len(keys), AT_ONCE):
            yield from _texts(store, keys[start : start + AT_ONCE])
        if cursor == b"0":
            return


def _texts(store: Connection, keys: Sequence[bytes]) -> Iterator[tuple[bytes, list[bytes]]]:
    states = [key for key in keys if key.endswith(PROJECT.encode())]
    yield from ((key, []) for key in states)
    strings = [key for key in keys if key.startswith(_STRINGS)]
    if strings:
        (values,) = store.execute([("MGET", *strings)])
        yield from ((key, [value]) for key, value in zip(strings, values, strict=True) if value is not None)
    others = list(set(keys) - set(states) - set(strings))
    kinds = store.execute([("TYPE", key) for key in others])
    known = [(key, _READS[bytes(kind)]) for key, kind in zip(others, kinds, strict=True) if kind in _READS]
    replies = store.execute([read(key) for key, read in known])
    for (key, _), reply in zip(known, replies, strict=True):
        yield key, [reply] if isinstance(reply, bytes) else list(reply or ())


def _named(person: Person, key: bytes, texts: Sequence[bytes]) -> bool:
    return person.in_text(key) or any(person.in_text(text) for text in texts)


def _theirs(rows: pa.Table, person: Person) -> pa.ChunkedArray:
    return pc.is_in(rows["customer_id"], pa.array(person.names, pa.string()))


def _of_others(person: Person, rows: pa.Table) -> pa.Table:
    return _kept(rows, pc.invert(_theirs(rows, person)))


def _kept(rows: pa.Table, staying: pa.ChunkedArray) -> pa.Table:
    return rows if pc.all(staying, min_count=0).as_py() else rows.filter(staying)


def _unnamed(column: str, person: Person, rows: pa.Table) -> pa.Table:
    """What others' events tell of them is blanked; rows of their own go as a whole."""
    texts = rows[column]
    for name in filter(_distinctive, person.names):
        texts = pc.replace_substring(texts, orjson.dumps(name).decode(), f'"{FORGOTTEN}"')
    if texts.equals(rows[column]):
        return rows
    return rows.set_column(rows.column_names.index(column), rows.schema.field(column), texts)


def _out_of_scores(folder: Path, ids: pa.Array) -> int:
    return History(folder).rewrite(SCORES, lambda rows: _kept(rows, pc.invert(pc.is_in(rows["id"], ids))))


def _starred(file: Path, person: Person) -> int:
    raw, times = file.read_bytes(), 0
    with file.open("r+b") as opened:
        for found in (each for pattern in person.patterns for each in pattern.finditer(raw)):
            opened.seek(found.start())
            opened.write(STARS * (found.end() - found.start()))
            times += 1
    return times


def _search_file(file: Path, person: Person, ids: Sequence[str], found: Found) -> None:
    try:
        raw = file.read_bytes()
        parquet = pq.ParquetFile(pa.BufferReader(raw)) if file.suffix == ".parquet" else None
    except FileNotFoundError:
        return  # the history made one file of several
    named = any(pattern.search(raw) for pattern in person.patterns)
    if parquet is not None:
        names = [field.name for field in parquet.schema_arrow if pa.types.is_string(field.type)]
        for part in parquet.iter_batches(columns=names):
            found.rows += part.num_rows
            named = named or any(_in_column(name, part[name], person, ids) for name in names)
    if named:
        found.places.append(str(file))


def _in_column(name: str, texts: pa.Array, person: Person, ids: Sequence[str]) -> bool:
    """Whether a column of a Parquet file holds one of their names, or of their payments."""
    whole = person.names if name == "customer_id" else ids if name in PAYMENT_IDS else ()
    if whole and pc.any(pc.is_in(texts, pa.array(list(whole), pa.string()))).as_py():
        return True
    likely = [texts.filter(pc.fill_null(pc.match_substring(texts, each), False)) for each in person.names]
    return any(person.in_text(text.encode()) for some in likely for text in some.to_pylist())
