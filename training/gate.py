"""Whether a challenger has earned its place: a pure judgement of figures on the same matured data."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

CHAMPION = "champion"
"""Name of the rival that decides now."""


@dataclass(frozen=True)
class Comparison:
    """One figure of the challenger beside a rival's, on the same rows."""

    figure: str
    challenger: float
    rival: float
    rival_name: str
    higher_is_better: bool = True

    @property
    def gain(self) -> float:
        """Relative gain over the rival; NaN if a figure is not a number.

        >>> Comparison("cost", 90.0, 100.0, "rules", higher_is_better=False).gain
        0.1
        """
        difference = self.challenger - self.rival
        better = difference if self.higher_is_better else -difference
        return (
            better / abs(self.rival) if self.rival else math.copysign(math.inf, better) if better else better
        )


@dataclass(frozen=True)
class Evidence:
    """How much there was to judge by."""

    what: str
    count: int
    at_least: int


@dataclass(frozen=True)
class Limit:
    """A figure that must lie in [low, high]; one that is not a number says nothing.

    With a `chance` it is an estimate, and is beyond only if that whole interval is.
    """

    what: str
    value: float
    low: float = -math.inf
    high: float = math.inf
    chance: tuple[float, float] | None = None

    @property
    def beyond(self) -> bool:
        """Whether it refuses."""
        least, most = self.chance or (self.value, self.value)
        return most < self.low or least > self.high


@dataclass(frozen=True)
class Verdict:
    """Passed, or why not; `reasons` says it in sentences either way."""

    passed: bool
    reasons: tuple[str, ...]


def decisive(comparisons: Sequence[Comparison], shadowed: bool) -> tuple[Comparison, ...]:
    """Those that a trial is decided by: the champion is the one to beat, before the first every simpler way.

    Who goes into shadow meets the champion there, with all that it has learned. In its trial it is without
    its newest weeks, and a fraud that began in them would speak against the very model that knows it.
    """
    champions = tuple(each for each in comparisons if each.rival_name == CHAMPION)
    if champions and not shadowed:
        return champions
    return tuple(each for each in comparisons if each.rival_name != CHAMPION)


def judge(
    comparisons: Sequence[Comparison],
    evidence: Sequence[Evidence],
    min_gain: float,
    limits: Sequence[Limit] = (),
) -> Verdict:
    """Pass a challenger that beats every rival in every figure, on enough evidence, within all limits.

    The relative gain must be above 0 and at least `min_gain`. A figure that is not a number fails.
    """
    lacking = [
        f"{e.count} {e.what} prove nothing, expected at least {e.at_least}" for e in evidence if _lacks(e)
    ]
    losing = [_sentence(each) for each in comparisons if not _wins(each, min_gain)]
    beyond = [_beyond(each) for each in limits if each.beyond]
    if lacking or losing or beyond:
        return Verdict(False, (*lacking, *losing, *beyond))
    return Verdict(True, tuple(_sentence(each) for each in comparisons))


def _beyond(limit: Limit) -> str:
    bound = f"at least {limit.low:.4g}" if limit.value < limit.low else f"at most {limit.high:.4g}"
    surely = f" ({limit.chance[0]:.4g} to {limit.chance[1]:.4g})" if limit.chance else ""
    return f"{limit.what} is {limit.value:.4g}{surely}, expected {bound}"


def _lacks(evidence: Evidence) -> bool:
    return evidence.count < evidence.at_least


def _wins(comparison: Comparison, min_gain: float) -> bool:
    return comparison.gain > 0 and comparison.gain >= min_gain


def _sentence(comparison: Comparison) -> str:
    return (
        f"{comparison.figure.replace('_', ' ')} {_shown(comparison.challenger)}"
        f" against {_shown(comparison.rival)} of {comparison.rival_name} ({100 * comparison.gain:+.1f} %)"
    )


def _shown(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.4g}"
