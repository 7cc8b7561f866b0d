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
SURE_WITHOUT_LIKE = 4.0
"""Enough where no other block is nearly as low."""
NEARLY = 3.0
"""Times a share may be of another that is nearly as low."""
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

    usual: float
    """Their median share."""
    low: float
    """Their lowest share."""
    spread: float
    """Of their shares, in times of what chance alone would give; 1 or more."""


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
        far = abs(deviance_root(hits, rows, others.usual)) / others.spread
        if far > _least_far(hits / rows, others, limits):
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
        usual = float(np.clip(np.median(hits / rows), least, 1.0 - least))
        roots = np.array([deviance_root(k, n, usual) for k, n in zip(hits, rows, strict=True)])
        spread = max(1.0, 1.4826 * float(np.median(np.abs(roots))))
        return _Usual(usual, float((hits / rows).min()), spread)

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


def _least_far(share: float, others: _Usual, limits: Limits) -> float:
    """How sure one must be that a share is not of the usual kind; never sure enough within the limits."""
    if abs(share - others.usual) > limits.change or share > others.usual * limits.times_up:
        return SURE
    gone = share < min(others.usual / limits.times_down, others.low / NEARLY)
    return SURE_WITHOUT_LIKE if gone else np.inf


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
