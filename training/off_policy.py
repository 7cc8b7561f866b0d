"""Judging a policy from another one's log: what it would have earned, and whether the log can tell.

Every logged quote showed one price, drawn with a known chance: its propensity. With y what the quote earned,
w the new policy's chance of the price shown over its propensity, q what a model expects of a quote:

* inverse propensity (Horvitz and Thompson 1952): the mean of w y;
* self-normalised (Hájek 1971; Swaminathan and Joachims 2015): the sum of w y over the sum of w;
* doubly robust (Dudík, Langford and Li 2011): the mean of q(new policy) + w (y - q(price shown)).

What they estimate is the mean worth of a quote under the new policy, over all quotes of the kind that was
logged, not over these very quotes alone: that is what a decision about coming quotes needs. A 95 % interval
comes from the estimate's influence function (delta method), corrected for its skewness. It takes quotes for
independent; as an interval for the logged quotes themselves it is wide, never narrow.

Where the log could never have shown a price, nothing of it is known: inverse propensity counts it as worth
nothing, self-normalised as worth what the rest is, doubly robust as the model says. So a log that lacks too
much of what the new policy wants, or has too few quotes that speak of it, is refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from features.state import Floats
from infra.errors import UserError
from training.elasticity import NORMAL_95

Conclusion = Literal["better", "worse", "no difference seen", "cannot be judged"]

INVERSE, NORMALISED, DOUBLE = "inverse_propensity", "self_normalised", "doubly_robust"

_SYMMETRIC = 1e-6
_IMPLAUSIBLE = 4.0
"""Standard errors that the mean weight may lie off before the propensities are not believed."""


@dataclass(frozen=True)
class Logged:
    """Past quotes and what the two policies make of them, each of shape (n,)."""

    worth: Floats
    """What the quote earned, in the objective's unit."""
    propensity: Floats
    """Chance with which the logging policy showed the price, in (0, 1]."""
    chance: Floats
    """The new policy's chance of that price."""
    unsupported: Floats | None = None
    """Share of the new policy's chance on prices that the log could not show, or hardly; None: not known."""
    expected_shown: Floats | None = None
    """The model's expected worth at the price shown; None, as the next: no doubly robust estimate."""
    expected_new: Floats | None = None
    """Its expected worth under the new policy: the sum over its offers of chance times worth."""


@dataclass(frozen=True)
class Support:
    """What a log must have, or the new policy is not judged by it."""

    most_unsupported: float = 0.05
    """Largest share of the new policy's chance that may fall where the log says nothing."""
    least_size: float = 100.0
    """Smallest effective number of quotes."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Estimate:
    """What the new policy is worth for each quote."""

    worth: Interval
    gain: Interval
    """Over the logging policy, on the same quotes: narrower than the two intervals would have it."""


@dataclass(frozen=True)
class Judgement:
    """What a log says of a new policy."""

    quotes: int
    logged: Interval
    """Worth of a quote under the logging policy."""
    effective_size: float
    """So many quotes of the new policy's own would tell as much (Kish 1965)."""
    largest_weight: float
    mean_weight: Interval
    """1 if the log could show every price that the new policy may show."""
    unsupported: float
    """Share of the new policy's chance where the log says nothing; if not given, 1 less the mean weight."""
    refusals: tuple[str, ...]
    """Why the log cannot judge the new policy; empty if it can."""
    estimates: Mapping[str, Estimate] = field(default_factory=dict)
    """By `INVERSE`, `NORMALISED` and, with a model, `DOUBLE`; empty if refused."""

    @property
    def best(self) -> Estimate | None:
        """The estimate to go by: doubly robust, or self-normalised without a model; None if refused."""
        return self.estimates.get(DOUBLE, self.estimates.get(NORMALISED))

    @property
    def conclusion(self) -> Conclusion:
        """Better or worse only if the whole interval of the gain is."""
        if self.best is None:
            return "cannot be judged"
        if self.best.gain.low > 0:
            return "better"
        return "worse" if self.best.gain.high < 0 else "no difference seen"


def judge(log: Logged, needed: Support | None = None) -> Judgement:
    """Estimate what the new policy is worth, or say why the log cannot tell.

    Raises:
        UserError: there are no quotes, or what is given is no chance, or not a number.
    """
    _check(log)
    weight = log.chance / log.propensity
    mean_weight = interval(weight.mean(), weight - weight.mean())
    missing = 1.0 - mean_weight.value if log.unsupported is None else float(log.unsupported.mean())
    size = effective_size(weight)
    refusals = _refusals(log, weight, size, needed or Support())
    return Judgement(
        quotes=len(weight),
        logged=interval(log.worth.mean(), log.worth - log.worth.mean()),
        effective_size=size,
        largest_weight=float(weight.max()),
        mean_weight=mean_weight,
        unsupported=max(missing, 0.0),
        refusals=refusals,
        estimates={} if refusals else _estimates(log, weight),
    )


