"""The verbs `backfill`, `rebuild` and `features`."""

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import typer

from features import backfill as bulk
from features.connection import Connection
from features.domains import DOMAINS, domain
from features.fraud import CUSTOMER
from features.online import entity_key
from features.pause import paused
from features.replay import FeatureMatrix, matrix_of
from features.store import FeatureStore
from infra import progress, settings
from infra.errors import UserError
from infra.progress import Display
from infra.settings import Settings
from ingestion import file_source, mapping
from ingestion.broker import BrokerError, Consumer, Partition, Producer, answers
from ingestion.commands import read_past, without_forgotten
from ingestion.file_source import PastEvents
from ingestion.historian import Progress
from ingestion.history import History
from ingestion.pseudonyms import Pseudonyms
from ingestion.tables import DECISIONS as DECISIONS_TABLE
from ingestion.tables import LABELS, QUOTES, TRANSACTIONS
from ingestion.times import moment_us
from ingestion.topics import DECISIONS, PRODUCT_COUNTED, TERMINAL_STREAM

Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
MappingFile = Annotated[Path, typer.Option("--mapping", help="TOML file: which column is which field.")]
From = Annotated[str | None, typer.Option("--from", help="First event time, such as 2018-04-01; inclusive.")]
Until = Annotated[str | None, typer.Option(help="Last event time, exclusive; a label's is its arrival.")]

DAY_S = 86_400
CATCH_UP_S = 60.0
CHUNK = 100_000
NAMED = (TRANSACTIONS, LABELS, DECISIONS_TABLE)
"""Tables of the history that name customers."""


@dataclass(frozen=True)
class Backfilled:
    """What a backfill did."""

    events: int
    """Payments and labels, or quotes and outcomes, in the file and the time asked for."""
    new: int
    """Those that the history did not have."""
    duplicates: int
    rejected: dict[str, int]
    """Rows that were no events, by the field that was wrong."""
    rejects_file: str | None
    seconds: float
    rows_per_s: float
    """Rows of the file from reading until they count in a score."""


def backfill(
    file: Annotated[Path, typer.Argument(help="Parquet or CSV file of past events.")],
    mapping_file: MappingFile,
    start: From = None,
    until: Until = None,
    as_json: Json = False,
) -> None:
    """Load a file of past events into history, feature store and Redis; loading it again adds nothing.

    Labels that arrive at or after --until are left out, like payments: `tollgate replay --from` sends both.

    Example: tollgate backfill tx.parquet --mapping handbook.toml --until 2018-08-13
    """
    chosen, found = settings.load(), mapping.load(mapping_file)
    with progress.shown(silent=as_json) as display:
        done = run(chosen, file, found, display, moment_us(start), moment_us(until))
    if as_json:
        typer.echo(json.dumps(asdict(done)))
    else:
        typer.echo(_told(done))


def run(
    chosen: Settings,
    file: Path,
    found: mapping.Mapping,
    display: Display,
    start_us: int | None = None,
    until_us: int | None = None,
) -> Backfilled:
    """Backfill a file while workers stand still."""
    began = time.monotonic()
    events = read_past(file, found, chosen.currency, display.task("Read", unit="rows"))
    rejects, events = events.rejects, events.between(start_us, until_us)
    rejects_file = _keep_rejects(chosen, file, rejects)
    rows, count, duplicates = events.decided.num_rows, len(events), events.duplicates
    new = load(chosen, {"fraud" if found.transactions else "pricing": events}, display)
    del events
    seconds = time.monotonic() - began
    return Backfilled(
        count,
        new,
        duplicates,
        file_source.reasons(rejects),
        rejects_file,
        round(seconds, 3),
        round(rows / seconds, 1),
    )


