"""Simulated events as columns of the history, and as a file that `infra/config/mappings` describes."""

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ingestion.file_source import REJECTS, ROW, PastEvents
from ingestion.simulators.columns import Ints
from ingestion.simulators.market import CATEGORIES, Market, PriceLog
from ingestion.simulators.payments import PaymentLog
from ingestion.tables import LABELS, OUTCOMES, QUOTES, TRANSACTIONS, completed

_TIMES = ("event_time_us", "label_time_us", "outcome_time_us")
_CONTEXT = ("competitor_price", "hours_to_departure", "inventory")


def past_payments(log: PaymentLog) -> PastEvents:
    """Payments in order of time, and their labels in order of arrival."""
    rows = _table(log)
    settled = rows.append_column("paid_at_us", rows["event_time_us"])
    settled = _renamed(settled, "label_time_us").take(np.argsort(log.label_time_us, kind="stable"))
    return _past(rows, TRANSACTIONS, settled, LABELS)


def past_prices(market: Market, log: PriceLog) -> PastEvents:
    """Quotes of the past seller in order of time, and their outcomes in order of arrival."""
    rows = _priced(market, log)
    settled = rows.append_column("quoted_at_us", rows["event_time_us"])
    settled = _renamed(settled, "outcome_time_us").take(np.argsort(log.outcome_time_us, kind="stable"))
    return _past(rows, QUOTES, settled, OUTCOMES)


def write_payments(days: Iterator[PaymentLog], file: Path) -> int:
    """Write payments with their labels as Parquet, a row group a day; gives how many."""
    return _write((_table(log) for log in days), file)


def write_prices(market: Market, log: PriceLog, file: Path) -> int:
    """Write past prices with what was bought as Parquet; gives how many."""
    rows = _priced(market, log).drop_columns(["context"])
    context = {name: pa.array(getattr(log, name), from_pandas=True) for name in _CONTEXT}
    context["category"] = pa.array([CATEGORIES[number] for number in _row_of(market, log, "category")])
    return _write(
        iter([pa.table({**dict(zip(rows.column_names, rows.columns, strict=True)), **context})]), file
    )


def _past(decided: pa.Table, decided_as: str, settled: pa.Table, settled_as: str) -> PastEvents:
    return PastEvents(
        completed(decided_as, decided).append_column(ROW, decided[ROW]),
        completed(settled_as, settled).append_column(ROW, settled[ROW]),
        REJECTS.empty_table(),
        duplicates=0,
    )


def _table(log: PaymentLog | PriceLog) -> pa.Table:
    columns = {field.name: pa.array(getattr(log, field.name), from_pandas=True) for field in fields(log)}
    return pa.table(columns | {ROW: np.arange(len(log))})


def _priced(market: Market, log: PriceLog) -> pa.Table:
    """With what the seller knew of the product."""
    more = {
        "list_price": pa.array(_row_of(market, log, "list_price")),
        "unit_cost": pa.array(_row_of(market, log, "unit_cost")),
        "currency": pa.array([market.process.currency] * len(log)),
        "context": pa.array(_contexts(log, _row_of(market, log, "category")), pa.string()),
        "exploration": pa.array(np.zeros(len(log), np.bool_)),
    }
    rows = _table(log).drop_columns(list(_CONTEXT))
    for name, column in more.items():
        rows = rows.append_column(name, column)
    return rows.set_column(rows.column_names.index("units"), "units", rows["units"].cast(pa.float64()))


def _row_of(market: Market, log: PriceLog, column: str) -> Any:
    """A column of the products, for each quote."""
    place = {name: row for row, name in enumerate(market.products.product_id)}
    return getattr(market.products, column)[np.array([place[name] for name in log.product_id], np.int64)]


def _contexts(log: PriceLog, category: Ints) -> list[str]:
    """What was known when asked, and the product's category, as a quote has them."""
    rows = zip(*(getattr(log, name).tolist() for name in _CONTEXT), strict=True)
    given = (
        {name: value for name, value in zip(_CONTEXT, row, strict=True) if value == value} for row in rows
    )
    named = zip(given, category.tolist(), strict=True)
    return [orjson.dumps(each | {"category": CATEGORIES[number]}).decode() for each, number in named]


def _renamed(rows: pa.Table, arrival: str) -> pa.Table:
    """With its arrival as the time of the event."""
    return rows.set_column(rows.column_names.index("event_time_us"), "event_time_us", rows[arrival])


def _write(tables: Iterator[pa.Table], file: Path) -> int:
    written, writer = 0, None
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        for rows in map(_readable, tables):
            writer = writer or pq.ParquetWriter(file, rows.schema, compression="zstd")
            writer.write_table(rows)
            written += rows.num_rows
    finally:
        if writer:
            writer.close()
    return written


def _readable(rows: pa.Table) -> pa.Table:
    """Times as times, under the names of the contracts."""
    columns: dict[str, pa.ChunkedArray] = {}
    for name in rows.column_names:
        if name in _TIMES:
            columns[name.removesuffix("_us")] = pc.cast(rows[name], pa.timestamp("us", "UTC"))
        elif name != ROW:
            columns[name] = rows[name].cast(pa.string()) if pa.types.is_null(rows[name].type) else rows[name]
    return pa.table(columns)
