"""A file of past events, through its mapping: payments and labels, or prices, as columns of the history.

The file is read some rows at a time, and no more at once than fits into `CHUNK_BYTES`, however small it is on
disk: repeated values of a Parquet file stay codes until then. A row that is no event is not taken; it is kept
with its reason.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv
import pyarrow.parquet as pq

from infra.card_numbers import masked
from infra.errors import UserError
from infra.progress import Silent, Task
from ingestion import checks, tables
from ingestion.checks import Column
from ingestion.mapping import LabelColumns, PriceColumns, TransactionColumns, found
from ingestion.mapping import Mapping as FileMapping

CHUNK = 131_072
CHUNK_BYTES = 64 * 1024 * 1024
"""Of text that is spelled out at once."""
MOST_ROWS = 50_000_000
"""Of a file: all of its events are in memory before any is written."""
MOST_COLUMNS, MOST_TEXT_BYTES = 10_000, 64 * 1024
"""Of a file; of one value."""
DAY_US = 86_400 * 1_000_000
ROW = "row"
"""Column that says in which row of the file, from 0, an event was."""
REJECTS = pa.schema({ROW: pa.int64(), "reason": pa.string()})

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PastEvents:
    """Events of a file in order of time, each once, with the columns of history and `row`.

    `decided` are payments or quotes, `settled` labels or outcomes, without their places in a log.
    """

    decided: pa.Table
    settled: pa.Table
    rejects: pa.Table
    """Rows that were not taken: `row`, `reason`."""
    duplicates: int
    """Payments or quotes whose id came before."""

    def between(self, start_us: int | None, end_us: int | None) -> "PastEvents":
        """Events with time in [start_us, end_us): of a label, when it arrived."""
        wanted = tables.between(start_us, end_us)
        if wanted is None:
            return self
        return replace(self, decided=self.decided.filter(wanted), settled=self.settled.filter(wanted))

    def joined(self, later: "PastEvents") -> "PastEvents":
        """These and later ones, in order of time."""
        return PastEvents(
            _by_time(pa.concat_tables([self.decided, later.decided])),
            _by_time(pa.concat_tables([self.settled, later.settled])),
            pa.concat_tables([self.rejects, later.rejects]),
            self.duplicates + later.duplicates,
        )

    def __len__(self) -> int:
        return int(self.decided.num_rows + self.settled.num_rows)


@dataclass(frozen=True)
class _Checked:
    """Fields of some rows, and of each row the first thing wrong."""

    fields: dict[str, pa.Array]
    reason: pa.Array


def payments(file: Path, mapping: FileMapping, currency: str, task: Task | None = None) -> PastEvents:
    """Payments and labels of a Parquet or CSV file.

    Raises:
        UserError: the file can't be read, lacks a column, or the mapping has no [transactions].
    """
    if mapping.transactions is None:
        raise UserError(
            "the mapping has no [transactions]; it says which column is which field of a payment."
        )
    columns = mapping.transactions.columns() | (mapping.labels.columns() if mapping.labels else {})
    taken, rejects = [_no_payments(mapping.labels)], [REJECTS.empty_table()]
    for first, raw in _numbered(file, columns, task):
        checked = _payments(raw, mapping.transactions, mapping.labels, currency)
        good, bad = _parted(checked, first)
        taken.append(good)
        rejects.append(bad)
    rows = _by_time(pa.concat_tables(taken, promote_options="default").combine_chunks())
    first_copy = _first_copies(rows["transaction_id"])
    decided = rows.take(np.unique(first_copy))
    settled = _labels(rows, first_copy, mapping.labels)
    duplicates = rows.num_rows - decided.num_rows
    return PastEvents(_plain(decided, tables.TRANSACTIONS), settled, pa.concat_tables(rejects), duplicates)


def prices(file: Path, mapping: FileMapping, currency: str, task: Task | None = None) -> PastEvents:
    """Past prices of a file as quotes, and what was bought as their outcomes.

    Raises:
        UserError: as `payments`, or the mapping lacks `product_id` or `event_time`.
    """
    columns = mapping.prices
    if columns is None or columns.product_id is None or columns.event_time is None:
        raise UserError(
            "to load past prices, the mapping's [prices] must name product_id and event_time too."
        )
    taken, rejects = [_no_quotes()], [REJECTS.empty_table()]
    for first, raw in _numbered(file, _price_columns(columns), task):
        good, bad = _parted(_quotes(raw, columns, currency, first), first)
        taken.append(good)
        rejects.append(bad)
    rows = _by_time(pa.concat_tables(taken, promote_options="default").combine_chunks())
    decided = rows.take(np.unique(_first_copies(rows["quote_id"])))
    outcomes = decided.set_column(
        decided.column_names.index("event_time_us"),
        "event_time_us",
        pc.max_element_wise(decided["event_time_us"], decided["outcome_time_us"]),
    ).append_column("quoted_at_us", decided["event_time_us"])
    settled = _by_time(_plain(outcomes.filter(pc.is_valid(outcomes["units"])), tables.OUTCOMES))
    duplicates = rows.num_rows - decided.num_rows
    return PastEvents(_plain(decided, tables.QUOTES), settled, pa.concat_tables(rejects), duplicates)


def price_table(file: Path, columns: PriceColumns) -> pa.Table:
    """A table of past prices in the file's order, to learn demand from.

    Columns: `price` and `units` (float64; null where the file has no number above 0, or none from 0),
    `product_id` and `place` (text), `period` and `event_time_us` if mapped, and the context columns under
    their own names.
    """
    rows = [_price_rows(raw, columns) for _, raw in _numbered(file, _price_columns(columns), None)]
    if not rows:
        raise UserError(f"{file} has no rows.")
    return pa.concat_tables(rows, promote_options="default").combine_chunks()


def column_by_id(file: Path, mapping: FileMapping, column: str) -> dict[str, str]:
    """One more column of a file of payments, as text, by transaction id; null is left out.

    Raises:
        UserError: as `payments`, or the file has no such column.
    """
    if mapping.transactions is None:
        raise UserError("the mapping has no [transactions].")
    columns = {"id": mapping.transactions.transaction_id, "wanted": column}
    by_id: dict[str, str] = {}
    for _, raw in _numbered(file, columns, None):
        ids, values = (raw.column(name).cast(pa.string()).to_pylist() for name in columns.values())
        by_id |= {key: value for key, value in zip(ids, values, strict=True) if value is not None}
    return by_id


def merged_order(decided_us: Ints, settled_us: Ints) -> Ints:
    """Running number of every event in order of time: of the decided ones first, then of the settled.

    At equal times a label goes before a payment, and events of one kind keep their order.

    >>> merged_order(np.array([10, 20]), np.array([20, 30])).tolist()
    [0, 2, 1, 3]
    """
    order = np.argsort(np.concatenate([settled_us, decided_us]), kind="stable")
    number = np.empty(len(order), np.int64)
    number[order] = np.arange(len(order))
    return np.concatenate([number[len(settled_us) :], number[: len(settled_us)]])


def placed(events: PastEvents, entities: Sequence[str], start: int) -> PastEvents:
    """The same with places in each entity's log: partition -1, numbers in order of time from `start`."""
    n = events.decided.num_rows
    number = start + merged_order(_time_us(events.decided), _time_us(events.settled))
    return replace(
        events,
        decided=_with_places(events.decided, entities, number[:n]),
        settled=_with_places(events.settled, entities, number[n:]),
    )


