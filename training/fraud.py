"""The fraud task: what it learns from, how it learns, and what its figures are."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from features import replay
from features.fraud import FRAUD
from features.state import Flags, Floats, Ints
from infra.errors import UserError
from infra.settings import Settings
from ingestion import file_source, mapping
from ingestion.file_source import PastEvents
from ingestion.history import DAY_US, LABELS, TRANSACTIONS, History
from training import baselines, booster, handbook, labels, metrics, plots
from training import fraud_policy as policy
from training.card import Card
from training.dataset import Dataset, Objects, Span, Window, holdout_start, joined
from training.fraud_policy import Codes
from training.gate import Comparison, Evidence
from training.handbook import Fold
from training.models import Scorer
from training.rule_book import rule_book
from training.stores import feature_store
from training.tasks import EvaluateOptions, EventFile, Incumbent, Task, Trial

TEST_DAYS = 14.0
HEADLINE = (
    "auc_roc", "average_precision", "card_precision_at_100", "brier", "expected_calibration_error",
    "expected_cost", "caught_amount", "reviews", "declines", "false_declines",
)  # fmt: skip

_COLUMNS = ("amount", "customer_id", "channel", "country")
_DESCRIBED = ("transaction_id", *_COLUMNS)
_AMOUNT_BANDS = (0.0, 20.0, 50.0, 100.0, 200.0, np.inf)
_SLICE_VALUES = 12
_THRESHOLDS: Floats = np.geomspace(1e-4, 0.999, 200)


def from_history(settings: Settings, window: Window) -> Dataset:
    """Transactions with a matured label, and what was known at each, joined by the feature store."""
    history = History(settings.history)
    known = history.read(
        LABELS, None, window.cutoff_us + 1, ["transaction_id", "event_time_us", "label", "source"]
    )
    with replay.alone(settings.home, FRAUD.domain):
        replay.refresh(settings.home, history, FRAUD.domain)
        spine = replay.spine(settings.home, FRAUD.domain, window.start_us, window.cutoff_us + 1)
        target = _targets(spine, known, window.cutoff_us, settings)
        learnable = ~np.isnan(target)
        chosen = spine.filter(pa.array(learnable))
        matrix = joined(FRAUD, chosen, feature_store(settings, FRAUD))
    columns = _measured(chosen, history.read(TRANSACTIONS, window.start_us, window.cutoff_us + 1, _DESCRIBED))
    return _dataset(chosen, matrix, target[learnable], columns, window.cutoff_us)


def from_file(settings: Settings, file: EventFile, span: Span) -> Dataset:
    """The same from a file of transactions with labels, by the fold alone."""
    events = _events(settings, file)
    return from_tables(settings, events.decided, events.settled, span)


def from_tables(settings: Settings, transactions: pa.Table, known: pa.Table, span: Span) -> Dataset:
    """The same from tables shaped as the history's."""
    if not transactions.num_rows or not known.num_rows:
        raise UserError(
            f"expected transactions and labels, got {transactions.num_rows} and {known.num_rows}."
        )
    values = replay.matrix_of(FRAUD, transactions, known).values
    times, arrived = transactions["event_time_us"].to_numpy(), known["event_time_us"].to_numpy()
    window = span.window(int(max(times.max(), arrived.max())))
    target = _targets(transactions, known, window.cutoff_us, settings)
    start_us = times.min() if window.start_us is None else window.start_us
    chosen = ~np.isnan(target) & (times >= start_us)
    rows = transactions.filter(pa.array(chosen))
    return _dataset(rows, values[chosen], target[chosen], _measured(rows, rows), window.cutoff_us)


def learn(data: Dataset, incumbent: Incumbent | None, settings: Settings) -> Trial:
    """Learn from the older part, measure on the newer beside every rival, then learn from all.

    Raises:
        UserError: too little is known to learn anything.
    """
    end_us = incumbent.model.card.trained.end_us if incumbent else None
    start_us = holdout_start(data.time_us, TEST_DAYS, end_us, 2 * settings.gate.min_labels)
    before, after = data.split(start_us)
    _enough(before)
    trial = booster.train(before.matrix, before.target, _card(before), booster.CLASSIFIER)
    plain = baselines.train(before.matrix, before.target, _card(before))
    judged = _Judged(after, settings)
    scores = {"lightgbm": trial.predict(after.matrix), "logistic": plain.predict(after.matrix)}
    notes = incumbent.notes(FRAUD.hash, start_us) if incumbent else ()
    if incumbent and incumbent.model.card.feature_hash == FRAUD.hash:
        scores["champion"] = incumbent.model.predict(after.matrix)
    return judged.trial(
        scores, booster.train(data.matrix, data.target, _card(data), booster.CLASSIFIER), before, notes
    )


