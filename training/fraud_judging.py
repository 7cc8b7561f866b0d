"""How fraud models are measured on payments whose truth is known: ranking, calibration, money, fairness."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property

import numpy as np
import orjson
import pandas as pd

from features.state import Flags, Floats, Ints
from infra.settings import Settings
from ingestion.tables import DAY_US
from training import drift, metrics, plots
from training import fraud_policy as policy
from training.dataset import Dataset, Objects
from training.fraud_policy import Codes
from training.gate import Comparison, Evidence, Limit
from training.models import Scorer
from training.performance import Known, Standard, Tally, figures
from training.reference import Reference
from training.rule_book import rule_book

type_of_figures = dict[str, float]

COLUMNS = ("amount", "customer_id", "channel", "country", "attributes")
"""What a data set brings beside the features, to be measured by."""

_AMOUNT_BANDS = (0.0, 20.0, 50.0, 100.0, 200.0, np.inf)
_SLICE_VALUES = 12
_THRESHOLDS: Floats = np.geomspace(1e-4, 0.999, 200)


@dataclass(frozen=True)
class Judged:
    """The test window, and how models are measured on it."""

    rows: Dataset
    settings: Settings
    _predicted: dict[Scorer, Floats] = field(default_factory=dict, repr=False)

    def probability(self, model: Scorer) -> Floats:
        """Of fraud, by a model, of each row; every measure begins with it, so it is computed once."""
        if model not in self._predicted:
            self._predicted[model] = model.predict(self.rows.matrix)
        return self._predicted[model]

    @cached_property
    def fraud(self) -> Flags:
        """Which rows were fraud."""
        found: Flags = self.rows.target > 0
        return found

    @cached_property
    def amount(self) -> Floats:
        """Of each row."""
        return self.rows.columns["amount"].astype(np.float64)

    @cached_property
    def day(self) -> Ints:
        """Of each row, since 1970 UTC."""
        return self.rows.time_us // DAY_US

    @cached_property
    def ruled(self) -> Codes:
        """What the policy's rules say of each row beside a model."""
        return self._ruled(beside_model=True)

    def _ruled(self, beside_model: bool) -> Codes:
        rules = rule_book(self.settings.fraud).rules
        return rules.outcome(rules.hits(self.rows.matrix), beside_model)

    def of_model(self, model: Scorer) -> type_of_figures:
        """Ranking, calibration and money of a model's probabilities under the policy.

        `best_threshold_cost` is that of declining over one threshold, the best that hindsight finds.
        """
        probability = self.probability(model)
        threshold_costs = self._threshold_costs(probability)
        return (
            self._ranked(probability)
            | self._money(self.decisions(model))
            | {"best_threshold_cost": float(threshold_costs.min()), "review_price": self._price(model)}
        )

    def of_rules(self) -> type_of_figures:
        """The same of the rules alone."""
        ruled = self._ruled(beside_model=False)
        return self._ranked(policy.rules_scores(ruled)) | self._money(policy.rules_alone(ruled))

    def decisions(self, model: Scorer) -> Codes:
        """What the policy makes of a model, within each day's capacity."""
        costs = policy.expected_costs(
            self.probability(model), self.amount, self.settings.fraud, self._price(model)
        )
        capacity = self.settings.fraud.review_capacity_per_day
        return policy.within_capacity(costs, self.ruled, self.day, capacity, self.rows.weight)

    def passed_share(self, model: Scorer) -> float | None:
        """Mean probability of fraud of the payments that pass, by their number; None if none does."""
        passed = self.decisions(model) == policy.APPROVE
        if not passed.any():
            return None
        weight = None if self.rows.weight is None else self.rows.weight[passed]
        return float(np.average(self.probability(model)[passed], weights=weight))

    def caught(self, model: Scorer, group_of: Mapping[str, str]) -> dict[str, type_of_figures]:
        """Figures of every group of transactions; `group_of` names each one's, `unknown` the others."""
        groups = np.array([group_of.get(name, "unknown") for name in self.rows.ids], dtype=object)
        return self._sliced(model, {"": groups}, separator="")

    def slices(self, model: Scorer) -> dict[str, type_of_figures]:
        """Figures of every value of every slice that the policy names, under `slice:value`."""
        return self._sliced(model, slices_of(self.rows, self.settings.fraud.slices))

    def card_precision(self, score: Floats) -> float:
        """Of the 100 most suspicious cards a day; the truth as a score gives what could be reached at all."""
        rows = self.rows
        return metrics.card_precision(rows.target, score, rows.columns["customer_id"], self.day)

    def comparisons(
        self, own: Mapping[str, float], rivals: Mapping[str, Mapping[str, float]]
    ) -> tuple[Comparison, ...]:
        """With the champion and with every simpler way."""
        return tuple(
            Comparison(figure, own[figure], rivals[rival][figure], rival, higher)
            for rival in rivals
            if rival != "lightgbm"
            for figure, higher in (("average_precision", True), ("expected_cost", False))
        )

    def evidence(self) -> tuple[Evidence, ...]:
        """How much there was to judge by."""
        gate = self.settings.gate
        return (
            Evidence("matured labels", len(self.rows), gate.min_labels),
            Evidence("matured frauds", int(self.fraud.sum()), gate.min_frauds),
        )

    def limits(
        self, own: Mapping[str, float], slices: Mapping[str, Mapping[str, float]]
    ) -> tuple[Limit, ...]:
        """How far a slice may be from all payments, for the slices that the gate names.

        A slice with fewer frauds or good declines than prove anything (`gate.min_frauds`) is only reported,
        and one refuses only if chance alone does not explain it.
        """
        gate, found = self.settings.gate, []
        for name, each in slices.items():
            if name.partition(":")[0] not in gate.fair_slices or each["frauds"] < gate.min_frauds:
                continue
            what = f"recall of {name} against all"
            found.append(
                _against(what, each["recall"], each["frauds"], own["recall"], low=gate.min_recall_ratio)
            )
            if each["false_declines"] >= gate.min_frauds:
                what, rate = f"false declines of {name} against all", each["false_decline_rate"]
                n, of_all = each["false_declines"] / rate, own["false_decline_rate"]
                found.append(_against(what, rate, n, of_all, high=gate.max_false_decline_ratio))
        return tuple(found)

    def reference(self, model: Scorer, final: Scorer) -> Reference:
        """What `final` is watched by once it decides: how much of what the tested model approves was fraud.

        Features and scores are those of the test window; `final` has learned from it, but of its scores only
        those of frauds are much the higher for it.
        """
        rows, score, decisions = self.rows, self.probability(model), self.decisions(model)
        approved = decisions == policy.APPROVE
        tally = Tally.of(self.day[approved], rows.target[approved], np.ones(int(approved.sum())))
        weight = np.ones(len(rows)) if rows.weight is None else rows.weight
        known = Known(self.day, score, self.fraud, self.amount, decisions, weight)
        return Reference(
            drift.columns_of(
                rows.features,
                rows.matrix,
                self.probability(final),
                drift.numbered(rows.columns["customer_id"]),
            ),
            Standard.of(tally, figures(known, self.settings.fraud)),
        )

    def plots(
        self, name: str, model: Scorer, levels: Mapping[str, float], slices: Mapping[str, type_of_figures]
    ) -> dict[str, bytes]:
        """Reliability, cost and slices of a model, `levels` beside its cost; nothing without rows."""
        if not len(self.rows):
            return {}
        score = self.probability(model)
        curve = metrics.calibration(self.rows.target, score, weight=self.rows.weight)
        return {
            "calibration.png": plots.calibration_curve(curve, name),
            "cost.png": plots.cost_curve(_THRESHOLDS, self._threshold_costs(score), levels),
            **{
                f"slices_{figure}.png": plots.slice_bars(slices, figure)
                for figure in ("average_precision", "recall", "false_decline_rate")
            },
        }

    def _price(self, model: Scorer) -> float:
        return policy.review_price(model.card.extra, self.settings.fraud)

    def _ranked(self, score: Floats) -> type_of_figures:
        ranked = metrics.of_scores(self.rows.target, score, self.rows.weight)
        return ranked | {"card_precision_at_100": self.card_precision(score)}

    def _money(self, decisions: Codes) -> type_of_figures:
        found = policy.money(decisions, self.fraud, self.amount, self.settings.fraud, self.rows.weight)
        counted = {name: float(value) for name, value in asdict(found).items()}
        rates = metrics.of_decisions(self.rows.target, decisions, self.rows.weight)
        return {"expected_cost": counted.pop("cost"), **counted, **rates}

    def _sliced(
        self, model: Scorer, slices: Mapping[str, Objects], separator: str = ":"
    ) -> dict[str, type_of_figures]:
        rows, probability = self.rows, self.probability(model)
        decisions = self.decisions(model)
        return {
            f"{name}{separator}{value}": figures
            for name, values in slices.items()
            for value, figures in metrics.by_value(
                values, rows.target, probability, decisions, rows.weight
            ).items()
        }

    def _threshold_costs(self, score: Floats) -> Floats:
        """Cost of declining over each threshold, without reviews."""
        costs = self.settings.fraud
        times = 1.0 if self.rows.weight is None else self.rows.weight
        declines = [(score >= threshold).astype(np.int8) * policy.DECLINE for threshold in _THRESHOLDS]
        each = [
            policy.costs_incurred(decided, self.fraud, self.amount, costs) * times for decided in declines
        ]
        return np.array([found.sum() for found in each])


