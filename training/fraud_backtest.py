"""What a fraud rule would have hit in the past, beside the rules of the policy; money is in the main unit.

Only payments whose label is known count, with their features as they were known at each payment. Nothing is
approved, reviewed or declined but by the rules: no model decides here.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from rich.console import RenderableType
from rich.table import Table

from features.fraud import FRAUD
from features.state import Flags, Floats, Ints
from infra import progress
from infra.errors import UserError
from infra.settings import FraudPolicy, Rule, RuleOutcome, Settings
from ingestion.history import History
from ingestion.tables import DAY_US
from training import fraud
from training import fraud_policy as policies
from training.dataset import Dataset
from training.fraud_policy import RuleError, Rules, rules_over
from training.freshness import present
from training.rule_book import rule_book
from training.runs import finite
from training.tasks import BacktestOptions


@dataclass(frozen=True)
class Hits:
    """What rules hit; shares are NaN where there is nothing to share in."""

    hits: int
    frauds_hit: int
    good_hit: int
    precision: float
    """Share of frauds among the hits."""
    recall: float
    """Share of all frauds that are hit."""
    fraud_amount_hit: float
    good_amount_hit: float
    hits_per_day_mean: float
    """Over all days from the first payment to the last."""
    hits_per_day_worst: int
    worst_day: str | None
    cost: float
    """Of deciding by these rules alone: frauds that pass and their fees, reviews, margin of good declines."""
    saved: float
    """Against approving everything."""


@dataclass(frozen=True)
class RuleBacktest:
    """A rule on past payments, beside those of the policy."""

    rule: str
    outcome: RuleOutcome
    payments: int
    frauds: int
    fraud_amount: float
    first_day: str
    last_day: str
    label_cutoff: str
    alone: Hits
    """The rule, and nothing else."""
    hit_by_present_rules: int
    """Of the rule's hits."""
    present_rules: Hits
    with_present_rules: Hits
    """Present rules and this one: last, as what the others leave; or first, if it allows."""

    def as_json(self) -> dict[str, Any]:
        """Flat for the rule itself, as what was asked; the others under their names."""
        values = asdict(self)
        plain: dict[str, Any] = finite(values.pop("alone") | values)
        return plain

    def told(self) -> list[RenderableType]:
        """A table, and what it counted."""
        table = Table(title=f"{self.rule}: {self.outcome}", title_justify="left")
        for column in ("", "this rule", "present rules", "both"):
            table.add_column(column, justify="right" if column else "left")
        columns = [asdict(each) for each in (self.alone, self.present_rules, self.with_present_rules)]
        for name in columns[0]:
            table.add_row(name.replace("_", " "), *(_shown(name, column[name]) for column in columns))
        already = self.hit_by_present_rules / self.alone.hits if self.alone.hits else 0.0
        return [
            table,
            f"{self.payments:,} payments with a known label from {self.first_day} to {self.last_day}; "
            f"{self.frauds:,} frauds, {self.fraud_amount:,.2f} in all.",
            f"The present rules hit {self.hit_by_present_rules:,} of the {self.alone.hits:,} hits already "
            f"({already:.0%}).".replace("%", " %"),
        ]


def backtest(settings: Settings, options: BacktestOptions, told: progress.Task) -> RuleBacktest:
    """Try `options.rule` on the history, or on a file.

    Raises:
        UserError: the rule or one of the policy is wrong, or there are no payments with a known label.
    """
    present = rule_book(settings.fraud).rules
    tried = _asked(options)
    told.say("what was known at each payment")
    data = _payments(settings, options)
    if not len(data):
        raise UserError(
            f"expected payments with labels that are {settings.labels.maturity_days:g} days old or older, got"
            " none; wait for labels, or widen the window with --days."
        )
    told.say(f"trying the rule on {len(data):,} payments")
    return judged(data, tried, present, settings.fraud, options)