def evaluate(settings: Settings, options: EvaluateOptions) -> dict[str, Any]:
    """The Fraud Detection Handbook's protocol on a file; keys as in the contract, and more."""
    fold = handbook.fold_of(options)
    events = _events(settings, options.file)
    return evaluate_tables(settings, events.decided, events.settled, fold)


def _events(settings: Settings, file: EventFile) -> PastEvents:
    """Payments and labels of a file, placed in one order as a backfill would."""
    found = file_source.payments(file.data, mapping.load(file.mapping), settings.currency)
    return file_source.placed(found, [entity.name for entity in FRAUD.entities], start=0)


def evaluate_tables(
    settings: Settings, transactions: pa.Table, known: pa.Table, fold: Fold
) -> dict[str, Any]:
    """The same of tables shaped as the history's."""
    began = time.perf_counter()
    relevant = pc.less(transactions["event_time_us"], fold.test_end * DAY_US)
    data = from_tables(settings, transactions.filter(relevant), known, Span())
    train, test = _of_fold(data, fold)
    model = booster.train(train.matrix, train.target, _card(train), booster.CLASSIFIER)
    judged = _Judged(test, settings)
    return judged.figures(model.predict(test.matrix)) | {
        "card_precision_at_100_ceiling": judged.card_precision(test.target),
        "n_train": len(train),
        "n_test": len(test),
        "seconds": time.perf_counter() - began,
    }


def _of_fold(data: Dataset, fold: Fold) -> tuple[Dataset, Dataset]:
    day = data.time_us // DAY_US
    train = data.rows(fold.learns(day))
    test = data.rows(fold.examines(day, data.columns["customer_id"], data.target > 0))
    for rows, what in ((train, "to train on"), (test, "to test on")):
        if not len(rows):
            raise UserError(f"expected transactions with labels {what}, the file has none in those days.")
    _enough(train)
    return train, test


@dataclass(frozen=True)
class _Judged:
    """The test window, and how models are measured on it."""

    rows: Dataset
    settings: Settings

    @property
    def fraud(self) -> Flags:
        return self.rows.target > 0

    @property
    def amount(self) -> Floats:
        return self.rows.columns["amount"].astype(np.float64)

    @property
    def day(self) -> Ints:
        return self.rows.time_us // DAY_US

    @property
    def ruled(self) -> Codes:
        """What the policy's rules say of each row."""
        rules = rule_book(self.settings.fraud).rules
        return rules.outcome(rules.hits(self.rows.matrix))

    def figures(self, probability: Floats) -> dict[str, float]:
        """Ranking, calibration and money of a model's probabilities under the policy."""
        costs = policy.expected_costs(probability, self.amount, self.settings.fraud)
        capacity = self.settings.fraud.review_capacity_per_day
        decisions = policy.within_capacity(costs, self.ruled, self.day, capacity)
        return self._ranked(probability) | self._money(decisions)

    def of_rules(self) -> dict[str, float]:
        """The same of the rules alone."""
        return self._ranked(policy.rules_scores(self.ruled)) | self._money(policy.rules_alone(self.ruled))

    def _ranked(self, score: Floats) -> dict[str, float]:
        ranked = metrics.of_scores(self.rows.target, score)
        return ranked | {"card_precision_at_100": self.card_precision(score)}

    def card_precision(self, score: Floats) -> float:
        """Of the 100 most suspicious cards a day; the truth as a score gives what could be reached at all."""
        rows = self.rows
        return metrics.card_precision(rows.target, score, rows.columns["customer_id"], self.day)

    def _money(self, decisions: Codes) -> dict[str, float]:
        counted = asdict(policy.money(decisions, self.fraud, self.amount, self.settings.fraud))
        return {"expected_cost": counted.pop("cost")} | {
            name: float(value) for name, value in counted.items()
        }

    def trial(
        self, scores: Mapping[str, Floats], model: Scorer, before: Dataset, notes: tuple[str, ...]
    ) -> Trial:
        """Everything about a trial whose model's scores come under `lightgbm`."""
        figures = {name: self.figures(score) for name, score in scores.items()} | {"rules": self.of_rules()}
        own = figures.pop("lightgbm")
        slices = metrics.by_slice(self.rows.target, scores["lightgbm"], slices_of(self.rows))
        return Trial(
            model=model,
            parameters={**booster.STEADY, **booster.CLASSIFIER},
            metrics=own,
            rivals=figures,
            headline=HEADLINE,
            comparisons=tuple(_compared(own, figures)),
            evidence=self._evidence(),
            test_start_us=int(self.rows.time_us[0]) if len(self.rows) else before.cutoff_us,
            rows_train=len(before),
            rows_test=len(self.rows),
            slices=slices,
            documents={"slices.json": slices},
            figures=self._plots(scores, figures, own, model, slices),
            notes=notes,
        )

    def _evidence(self) -> tuple[Evidence, ...]:
        gate = self.settings.gate
        return (
            Evidence("matured labels", len(self.rows), gate.min_labels),
            Evidence("matured frauds", int(self.fraud.sum()), gate.min_frauds),
        )

    def _plots(
        self,
        scores: Mapping[str, Floats],
        rivals: Mapping[str, Mapping[str, float]],
        own: Mapping[str, float],
        model: Scorer,
        slices: Mapping[str, Mapping[str, float]],
    ) -> dict[str, bytes]:
        if not len(self.rows):
            return {}
        score = scores["lightgbm"]
        levels = {"policy": own["expected_cost"], "rules": rivals["rules"]["expected_cost"]}
        return {
            "calibration.png": plots.calibration_curve(
                metrics.calibration(self.rows.target, score), "lightgbm"
            ),
            "cost.png": plots.cost_curve(_THRESHOLDS, self._threshold_costs(score), levels),
            "importance.png": plots.importance_bars(model.importance()),
            "slices.png": plots.slice_bars(slices, "average_precision"),
        }

    def _threshold_costs(self, score: Floats) -> Floats:
        """Cost of declining over each threshold, without reviews."""
        costs = self.settings.fraud
        declines = [(score >= threshold).astype(np.int8) * policy.DECLINE for threshold in _THRESHOLDS]
        each = [policy.costs_incurred(decided, self.fraud, self.amount, costs).sum() for decided in declines]
        return np.array(each)


