"""Parts of a training set that are left out, each with the test that refused it and why."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.state import Flags

type_of_columns = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Part:
    """Some rows of a training set, by what they have in common, so that they can be found again."""

    test: str
    """Name of the data test that refused it."""
    reason: str
    days: tuple[int, int] | None = None
    """First and last day since 1970 UTC, both inclusive; None: any."""
    by: str = "day"
    """Which day: `day` of the event, or `arrival_day` of its label."""
    where: Mapping[str, str] = field(default_factory=dict)
    """Column and its value, such as `source` and `analyst`."""
    ids: tuple[str, ...] | None = None
    """Only these rows; None: all that fit."""
    rows: int = 0
    """How many rows it held when it was found."""

    def holds(self, ids: NDArray[np.object_], columns: type_of_columns) -> Flags:
        """Which rows are in it, shape (n,)."""
        held = np.ones(len(ids), np.bool_)
        if self.days is not None:
            held &= (columns[self.by] >= self.days[0]) & (columns[self.by] <= self.days[1])
        for name, value in self.where.items():
            held &= columns[name] == value
        if self.ids is not None:
            held &= np.isin(ids.astype(str), np.array(self.ids, str))
        return held

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Part":
        """What `as_json` gave."""
        days, ids = values["days"], values["ids"]
        fixed = {"days": days and tuple(days), "ids": None if ids is None else tuple(ids)}
        return cls(**{**values, **fixed})

    def __str__(self) -> str:
        return f"{self.rows:,} rows ({self.test}): {self.reason}"


def held_by(parts: Sequence[Part], ids: NDArray[np.object_], columns: type_of_columns) -> Flags:
    """Rows that are in any of the parts, shape (n,)."""
    held = np.zeros(len(ids), np.bool_)
    for part in parts:
        held |= part.holds(ids, columns)
    return held