def load(chosen: Settings, events: Mapping[str, PastEvents], display: Display) -> int:
    """Add domains' past events to the history and rebuild what follows from it; gives how many were new."""
    with paused(chosen.addresses.redis):
        history = complete_history(chosen)
        kept = {name: without_forgotten(chosen, each) for name, each in events.items()}
        new = sum(bulk.add_to_history(history, domain(name), each) for name, each in kept.items())
        _rebuild(chosen, history, display)
    return new


def rebuild(as_json: Json = False) -> None:
    """Compute Feast's state rows and registry, and the states in Redis, anew from the history.

    Labels and outcomes that Kafka has and that did not count, because Redis was emptied, are sent again.
    A history of the time before the newest key of pseudonyms is taken over to that key first.

    Example: tollgate rebuild
    """
    chosen, began = settings.load(), time.monotonic()
    with progress.shown(silent=as_json) as display, paused(chosen.addresses.redis):
        history = complete_history(chosen)
        take_over(chosen)
        events = _rebuild(chosen, history, display)
        again = _send_again(chosen, history)
    seconds = round(time.monotonic() - began, 3)
    if as_json:
        typer.echo(json.dumps({"events": events, "sent_again": again, "seconds": seconds}))
    else:
        counts = ", ".join(f"{n:,} events of {name}" for name, n in events.items())
        told = f" Sent {again:,} labels and outcomes again that had not counted." if again else ""
        typer.echo(f"Replayed {counts} in {seconds:.1f} s.{told}")


def features(
    name: Annotated[str, typer.Argument(help="fraud")],
    data: Annotated[Path, typer.Option(help="Parquet or CSV file of past events.")],
    mapping_file: MappingFile,
    out: Annotated[Path, typer.Option(help="Parquet file to write.")],
    as_json: Json = False,
) -> None:
    """Write every feature of every event of a file, as known at that event, in the order of the file.

    Example: tollgate features fraud --data tx.parquet --mapping handbook.toml --out features.parquet
    """
    chosen, began = settings.load(), time.monotonic()
    mine, found = domain(name), mapping.load(mapping_file)
    if (mine.name == "fraud") != (found.transactions is not None):
        raise UserError(f"{mapping_file} does not describe events of {name}.")
    with progress.shown(silent=as_json) as display:
        events = read_past(data, found, chosen.currency, display.task("Read", unit="rows"))
        matrix = file_matrix(name, events)
        write_matrix(matrix, mine.key, out)
    facts = {
        "rows": len(matrix.values),
        "features": len(matrix.names),
        "rejected": file_source.reasons(events.rejects),
        "seconds": round(time.monotonic() - began, 3),
    }
    told = f"{facts['rows']:,} rows of {facts['features']} features in {facts['seconds']} s: {out}"
    typer.echo(json.dumps(facts) if as_json else told)


def file_matrix(name: str, events: PastEvents) -> FeatureMatrix:
    """Features of a file's events, in the order of the file."""
    mine = domain(name)
    ready = file_source.placed(events, [entity.name for entity in mine.features.entities], start=0)
    matrix = matrix_of(mine.features, ready.decided, ready.settled)
    row = ready.decided[file_source.ROW].to_numpy()
    if np.all(row[1:] > row[:-1]):
        return matrix
    order = np.argsort(row)
    return FeatureMatrix(matrix.ids.take(pa.array(order)), matrix.names, matrix.values[order])


def write_matrix(matrix: FeatureMatrix, key: str, out: Path) -> None:
    """Write a matrix as Parquet: the event's id and a column each feature; NaN stays NaN."""
    schema = pa.schema([(key, pa.string()), *((name, pa.float64()) for name in matrix.names)])
    out.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(out, schema, compression="zstd", use_dictionary=False) as writer:
        for start in range(0, len(matrix.values), CHUNK):
            values = np.ascontiguousarray(matrix.values[start : start + CHUNK].T)
            ids = matrix.ids.slice(start, CHUNK)
            writer.write_table(pa.table([ids, *values], schema=schema))