def slices_of(rows: Dataset, names: tuple[str, ...]) -> dict[str, Objects]:
    """The value of every row in each slice, rare values together.

    `amount` is a band of the amount, `channel` and `country` are the payment's; any other name is looked up
    in its `attributes`.
    """
    return {name: _slice(rows, name) for name in names}


def _slice(rows: Dataset, name: str) -> Objects:
    if name == "amount":
        bands = pd.cut(rows.columns["amount"].astype(np.float64), _AMOUNT_BANDS, right=False)
        return np.asarray(bands.astype(str), dtype=object)
    if name in ("channel", "country"):
        return _common(rows.columns[name])
    given = [orjson.loads(each) if each else {} for each in rows.columns["attributes"]]
    return _common(np.array([_text(each.get(name)) for each in given], dtype=object))


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _common(values: Objects) -> Objects:
    known = pd.Series(values, dtype=object).fillna("unknown")
    frequent = known.value_counts().index[:_SLICE_VALUES]
    return known.where(known.isin(frequent), "other").to_numpy(object)


def _against(
    what: str, share: float, n: float, of_all: float, low: float = -np.inf, high: float = np.inf
) -> Limit:
    """A slice's share of n against that of all, which are so many more that their chance is left out."""
    if not of_all:
        return Limit(what, np.nan, low, high)
    least, most = metrics.share_interval(share, n)
    return Limit(what, share / of_all, low, high, (least / of_all, most / of_all))