def slices_of(rows: Dataset) -> dict[str, Objects]:
    """Channel, country and amount band of each row; rare values together."""
    bands = pd.cut(rows.columns["amount"], _AMOUNT_BANDS, right=False).astype(str)
    return {
        "channel": _common(rows.columns["channel"]),
        "country": _common(rows.columns["country"]),
        "amount": np.asarray(bands, dtype=object),
    }


def _common(values: Objects) -> Objects:
    known = pd.Series(values, dtype=object).fillna("unknown")
    frequent = known.value_counts().index[:_SLICE_VALUES]
    return known.where(known.isin(frequent), "other").to_numpy(object)


def _compared(own: Mapping[str, float], rivals: Mapping[str, Mapping[str, float]]) -> list[Comparison]:
    """The champion is the one to beat; before there is one, every baseline."""
    to_beat = ["champion"] if "champion" in rivals else ["logistic", "rules"]
    return [
        Comparison(figure, own[figure], rivals[rival][figure], rival, higher)
        for rival in to_beat
        for figure, higher in (("average_precision", True), ("expected_cost", False))
    ]


def _enough(rows: Dataset) -> None:
    """Refuse what nothing can be learned from."""
    frauds = int((rows.target > 0).sum())
    if frauds in (0, len(rows)):
        raise UserError(
            f"expected frauds and legitimate payments to learn from, got {frauds} frauds among {len(rows)}"
            " matured labels; wait for labels, or `tollgate backfill` past events."
        )


def _card(data: Dataset) -> Card:
    return Card("fraud", "", data.features, data.feature_hash, data.trained)


def _targets(transactions: pa.Table, known: pa.Table, cutoff_us: int, settings: Settings) -> Floats:
    ids = transactions["transaction_id"].to_pandas().to_numpy(object)
    maturity_us = round(settings.labels.maturity_days * DAY_US)
    return labels.targets(ids, transactions["event_time_us"].to_numpy(), known, cutoff_us, maturity_us)


def _measured(rows: pa.Table, described: pa.Table) -> dict[str, Objects]:
    """Columns that figures need, found by transaction id."""
    by_id = described.select(_DESCRIBED).to_pandas().drop_duplicates("transaction_id")
    found = by_id.set_index("transaction_id").reindex(rows["transaction_id"].to_pandas())
    return {name: found[name].to_numpy(object) for name in _COLUMNS}


def _dataset(
    rows: pa.Table, matrix: Floats, target: Floats, columns: Mapping[str, Objects], cutoff_us: int
) -> Dataset:
    """In order of time."""
    order = np.argsort(rows["event_time_us"].to_numpy(), kind="stable")
    return Dataset(
        features=FRAUD.names,
        feature_hash=FRAUD.hash,
        ids=rows["transaction_id"].to_pandas().to_numpy(object)[order],
        time_us=rows["event_time_us"].to_numpy()[order],
        matrix=matrix[order],
        target=target[order],
        columns={name: column[order] for name, column in columns.items()},
        cutoff_us=cutoff_us,
    )


TASK = Task(
    name="fraud",
    tables=(TRANSACTIONS, LABELS),
    settled=LABELS,
    least_settled=lambda settings: settings.retraining.min_new_labels,
    from_history=from_history,
    from_file=from_file,
    learn=learn,
    evaluate=evaluate,
    check=lambda settings: rule_book(settings.fraud),
)
