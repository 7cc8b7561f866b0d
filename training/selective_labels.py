"""Learning and judging where only what passed has a label.

A declined payment never gets a chargeback, so labels are of a selection that the policy itself made. Of the
would-be declines the control group passes, with a known probability; each of its payments stands for
1 / propensity like it (Horvitz and Thompson 1952). What had no chance to pass is not estimated by anything
here: its share of the money is told instead.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from features.state import Flags, Floats
from infra.settings import FraudPolicy
from training.dataset import Objects
from training.fraud_policy import APPROVE, DECISIONS, DECLINE, costs_incurred
from training.metrics import share_interval

MOST_WEIGHT = 100.0
"""No row counts more often. A propensity under 1 % is taken for 1 %, and what it stands for counts too
little: a bias towards what the policy approves, against a single row that dominates (docs/decisions)."""
OUTSIDE, CLIPPED = "declined/outside_support_amount_share", "rows_clipped"

NEEDED = ("transaction_id", "decision", "policy_decision", "propensity", "decision_position")
"""Columns of the history's decisions."""
_DECLINED = DECISIONS[DECLINE]
_TAIL = 0.025


@dataclass(frozen=True)
class Chances:
    """Of n payments, what the gate did; one without a decision (backfilled) passed for certain."""

    decided: Flags
    declined: Flags
    """By the policy, before the lot."""
    passed: Flags
    """Approved, reviewed or in the control group: its label says what it was."""
    propensity: Floats

    @property
    def weight(self) -> Floats:
        """How often each payment counts, if it passed; at most `MOST_WEIGHT`."""
        return 1.0 / np.maximum(self.propensity, 1.0 / MOST_WEIGHT)

    @property
    def outside(self) -> Flags:
        """Declined without any chance to pass."""
        without: Flags = self.propensity == 0.0
        return self.declined & without

    def rows(self, chosen: Flags) -> "Chances":
        """The same of some payments."""
        return Chances(
            self.decided[chosen], self.declined[chosen], self.passed[chosen], self.propensity[chosen]
        )


def chances(ids: Objects, decisions: pa.Table) -> Chances:
    """What was decided of each payment; of several decisions on it the first was acted upon.

    Args:
        ids: of the payments.
        decisions: `NEEDED` columns of the history. A decision from before the control group was logged (null)
            was the policy's own.
    """
    first = decisions.select(NEEDED).sort_by("decision_position").to_pandas()
    known = first.drop_duplicates("transaction_id").set_index("transaction_id").reindex(ids)
    said, meant = (known[name].to_numpy(object) for name in ("decision", "policy_decision"))
    logged = known["propensity"].to_numpy(np.float64)
    passed = said != _DECLINED
    return Chances(
        decided=known["decision"].notna().to_numpy(),
        declined=np.where(known["policy_decision"].isna(), ~passed, meant == _DECLINED),
        passed=passed,
        propensity=np.where(np.isnan(logged), passed.astype(np.float64), logged),
    )


def effective_sample_size(weight: Floats) -> float:
    """How many rows of equal weight tell as much (Kish 1965); 0 of none.

    >>> effective_sample_size(np.array([1.0, 1.0, 2.0]))
    2.6666666666666665
    """
    return float(weight.sum() ** 2 / (weight**2).sum()) if len(weight) else 0.0


@dataclass(frozen=True)
class Estimate:
    """A value with its interval of 95 %; NaN where nothing is known."""

    value: float
    low: float
    high: float

    def named(self, name: str) -> dict[str, float]:
        """The three as figures."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}


UNKNOWN = Estimate(np.nan, np.nan, np.nan)


def total(fraud: Flags, size: Floats, propensity: Floats) -> Estimate:
    """Sum of the size of all frauds, from the payments that passed, each by its own lot (Horvitz, Thompson).

    The gamma interval of Fay and Feuer (1997): a normal one is too narrow for a sum of few and unequal terms,
    and nothing for none. It takes what passes for Poisson, and is a little wide unless few pass.

    Args:
        fraud: of each payment that passed.
        size: what it counts, such as 1 or the amount.
        propensity: with which it passed.
    """
    if not len(fraud):
        return UNKNOWN
    from scipy.special import gammaincinv

    term, largest = size[fraud] / propensity[fraud], float((size / propensity).max())
    found, spread = float(term.sum()), float((term**2).sum())
    more, wider = found + largest, spread + largest**2
    low = spread / found * float(gammaincinv(found**2 / spread, _TAIL)) if found else 0.0
    return Estimate(found, low, wider / more * float(gammaincinv(more**2 / wider, 1.0 - _TAIL)))


def share(fraud: Flags, propensity: Floats) -> Estimate:
    """Share of fraud among all payments, from those that passed; the weights' sum divides (Hájek 1971).

    Wilson's interval (1927) of the effective sample size: it holds where all or none are fraud.
    """
    if not len(fraud):
        return UNKNOWN
    weight = 1.0 / propensity
    n, found = effective_sample_size(weight), float(np.average(fraud, weights=weight))
    return Estimate(found, *share_interval(found, n))


def figures(seen: Chances, amount: Floats, target: Floats, policy: FraudPolicy) -> dict[str, float]:
    """What the control group says of declined payments, and what it cost; nothing if nothing was decided.

    Args:
        seen: of all mature payments, with or without a label.
        amount: in the currency's main unit.
        target: 1.0 fraud, 0.0 legitimate, NaN not known; of those that passed it counts.
        policy: what a fraud and a lost sale cost.
    """
    if not seen.decided.any():
        return {}
    learnable = seen.passed & ~np.isnan(target)
    group = seen.declined & seen.passed
    judged = group & learnable
    fraud, chance, paid = target[judged] > 0, seen.propensity[judged], amount[judged]
    declined, lost = float(amount[seen.declined].sum()), _cost(APPROVE, fraud, paid, policy)
    return {
        "declined/payments": float(seen.declined.sum()),
        "declined/amount": declined,
        OUTSIDE: float(amount[seen.outside].sum()) / declined if declined else np.nan,
        **share(fraud, chance).named("declined/fraud_share"),
        **total(fraud, paid, chance).named("declined/fraud_amount"),
        "control_group/payments": float(group.sum()),
        "control_group/labelled": float(judged.sum()),
        "control_group/amount": float(amount[group].sum()),
        "control_group/lost": lost,
        "control_group/net_cost": lost - _cost(DECLINE, fraud, paid, policy),
        "rows_effective": effective_sample_size(seen.weight[learnable]),
        "frauds_effective": effective_sample_size(seen.weight[learnable & (target > 0)]),
        CLIPPED: float((learnable & (seen.propensity < 1.0 / MOST_WEIGHT)).sum()),
    }


def notes(found: Mapping[str, float]) -> tuple[str, ...]:
    """What a reader of a run's figures should know."""
    outside, clipped = found.get(OUTSIDE, 0.0), found.get(CLIPPED, 0.0)
    said = []
    if outside > 0.0:
        said.append(f"{outside:.0%} of the declined amount had no chance to pass: no figure speaks of it")
    if clipped > 0.0:
        said.append(f"{clipped:.0f} payments count {MOST_WEIGHT:.0f} times, less than they stand for")
    return tuple(said)


def _cost(code: int, fraud: Flags, amount: Floats, policy: FraudPolicy) -> float:
    return float(costs_incurred(np.full(len(fraud), code, np.int8), fraud, amount, policy).sum())
