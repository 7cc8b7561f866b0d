"""Drift: how far features and scores have moved from those that a champion learned from.

Two questions of every column, as one without the other misleads. How large: the population stability index
(PSI) over the reference's quantile bins, with a bin of its own for what is not known. How sure: the
two-sample test of Kolmogorov and Smirnov on the known values and a test of the share that is not known,
corrected over all columns (Benjamini and Hochberg 1995). Of many rows every difference is sure, of few rows
a large one comes by chance; a column drifted if it is both large and sure.

The test takes rows as independent. Those of one customer are not, so that it is sure too early; the PSI's
limit is what keeps it from crying wolf.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

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

    @classmethod
    def of(cls, values: Floats) -> "Column":
        """Summarise a sample of shape (n,); what is not finite counts as not known."""
        known = values[np.isfinite(values)]
        if not len(known):
            return cls(len(values), np.empty(0), np.array([0, len(values)]), np.empty(0))
        edges = np.unique(np.quantile(known, np.arange(1, BINS) / BINS, method="inverted_cdf"))
        steps = min(SKETCH, len(known))
        sketch = np.quantile(known, (np.arange(steps) + _HALF) / steps, method="inverted_cdf")
        return cls(len(values), edges, counted(edges, values), sketch)

    def as_json(self) -> dict[str, Any]:
        """Plain values; numbers keep every bit."""
        return {
            "rows": self.rows,
            "edges": self.edges.tolist(),
            "counts": self.counts.tolist(),
            "sketch": self.sketch.tolist(),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Column":
        """What `as_json` gave."""
        return cls(
            int(values["rows"]),
            np.array(values["edges"], np.float64),
            np.array(values["counts"], np.int64),
            np.array(values["sketch"], np.float64),
        )


type_of_columns = Mapping[str, Column]


def columns_of(names: Sequence[str], matrix: Floats, score: Floats) -> dict[str, Column]:
    """The reference of a matrix of shape (n, names) and of the scores of its rows."""
    found = {name: Column.of(matrix[:, number]) for number, name in enumerate(names)}
    return {**found, SCORE: Column.of(score)}


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


def compare(reference: type_of_columns, sample: Mapping[str, Floats], limits: Limits) -> tuple[Drift, ...]:
    """Each column that both have, the most moved first.

    Args:
        reference: by name.
        sample: rows of each column, shape (n,); NaN is not known.
        limits: what counts as drift.
    """
    from scipy.stats import false_discovery_control

    names = [name for name in reference if name in sample and len(sample[name]) and reference[name].rows]
    if not names:
        return ()
    tested = [_tested(reference[name], sample[name]) for name in names]
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


def _tested(column: Column, values: Floats) -> tuple[float, float]:
    """Kolmogorov-Smirnov distance of the known values, and a p-value of either difference (Bonferroni)."""
    known = values[np.isfinite(values)]
    missing, missing_now = int(column.counts[-1]), len(values) - len(known)
    gaps = _gap_p_value(missing, column.rows, missing_now, len(values))
    if not len(known) or not len(column.sketch):
        return np.nan, gaps
    distance, sure = _kolmogorov_smirnov(column.sketch, column.rows - missing, known)
    return distance, min(1.0, 2.0 * min(sure, gaps)) if missing or missing_now else sure


def _kolmogorov_smirnov(sketch: Floats, rows: int, values: Floats) -> tuple[float, float]:
    """Two-sample distance and its asymptotic p-value, as if the reference's `rows` were all here.

    The sketch is at most half a step of rank away from them, which is taken off the distance.
    """
    from scipy.stats import ks_2samp, kstwo

    distance = float(ks_2samp(sketch, values, method="asymp").statistic)
    effective = max(1, round(rows * len(values) / (rows + len(values))))
    return distance, float(kstwo.sf(max(0.0, distance - _HALF / len(sketch)), effective))


def _gap_p_value(missing: int, rows: int, missing_now: int, rows_now: int) -> float:
    """Two-sided, that both samples lack a value as often: the normal test of two shares, pooled."""
    from scipy.stats import norm

    pooled = (missing + missing_now) / (rows + rows_now)
    spread = np.sqrt(pooled * (1.0 - pooled) * (1.0 / rows + 1.0 / rows_now))
    if spread == 0.0:
        return 1.0
    return float(2.0 * norm.sf(abs(missing / rows - missing_now / rows_now) / spread))


def _shares(counts: Ints) -> Floats:
    raised = counts.astype(np.float64) + _HALF
    shares: Floats = raised / raised.sum()
    return shares
