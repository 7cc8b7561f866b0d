"""Entity streams: many events a message, as Arrow record batches, keyed by the entity.

A stream gives every entity one total order of all its events (payments and labels; quotes and outcomes). The
place of an event in it is a position: the message's offset in the upper bits, the row in it in the lower.
"""

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from infra.errors import UserError

ROW_BITS = 16
MAX_ROWS = 1 << ROW_BITS
MAX_BYTES = 4 * 1024 * 1024
"""A message of several events is not larger."""

FRAUD_EVENT = pa.schema(
    {
        "kind": pa.int8(),  # 0 payment, 1 label
        "transaction_id": pa.string(),
        "event_time_us": pa.int64(),  # of the payment; of the label's arrival
        "customer_id": pa.string(),
        "terminal_id": pa.string(),
        "amount": pa.float64(),
        "currency": pa.string(),
        "channel": pa.string(),
        "country": pa.string(),
        "device_id": pa.string(),
        "ip": pa.string(),
        "merchant_category": pa.string(),
        "latitude": pa.float64(),
        "longitude": pa.float64(),
        "attributes": pa.string(),  # JSON object
        "label": pa.string(),
        "source": pa.string(),
        "paid_at_us": pa.int64(),  # event time of the label's payment
        "appended_ms": pa.int64(),  # when the broker took it
        "decision": pa.binary(),  # JSON, where HTTP decided already
    }
)
"""Payments and labels on their way to a customer."""

SCORED_EVENT = pa.schema(
    [
        *FRAUD_EVENT,
        pa.field("customer_partition", pa.int32()),
        pa.field("customer_position", pa.int64()),
        pa.field("customer_state", pa.list_(pa.float64())),  # before the event
    ]
)
"""The same on their way to a terminal, with what was known of the customer."""

PRODUCT_EVENT = pa.schema(
    {
        "kind": pa.int8(),  # 0 quote, 1 outcome
        "quote_id": pa.string(),
        "event_time_us": pa.int64(),
        "product_id": pa.string(),
        "segment": pa.string(),
        "objective": pa.string(),
        "price": pa.float64(),
        "currency": pa.string(),
        "unit_cost": pa.float64(),
        "list_price": pa.float64(),
        "context": pa.string(),  # JSON object
        "exploration": pa.bool_(),
        "propensity": pa.float64(),
        "held": pa.bool_(),  # a repetition of what the same context was quoted
        "fraud_probability": pa.float64(),  # of a sale, where the price knew of it
        "model_version": pa.string(),
        "feature_names": pa.list_(pa.string()),
        "features": pa.list_(pa.float64()),  # the vector at the price that was quoted; null = NaN
        "units": pa.float64(),
        "quoted_at_us": pa.int64(),  # event time of the outcome's quote
        "appended_ms": pa.int64(),
    }
)
"""Quotes and outcomes on their way to a product."""

COUNTED_PRODUCT_EVENT = pa.schema(
    [
        *PRODUCT_EVENT,
        pa.field("product_partition", pa.int32()),
        pa.field("product_position", pa.int64()),
    ]
)
"""The same on their way to the history, once they have counted."""


def position(offset: int, row: int) -> int:
    """Place in a stream; rises strictly within a partition."""
    return offset << ROW_BITS | row


def partition_of(key: str, partitions: int) -> int:
    """The stream's partition of an entity: the same everywhere, for ever."""
    return zlib.crc32(key.encode()) % partitions


def encode(batch: pa.RecordBatch) -> bytes:
    """Arrow IPC stream of one batch."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


def encoded(batch: pa.RecordBatch) -> list[bytes]:
    """The batch as messages, in order, as few as have room for it: MAX_ROWS events and MAX_BYTES each."""
    value = encode(batch)
    if batch.num_rows <= 1 or (len(value) <= MAX_BYTES and batch.num_rows <= MAX_ROWS):
        return [value]
    half = batch.num_rows // 2
    return [*encoded(_copied(batch, 0, half)), *encoded(_copied(batch, half, batch.num_rows))]


def _copied(batch: pa.RecordBatch, start: int, end: int) -> pa.RecordBatch:
    return batch.take(pa.array(range(start, end)))


def decode(value: bytes, schema: pa.Schema) -> pa.RecordBatch:
    """The batch of a message.

    Raises:
        UserError: it is none of this schema. Only our own processes write these streams, and no event of them
            may be passed over: who reads one stops.
    """
    try:
        with pa.ipc.open_stream(value) as reader:
            batch = reader.read_next_batch()
        batch.validate(full=True)
    except (pa.ArrowException, OSError, StopIteration, ValueError) as error:
        raise UserError(
            f"an entity stream: expected an Arrow record batch of ours, came {error!r:.200}."
        ) from None
    if not batch.schema.equals(schema) or batch.num_rows > MAX_ROWS:
        raise UserError(
            f"an entity stream: expected at most {MAX_ROWS} rows of {len(schema)} columns as this version has"
            f" them, came {batch.num_rows} of {len(batch.schema)}; let the version that wrote them read them."
        )
    return batch


def batch_of(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.RecordBatch:
    """Rows as columns; what a row does not have is null."""
    arrays = [pa.array([row.get(field.name) for row in rows], field.type) for field in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def counted(rows: pa.Table, partition: int, positions: Sequence[int]) -> pa.RecordBatch:
    """Quotes and outcomes of one partition of the product stream, with the places where they were folded."""
    columns = [rows[name].combine_chunks() for name in PRODUCT_EVENT.names]
    places = [pa.array([partition] * rows.num_rows, pa.int32()), pa.array(positions, pa.int64())]
    return pa.RecordBatch.from_arrays([*columns, *places], schema=COUNTED_PRODUCT_EVENT)


def by_partition(batch: pa.RecordBatch, key: str, partitions: int) -> dict[int, pa.RecordBatch]:
    """Split a batch by the partition of its key column, order kept."""
    rows: dict[int, list[int]] = {}
    for row, value in enumerate(batch.column(key).to_pylist()):
        rows.setdefault(partition_of(value, partitions), []).append(row)
    if len(rows) == 1:
        return {next(iter(rows)): batch}
    return {number: batch.take(pa.array(mine)) for number, mine in rows.items()}