def write_rejects(rejects: pa.Table, file: Path) -> None:
    """Write what was not taken as CSV."""
    file.parent.mkdir(parents=True, exist_ok=True)
    csv.write_csv(rejects, file)


def reasons(rejects: pa.Table) -> dict[str, int]:
    """How many rows were rejected, by the field that was wrong."""
    if not rejects.num_rows:
        return {}
    field = pc.list_element(pc.split_pattern(rejects["reason"], ":", max_splits=1), 0)
    counts = pc.value_counts(field).to_pylist()
    return {each["values"]: each["counts"] for each in sorted(counts, key=lambda each: -each["counts"])}


def _numbered(
    file: Path, columns: Mapping[str, str], task: Task | None
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Batches of the columns wanted, each with the number of its first row."""
    first, told = 0, task or Silent()
    for batch in _batches(file, sorted(set(columns.values()))):
        _refuse_more(file, first + batch.num_rows)
        yield first, batch
        first += batch.num_rows
        told.advance(batch.num_rows)


def _batches(file: Path, wanted: Sequence[str]) -> Iterator[pa.RecordBatch]:
    if not file.is_file():
        raise UserError(f"{file}: no such file; expected a Parquet or CSV file.")
    try:
        yield from (_csv if file.suffix.lower() in (".csv", ".txt") else _parquet)(file, wanted)
    except (pa.ArrowException, OSError, MemoryError, ValueError) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{file}: expected a Parquet or CSV file that is whole: {said[:300]}.") from error


def _refuse_more(file: Path, rows: int) -> None:
    if rows > MOST_ROWS:
        raise UserError(
            f"{file}: expected at most {MOST_ROWS:,} rows, came {rows:,} or more; split the file."
        )


def _parquet(file: Path, wanted: Sequence[str]) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(file) as head:
        schema = head.schema_arrow
        _refuse_more(file, head.metadata.num_rows)
        if len(schema) > MOST_COLUMNS:
            raise UserError(f"{file}: expected at most {MOST_COLUMNS:,} columns, came {len(schema):,}.")
    found(wanted, schema.names, file)
    for name in wanted:
        _refuse_kind(file, name, schema)
    texts = [name for name in wanted if _is_long(schema.field(name).type)]
    with pq.ParquetFile(file, read_dictionary=texts) as opened:
        for batch in opened.iter_batches(CHUNK, columns=list(wanted)):
            batch.validate(full=True)
            yield from _spelled_out(file, batch)


def _refuse_kind(file: Path, name: str, schema: pa.Schema) -> None:
    """A column has one name, and values that are one thing each."""
    if len(schema.get_all_field_indices(name)) > 1:
        raise UserError(f"{file}: expected one column {name!r}, came several of that name.")
    kind = schema.field(name).type
    inner = kind.value_type if pa.types.is_dictionary(kind) else kind
    if pa.types.is_nested(inner) or pa.types.is_float16(inner):
        raise UserError(f"{file}: expected text, numbers or times in column {name!r}, came {kind!s:.60}.")
    pa.nulls(1, inner).cast(pa.string())  # ArrowInvalid: a time of a zone that nobody knows


def _is_long(kind: pa.DataType) -> bool:
    """Whether one value may take any room."""
    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    return any(is_kind(kind) for is_kind in kinds)


def _spelled_out(file: Path, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """The rows with values for codes, so many at once as have room."""
    coded = [i for i, field in enumerate(batch.schema) if pa.types.is_dictionary(field.type)]
    longest = sum(_longest(file, batch.schema.names[i], batch.column(i).dictionary) for i in coded)
    size = max(1, min(batch.num_rows, CHUNK_BYTES // (longest + 8)))
    for start in range(0, batch.num_rows, size):
        part = batch.slice(start, size)
        for i in coded:
            values = part.column(i).dictionary_decode()
            part = part.set_column(i, batch.schema.names[i], values)
        yield part


def _longest(file: Path, name: str, values: pa.Array) -> int:
    """Bytes of the longest of a column's values."""
    if not _is_long(values.type) or not len(values):
        return 8
    longest = int(pc.max(pc.binary_length(values)).as_py() or 0)
    if longest > MOST_TEXT_BYTES:
        raise UserError(
            f"{file}: expected {MOST_TEXT_BYTES:,} bytes a value at most in {name!r}, came {longest:,}."
        )
    return longest


def _csv(file: Path, wanted: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Everything as text: what a column holds is the mapping's to say."""
    with csv.open_csv(file) as head:
        found(wanted, head.schema.names, file)
    convert = csv.ConvertOptions(
        column_types=dict.fromkeys(wanted, pa.string()), include_columns=list(wanted), null_values=[""]
    )
    parse = csv.ParseOptions(newlines_in_values=True)
    with csv.open_csv(file, parse_options=parse, convert_options=convert) as reader:
        yield from reader


def _payments(
    raw: pa.RecordBatch, columns: TransactionColumns, labels: LabelColumns | None, currency: str
) -> _Checked:
    named = {
        "transaction_id": checks.words(raw[columns.transaction_id], 128).required(),
        "event_time": checks.times(raw[columns.event_time]).required(),
        "customer_id": checks.words(raw[columns.customer_id], 128).required(),
        "terminal_id": checks.words(raw[columns.terminal_id], 128).required(),
        "amount": checks.amounts(raw[columns.amount]).required(),
    }
    optional = columns.columns().keys() - named.keys()
    named |= {name: _OPTIONAL[name](raw[columns.columns()[name]]) for name in _OPTIONAL if name in optional}
    named |= _label_fields(raw, labels) if labels else {}
    checked = _checked(named, raw, columns.columns() | (labels.columns() if labels else {}))
    money = pc.fill_null(checked.fields.get("currency", pa.nulls(raw.num_rows, pa.string())), currency)
    return replace(checked, fields=checked.fields | {"currency": money})


def _label_fields(raw: pa.RecordBatch, labels: LabelColumns) -> dict[str, Column]:
    fields = {"label": checks.labels(raw[labels.label])}
    if labels.label_time:
        fields["label_time"] = checks.times(raw[labels.label_time])
    return fields


def _word(raw: pa.Array) -> Column:
    return checks.words(raw, 64)


_OPTIONAL: dict[str, Callable[[pa.Array], Column]] = {
    "currency": lambda raw: checks.matching(raw, "^[A-Z]{3}$", "three capital letters"),
    "country": lambda raw: checks.matching(raw, "^[A-Z]{2}$", "two capital letters"),
    "channel": _word,
    "ip": _word,
    "merchant_category": _word,
    "device_id": lambda raw: checks.words(raw, 128),
    "latitude": lambda raw: checks.numbers(raw, -90, 90, "a number from -90 up to 90"),
    "longitude": lambda raw: checks.numbers(raw, -180, 180, "a number from -180 up to 180"),
}


def _quotes(raw: pa.RecordBatch, columns: PriceColumns, currency: str, first: int) -> _Checked:
    assert columns.product_id
    assert columns.event_time
    amount = "a number from 0 up to 1e9"
    named = {
        "event_time": checks.times(raw[columns.event_time]).required(),
        "product_id": checks.words(raw[columns.product_id], 128).required(),
        "price": checks.money(raw[columns.price]).required(),
        "units": checks.numbers(raw[columns.units], 0.0, checks.MAX_MONEY, amount),
    }
    kinds: dict[str, Callable[[pa.Array], Column]] = {
        "quote_id": lambda each: checks.words(each, 128),
        "segment": _word,
        "list_price": checks.money,
        "unit_cost": lambda each: checks.numbers(each, 0.0, checks.MAX_MONEY, amount),
        "outcome_time": checks.times,
    }
    given = columns.columns()
    named |= {name: check(raw[given[name]]) for name, check in kinds.items() if name in given}
    checked = _checked(named, raw, given)
    contexts = _contexts(raw, columns.context)
    numbered = pc.if_else(
        checks.card_numbers(contexts),
        f"context: expected {checks.NO_CARD_NUMBER}",
        pa.scalar(None, pa.string()),
    )
    made = pa.array([f"row-{first + row}" for row in range(raw.num_rows)], pa.string())
    more = {
        "quote_id": pc.coalesce(checked.fields["quote_id"], made) if "quote_id" in named else made,
        "currency": pa.array([currency]).take(pa.array(np.zeros(raw.num_rows, np.int64))),
        "context": contexts,
        "exploration": pa.array(np.zeros(raw.num_rows, np.bool_)),
        "list_price": pc.coalesce(
            checked.fields.get("list_price", checked.fields["price"]), checked.fields["price"]
        ),
        "outcome_time_us": checked.fields.get("outcome_time_us", checked.fields["event_time_us"]),
    }
    return _Checked(checked.fields | more, pc.coalesce(checked.reason, numbered))


def _contexts(raw: pa.RecordBatch, names: Sequence[str]) -> pa.Array:
    """Context columns as JSON objects, without what is empty."""
    rows = raw.select(list(names)).to_pylist() if names else [{}] * raw.num_rows
    given = ({name: value for name, value in row.items() if value is not None} for row in rows)
    return pa.array([orjson.dumps(row, default=str).decode() for row in given], pa.string())


def _checked(named: Mapping[str, Column], raw: pa.RecordBatch, columns: Mapping[str, str]) -> _Checked:
    reason = pa.nulls(raw.num_rows, pa.string())
    for name, column in named.items():
        if column.wrong.true_count:
            reason = pc.coalesce(reason, _why(name, column, raw[columns[name]]))
    fields = {
        name + ("_us" if name.endswith("time") else ""): column.values for name, column in named.items()
    }
    return _Checked(fields, reason)


def _why(name: str, column: Column, raw: pa.Array) -> pa.Array:
    """What is told of each wrong row, null of the others; a card number is masked."""
    at = np.flatnonzero(column.wrong.to_numpy(zero_copy_only=False))
    came = pc.fill_null(checks.text(raw.cast(pa.string())), "nothing").take(pa.array(at)).to_pylist()
    said = np.full(len(raw), None, object)
    said[at] = [f"{name}: expected {column.expected or 'a value'}, came {masked(each)[:60]}" for each in came]
    return pa.array(said, pa.string())


def _parted(checked: _Checked, first: int) -> tuple[pa.Table, pa.Table]:
    """Rows that can be taken, and the others with their reasons."""
    row = pa.array(first + np.arange(len(checked.reason)))
    good = pa.table(checked.fields | {ROW: row}).filter(checked.reason.is_null())
    bad = pa.table([row, checked.reason], schema=REJECTS).filter(checked.reason.is_valid())
    return good, bad


def _labels(rows: pa.Table, first_copy: Ints, columns: LabelColumns | None) -> pa.Table:
    """Labels in order of arrival; each belongs to the first copy of its payment."""
    if columns is None:
        return tables.empty(tables.LABELS).append_column(ROW, pa.array([], pa.int64()))
    paid = rows.take(first_copy)
    arrived = (
        rows["label_time_us"]
        if columns.label_time
        else pa.array(rows["event_time_us"].to_numpy() + round((columns.delay_days or 0.0) * DAY_US))
    )
    usual = pc.if_else(pc.equal(rows["label"], "fraud"), "chargeback", "settlement")
    labels = pa.table(
        {
            **{name: paid[name] for name in ("transaction_id", "customer_id", "terminal_id", "amount")},
            "paid_at_us": paid["event_time_us"],
            "event_time_us": arrived,
            "label": rows["label"],
            "source": pc.fill_null(
                pa.array([columns.source] * rows.num_rows, pa.string()), usual.combine_chunks()
            )
            if columns.source
            else usual,
            ROW: rows[ROW],
        }
    )
    known = _by_time(
        labels.filter(pc.and_(pc.is_valid(labels["label"]), pc.is_valid(labels["event_time_us"])))
    )
    said = pc.binary_join_element_wise(known["transaction_id"], known["label"], "\x1f")
    return _plain(known.take(np.unique(_first_copies(said))), tables.LABELS)


def _first_copies(ids: pa.ChunkedArray) -> Ints:
    """For every row the first row with the same id."""
    codes = ids.combine_chunks().dictionary_encode().indices.to_numpy()
    _, first = np.unique(codes, return_index=True)
    copies: Ints = first[codes]
    return copies


def _by_time(rows: pa.Table) -> pa.Table:
    time_us = _time_us(rows)
    if np.all(time_us[1:] >= time_us[:-1]):
        return rows
    return rows.take(np.argsort(time_us, kind="stable"))


def _time_us(rows: pa.Table) -> Ints:
    found_us: Ints = rows["event_time_us"].to_numpy()
    return found_us


def _plain(rows: pa.Table, table: str) -> pa.Table:
    """Columns of history and the row of the file."""
    return tables.completed(table, rows).append_column(ROW, rows[ROW])


def _with_places(rows: pa.Table, entities: Sequence[str], number: Ints) -> pa.Table:
    partition = pa.array(np.full(len(number), tables.BACKFILLED, np.int32))
    for entity in entities:
        for name, values in ((f"{entity}_partition", partition), (f"{entity}_position", pa.array(number))):
            rows = rows.set_column(rows.column_names.index(name), name, values)
    return rows


def _no_payments(labels: LabelColumns | None) -> pa.Table:
    fields = ["transaction_id", "event_time_us", "customer_id", "terminal_id", "amount", "currency"]
    columns = {name: tables.SCHEMAS[tables.TRANSACTIONS].field(name).type for name in fields}
    columns |= {"label": pa.string()} if labels else {}
    columns |= {"label_time_us": pa.int64()} if labels and labels.label_time else {}
    return pa.schema(columns | {ROW: pa.int64()}).empty_table()


def _no_quotes() -> pa.Table:
    fields = [
        "quote_id",
        "event_time_us",
        "product_id",
        "price",
        "currency",
        "context",
        "list_price",
        "exploration",
    ]
    columns = {name: tables.SCHEMAS[tables.QUOTES].field(name).type for name in fields}
    columns |= {"units": pa.float64(), "outcome_time_us": pa.int64(), ROW: pa.int64()}
    return pa.schema(columns).empty_table()


def _price_columns(columns: PriceColumns) -> dict[str, str]:
    return columns.columns() | {name: name for name in columns.context}


def _price_rows(raw: pa.RecordBatch, columns: PriceColumns) -> pa.Table:
    fields = {
        "price": _numbers_or_null(checks.money(raw[columns.price])),
        "units": _numbers_or_null(checks.numbers(raw[columns.units], 0.0, checks.MAX_MONEY, "")),
    }
    if columns.product_id:
        fields["product_id"] = checks.text(raw[columns.product_id])
    if columns.place:
        fields["place"] = checks.text(raw[columns.place])
    if columns.period:
        fields["period"] = _numbers_or_null(checks.numbers(raw[columns.period], -np.inf, np.inf, ""))
    if columns.event_time:
        fields["event_time_us"] = _numbers_or_null(checks.times(raw[columns.event_time]))
    return pa.table(fields | {name: _context(raw[name]) for name in columns.context})


def _context(raw: pa.Array) -> pa.Array:
    """Numbers where all of it are numbers, else as it is."""
    if not pa.types.is_string(raw.type):
        return raw
    as_numbers = checks.numbers(raw, -np.inf, np.inf, "")
    return raw if as_numbers.wrong.true_count else as_numbers.values


def _numbers_or_null(column: Column) -> pa.Array:
    return pc.if_else(column.wrong, None, column.values)
