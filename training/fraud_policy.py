"""From a probability of fraud to a decision: what each choice is expected to cost, and what the rules say.

Pure and over arrays; a request is a batch of one. Money is in the transaction's main currency unit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from features.state import Flags, Floats, Ints
from infra.errors import UserError
from infra.settings import FraudPolicy, Rule

if TYPE_CHECKING:
    from training.conditions import Condition

Codes = NDArray[np.int8]

APPROVE, REVIEW, DECLINE = 0, 1, 2
DECISIONS = ("approve", "review", "decline")
"""Name of each code; also the order of the columns of costs."""
NO_RULE = -1

_CODE_OF = {"allow": APPROVE, "review": REVIEW, "decline": DECLINE}
_ODDS_AT_50 = 1.0 / 66.0


def expected_costs(
    probability: Floats, amount: Floats, policy: FraudPolicy, review_price: float = 0.0
) -> Floats:
    """Expected money lost by approve, review and decline, shape (n, 3).

    Approve loses `loss_share` of the amount and the chargeback fee if it is fraud; decline loses the margin
    if it is not; review costs the analyst's time, and what the last case that finds an analyst is worth
    (`review_price`), and is taken to find the truth.
    """
    costs = np.empty((len(probability), 3))
    costs[:, APPROVE] = probability * (amount * policy.loss_share + policy.chargeback_fee)
    costs[:, REVIEW] = policy.review_cost + review_price
    costs[:, DECLINE] = (1.0 - probability) * amount * policy.margin_share
    return costs


@dataclass(frozen=True)
class AtStake:
    """The payments of some later days on which a review would have been worth most."""

    probability: Floats
    amount: Floats
    days: float
    """How long it took for these to come."""

    @classmethod
    def of(cls, probability: Floats, amount: Floats, days: float, policy: FraudPolicy) -> "AtStake":
        """Of all payments of those days as many as could find an analyst if the capacity were doubled."""
        kept = round(2 * policy.review_capacity_per_day * days) + 1
        dearest = np.argsort(-review_gains(probability, amount, policy), kind="stable")[:kept]
        return cls(probability[dearest], amount[dearest], days)

    def as_json(self) -> dict[str, Any]:
        """Plain values for a model's card."""
        pairs = {"probability": self.probability, "amount": self.amount}
        return {name: np.round(each, 6).tolist() for name, each in pairs.items()} | {"days": self.days}

    def review_price(self, policy: FraudPolicy) -> float:
        """What a review must be worth beyond its cost, so that a day has as many as the analysts can do.

        The capacity's shadow price: gain of the best case that finds no analyst any more; 0 if all do.
        """
        gains = np.sort(review_gains(self.probability, self.amount, policy))[::-1]
        done = round(policy.review_capacity_per_day * self.days)
        return max(0.0, float(gains[done])) if done < len(gains) else 0.0


def review_price(card: Mapping[str, Any], policy: FraudPolicy) -> float:
    """The same by what a model's card keeps (`Card.extra`); 0 for a model that keeps nothing."""
    kept = card.get("at_stake")
    if kept is None:
        return 0.0
    return AtStake(np.array(kept["probability"]), np.array(kept["amount"]), kept["days"]).review_price(policy)


PASSED = "passed_fraud_share"
"""Key in a model's card for the share of fraud among the payments that pass, where it is known."""


def passed_share(card: Mapping[str, Any]) -> float | None:
    """Expected share of fraud among approved payments by what a model's card keeps; None if not known."""
    share: float | None = card.get(PASSED)
    return share


def review_gains(probability: Floats, amount: Floats, policy: FraudPolicy) -> Floats:
    """What a review of each payment is expected to save against the cheaper of approve and decline."""
    costs = expected_costs(probability, amount, policy)
    gains: Floats = np.minimum(costs[:, APPROVE], costs[:, DECLINE]) - costs[:, REVIEW]
    return gains


def decide(costs: Floats, ruled: Codes | None = None, may_review: bool | Flags = True) -> Codes:
    """Cheapest choice of each row; the gentler one at a tie. A rule's word (not `NO_RULE`) goes before costs.

    Args:
        costs: of approve, review and decline, shape (n, 3).
        ruled: what the rules say of each row; None if there are none.
        may_review: False where no analyst is left: the model then chooses between approve and decline.
            A rule's review stands.
    """
    open_costs = costs
    if may_review is not True:
        open_costs = costs.copy()
        open_costs[:, REVIEW] = np.where(may_review, costs[:, REVIEW], np.inf)
    cheapest = open_costs.argmin(axis=1).astype(np.int8)
    return cheapest if ruled is None else np.where(ruled == NO_RULE, cheapest, ruled)


def within_capacity(
    costs: Floats, ruled: Codes, day: Ints, capacity: int, weight: Floats | None = None
) -> Codes:
    """Decisions in the order of the rows, in which each day's first `capacity` reviews find an analyst.

    As on the day itself, nobody knows whether a dearer case comes later; rules' reviews count, but are
    never refused. A row of some weight (None: 1) takes as many analysts.
    """
    wanted = decide(costs, ruled) == REVIEW
    asked = wanted.astype(np.float64) if weight is None else wanted * weight
    may_review = _rank_in_day(asked, day) <= capacity
    return decide(costs, ruled, may_review)