def take_over(chosen: Settings) -> None:
    """Give the history the pseudonyms of the newest key, and let Redis forget the states under older names.

    What dies in between is followed by the next: a file has old names or new ones, and new ones stay.
    """
    pseudonyms = Pseudonyms.by(chosen.privacy)
    if not pseudonyms:
        return
    history = complete_history(chosen, (TERMINAL_STREAM, PRODUCT_COUNTED, DECISIONS))
    before = {name for table in NAMED for name in _customers(history, table)}
    old = [name for name in before if pseudonyms.of(CUSTOMER.key, name) != name]
    store = Connection(chosen.addresses.redis)
    try:
        for start in range(0, len(old), bulk.PIPELINE):
            some = [entity_key(CUSTOMER, name) for name in old[start : start + bulk.PIPELINE]]
            store.execute([("DEL", *some)])
    finally:
        store.close()
    for table in (*NAMED, QUOTES):
        history.rewrite(table, pseudonyms.rows)


def _customers(history: History, table: str) -> list[str]:
    return history.read(table, columns=[CUSTOMER.key])[CUSTOMER.key].unique().to_pylist()  # type: ignore[no-any-return]


def _send_again(chosen: Settings, history: History) -> int:
    """Send labels and outcomes that have not counted, though they can, once more; gives how many."""
    if not answers(chosen.addresses.kafka):
        return 0
    sent, producer = 0, Producer(chosen.addresses.kafka)
    try:
        for mine in DOMAINS.values():
            with closing(Consumer(chosen.addresses.kafka, [mine.settled], group=None)) as consumer:
                for record in bulk.unsettled(history, mine, consumer.to_the_end()):
                    producer.send(record.topic, record.value, record.key, record.headers)
                    sent += 1
        producer.flush()
    finally:
        producer.close()
    return sent


def _rebuild(chosen: Settings, history: History, display: Display) -> dict[str, int]:
    remember_s = int(chosen.topics.idempotency_days * DAY_S)
    store, feast = Connection(chosen.addresses.redis), FeatureStore.of(chosen)
    try:
        done = bulk.rebuild(chosen.home, history, store, feast, remember_s, display)
    finally:
        store.close()
    return {each.domain: each.events for each in done}


def complete_history(chosen: Settings, topics: Sequence[str] = (TERMINAL_STREAM, PRODUCT_COUNTED)) -> History:
    """The history, once it has everything that these topics have: what the workers have folded.

    Raises:
        UserError: it lacks something even after a while.
    """
    if answers(chosen.addresses.kafka):
        _await_history(chosen, topics)
    return History(chosen.history)


def _await_history(chosen: Settings, topics: Sequence[str]) -> None:
    reached, end = Progress(chosen.history), time.monotonic() + CATCH_UP_S
    ends = _stream_ends(chosen.addresses.kafka, topics)
    while missing := reached.missing(ends):
        if time.monotonic() > end:
            raise UserError(
                f"the history lacks {missing:,} messages of the stream; see whether its process runs "
                "(`tollgate status`)."
            )
        time.sleep(0.2)


def _stream_ends(address: str, topics: Sequence[str]) -> dict[Partition, int]:
    try:
        consumer = Consumer(address, topics, group=None)
    except BrokerError:
        return {}  # no topics yet, so nothing in them
    try:
        return consumer.ends(consumer.assignment())
    finally:
        consumer.close()


def _keep_rejects(chosen: Settings, file: Path, rejects: pa.Table) -> str | None:
    if not rejects.num_rows:
        return None
    kept = chosen.home / "rejects" / f"{file.stem}.csv"
    file_source.write_rejects(rejects, kept)
    return str(kept)


def _told(done: Backfilled) -> str:
    rejected = ", ".join(f"{n:,} by {field}" for field, n in done.rejected.items())
    refused = f" Rejected rows: {rejected}; see {done.rejects_file}." if rejected else ""
    return (
        f"{done.events:,} events, {done.new:,} new, in {done.seconds:.1f} s "
        f"({done.rows_per_s:,.0f} rows/s).{refused}"
    )
