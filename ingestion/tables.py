"""The tables of the history: their columns, what says where in the log a row lies, and their days."""

from datetime import date, timedelta

import pyarrow as pa
import pyarrow.dataset as ds

from ingestion.streams import PRODUCT_EVENT, SCORED_EVENT

TRANSACTIONS, LABELS, QUOTES, OUTCOMES, DECISIONS = (
    "transactions",
    "labels",
    "quotes",
    "outcomes",
    "decisions",
)
SCORES = "scores"
"""What a challenger in shadow says of decisions; in a folder of its own, not beside the other tables."""
BACKFILLED = -1
"""Partition of rows that came by a backfill; their position is a running number in order of time."""
FROM_THE_START = -(2**62)
"""Less than any position."""

DAY_US = 86_400 * 1_000_000
_EPOCH = date(1970, 1, 1)


def _of(schema: pa.Schema, names: str, **more: pa.DataType) -> pa.Schema:
    return pa.schema(
        [*(schema.field(name) for name in names.split()), *(pa.field(*each) for each in more.items())]
    )


_TERMINAL = {"terminal_partition": pa.int32(), "terminal_position": pa.int64()}
_PRODUCT = {"product_partition": pa.int32(), "product_position": pa.int64()}

SCHEMAS: dict[str, pa.Schema] = {
    TRANSACTIONS: _of(
        SCORED_EVENT,
        "transaction_id event_time_us customer_id terminal_id amount currency channel country device_id ip "
        "merchant_category latitude longitude attributes appended_ms customer_partition customer_position",
        **_TERMINAL,
    ),
    LABELS: _of(
        SCORED_EVENT,
        "transaction_id event_time_us customer_id terminal_id amount label source paid_at_us appended_ms "
        "customer_partition customer_position",
        **_TERMINAL,
    ),
    QUOTES: _of(
        PRODUCT_EVENT,
        "quote_id event_time_us product_id segment objective price currency unit_cost list_price context "
        "exploration propensity held fraud_probability model_version feature_names features appended_ms",
        **_PRODUCT,
    ),
    OUTCOMES: _of(
        PRODUCT_EVENT,
        "quote_id event_time_us product_id price units quoted_at_us appended_ms",
        **_PRODUCT,
    ),
    DECISIONS: pa.schema(
        {
            "transaction_id": pa.string(),
            "event_time_us": pa.int64(),
            "customer_id": pa.string(),
            "terminal_id": pa.string(),
            "decision": pa.string(),
            "policy_decision": pa.string(),  # before the control group was drawn
            "propensity": pa.float64(),
            "control_group": pa.bool_(),
            "score": pa.float64(),
            "model_version": pa.string(),
            "policy_version": pa.string(),
            "feature_names": pa.list_(pa.string()),
            "features": pa.list_(pa.float64()),  # the vector that was used; null = NaN
            "json": pa.string(),  # the whole decision as it was published
            "appended_ms": pa.int64(),
            "terminal_partition": pa.int32(),  # place of its payment; null: not told
            "terminal_position": pa.int64(),
            "decision_partition": pa.int32(),
            "decision_position": pa.int64(),
        }
    ),
    SCORES: pa.schema(
        {
            "id": pa.string(),  # of the transaction or quote
            "event_time_us": pa.int64(),
            "score": pa.float64(),
            "champion_score": pa.float64(),  # by the champion of the moment when it was scored
            "champion_version": pa.string(),
            "decided_by": pa.string(),  # the version that truly decided
            "partition": pa.int32(),
            "position": pa.int64(),
        }
    ),
}
"""Columns of every table. `event_time_us` is microseconds since 1970 UTC; of a label, its arrival."""

PLACES = {
    TRANSACTIONS: ("terminal_partition", "terminal_position"),
    LABELS: ("terminal_partition", "terminal_position"),
    QUOTES: ("product_partition", "product_position"),
    OUTCOMES: ("product_partition", "product_position"),
    DECISIONS: ("decision_partition", "decision_position"),
    SCORES: ("partition", "position"),
}
"""Columns that say where in the log a row was read."""

_CUSTOMER = ("customer_partition", "customer_position")
ORIGINS = {TRANSACTIONS: _CUSTOMER, LABELS: _CUSTOMER, DECISIONS: ("terminal_partition", "terminal_position")}
"""Columns that say where in an earlier stream the event lies that a row was made of."""


def day_of(time_us: int) -> str:
    """Day in UTC.

    >>> day_of(-1), day_of(0)
    ('1969-12-31', '1970-01-01')
    """
    return (_EPOCH + timedelta(days=time_us // DAY_US)).isoformat()


def day_start_us(day: str) -> int:
    """First microsecond of a day in UTC.

    >>> day_start_us("1970-01-02") == DAY_US
    True
    """
    return (date.fromisoformat(day) - _EPOCH).days * DAY_US


def empty(table: str) -> pa.Table:
    """No rows of a table."""
    return SCHEMAS[table].empty_table()


def completed(table: str, rows: pa.Table) -> pa.Table:
    """Rows with all columns of the table: what they lack is null, what the table lacks is dropped."""
    arrays = [
        rows[field.name].cast(field.type)
        if field.name in rows.column_names
        else pa.nulls(rows.num_rows, field.type)
        for field in SCHEMAS[table]
    ]
    return pa.table(arrays, schema=SCHEMAS[table])


def between(start_us: int | None, end_us: int | None) -> ds.Expression | None:
    """Filter of event times in [start_us, end_us); None if neither is given."""
    conditions = []
    if start_us is not None:
        conditions.append(ds.field("event_time_us") >= start_us)
    if end_us is not None:
        conditions.append(ds.field("event_time_us") < end_us)
    return (
        None if not conditions else conditions[0] if len(conditions) == 1 else conditions[0] & conditions[1]
    )
