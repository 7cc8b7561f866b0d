"""How a champion does on what it decided: measured where the truth is known, estimated where it is not yet.

Three views of the same rows:

* *matured*: figures of each day of event time, of rows whose truth had time to come;
* *estimated*: what calibrated scores say of rows without any label (confidence-based performance estimation:
  Guillory et al. 2021; NannyML's CBPE). It trusts the scores: a pattern that the model does not know is
  invisible to it, so it fills the gap until labels come and never stands in for them;
* *decline*: whether more frauds pass (or other sales come) than on the window that the champion was tested
  on, day by day.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from features.state import Flags, Floats, Ints
from infra.settings import FraudPolicy
from training import metrics
from training.fraud_policy import APPROVE, REVIEW, Codes, costs_incurred, expected_costs

_TAIL = 0.025


@dataclass(frozen=True)
class Known:
    """Payments whose truth is known, in order of time, all arrays of shape (n,)."""

    day: Ints
    """Since 1970 UTC."""
    score: Floats
    """Probability of fraud."""
    fraud: Flags
    amount: Floats
    decisions: Codes
    weight: Floats
    """How many payments each stands for: 1 / propensity."""

    def rows(self, chosen: Flags) -> "Known":
        """The same of some payments."""
        return Known(**{name: values[chosen] for name, values in vars(self).items()})


def figures(known: Known, policy: FraudPolicy) -> dict[str, float]:
    """Ranking, calibration, recall and money of payments; NaN where there are too few to tell."""
    if not len(known.score):
        return {"rows": 0.0, "frauds": 0.0}
    truth = known.fraud.astype(np.float64)
    observed, expected = float(known.weight @ truth), float(known.weight @ known.score)
    cost = costs_incurred(known.decisions, known.fraud, known.amount, policy)
    return {
        "rows": float(len(truth)),
        "frauds": float(known.fraud.sum()),
        "observed": observed,
        "expected": expected,
        **ratio_interval(observed, expected).named("observed_to_expected"),
        "average_precision": metrics.average_precision(truth, known.score, known.weight),
        "expected_calibration_error": metrics.expected_calibration_error(
            truth, known.score, weight=known.weight
        ),
        "cost_per_payment": float(np.average(cost, weights=known.weight)),
        **metrics.of_decisions(truth, known.decisions, known.weight),
    }


def by_day(known: Known, policy: FraudPolicy) -> tuple[dict[str, float], ...]:
    """The figures of each day that has payments, under `day` its number since 1970, in order."""
    return tuple(
        {"day": float(day)} | figures(known.rows(known.day == day), policy)
        for day in np.unique(known.day).tolist()
    )


def estimated(
    score: Floats, amount: Floats, decisions: Codes, policy: FraudPolicy, review_price: float = 0.0
) -> dict[str, float]:
    """Figures that payments without labels have if their scores are right: each is fraud to its probability.

    `review_price` has no part in what a decision costs; reviews are counted at what they cost.
    """
    if not len(score) or not score.sum() > 0:
        return {"rows": float(len(score))}
    stopped = decisions != APPROVE
    costs = expected_costs(score, amount, policy, review_price)
    costs[:, REVIEW] = policy.review_cost
    chosen = np.take_along_axis(costs, decisions.astype(np.int64)[:, None], axis=1)[:, 0]
    order = np.argsort(-score, kind="stable")
    precision = np.cumsum(score[order]) / np.arange(1, len(score) + 1)
    return {
        "rows": float(len(score)),
        "frauds": float(score.sum()),
        "recall": float(score[stopped].sum() / score.sum()),
        "precision": float(score[stopped].mean()) if stopped.any() else np.nan,
        "average_precision": float((score[order] * precision).sum() / score.sum()),
        "cost_per_payment": float(chosen.mean()),
    }


@dataclass(frozen=True)
class Ratio:
    """Observed over expected, with its interval of 95 %; NaN where nothing was expected."""

    value: float
    low: float
    high: float

    def named(self, name: str) -> dict[str, float]:
        """The three as figures."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}


def ratio_interval(observed: float, expected: float, dispersion: float = 1.0) -> Ratio:
    """Of a count that is Poisson (Garwood 1936), or `dispersion` times as wide as that.

    >>> [round(each, 2) for each in vars(ratio_interval(10.0, 8.0)).values()]
    [1.25, 0.6, 2.3]
    """
    from scipy.special import gammaincinv

    if not expected > 0:
        return Ratio(np.nan, np.nan, np.nan)
    seen, promised = observed / dispersion, expected / dispersion
    low = float(gammaincinv(seen, _TAIL)) if seen else 0.0
    return Ratio(observed / expected, low / promised, float(gammaincinv(seen + 1, 1 - _TAIL)) / promised)