def _asked(options: BacktestOptions) -> Rules:
    if options.rule is None:
        raise UserError("expected --rule, such as --rule 'amount > 500'.")
    rule = Rule(name="--rule", when=options.rule, outcome=options.outcome)
    try:
        return rules_over(FRAUD.names, [rule])
    except RuleError as error:
        raise UserError(f"--rule: {error}.") from None


def _payments(settings: Settings, options: BacktestOptions) -> Dataset:
    if options.file is not None:
        return fraud.from_file(settings, options.file, options.span)
    newest = present(History(settings.history), fraud.TASK)
    if newest is None:
        raise UserError(
            "expected past payments, got none; `tollgate backfill` a file, or name one by --data."
        )
    return fraud.from_history(settings, options.span.window(newest))


def judged(
    data: Dataset, tried: Rules, present: Rules, policy: FraudPolicy, options: BacktestOptions
) -> RuleBacktest:
    """Count what a rule, the present rules, and both would have done to payments, of which there are some."""
    past = _Past(data, policy)
    ours, theirs = tried.hits(data.matrix), present.hits(data.matrix)
    both = (
        [(tried, ours), (present, theirs)]
        if options.outcome == "allow"
        else [(present, theirs), (tried, ours)]
    )
    return RuleBacktest(
        rule=options.rule or "",
        outcome=options.outcome,
        payments=len(data),
        frauds=int(past.fraud.sum()),
        fraud_amount=float(past.amount[past.fraud].sum()),
        first_day=_day(past.day[0]),
        last_day=_day(past.day[-1]),
        label_cutoff=_day(data.cutoff_us // DAY_US),
        alone=past.hits([(tried, ours)]),
        hit_by_present_rules=int((ours.any(axis=1) & theirs.any(axis=1)).sum()),
        present_rules=past.hits([(present, theirs)]),
        with_present_rules=past.hits(both),
    )


@dataclass(frozen=True)
class _Past:
    """Payments whose truth is known, in order of time."""

    data: Dataset
    policy: FraudPolicy

    @cached_property
    def fraud(self) -> Flags:
        return self.data.target > 0

    @cached_property
    def amount(self) -> Floats:
        return self.data.columns["amount"].astype(np.float64)

    @cached_property
    def day(self) -> Ints:
        """Days since 1970 UTC."""
        return self.data.time_us // DAY_US

    def hits(self, ruled: Sequence[tuple[Rules, Flags]]) -> Hits:
        """Count what these rules hit; an earlier group's word goes before a later one's."""
        outcome = np.full(len(self.data), policies.NO_RULE, np.int8)
        for rules, hit in ruled:
            outcome = np.where(outcome == policies.NO_RULE, rules.outcome(hit, beside_model=False), outcome)
        hit_any = outcome != policies.NO_RULE
        frauds, good = hit_any & self.fraud, hit_any & ~self.fraud
        money = policies.money(policies.rules_alone(outcome), self.fraud, self.amount, self.policy)
        a_day = np.bincount(self.day[hit_any] - self.day[0], minlength=int(self.day[-1] - self.day[0]) + 1)
        worst = int(a_day.argmax())
        return Hits(
            hits=int(hit_any.sum()),
            frauds_hit=int(frauds.sum()),
            good_hit=int(good.sum()),
            precision=_share(frauds.sum(), hit_any.sum()),
            recall=_share(frauds.sum(), self.fraud.sum()),
            fraud_amount_hit=float(self.amount[frauds].sum()),
            good_amount_hit=float(self.amount[good].sum()),
            hits_per_day_mean=float(a_day.mean()),
            hits_per_day_worst=int(a_day[worst]),
            worst_day=_day(self.day[0] + worst) if a_day[worst] else None,
            cost=money.cost,
            saved=money.cost_approve_all - money.cost,
        )


def _share(part: np.int64, whole: np.int64) -> float:
    return float(part / whole) if whole else np.nan


def _day(day: np.int64 | int) -> str:
    return str(np.datetime64(int(day), "D"))


def _shown(name: str, value: float | str | None) -> str:
    if value is None or value != value:
        return "-"
    if isinstance(value, str):
        return value
    if name in ("precision", "recall"):
        return f"{100 * value:.1f} %"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"
