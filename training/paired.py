"""How sure a gain is: two models on the same rows, resampled together (paired bootstrap, Efron 1979).

What is drawn are groups of rows that belong together, such as a customer's payments: they rise and fall
together, and drawn one by one they would seem to tell more than they do (Field and Welsh 2007).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from features.state import Floats, Ints

DRAWS = 1_000
SEED = 17


@dataclass(frozen=True)
class Gain:
    """Of one figure, challenger against champion, relative to the champion's; NaN where nothing is known."""

    figure: str
    challenger: float
    champion: float
    gain: float
    low: float
    """Lower end of the interval of the gain."""
    high: float


@dataclass(frozen=True)
class Draws:
    """How often each row counts, by itself and in each resample.

    Args:
        group: of each row, 0 to k - 1, shape (n,).
        weight: how often each row stands for others like it, shape (n,).
        tail: share of resamples below the lower end of an interval, and above its higher end.
    """

    group: Ints
    weight: Floats
    tail: float

    def __iter__(self) -> Iterator[Floats]:
        """Weights of the rows in each resample, shape (n,); the same at each call."""
        for counts in self._counts():
            yield self.weight * counts[self.group]

    def _counts(self) -> Iterator[Ints]:
        groups = int(self.group.max()) + 1 if len(self.group) else 0
        draw = np.random.default_rng(SEED)
        for _ in range(DRAWS):
            yield np.bincount(draw.integers(0, groups, groups), minlength=groups)

    def of_losses(self, figure: str, challenger: Floats, champion: Floats) -> Gain:
        """Of a sum of losses of the rows, each of shape (n,); less is better."""
        own, rival = (self._summed(each) for each in (challenger, champion))
        drawn = self._counts() if len(self.group) else ()
        pairs = [(float(counts @ own), float(counts @ rival)) for counts in drawn]
        return self._gain(figure, own.sum(), rival.sum(), -_relative(pairs), better=-1.0)

    def of_ranking(self, truth: Floats, challenger: Floats, champion: Floats) -> Gain:
        """Of average precision, by scores of shape (n,)."""
        own, rival = Ranking.of(truth, challenger), Ranking.of(truth, champion)
        pairs = [(own.precision(each), rival.precision(each)) for each in self] if len(self.group) else []
        now = own.precision(self.weight), rival.precision(self.weight)
        return self._gain("average_precision", *now, _relative(pairs), better=1.0)

    def excess(self, own: Floats, rival: Floats, times: float) -> float:
        """Lower end of the interval of a sum less so many times another's, of shape (n,); NaN of no rows.

        A difference, not a ratio: it also tells where the other is nothing.
        """
        if not len(self.group):
            return float("nan")
        beyond = self._summed(own) - times * self._summed(rival)
        return float(np.quantile([counts @ beyond for counts in self._counts()], self.tail))

    def _summed(self, losses: Floats) -> Floats:
        found: Floats = np.bincount(self.group, self.weight * losses).astype(np.float64)
        return found

    def _gain(self, figure: str, own: float, rival: float, drawn: Floats, better: float) -> Gain:
        gain = better * float(_relative([(own, rival)])[0])
        known = drawn[~np.isnan(drawn)]
        low, high = np.quantile(known, (self.tail, 1.0 - self.tail)) if len(known) else (np.nan, np.nan)
        return Gain(figure, float(own), float(rival), gain, float(low), float(high))


def _relative(pairs: Sequence[tuple[float, float]]) -> Floats:
    """How much the first of each pair is above the second, as a share of it; NaN against nothing."""
    own, rival = np.array(pairs, np.float64).reshape(-1, 2).T
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Floats = (own - rival) / np.abs(rival)
    return np.where(np.isfinite(found), found, np.nan)


@dataclass(frozen=True)
class Ranking:
    """Rows in falling order of score; equal scores count together, as in `metrics.average_precision`."""

    order: Ints
    positive: Floats
    """1.0 for fraud, in that order."""
    last: Ints
    """Place of the last row of each score."""

    @classmethod
    def of(cls, truth: Floats, score: Floats) -> "Ranking":
        """Sort once; every resample only weighs anew."""
        order = np.argsort(-score, kind="stable")
        last = np.flatnonzero(np.append(np.diff(score[order]) != 0, True)) if len(score) else order
        return cls(order, (truth[order] > 0).astype(np.float64), last)

    def precision(self, weight: Floats) -> float:
        """Average precision with these weights of the rows, in their own order; NaN without a positive.

        >>> found = Ranking.of(np.array([1.0, 0.0, 1.0]), np.array([0.9, 0.8, 0.7]))
        >>> round(found.precision(np.ones(3)), 4)
        0.8333
        """
        sorted_weight = weight[self.order]
        all_before = np.cumsum(sorted_weight)[self.last]
        hits = np.cumsum(sorted_weight * self.positive)[self.last]
        if not len(hits) or hits[-1] <= 0:
            return float("nan")
        share = np.divide(hits, all_before, out=np.zeros_like(hits), where=all_before > 0)
        return float((np.diff(hits, prepend=0.0) * share).sum() / hits[-1])


def groups_of(*columns: Sequence[object]) -> Ints:
    """A number for each distinct combination of the columns' values, by row.

    >>> groups_of(["a", "b", "a"]).tolist(), groups_of(["a", "a"], [1, 2]).tolist()
    ([0, 1, 0], [0, 1])
    """
    numbers: dict[tuple[object, ...], int] = {}
    return np.array([numbers.setdefault(each, len(numbers)) for each in zip(*columns, strict=True)], np.int64)
