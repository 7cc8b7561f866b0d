"""Another pricing policy tried on past quotes: `tollgate backtest pricing`."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.console import RenderableType
from rich.table import Table

from features.pricing import PRICING
from infra import progress, settings
from infra.errors import UserError
from infra.objectives import weights
from infra.settings import Objective, PricingPolicy, Settings, policy_version
from ingestion.history import History
from ingestion.tables import DAY_US, OUTCOMES, QUOTES
from training import models
from training.catalogue import catalogue_of
from training.champions import Champions
from training.off_policy import Interval, Judgement
from training.pricer import Pricer, fraud_share, pricers
from training.pricing import from_tables
from training.pricing_judging import Judged, judged
from training.pricing_log import Past, past_of
from training.runs import finite
from training.tasks import BacktestOptions

_TITLES = {
    "inverse_propensity": "inverse propensity",
    "self_normalised": "self-normalised",
    "doubly_robust": "doubly robust",
}


@dataclass(frozen=True)
class PricingBacktest:
    """Another policy on past quotes, beside the one that quoted."""

    quotes: int
    first_day: str
    last_day: str
    left_out: Mapping[str, int]
    """Quotes that say nothing, by reason."""
    policy_version: str
    objective: Objective
    """The new policy's, by which it is called better or worse."""
    measure: str
    """The one that the objective is judged by; growth counts units."""
    by_measure: Mapping[str, Judgement]
    """`margin` and `revenue` in money, `units`, and what else the objective is judged by; for each quote."""
    notes: tuple[str, ...]

    @property
    def judged(self) -> Judgement:
        """By the new policy's objective."""
        return self.by_measure[self.measure]

    def as_json(self) -> dict[str, Any]:
        """Flat for what all measures share, the estimates under their names."""
        judged = self.judged
        plain: dict[str, Any] = finite(
            {
                "quotes": self.quotes,
                "first_day": self.first_day,
                "last_day": self.last_day,
                "left_out": dict(self.left_out),
                "policy_version": self.policy_version,
                "objective": self.objective,
                "judged_by": self.measure,
                "conclusion": judged.conclusion,
                "sentence": self.sentence(),
                "refusals": judged.refusals,
                "effective_size": judged.effective_size,
                "unsupported": judged.unsupported,
                "mean_weight": asdict(judged.mean_weight),
                "largest_weight": judged.largest_weight,
                "logged": {name: asdict(each.logged) for name, each in self.by_measure.items()},
                "estimates": {
                    name: {estimator: asdict(found) for estimator, found in each.estimates.items()}
                    for name, each in self.by_measure.items()
                },
                "notes": self.notes,
            }
        )
        return plain

    def sentence(self) -> str:
        """Whether the new policy can be judged, and which one is better."""
        judged, measure = self.judged, self.measure
        if judged.best is None:
            return f"The log cannot judge the new policy: {'; '.join(judged.refusals)}."
        gain = (
            f"{_shown(judged.best.gain, measure, '+')} {measure} a quote against the prices that were shown"
        )
        if judged.conclusion == "no difference seen":
            return f"No difference is seen: {gain}. More quotes would tell."
        return f"The new policy is {judged.conclusion}: {gain}."

    def told(self) -> list[RenderableType]:
        """A table for each measure, and what they rest on."""
        judged = self.judged
        left = ", ".join(f"{count:,} {reason}" for reason, count in self.left_out.items() if count)
        return [
            *map(self._table, self.by_measure),
            f"{self.quotes:,} quotes from {self.first_day} to {self.last_day}"
            + (f"; left out: {left}." if left else "."),
            f"They tell as much as {judged.effective_size:,.0f} quotes of the new policy's own;"
            f" {100 * judged.unsupported:.1f} % of what it would show was never shown, or too seldom;"
            f" the largest weight is {judged.largest_weight:,.1f}.",
            *(f"Note: {note}." for note in self.notes),
            self.sentence(),
        ]

    def _table(self, measure: str) -> Table:
        """Estimates by one measure."""
        found = self.by_measure[measure]
        table = Table(title=f"{measure} of a quote, with 95 % interval", title_justify="left")
        for column in ("", "worth", "gain"):
            table.add_column(column, justify="right" if column else "left")
        table.add_row("as it was", _shown(found.logged, measure), "")
        for name, each in found.estimates.items():
            table.add_row(_TITLES[name], _shown(each.worth, measure), _shown(each.gain, measure, "+"))
        return table


