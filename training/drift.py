"""Drift: how far features and scores have moved from those that a champion learned from.

Two questions of every column, as one without the other misleads. How large: the population stability index
(PSI) over the reference's quantile bins, with a bin of its own for what is not known. How sure: the
two-sample test of Kolmogorov and Smirnov on the known values and a test of the share that is not known,
corrected over all columns (Benjamini and Hochberg 1995). Of many rows every difference is sure, of few rows
a large one comes by chance; a column drifted if it is both large and sure.

Rows of one customer or product are alike, and tell less than as many of different ones. The test counts the
rows that would tell as much if they were independent: rows / (1 + (rows of a group - 1) × intraclass
correlation), Kish's design effect (1965). Ten products whose prices wander are ten observations.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.state import Floats, Ints

BINS = 10
SKETCH = 400
"""Values that stand for a column's distribution in the test: their steps are 1 / 400 of the rows."""
SCORE = "score"
"""Name of the model's own output among the columns."""
_HALF = 0.5
"""Added to every bin's count, so that an empty one has a logarithm (Krichevsky and Trofimov 1981)."""


@dataclass(frozen=True)
class Column:
    """A column of the reference: enough to compare another sample with, and nothing of any single row."""

    rows: int
    edges: Floats
    """Upper ends of the quantile bins, inclusive, rising; what is higher than the last has one more bin."""
    counts: Ints
    """Rows of each bin; last of those that are not known."""
    sketch: Floats
    """Known values at equal steps of rank, at most `SKETCH`."""
    alike: float = 1.0
    """Rows that tell as much as one independent row."""

    @classmethod
    def of(cls, values: Floats, group: Ints | None = None) -> "Column":
        """Summarise a sample of shape (n,); what is not finite counts as not known.

        Args:
            values: of the column.
            group: number of each row's customer or product; None where rows are independent.
        """
        known = values[np.isfinite(values)]
        if not len(known):
            return cls(len(values), np.empty(0), np.array([0, len(values)]), np.empty(0))
        edges = np.unique(np.quantile(known, np.arange(1, BINS) / BINS, method="inverted_cdf"))
        steps = min(SKETCH, len(known))
        sketch = np.quantile(known, (np.arange(steps) + _HALF) / steps, method="inverted_cdf")
        return cls(len(values), edges, counted(edges, values), sketch, _together(values, group))

    def as_json(self) -> dict[str, Any]:
        """Plain values; numbers keep every bit."""
        return {
            "rows": self.rows,
            "edges": self.edges.tolist(),
            "counts": self.counts.tolist(),
            "sketch": self.sketch.tolist(),
            "alike": self.alike,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Column":
        """What `as_json` gave."""
        return cls(
            int(values["rows"]),
            np.array(values["edges"], np.float64),
            np.array(values["counts"], np.int64),
            np.array(values["sketch"], np.float64),
            float(values["alike"]),
        )


def _together(values: Floats, group: Ints | None) -> float:
    """The larger design effect of known values and of what is not known."""
    return max(alike(values, group), alike(np.isfinite(values).astype(np.float64), group))


type_of_columns = Mapping[str, Column]


def columns_of(
    names: Sequence[str], matrix: Floats, score: Floats, group: Ints | None = None
) -> dict[str, Column]:
    """The reference of a matrix, shape (n, names), and of its rows' scores; groups as in `Column.of`."""
    found = {name: Column.of(matrix[:, number], group) for number, name in enumerate(names)}
    return {**found, SCORE: Column.of(score, group)}


def numbered(names: NDArray[np.object_]) -> Ints:
    """A number for each name, the same for the same."""
    found: Ints = np.unique(names.astype(str), return_inverse=True)[1]
    return found


def alike(values: Floats, group: Ints | None) -> float:
    """Kish's design effect: by the intraclass correlation of known values in one-way analysis of variance.

    >>> alike(np.repeat([1.0, 2.0, 3.0], 10), np.repeat([0, 1, 2], 10))
    10.0
    """
    known = np.isfinite(values)
    if group is None or known.sum() < 2:
        return 1.0
    rows, code = values[known], np.unique(group[known], return_inverse=True)[1]
    each = np.bincount(code).astype(np.float64)
    if len(each) in (1, len(rows)):
        return float(len(rows)) if len(each) == 1 else 1.0
    mean = np.bincount(code, rows) / each
    between = float((each * (mean - rows.mean()) ** 2).sum()) / (len(each) - 1)
    within = float(((rows - mean[code]) ** 2).sum()) / (len(rows) - len(each))
    size = (len(rows) - float((each**2).sum()) / len(rows)) / (len(each) - 1)
    spread = between + (size - 1.0) * within
    correlation = (between - within) / spread if spread > 0 else 0.0
    return 1.0 + (float((each**2).sum()) / len(rows) - 1.0) * min(1.0, max(0.0, correlation))


def counted(edges: Floats, values: Floats) -> Ints:
    """Rows of each bin, and last of those that are not known."""
    known = np.isfinite(values)
    bins = np.searchsorted(edges, values[known], side="left")
    counts = np.bincount(bins, minlength=len(edges) + 1)
    return np.append(counts, len(values) - int(known.sum()))


def psi(expected: Ints, came: Ints) -> float:
    """Population stability index of two counts over the same bins (Siddiqi 2006); 0 where they agree.

    It is Jeffreys' divergence of the two distributions, in nats: each direction's Kullback-Leibler added.

    >>> round(psi(np.array([50, 50]), np.array([90, 10])), 2)
    0.85
    """
    usual, now = _shares(expected), _shares(came)
    return float(((now - usual) * np.log(now / usual)).sum())


@dataclass(frozen=True)
class Drift:
    """How one column differs from the reference."""

    name: str
    psi: float
    statistic: float
    """Largest distance of the two cumulative distributions of known values; NaN if one has none."""
    p_value: float
    """Before the correction."""
    adjusted: float
    """After it: over all columns, those with no more have at most this share of false discoveries."""
    drifted: bool


@dataclass(frozen=True)
class Limits:
    """From when on a column has drifted."""

    psi: float
    false_discoveries: float
    """Share of false ones among the columns that are called different."""


def compare(
    reference: type_of_columns, sample: Mapping[str, Floats], limits: Limits, group: Ints | None = None
) -> tuple[Drift, ...]:
    """Each column that both have, the most moved first.

    Args:
        reference: by name.
        sample: rows of each column, shape (n,); NaN is not known.
        limits: what counts as drift.
        group: number of each row's customer or product, as in the reference.
    """
    from scipy.stats import false_discovery_control

    names = [name for name in reference if name in sample and len(sample[name]) and reference[name].rows]
    if not names:
        return ()
    tested = [_tested(reference[name], sample[name], group) for name in names]
    adjusted = false_discovery_control([p_value for _, p_value in tested], method="bh")
    found = [
        _drift(name, reference[name], sample[name], test, float(sure), limits)
        for name, test, sure in zip(names, tested, adjusted, strict=True)
    ]
    return tuple(sorted(found, key=lambda each: -each.psi))


def _drift(
    name: str, column: Column, values: Floats, test: tuple[float, float], adjusted: float, limits: Limits
) -> Drift:
    moved = psi(column.counts, counted(column.edges, values))
    drifted = moved > limits.psi and adjusted <= limits.false_discoveries
    return Drift(name, moved, *test, adjusted, drifted)


def _tested(column: Column, values: Floats, group: Ints | None) -> tuple[float, float]:
    """Kolmogorov-Smirnov distance of the known values, and a p-value of either difference (Bonferroni)."""
    known = values[np.isfinite(values)]
    now = _together(values, group)
    missing, missing_now = int(column.counts[-1]), len(values) - len(known)
    rows, rows_now = column.rows / column.alike, len(values) / now
    gaps = _gap_p_value(missing / column.rows, rows, missing_now / len(values), rows_now)
    if not len(known) or not len(column.sketch):
        return np.nan, gaps
    distance, sure = _kolmogorov_smirnov(
        column.sketch, (column.rows - missing) / column.alike, known, len(known) / now
    )
    return distance, min(1.0, 2.0 * min(sure, gaps)) if missing or missing_now else sure


def _kolmogorov_smirnov(sketch: Floats, rows: float, values: Floats, rows_now: float) -> tuple[float, float]:
    """Two-sample distance and its asymptotic p-value, as of so many independent rows.

    The sketch is at most half a step of rank away from the reference, which is taken off the distance.
    """
    from scipy.stats import ks_2samp, kstwo

    distance = float(ks_2samp(sketch, values, method="asymp").statistic)
    effective = max(1, round(rows * rows_now / (rows + rows_now)))
    return distance, float(kstwo.sf(max(0.0, distance - _HALF / len(sketch)), effective))


def _gap_p_value(missing: float, rows: float, missing_now: float, rows_now: float) -> float:
    """Two-sided, that both samples lack the same share: the normal test of two shares, pooled."""
    from scipy.stats import norm

    pooled = (missing * rows + missing_now * rows_now) / (rows + rows_now)
    spread = np.sqrt(max(0.0, pooled * (1.0 - pooled)) * (1.0 / rows + 1.0 / rows_now))
    if spread == 0.0:
        return 1.0
    return float(2.0 * norm.sf(abs(missing - missing_now) / spread))


def _shares(counts: Ints) -> Floats:
    raised = counts.astype(np.float64) + _HALF
    shares: Floats = raised / raised.sum()
    return shares
