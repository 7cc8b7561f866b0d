"""Whether a challenger in shadow has proven itself: two models on the same live decisions. Pure.

It is judged whenever there is half as much evidence again as at the look before, and each look leaves half
of the allowed doubt to the later ones, so that looking often makes no false promotion likelier (alpha
spending, Lan and DeMets 1983, in its simplest form).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from infra.settings import Gate
from training.gate import Evidence, Limit
from training.paired import Gain

GROWTH = 1.5
"""The next look wants so many times the evidence of this one."""

LEAST_STOPPED = 20
"""Payments that a canary must have declined or sent to review before they are counted against it."""

State = Literal["waiting", "unproven", "passed", "refused"]


@dataclass(frozen=True)
class Matured:
    """What two models said of live decisions that they had not learned from."""

    gains: tuple[Gain, ...]
    limits: tuple[Limit, ...]
    figures: Mapping[str, Mapping[str, float]]
    """Of `challenger` and `champion`, for people."""


@dataclass(frozen=True)
class Outlook:
    """What is to become of a challenger, and why, each reason a sentence."""

    state: State
    reasons: tuple[str, ...]


def needed(gate: Gate, looks: int) -> tuple[int, int]:
    """Matured labels and frauds (quotes and purchases) that the look after so many others wants."""
    times = GROWTH**looks
    return round(gate.shadow_labels * times), round(gate.shadow_frauds * times)


def stops_needed(looks: int) -> int:
    """Payments stopped by a canary that the look after so many others wants."""
    return round(LEAST_STOPPED * GROWTH**looks)


def tail(gate: Gate, looks: int) -> float:
    """Chance of a false gain that the look after so many others allows, one-sided.

    All looks together allow half of what the interval leaves out.
    """
    return float((1.0 - gate.shadow_confidence) / 2.0 ** (looks + 2))


def evidence(gate: Gate, looks: int, what: tuple[str, str], counts: tuple[int, int]) -> tuple[Evidence, ...]:
    """How much there is to judge by, and how much the look after so many others wants."""
    return tuple(Evidence(*each) for each in zip(what, counts, needed(gate, looks), strict=True))


def lacking(found: Sequence[Evidence]) -> tuple[str, ...]:
    """Which evidence is still to come, in sentences."""
    return tuple(
        f"{each.count} {each.what} so far, expected at least {each.at_least}"
        for each in found
        if each.count < each.at_least
    )


def judge_shadow(missing: Sequence[str], found: Matured | None, gate: Gate, age_days: float) -> Outlook:
    """What to do now.

    Args:
        missing: the evidence that is still to come, as `lacking` says it.
        found: what the evidence shows; None as long as some is missing.
        gate: the policy.
        age_days: of event time since it was trained.
    """
    if missing or found is None:
        return _unless_old(Outlook("waiting", tuple(missing)), gate, age_days)
    if against := _against(found, gate):
        return Outlook("refused", against)
    unsure = [_unsure(each) for each in found.gains if not each.low > gate.shadow_min_gain]
    if unsure:
        return _unless_old(Outlook("unproven", tuple(unsure)), gate, age_days)
    return Outlook("passed", tuple(_told(each) for each in found.gains))


@dataclass(frozen=True)
class Stopped:
    """What a canary declined or sent to review of the payments that it decided, beside the champion."""

    decisions: int
    own: int
    champion: int
    """So many of the same payments the champion would have stopped."""
    excess: float
    """Surely so many more than `canary_max_ratio` times the champion's; NaN where too few prove nothing."""


def judge_canary(found: Matured | None, stopped: Stopped, gate: Gate, age_days: float, looks: int) -> Outlook:
    """What to do now: `waiting` lets it go on, `refused` takes it back, `passed` makes it the champion.

    Args:
        found: what the decisions since the shadow's last look show; None if too few are new since a look.
        stopped: what needs no labels.
        gate: the policy.
        age_days: of event time since it began.
        looks: so often its decisions' labels were looked at, this time included.
    """
    against = () if found is None else _against(found, gate)
    if stopped.excess > 0.0:
        against = (*against, f"{_stopped(stopped)}: surely more than {gate.canary_max_ratio:g} times as many")
    if against:
        return Outlook("refused", against)
    if age_days < gate.canary_days:
        return Outlook("waiting", (f"{age_days:.1f} of {gate.canary_days:g} days",))
    if stopped.decisions < gate.shadow_labels:
        few = f"{stopped.decisions} decisions so far, expected at least {gate.shadow_labels}"
        return Outlook("waiting", (few,))
    if not looks:
        return Outlook("waiting", ("too few matured labels so far",))
    gains = () if found is None else tuple(_told(each) for each in found.gains)
    lasted = f"canary for {age_days:.1f} days: {_stopped(stopped)}"
    return Outlook("passed", (lasted, *gains))


def _stopped(found: Stopped) -> str:
    return (
        f"{found.own} of {found.decisions} payments declined or reviewed,"
        f" {found.champion} of the same by the champion"
    )


def _against(found: Matured, gate: Gate) -> tuple[str, ...]:
    """What is surely worse, and which limits are broken."""
    worse = [_told(each) for each in found.gains if not each.high > gate.shadow_min_gain]
    beyond = [_beyond(limit) for limit in found.limits if not limit.low <= limit.value <= limit.high]
    return (*worse, *beyond)


def _unless_old(outlook: Outlook, gate: Gate, age_days: float) -> Outlook:
    if age_days < gate.shadow_days:
        return outlook
    return Outlook("refused", (f"not proven within {gate.shadow_days:g} days", *outlook.reasons))


def _told(each: Gain) -> str:
    return (
        f"{each.figure.replace('_', ' ')} {_shown(each.challenger)} against {_shown(each.champion)} of the"
        f" champion ({100 * each.gain:+.1f} %, between {100 * each.low:+.1f} and {100 * each.high:+.1f})"
        " on the same live decisions"
    )


def _unsure(each: Gain) -> str:
    return f"{_told(each)}: the gain may be chance"


def _beyond(limit: Limit) -> str:
    """A figure that is not a number is beyond every limit here: a challenger must prove itself."""
    bound = f"at most {limit.high:.4g}" if not limit.value <= limit.high else f"at least {limit.low:.4g}"
    return f"{limit.what} is {limit.value:.4g}, expected {bound}"


def _shown(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.4g}"