@dataclass(frozen=True)
class Tally:
    """What came and what was expected (or what it came of), by day, in order; empty days are not there."""

    day: Ints
    observed: Floats
    expected: Floats

    @classmethod
    def of(cls, day: Ints, came: Floats, promised: Floats) -> "Tally":
        """Add up rows of shape (n,) by their day."""
        days, row = np.unique(day, return_inverse=True)
        sums = [np.bincount(row, each, len(days)).astype(np.float64) for each in (came, promised)]
        return cls(days, *sums)

    @property
    def dispersion(self) -> float:
        """Variance of a day's count over its mean (Pearson); 1 for Poisson's, and where too few days tell.

        Frauds come in groups: a stolen card, a terminal that cheats for weeks.
        """
        promised = self.expected > 0
        if promised.sum() < 3:
            return 1.0
        usual = self.expected[promised] * self.observed[promised].sum() / self.expected[promised].sum()
        if not usual.sum() > 0:
            return 1.0
        squares = (self.observed[promised] - usual) ** 2 / usual
        return max(1.0, float(squares.sum() / (promised.sum() - 1)))


@dataclass(frozen=True)
class Standard:
    """What a champion showed on the window that it was tested on, which it had not seen."""

    observed: float = 0.0
    expected: float = 0.0
    dispersion: float = 1.0
    figures: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, tally: Tally, figures: Mapping[str, float]) -> "Standard":
        """Of its days."""
        return cls(float(tally.observed.sum()), float(tally.expected.sum()), tally.dispersion, dict(figures))

    @property
    def usual(self) -> Ratio:
        """Observed over expected on that window; NaN if there was none."""
        return ratio_interval(self.observed, self.expected, self.dispersion)


@dataclass(frozen=True)
class Decline:
    """Whether what comes has left what the scores promise."""

    alarm: bool
    since_day: int | None
    """First day of the stretch that raised it; days since 1970."""
    raised_day: int | None
    """Day of event time whose rows raised it."""
    observed: float
    """Of the stretch, or of all days if there is no alarm."""
    expected: float
    """The same, as usual for the champion on its test window."""
    evidence: float
    """Greatest sum of the log likelihood ratio."""
    limit: float


@dataclass(frozen=True)
class Looked:
    """What `decline` looks for."""

    ratios: tuple[float, ...]
    """So many times the usual, all above 1 (more) or all below it (fewer): for small and large changes."""
    false_alarm_days: float
    """Days between false alarms, at least."""

    @property
    def limit(self) -> float:
        """Of the evidence; for several ratios by Boole's inequality."""
        return float(np.log(self.false_alarm_days * len(self.ratios)))


def decline(tally: Tally, usual: float, dispersion: float, looked: Looked) -> Decline:
    """Page's (1954) cumulative sum of log likelihood ratios: are counts so many times the usual ones?

    A day's count is Poisson, wider by the dispersion. An alarm stays: the champion that it speaks of must go.

    By Ville's inequality each day begins a stretch that reaches the limit with a probability of at
    most 1 / `false_alarm_days` while counts are usual, or further away from what is looked
    for. So over T days a false alarm has a probability of at most T / `false_alarm_days`, and comes after
    that many days or more in the mean (Lorden 1971), however often one looks. Above 1 a ratio may be tested
    before all labels have come: those that lack only lower the sum.

    Args:
        tally: of the champion's own days.
        usual: what comes of each that is expected; NaN where nobody knows, and nothing is raised.
        dispersion: of a day's count, 1 for Poisson's.
        looked: the ratios and the limit.
    """
    found = [_of_ratio(tally, usual, dispersion, ratio, looked.limit) for ratio in looked.ratios]
    return min(found, key=lambda each: (not each.alarm, each.raised_day or 0, -each.evidence))


def _of_ratio(tally: Tally, usual: float, dispersion: float, ratio: float, limit: float) -> Decline:
    known = not np.isnan(usual)
    promised = tally.expected * (usual if known else 0.0)
    gain = (tally.observed * np.log(ratio) - promised * (ratio - 1.0)) / dispersion
    sums, starts = _cumulative(gain if known else np.zeros(len(gain)))
    crossed = np.flatnonzero(sums >= limit)
    top = float(sums.max(initial=0.0))
    if not len(crossed):
        return Decline(False, None, None, float(tally.observed.sum()), float(promised.sum()), top, limit)
    at = int(crossed[0])
    stretch = slice(int(starts[at]), at + 1)
    return Decline(
        alarm=True,
        since_day=int(tally.day[starts[at]]),
        raised_day=int(tally.day[at]),
        observed=float(tally.observed[stretch].sum()),
        expected=float(promised[stretch].sum()),
        evidence=top,
        limit=limit,
    )


def _cumulative(gain: Floats) -> tuple[Floats, Ints]:
    """The sum that never falls below 0, after each day, and the day it rose from."""
    sums, starts = np.empty(len(gain)), np.empty(len(gain), np.int64)
    total, start = 0.0, 0
    for day, each in enumerate(gain.tolist()):
        if total <= 0.0:
            total, start = 0.0, day
        total = max(0.0, total + each)
        sums[day], starts[day] = total, start
    return sums, starts
