"""Stretches of days in which a share is far from what is usual in the other days.

Usual is the median share of blocks of other days, so that less than half of all may be wrong. How far is too
far is told by the signed root of the binomial deviance (McCullagh and Nelder 1989), over the spread that the
blocks show beyond chance, and by a least change: what is merely certain is not yet wrong.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from features.state import Flags, Floats, Ints

LENGTHS = (1, 3, 7, 14)
"""Days of the stretches that are looked at; what a shorter one has found is not in a longer one."""
BLOCK = 7
LEAST_BLOCKS = 3
"""With fewer blocks of other days nothing is usual."""
SURE = 6.0
"""Standard deviations; a thousandth of a false alarm in a million stretches of chance alone."""
SURE_GONE = 3.0
NEARLY = 3.0
"""Hits are gone where they would be too few, by so many standard deviations, even if usual were only so small
a part of the lowest of the other blocks."""
LEAST_CHANGED = 10.0
"""Rows by which a stretch must differ from what is expected."""


@dataclass(frozen=True)
class Limits:
    """How far a share may be from usual."""

    change: float
    """Either way, as a difference of shares."""
    times_up: float = np.inf
    """Or so many times usual."""
    times_down: float = np.inf
    """Or usual divided by this, if no other block is nearly as low (`NEARLY`)."""
    under: float = np.inf
    """Only shares under this are odd at all."""
    least_rows: int = 50
    """Fewer tell nothing."""


@dataclass(frozen=True)
class Odd:
    """A stretch of days, both inclusive, since 1970 UTC, and its share against the usual one."""

    first: int
    last: int
    hits: int
    rows: int
    usual: float

    def __str__(self) -> str:
        return f"{self.hits / self.rows:.2%} of {self.rows:,} where {self.usual:.2%} is usual"


def odd_stretches(day: Ints, hit: Flags, limits: Limits) -> list[Odd]:
    """Stretches in which the share of hits is beyond the limits, in the order they were found.

    Args:
        day: of each row, since 1970 UTC.
        hit: of each row.
        limits: what is too far.
    """
    if not len(day):
        return []
    first = int(day.min())
    rows = np.bincount(day - first)
    hits = np.bincount(day[hit] - first, minlength=len(rows))
    counts = _Counts(hits.astype(np.float64), rows.astype(np.float64))
    found = []
    for length in LENGTHS:
        for start in _starts(counts, length, limits):
            odd = counts.odd(start, start + length, limits)
            if odd is not None:
                found.append(Odd(first + start, first + start + length - 1, *odd))
                counts.forget(start, start + length)
    return found


def _starts(counts: "_Counts", length: int, limits: Limits) -> Iterator[int]:
    """First days of stretches with enough rows, the ones that overlap by half included."""
    for start in range(0, len(counts.rows) - length + 1, max(1, length // 2)):
        if counts.rows[start : start + length].sum() >= max(limits.least_rows, 1):
            yield start


@dataclass(frozen=True)
class _Usual:
    """What blocks of other days say."""

    hits: Floats
    rows: Floats
    usual: float
    """Their median share; never quite 0 or 1."""

    @property
    def low(self) -> float:
        """Their lowest share."""
        return float((self.hits / self.rows).min())

    @property
    def spread(self) -> float:
        """Of their shares, in times of what chance alone would give; 1 or more."""
        roots = [deviance_root(k, n, self.usual) for k, n in zip(self.hits, self.rows, strict=True)]
        return max(1.0, 1.4826 * float(np.median(np.abs(roots))))


@dataclass
class _Counts:
    """Hits and rows of each day; those of days that were found odd are no longer in it."""

    hits: Floats
    rows: Floats

    def odd(self, start: int, end: int, limits: Limits) -> tuple[int, int, float] | None:
        """Hits, rows and the usual share, if days [start, end) are beyond the limits."""
        hits, rows = self.hits[start:end].sum(), self.rows[start:end].sum()
        others = self._others(start, end, limits.least_rows)
        if others is None or abs(hits - rows * others.usual) < LEAST_CHANGED:
            return None
        if hits / rows < limits.under and (
            _far(hits, rows, others, limits) or _gone(hits, rows, others, limits)
        ):
            return int(hits), int(rows), others.usual
        return None

    def _others(self, start: int, end: int, least_rows: int) -> "_Usual | None":
        """What the days outside of [start, end) say; None if they are too few."""
        hits, rows = (_blocks(each, start, end) for each in (self.hits, self.rows))
        enough = rows >= max(least_rows, 1)
        hits, rows = hits[enough], rows[enough]
        if len(rows) < LEAST_BLOCKS:
            return None
        least = 0.5 / rows.sum()
        return _Usual(hits, rows, float(min(max(np.median(hits / rows), least), 1.0 - least)))

    def forget(self, start: int, end: int) -> None:
        """Leave these days out from now on."""
        self.hits[start:end] = 0.0
        self.rows[start:end] = 0.0


def _blocks(counts: Floats, start: int, end: int) -> Floats:
    """Sums of so many days in a row, before and after [start, end)."""
    sides = counts[:start], counts[end:]
    return np.concatenate(
        [np.add.reduceat(side, np.arange(0, len(side), BLOCK)) for side in sides if len(side)]
    )


def _far(hits: float, rows: float, others: _Usual, limits: Limits) -> bool:
    share = hits / rows
    if abs(share - others.usual) <= limits.change and share <= others.usual * limits.times_up:
        return False
    return abs(deviance_root(hits, rows, others.usual)) > SURE * others.spread


def _gone(hits: float, rows: float, others: _Usual, limits: Limits) -> bool:
    if hits / rows >= others.usual / limits.times_down or others.low <= 0:
        return False
    return deviance_root(hits, rows, others.low / NEARLY) < -SURE_GONE


def deviance_root(hits: float, rows: float, usual: float) -> float:
    """Signed root of the deviance of `hits` of `rows` from a share, as good as standard normal.

    >>> round(deviance_root(0, 2_000, 0.01), 2), deviance_root(20, 2_000, 0.01)
    (-6.34, 0.0)
    """
    misses = rows - hits
    terms = [
        count * np.log(count / (rows * share)) if count else 0.0
        for count, share in ((hits, usual), (misses, 1.0 - usual))
    ]
    return float(np.sign(hits - rows * usual) * np.sqrt(max(0.0, 2.0 * sum(terms))))
