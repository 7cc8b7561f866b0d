"""What the log of prices says of another pricing policy, and of a challenger: part of the pricing gate.

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
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from features.state import Flags, Floats, Ints
from infra.errors import UserError
from infra.objectives import canonical, weights
from infra.settings import Objective, PricingPolicy, Settings
from training.catalogue import catalogue_of
from training.champions import Champions
from training.dataset import Dataset
from training.gate import Limit
from training.off_policy import Judgement, Logged, judge
from training.pricer import Pricer, fraud_share, pricers
from training.pricing_log import Past, drawn, past_of
from training.pricing_policy import Offers
from training.quoting import Demand

NEAR = 0.01
"""Prices this share apart count as the same."""
LEAST_CHANCE = 1e-3
"""A price that the log showed more seldom than this, with those near it, has no support."""
LEAST_AGAIN = 0.9
"""Share of the logged propensities that must come out again."""
MEASURES = ("margin", "revenue", "units")
"""What a quote is judged by: money, money, pieces."""

_CHUNK = 5_000


@dataclass(frozen=True)
class Compared:
    """What both policies make of n quotes."""

    again: Flags
    """Where the logged propensity comes out again, shape (n,)."""
    weight: Floats
    """Of the new policy's chance against the log's, of `weighed`, shape (n,); 1 where both offer the same."""
    unsupported: Floats
    """Share of the new policy's chance that the log cannot judge, shape (n,); 0 where both offer the same."""
    expected_shown: Floats
    """Expected worth by `_measures` at the price shown, (n, 3 or 4); NaN without a model, as the next."""
    expected_new: Floats
    """The same under the new policy. Where both offer the same, at the price shown: nothing is gained there,
    whatever price chance chose."""


@dataclass(frozen=True)
class Judged:
    """A new policy, judged by the log of past quotes."""

    used: Past
    """The quotes that it rests on."""
    left_out: Mapping[str, int]
    """Quotes that say nothing, by reason."""
    by_measure: Mapping[str, Judgement]
    """`margin` and `revenue` in money, `units`, and what else the objective is judged by; for each quote."""
    measure: str
    """That of the new policy's objective; growth counts units."""

    @property
    def judgement(self) -> Judgement:
        """By the new policy's objective."""
        return self.by_measure[self.measure]


@dataclass(frozen=True)
class LogJudgement:
    """What the log says of a challenger, for its trial."""

    limits: tuple[Limit, ...] = ()
    figures: Mapping[str, float] = field(default_factory=dict)
    """For each quote, in the objective's unit: `value` with `low` and `high`, what the log earned (`logged`)
    and the `gain` over it; `effective_size` in quotes, `supported` as a share, `quotes` judged by."""
    notes: tuple[str, ...] = ()

    @property
    def metrics(self) -> dict[str, float]:
        """The figures by the names that they have in a run."""
        return {f"off_policy_{name}": value for name, value in self.figures.items()}


def judged_by_log(newer: Dataset, challenger: Demand, settings: Settings) -> LogJudgement:
    """What the log of quotes that a challenger has not learned from says of its prices.

    The settings' policy with the challenger's model, against the same policy with the models that quoted. A
    log that cannot tell refuses nothing, and a note says why it cannot: prices of a backfilled past have no
    propensities, so no first model could ever take over; and prices that were never shown need not be bad
    ones. What the challenger expects of the same quotes is compared with its rivals anyway, and guardrails
    bound what its prices can cost.
    """
    try:
        found, notes = _judged_challenger(newer, challenger, settings)
    except UserError as error:
        return LogJudgement(notes=(f"prices were not judged by the log: {error}",))
    judgement = found.judgement
    notes += tuple(f"prices were not judged by the log: {reason}" for reason in judgement.refusals)
    limits = () if judgement.best is None else (worth_limit(found, settings.gate.max_price_loss),)
    return LogJudgement(limits, _figures(judgement), notes)


def _judged_challenger(
    newer: Dataset, challenger: Demand, settings: Settings
) -> tuple[Judged, tuple[str, ...]]:
    if not drawn(newer).any():
        raise UserError(
            f"expected propensities of past quotes, none of {len(newer):,} in the test window has one."
        )
    catalogue, notes = catalogue_of(settings)
    past, left_out = past_of(newer, catalogue)
    champions = Champions(settings.home)
    quoted = pricers(champions, settings, set(past.version))
    new = Pricer(settings.pricing, challenger, settings.fraud, fraud_share(champions))
    return judged(past, quoted, new, settings.pricing, left_out), notes