def backtest(chosen: Settings, options: BacktestOptions, told: progress.Task) -> PricingBacktest:
    """Try `options.policy` on the quotes of the history.

    Raises:
        UserError: there is no policy, it is wrong or holds more than `[pricing]`, or no quote can be used.
    """
    tried = _tried(chosen, options)
    told.say("what was known at each quote")
    catalogue, notes = catalogue_of(chosen)
    history = History(chosen.history)
    data = from_tables(history.read(QUOTES), history.read(OUTCOMES), options.span, chosen.pricing)
    past, left_out = past_of(data, catalogue)
    champions = Champions(chosen.home)
    champion = champions.current(PRICING.domain)
    model = None if champion is None else models.load(champion.folder)
    fitting = model if model and model.card.feature_hash == PRICING.hash else None
    new = Pricer(tried, fitting, chosen.fraud, fraud_share(champions))
    told.say(f"trying the policy on {len(past):,} quotes")
    quoted = pricers(champions, chosen, set(past.version))
    return told_of(judged(past, quoted, new, chosen.pricing, left_out), new, notes)


def told_of(found: Judged, new: Pricer, notes: tuple[str, ...] = ()) -> PricingBacktest:
    """What came of the new policy, with what a reader should know of it beside these notes."""
    return PricingBacktest(
        quotes=len(found.used),
        first_day=_day(found.used.time_us.min()),
        last_day=_day(found.used.time_us.max()),
        left_out=found.left_out,
        policy_version=policy_version(new.rules),
        objective=new.rules.objective,
        measure=found.measure,
        by_measure=found.by_measure,
        notes=(*notes, *_notes(found.used, new)),
    )


def _notes(past: Past, new: Pricer) -> tuple[str, ...]:
    """What a reader should know of the figures."""
    notes = [
        "each quote is judged on its own: what other prices would have made of later quotes is not known"
    ]
    if new.model is None:
        notes.append("without a champion the new policy wants the list price, and nothing is doubly robust")
    else:
        learned = int((past.time_us <= new.model.card.trained.end_us).sum())
        if learned:
            notes.append(f"the champion has learned from {learned:,} of these quotes, which favours it")
    if new.rules.fraud_loss and new.fraud_share is None:
        notes.append(
            "no fraud champion knows the share of fraud that passes: where the log does not, it is 0"
        )
    if "growth" in weights(new.rules.objective):
        notes.append(
            "growth is judged by units of the same quotes: whether low prices win customers who come again is"
            " in no log"
        )
    return tuple(notes)


def _tried(chosen: Settings, options: BacktestOptions) -> PricingPolicy:
    if options.policy is None:
        raise UserError("expected --policy FILE, a TOML file with what differs in the settings' [pricing].")
    if options.file is not None:
        raise UserError("--data: prices of a file carry no propensities; a policy is tried on the history.")
    tried = settings.load(options.policy)
    if other := _other(chosen, tried):
        raise UserError(f"{options.policy}: expected only [pricing], came {other} too.")
    return tried.pricing


def _other(chosen: Settings, tried: Settings) -> str | None:
    """Name of a section beside `[pricing]` that differs."""
    names = [name for name in type(chosen).model_fields if name != "pricing"]
    return next((name for name in names if getattr(chosen, name) != getattr(tried, name)), None)


def _day(time_us: np.int64) -> str:
    return str(np.datetime64(int(time_us // DAY_US), "D"))


def _shown(interval: Interval, measure: str, sign: str = "") -> str:
    """Value and interval.

    >>> _shown(Interval(1.0, -0.5, 2.5), "margin", "+")
    '+1.00 (-0.50 to +2.50)'
    """
    decimals = 3 if measure == "units" else 2
    value, low, high = (
        f"{each:{sign},.{decimals}f}" for each in (interval.value, interval.low, interval.high)
    )
    return f"{value} ({low} to {high})"
