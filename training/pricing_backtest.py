"""What another pricing policy would have been worth on past quotes, judged from the log of their prices.

Both policies are computed anew for every past quote, with what was known at it: the one that quoted, by the
settings' policy and the model that quoted then; the new one by its own rules and the champion (the list price
without one). A quote counts if its logged propensity comes out again: then everything that could have been
shown there is known too.

Approximations:

* Each quote stands alone. The largest step is taken from the price that the log showed last, and stock,
  demand and features are as they were; what other prices would have made of later quotes is in no log.
* Prices within `NEAR` of each other count as one (a kernel over prices; Kallus and Zhou 2018): exploration
  shows few of the price points. The doubly robust estimate takes up most of the difference by its model.
* Floors, ceilings and steps are those of the present catalogue; costs and list prices are those of the quote.
* A request that named the objective of the settings cannot be told from one that named none.
* No outcome says whether the sale was a fraud: where margins are less the loss to fraud, it is the expected
  one, also of what was sold.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import httpx
import numpy as np
import pandas as pd
from rich.console import RenderableType
from rich.table import Table

from features.fraud import FRAUD
from features.pricing import PRICING
from features.state import Flags, Floats, Ints
from infra import progress, settings
from infra.errors import UserError
from infra.objectives import canonical, weights
from infra.settings import Objective, PricingPolicy, Product, Settings, policy_version
from ingestion.history import DAY_US, OUTCOMES, QUOTES, History
from training import card, models
from training.champions import Champions
from training.fraud_policy import passed_share
from training.gate import Limit
from training.off_policy import Interval, Judgement, Logged, judge
from training.pricer import Pricer
from training.pricing_log import Past, past_of
from training.pricing_policy import Offers
from training.runs import finite
from training.tasks import BacktestOptions

NEAR = 0.01
"""Prices this share apart count as the same."""
LEAST_CHANCE = 1e-3
"""A price that the log showed more seldom than this, with those near it, has no support."""
LEAST_AGAIN = 0.9
"""Share of the logged propensities that must come out again."""
WITHOUT_MODEL = ("", "rules")
"""Versions that quotes of no model carry."""

MEASURES = ("margin", "revenue", "units")
"""What a quote is judged by: money, money, pieces."""

_CHUNK = 5_000
_TITLES = {
    "inverse_propensity": "inverse propensity",
    "self_normalised": "self-normalised",
    "doubly_robust": "doubly robust",
}


@dataclass(frozen=True)
class Compared:
    """What both policies make of n quotes."""

    again: Flags
    """Where the logged propensity comes out again, shape (n,)."""
    weight: Floats
    """Of the new policy's chance against the log's, of `weighed`, shape (n,)."""
    unsupported: Floats
    """Shape (n,)."""
    expected_shown: Floats
    """Expected worth by `_measures` at the price shown, (n, 3 or 4); NaN without a model, as the next."""
    expected_new: Floats
    """The same under the new policy."""


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
    catalogue, notes = _catalogue(chosen)
    history = History(chosen.history)
    past, left_out = past_of(history.read(QUOTES), history.read(OUTCOMES), options.span, catalogue)
    if not len(past):
        raise UserError(f"expected quotes that a policy can be judged by, got none: {_listed(left_out)}.")
    champions = Champions(chosen.home)
    champion = champions.current(PRICING.domain)
    model = None if champion is None else models.load(champion.folder)
    fitting = model if model and model.card.feature_hash == PRICING.hash else None
    new = Pricer(tried, fitting, chosen.fraud, _fraud_share(champions))
    told.say(f"trying the policy on {len(past):,} quotes")
    quoted = _pricers(champions, chosen, set(past.version))
    found = judged(past, quoted, new, chosen.pricing, left_out)
    return replace(found, notes=(*notes, *found.notes))


def judged(
    past: Past,
    quoted: Mapping[str, Pricer],
    new: Pricer,
    present: PricingPolicy,
    left_out: Mapping[str, int],
) -> PricingBacktest:
    """Judge a new policy by past quotes.

    Args:
        past: of which there are some.
        quoted: the policy that quoted, by the version of its model.
        new: the policy to try.
        present: the policy of the settings; a quote of its objective takes the new policy's.
        left_out: what had to be left out before, by reason.

    Raises:
        UserError: no propensity comes out again.
    """
    kept = np.isin(past.version.astype(str), list(quoted))
    left = {**left_out, "of models that are not kept": int((~kept).sum())}
    past = past.rows(kept)
    if not len(past):
        raise UserError(f"expected quotes that a policy can be judged by, got none: {_listed(left)}.")
    found = compared(past, quoted, new, present)
    left["whose propensity does not come out again"] = int((~found.again).sum())
    if not found.again.any():
        raise UserError(f"expected quotes that a policy can be judged by, got none: {_listed(left)}.")
    share = float(found.again.mean())
    used = past.rows(found.again)
    return PricingBacktest(
        quotes=len(used),
        first_day=_day(used.time_us.min()),
        last_day=_day(used.time_us.max()),
        left_out=left,
        policy_version=policy_version(new.rules),
        objective=new.rules.objective,
        measure=_measure(new.rules),
        by_measure={name: _refused(each, share) for name, each in _judgements(found, past, new).items()},
        notes=_notes(used, new),
    )


def challenger_limit(past: Past, quoted: Mapping[str, Pricer], challenger: Pricer) -> Limit:
    """For the gate: the log must not show that a challenger's prices are worth less than those shown.

    It fails only if the whole 95 % interval of the gain lies below 0; a log that cannot tell says nothing
    (NaN). The quotes must be younger than what the challenger has learned from.

    Args:
        past: of which there are some.
        quoted: the policy that quoted, by the version of its model.
        challenger: the policy of the settings with the challenger's model.
    """
    found = judged(past, quoted, challenger, challenger.rules, {})
    best = found.judged.best
    value = np.nan if best is None else best.gain.high
    return Limit(f"upper end of the gain in {found.measure} a quote, judged from the log,", value, low=0.0)


def compared(past: Past, quoted: Mapping[str, Pricer], new: Pricer, present: PricingPolicy) -> Compared:
    """Both policies on quotes of which there are some, all quoted by one of `quoted`."""
    parts = list(_parts(past))
    found = [_compared(past.rows(rows), quoted[past.version[rows[0]]], new, present) for rows in parts]
    back = np.argsort(np.concatenate(parts))
    columns = zip(*(vars(each).values() for each in found), strict=True)
    return Compared(*(np.concatenate(each)[back] for each in columns))


def _parts(past: Past) -> Iterator[Ints]:
    """Rows of one model, one objective, and products with or without one of their own, some at a time."""
    own = past.own_objective.astype(str).astype(object)
    kind = pd.Series(past.version + "\0" + past.objective + "\0" + own).factorize()[0]
    for each in range(kind.max() + 1):
        rows = np.flatnonzero(kind == each)
        for start in range(0, len(rows), _CHUNK):
            yield rows[start : start + _CHUNK]


def _compared(past: Past, quoted: Pricer, new: Pricer, present: PricingPolicy) -> Compared:
    """Of quotes that `_parts` puts together."""
    theirs = _objective(past.objective[0], present)
    old = quoted.offers(past, theirs)
    the_policys = theirs == present.objective and not past.own_objective[0]
    offered = new.offers(past, new.rules.objective if the_policys else theirs)
    again = np.isclose(np.minimum(old.propensity(past.price), 1.0), past.propensity, rtol=1e-6)
    return Compared(again, *weighed(old, offered, past.price), *_expected(past, new, offered))


def _objective(logged: str, present: PricingPolicy) -> Objective:
    """What the log says that a price was for; where it does not, what the settings say."""
    try:
        return canonical(logged)
    except ValueError:
        return present.objective


def weighed(old: Offers, new: Offers, shown: Floats) -> tuple[Floats, Floats]:
    """Weight of each quote's shown price, and share of the new policy's chance that the log cannot judge.

    A price of the new policy stands for the logged policy's prices within `NEAR` of it, as often as the log
    shows each of them: the weight is the sum, over the new policy's prices near the one shown, of its chance
    over the log's chance of any price near. The mean weight is 1 less what the log could never show. Where
    both policies offer the same there is nothing to weigh: 1.
    """
    near = np.abs(old.price[:, None, :] - new.price[:, :, None]) <= NEAR * new.price[:, :, None]
    mass = np.where(near, old.chance[:, None, :], 0.0).sum(axis=2)
    here = np.abs(shown[:, None] - new.price) <= NEAR * new.price
    share = np.where(mass > 0, new.chance / np.where(mass > 0, mass, 1.0), 0.0)
    weight: Floats = np.where(here, share, 0.0).sum(axis=1)
    unsupported: Floats = np.where(mass < LEAST_CHANCE, new.chance, 0.0).sum(axis=1)
    same = _same(old, new)
    return np.where(same, 1.0, weight), np.where(same, 0.0, unsupported)


def _same(old: Offers, new: Offers) -> Flags:
    """Quotes for which both policies offer the same prices, as likely."""
    if old.price.shape != new.price.shape:
        return np.zeros(len(old.price), np.bool_)
    found: Flags = ((old.price == new.price) & (old.chance == new.chance)).all(axis=1)
    return found


def _expected(past: Past, new: Pricer, offered: Offers) -> tuple[Floats, Floats]:
    if new.model is None:
        unknown = np.full((len(past), len(_measures(new.rules))), np.nan)
        return unknown, unknown
    shown = past.price[:, None]
    units = new.units(past, offered.price) * offered.chance
    return (
        _worths(past, new, new.units(past, shown), shown),
        _worths(past, new, units, offered.price),
    )


def _worths(past: Past, new: Pricer, units: Floats, prices: Floats) -> Floats:
    """What units at each of k prices are worth in all, shape (n, measures); units and prices are (n, k)."""
    each = [units * (prices - past.terms.unit_cost[:, None]), units * prices, units]
    if len(_measures(new.rules)) > len(each):
        each.append(new.value(past, prices, units))
    return np.column_stack([worth.sum(axis=1) for worth in each])


def _judgements(found: Compared, past: Past, new: Pricer) -> dict[str, Judgement]:
    """By measure, of the quotes whose propensity came out again."""
    again = found.again
    worth = _worths(past, new, past.units[:, None], past.price[:, None])
    return {
        name: judge(
            Logged(
                worth=worth[again, column],
                propensity=past.propensity[again],
                chance=(found.weight * past.propensity)[again],
                unsupported=found.unsupported[again],
                expected_shown=_known(found.expected_shown[again, column]),
                expected_new=_known(found.expected_new[again, column]),
            )
        )
        for column, name in enumerate(_measures(new.rules))
    }


def _known(values: Floats) -> Floats | None:
    return None if np.isnan(values).all() else values


def _refused(judgement: Judgement, share: float) -> Judgement:
    """Without its estimates if too few of the logged propensities came out again."""
    if share >= LEAST_AGAIN:
        return judgement
    reason = (
        f"only {100 * share:.0f} % of the logged propensities come out again by the settings' policy and"
        f" catalogue, expected {100 * LEAST_AGAIN:.0f} %: look at the days since they changed, by --days"
    )
    return replace(judgement, refusals=(reason, *judgement.refusals), estimates={})


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


def _catalogue(chosen: Settings) -> tuple[dict[str, Product], tuple[str, ...]]:
    """Products by id: of the API, or of the settings and a note that says so if it does not answer."""
    try:
        reply = httpx.get(f"{chosen.addresses.api}/v1/products", timeout=2.0)
        products = [Product.model_validate(each) for each in reply.raise_for_status().json()]
        return {each.product_id: each for each in products}, ()
    except (httpx.HTTPError, ValueError):
        note = f"the API at {chosen.addresses.api} gave no catalogue, so that of the settings was taken"
        return {each.product_id: each for each in chosen.catalogue}, (note,)


def _pricers(champions: Champions, chosen: Settings, versions: set[str]) -> dict[str, Pricer]:
    """The settings' policy with each model that quoted, as far as they are kept and know our features.

    What it did not know of fraud when it quoted, it does not know now.
    """
    present, costs = chosen.pricing, chosen.fraud
    found = {version: Pricer(present, None, costs) for version in versions & set(WITHOUT_MODEL)}
    for version in versions - set(WITHOUT_MODEL):
        if champions.kept(PRICING.domain, version):
            model = models.load(champions.folder(PRICING.domain, version))
            if model.card.feature_hash == PRICING.hash:
                found[version] = Pricer(present, model, costs)
    return found


def _fraud_share(champions: Champions) -> float | None:
    """Of the payments that pass, as the fraud champion's card says."""
    champion = champions.current(FRAUD.domain)
    return None if champion is None else passed_share(card.read(champion.folder).extra)


def _measure(rules: PricingPolicy) -> str:
    """What an objective is judged by: a measure of `MEASURES`, or one of its own."""
    if rules.objective == "growth":
        return "units"
    lost = rules.fraud_loss and "margin" in weights(rules.objective)
    return f"{rules.objective} after fraud" if lost else rules.objective


def _measures(rules: PricingPolicy) -> tuple[str, ...]:
    """`MEASURES`, and the objective's own after them."""
    own = _measure(rules)
    return MEASURES if own in MEASURES else (*MEASURES, own)


def _listed(left_out: Mapping[str, int]) -> str:
    said = [f"{count:,} {reason}" for reason, count in left_out.items() if count]
    return ", ".join(said) or "no quote in the window has matured"


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
