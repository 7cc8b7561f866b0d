"""How far a table of the history was read: what names a past reading, so that it can be read again.

Rows of one day and one partition are written in the log's order, so the last position that was there says
which rows were: what comes later, a late event of a past day too, has a greater one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

_EPOCH = date(1970, 1, 1)
_NOTHING = -(2**62)
"""Less than any position."""
_MOST_PARTITIONS = 1 << 20

N = TypeVar("N", int, Ints)


@dataclass(frozen=True)
class Stretch:
    """Rows of one day and one partition: first and last position, both inclusive, and how many."""

    first: int
    last: int
    rows: int


@dataclass(frozen=True)
class Reach:
    """The stretches of a table by day (since 1970 UTC) and partition of the log."""

    stretches: Mapping[tuple[int, int], Stretch]

    @classmethod
    def of(cls, day: Ints, partition: Ints, position: Ints) -> "Reach":
        """Of rows that are there now.

        >>> rows = np.array([0, 0, 1]), np.array([2, 2, 2]), np.array([7, 5, 9])
        >>> Reach.of(*rows).as_json()
        {'1970-01-01': {'2': [5, 7, 2]}, '1970-01-02': {'2': [9, 9, 1]}}
        """
        order = np.lexsort((position, partition, day))
        day, partition, position = day[order], partition[order], position[order]
        new = np.ones(len(day), np.bool_)
        new[1:] = (day[1:] != day[:-1]) | (partition[1:] != partition[:-1])
        starts = np.flatnonzero(new)
        ends = np.append(starts[1:], len(day))[: len(starts)]
        return cls(
            {
                (int(day[a]), int(partition[a])): Stretch(int(position[a]), int(position[b - 1]), int(b - a))
                for a, b in zip(starts.tolist(), ends.tolist(), strict=True)
            }
        )

    def holds(self, day: Ints, partition: Ints, position: Ints) -> Flags:
        """Which rows were there, shape (n,)."""
        pairs, place = np.unique(_pair(day, partition), return_inverse=True)
        last = {_pair(*key): stretch.last for key, stretch in self.stretches.items()}
        until = np.array([last.get(pair, _NOTHING) for pair in pairs.tolist()], np.int64)
        held: Flags = position <= until[place]
        return held

    @property
    def rows(self) -> int:
        """How many rows there were."""
        return sum(stretch.rows for stretch in self.stretches.values())

    def lacking(self, now: "Reach") -> list[str]:
        """A sentence for each day and partition of which rows have gone since."""
        said = []
        for (day, partition), stretch in sorted(self.stretches.items()):
            found = now.stretches.get((day, partition))
            if (left := found.rows if found else 0) != stretch.rows:
                said.append(f"{_iso(day)}: {left} of {stretch.rows} rows of partition {partition}")
        return said

    def as_json(self) -> dict[str, dict[str, list[int]]]:
        """`{day: {partition: [first, last, rows]}}`."""
        found: dict[str, dict[str, list[int]]] = {}
        for (day, partition), each in sorted(self.stretches.items()):
            found.setdefault(_iso(day), {})[str(partition)] = [each.first, each.last, each.rows]
        return found

    @classmethod
    def from_json(cls, values: Mapping[str, Mapping[str, Sequence[Any]]]) -> "Reach":
        """What `as_json` gave."""
        return cls(
            {
                ((date.fromisoformat(day) - _EPOCH).days, int(partition)): Stretch(*map(int, each))
                for day, partitions in values.items()
                for partition, each in partitions.items()
            }
        )


def _pair(day: N, partition: N) -> N:
    """One number of both; a partition is -1 or more."""
    return day * _MOST_PARTITIONS + partition + 1


def _iso(day: int) -> str:
    return (_EPOCH + timedelta(days=day)).isoformat()