def worth_limit(found: Judged, most_loss: float) -> Limit:
    """For the gate: the log must not show that a challenger's prices are worth less than those shown.

    It fails only if the whole 95 % interval of the gain lies below minus `most_loss`, a share of what a
    logged quote was worth; a log that cannot tell says nothing (NaN).
    """
    best = found.judgement.best
    return Limit(
        f"upper end of the gain in {found.measure} a quote, judged from the log,",
        np.nan if best is None else best.gain.high,
        low=0.0 - most_loss * abs(found.judgement.logged.value),
    )


def _figures(judgement: Judgement) -> dict[str, float]:
    """Without the estimates if the log cannot tell."""
    found = {
        "quotes": float(judgement.quotes),
        "logged": judgement.logged.value,
        "effective_size": judgement.effective_size,
        "supported": 1.0 - judgement.unsupported,
    }
    if judgement.best is None:
        return found
    worth, gain = judgement.best.worth, judgement.best.gain
    of_worth = {"value": worth.value, "low": worth.low, "high": worth.high}
    return found | of_worth | {"gain": gain.value, "gain_low": gain.low, "gain_high": gain.high}


def judged(
    past: Past,
    quoted: Mapping[str, Pricer],
    new: Pricer,
    present: PricingPolicy,
    left_out: Mapping[str, int],
) -> Judged:
    """Judge a new policy by past quotes.

    Args:
        past: the quotes.
        quoted: the policy that quoted, by the version of its model.
        new: the policy to try.
        present: the policy of the settings; a quote of its objective takes the new policy's.
        left_out: what had to be left out before, by reason.

    Raises:
        UserError: there are no quotes, or no propensity comes out again.
    """
    kept = np.isin(past.version.astype(str), list(quoted))
    left = {**left_out, "of models that are not kept": int((~kept).sum())}
    past = _some(past.rows(kept), left)
    found = compared(past, quoted, new, present)
    left["whose propensity does not come out again"] = int((~found.again).sum())
    used, share = _some(past.rows(found.again), left), float(found.again.mean())
    return Judged(
        used=used,
        left_out=left,
        by_measure={name: _refused(each, share) for name, each in _judgements(found, past, new).items()},
        measure=measure_of(new.rules),
    )


def _some(past: Past, left_out: Mapping[str, int]) -> Past:
    if not len(past):
        raise UserError(f"expected quotes that a policy can be judged by, got none: {_listed(left_out)}.")
    return past


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
    weight, unsupported = weighed(old, offered, past.price)
    shown, expected = _expected(past, new, offered)
    same = _same(old, offered)
    return Compared(
        again,
        weight=np.where(same, 1.0, weight),
        unsupported=np.where(same, 0.0, unsupported),
        expected_shown=shown,
        expected_new=np.where(same[:, None], shown, expected),
    )


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
    over the log's chance of any price near. The mean weight is 1 less what the log could never show.
    """
    near = np.abs(old.price[:, None, :] - new.price[:, :, None]) <= NEAR * new.price[:, :, None]
    mass = np.where(near, old.chance[:, None, :], 0.0).sum(axis=2)
    here = np.abs(shown[:, None] - new.price) <= NEAR * new.price
    share = np.where(mass > 0, new.chance / np.where(mass > 0, mass, 1.0), 0.0)
    weight: Floats = np.where(here, share, 0.0).sum(axis=1)
    unsupported: Floats = np.where(mass < LEAST_CHANCE, new.chance, 0.0).sum(axis=1)
    return weight, unsupported


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


def measure_of(rules: PricingPolicy) -> str:
    """What an objective is judged by: a measure of `MEASURES`, or one of its own."""
    if rules.objective == "growth":
        return "units"
    lost = rules.fraud_loss and "margin" in weights(rules.objective)
    return f"{rules.objective} after fraud" if lost else rules.objective


def _measures(rules: PricingPolicy) -> tuple[str, ...]:
    """`MEASURES`, and the objective's own after them."""
    own = measure_of(rules)
    return MEASURES if own in MEASURES else (*MEASURES, own)


def _listed(left_out: Mapping[str, int]) -> str:
    said = [f"{count:,} {reason}" for reason, count in left_out.items() if count]
    return ", ".join(said) or "no quote in the window has matured"