def _rank_in_day(wanted: Floats, day: Ints) -> Floats:
    """How many are wanted of each row's day up to and with this row."""
    order = np.argsort(day, kind="stable")
    running = np.cumsum(wanted[order])
    _, first, group = np.unique(day[order], return_index=True, return_inverse=True)
    before: Floats = running[first] - wanted[order][first]
    ranks = np.empty(len(day))
    ranks[order] = running - before[group]
    return ranks


def risk_score(probability: Floats) -> Floats:
    """Whole numbers 0 to 100 for people: 100 r / (1 + r), where r = sqrt(odds × 66).

    Even spread over rare and likely fraud alike: odds of 1 to 66 (1.5 %) give 50, and the score never falls
    when the probability rises.

    >>> risk_score(np.array([0.0, 0.001, 0.015, 0.083, 0.5, 1.0])).tolist()
    [0.0, 20.0, 50.0, 71.0, 89.0, 100.0]
    """
    relative = np.sqrt(probability / _ODDS_AT_50)
    score: Floats = np.rint(100.0 * relative / (relative + np.sqrt(1.0 - probability)))
    return score


class RuleError(UserError):
    """A rule whose condition is refused: `position` among the policy's rules, from 0, and the reason."""

    def __init__(self, position: int, reason: str) -> None:
        super().__init__(reason)
        self.position = position


@dataclass(frozen=True)
class Rules:
    """The policy's rules over the columns of one feature matrix."""

    names: tuple[str, ...]
    conditions: "tuple[Condition, ...]"
    outcomes: Codes
    day_0: Flags
    """Which of them decide only while there is no model."""

    def hits(self, matrix: Floats) -> Flags:
        """Which rule (columns) hits which row, shape (n, rules); what is not known hits nothing."""
        found = np.empty((len(matrix), len(self.names)), np.bool_)
        with np.errstate(all="ignore"):
            for position, condition in enumerate(self.conditions):
                found[:, position] = condition(matrix)
        return found

    def outcome(self, hits: Flags, beside_model: bool) -> Codes:
        """Code of each row's first rule that hit, `NO_RULE` if none did.

        Args:
            hits: of every rule, shape (n, rules).
            beside_model: whether a model decides too, so that rules of day 0 have no say.
        """
        if not self.names:
            return np.full(len(hits), NO_RULE, np.int8)
        heard = hits & ~self.day_0 if beside_model else hits
        first = heard.argmax(axis=1)
        return np.where(heard.any(axis=1), self.outcomes[first], np.int8(NO_RULE))


def rules_over(features: Sequence[str], rules: Sequence[Rule]) -> Rules:
    """Compile the policy's rules. Raises RuleError for a condition that is no condition over the features."""
    return Rules(
        tuple(rule.name for rule in rules),
        tuple(_condition(position, rule, features) for position, rule in enumerate(rules)),
        np.array([_CODE_OF[rule.outcome] for rule in rules], np.int8),
        np.array([rule.day_0 for rule in rules], np.bool_),
    )


def _condition(position: int, rule: Rule, features: Sequence[str]) -> "Condition":
    from training.conditions import compiled  # sqlglot takes a while, and most commands have no rules to read

    try:
        return compiled(rule.when, features)
    except UserError as error:
        raise RuleError(position, str(error)) from None


def rules_alone(ruled: Codes) -> Codes:
    """Decisions without any model: what a rule says, else approve."""
    return np.where(ruled == NO_RULE, np.int8(APPROVE), ruled)


def rules_scores(ruled: Codes) -> Floats:
    """The rules as a score: 1 where they decline, 0.5 where they review, else 0."""
    return rules_alone(ruled) / 2.0


@dataclass(frozen=True)
class Money:
    """What decisions cost on transactions whose truth is known."""

    cost: float
    """Fraud that passed with its fees, reviews, and margin of good payments declined."""
    cost_approve_all: float
    fraud_amount: float
    caught_amount: float
    """Fraud amount among what was reviewed or declined."""
    reviews: int
    declines: int
    false_declines: int
    """Good payments that were declined."""


def money(
    decisions: Codes, fraud: Flags, amount: Floats, policy: FraudPolicy, weight: Floats | None = None
) -> Money:
    """Count the money. A review costs its time and finds the truth.

    `weight` says how often each row counts, None once; numbers of decisions are rounded.
    """
    times = np.ones(len(decisions)) if weight is None else weight
    stopped, approved = decisions != APPROVE, np.full_like(decisions, APPROVE)
    declined = decisions == DECLINE
    return Money(
        cost=float((costs_incurred(decisions, fraud, amount, policy) * times).sum()),
        cost_approve_all=float((costs_incurred(approved, fraud, amount, policy) * times).sum()),
        fraud_amount=float((amount * times)[fraud].sum()),
        caught_amount=float((amount * times)[fraud & stopped].sum()),
        reviews=round(float(times[decisions == REVIEW].sum())),
        declines=round(float(times[declined].sum())),
        false_declines=round(float(times[declined & ~fraud].sum())),
    )


def costs_incurred(decisions: Codes, fraud: Flags, amount: Floats, policy: FraudPolicy) -> Floats:
    """What each decision cost, now that the truth is known, shape (n,)."""
    certain = expected_costs(fraud.astype(np.float64), amount, policy)
    return np.take_along_axis(certain, decisions.astype(np.int64)[:, None], axis=1)[:, 0]
