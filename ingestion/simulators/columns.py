"""Tables as frozen dataclasses of numpy columns, all of one length."""

from collections.abc import Sequence
from dataclasses import Field, fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Words = npt.NDArray[np.object_]
"""Python strings; None where the event does not carry the field."""

HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Columns:
    """Marks a frozen dataclass whose fields are all columns."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def __len__(self) -> int:
        """Number of rows."""
        return len(getattr(self, fields(self)[0].name))


C = TypeVar("C", bound=Columns)


def take(table: C, rows: Ints | Flags | slice) -> C:
    """The given rows of every column, in the given order."""
    return replace(table, **{name: getattr(table, name)[rows] for name in names(table)})


def stack(tables: Sequence[C]) -> C:
    """One table under the other; at least one table."""
    first = tables[0]
    joined = {name: np.concatenate([getattr(table, name) for table in tables]) for name in names(first)}
    return replace(first, **joined)


def names(table: Columns) -> list[str]:
    """Names of the columns, in order."""
    return [field.name for field in fields(table)]


def midnight_us(start: datetime) -> int:
    """Microseconds since 1970 UTC of a day's beginning; ValueError unless it is midnight UTC."""
    if start.tzinfo is None or (start - _EPOCH) % timedelta(days=1):
        raise ValueError(f"start: expected midnight UTC with its zone, came {start.isoformat()}")
    return (start - _EPOCH).days * DAY_US