def effective_size(weight: Floats) -> float:
    """Number of equally weighted rows that tell as much (Kish 1965); 0 if no row has weight.

    >>> effective_size(np.array([2.0, 2.0, 0.0]))
    2.0
    """
    squares = float((weight**2).sum())
    return float(weight.sum() ** 2 / squares) if squares else 0.0


def interval(value: float, influence: Floats) -> Interval:
    """95 % interval of an estimate from each row's influence on it; without end for a single row.

    Corrected for skewness by Hall's transformation (1992): few quotes of great weight are bought.
    """
    n, spread = len(influence), float(np.sqrt((influence**2).mean()))
    if n < 2:
        return Interval(float(value), -np.inf, np.inf)
    skewness = float((influence**3).mean()) / spread**3 / np.sqrt(n) if spread else 0.0
    error = spread / np.sqrt(n - 1)
    low, high = (value - error * _unskewed(side, skewness) for side in (NORMAL_95, -NORMAL_95))
    return Interval(float(value), float(low), float(high))


def _unskewed(normal: float, skewness: float) -> float:
    """Quantile of the studentised mean that a normal one stands for; `skewness` over the root of n.

    >>> _unskewed(1.96, 0.0), round(_unskewed(1.96, 0.1), 2), round(_unskewed(-1.96, 0.1), 2)
    (1.96, 1.83, -2.12)
    """
    if abs(skewness) < _SYMMETRIC:
        return normal
    return float(3.0 * (np.cbrt(1.0 + skewness * (normal - skewness / 6.0)) - 1.0) / skewness)


def _estimates(log: Logged, weight: Floats) -> dict[str, Estimate]:
    value = float((weight * log.worth).sum() / weight.sum())
    normalised = weight * (log.worth - value) / weight.mean()
    found = {
        INVERSE: _mean(weight * log.worth, log.worth),
        NORMALISED: _estimate(value, normalised, log.worth),
    }
    if log.expected_shown is not None and log.expected_new is not None:
        corrected = log.expected_new + weight * (log.worth - log.expected_shown)
        found[DOUBLE] = _mean(corrected, log.worth)
    return found


def _mean(terms: Floats, worth: Floats) -> Estimate:
    return _estimate(float(terms.mean()), terms - terms.mean(), worth)


def _estimate(value: float, influence: Floats, worth: Floats) -> Estimate:
    of_logged = worth - worth.mean()
    gain = interval(value - float(worth.mean()), influence - of_logged)
    return Estimate(interval(value, influence), gain)


def _refusals(log: Logged, weight: Floats, size: float, needed: Support) -> tuple[str, ...]:
    found = [_lacking(log, weight, needed.most_unsupported), _implausible(log, weight)]
    if size < needed.least_size:
        found.append(
            f"the log has as much to say as {size:,.0f} quotes of the new policy's own, expected at least"
            f" {needed.least_size:,.0f}"
        )
    return tuple(reason for reason in found if reason)


def _lacking(log: Logged, weight: Floats, most: float) -> str:
    """Known prices that the log lacks; or a mean weight that is too small beyond chance."""
    if log.unsupported is not None:
        share = float(log.unsupported.mean())
        lacks = share > most
    else:
        share = 1.0 - float(weight.mean())
        lacks = interval(weight.mean(), weight - weight.mean()).high < 1.0 - most
    return (
        f"{100 * share:.1f} % of what the new policy would show was never shown, or too seldom; expected at"
        f" most {100 * most:.1f} %"
        if lacks
        else ""
    )


def _implausible(log: Logged, weight: Floats) -> str:
    """The mean weight is 1 less what the log lacks, whatever the policies, if the propensities are right."""
    lacks = 1.0 if log.unsupported is None else float(log.unsupported.mean())
    mean, slack = float(weight.mean()), _IMPLAUSIBLE * float(weight.std() / np.sqrt(len(weight)))
    if 1.0 - lacks - slack - 1e-9 <= mean <= 1.0 + slack + 1e-9:
        return ""
    return f"the mean weight is {mean:.3f} instead of 1: the logged propensities cannot be right"


def _check(log: Logged) -> None:
    if not len(log.worth):
        raise UserError("expected logged quotes to judge a policy by, got none.")
    for name, values in vars(log).items():
        if values is not None and not np.isfinite(values).all():
            raise UserError(f"expected a number of every logged quote, {name} lacks some.")
    if log.propensity.min() <= 0 or log.propensity.max() > 1 + 1e-9:
        raise UserError(
            "expected logged propensities above 0 and at most 1, got"
            f" {log.propensity.min():g} to {log.propensity.max():g}."
        )
    if log.chance.min() < 0:
        raise UserError(f"expected chances from 0, got {log.chance.min():g}.")
