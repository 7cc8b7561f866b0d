"""The fraud task: what it learns from, how it learns, and what its figures are."""

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features import replay
from features.fraud import FRAUD
from features.state import Flags, Floats
from infra import progress
from infra.errors import UserError
from infra.settings import Settings
from ingestion import file_source, mapping
from ingestion.file_source import PastEvents
from ingestion.tables import DAY_US, DECISIONS, LABELS, TRANSACTIONS
from training import (
    baselines,
    booster,
    fraud_data_tests,
    fraud_model,
    handbook,
    labels,
    plots,
    search,
    selective_labels,
)
from training.booster import Model
from training.dataset import Dataset, Objects, Span, Window, joined, test_start
from training.fraud_judging import COLUMNS, Judged
from training.fraud_policy import PASSED
from training.gate import CHAMPION
from training.handbook import Fold
from training.models import Scorer
from training.rule_book import rule_book
from training.selective_labels import Chances
from training.sources import of_file, opened, replay_room
from training.stores import feature_store
from training.tasks import EvaluateOptions, EventFile, Incumbent, Task, Trial

TEST_DAYS = 14.0
HEADLINE = (
    "auc_roc", "average_precision", "card_precision_at_100", "brier", "expected_calibration_error",
    "expected_cost", "caught_amount", "reviews", "declines", "false_declines",
)  # fmt: skip

CONTRADICTED = "contradicted_transactions"
READ = (TRANSACTIONS, LABELS, DECISIONS)
"""Tables of the history that a training set is made of."""
_TOLD_BY = (*COLUMNS, "terminal_id")
_DESCRIBED = ("transaction_id", *_TOLD_BY)
_OF_DECISIONS = (*selective_labels.NEEDED, "score")


def from_history(settings: Settings, window: Window) -> Dataset:
    """Transactions with a matured label, and what was known at each, joined by the feature store.

    A label counts only if the payment passed; see `selective_labels`.
    """
    history, origin = opened(settings, window, READ)
    known = history.read(
        LABELS, None, window.cutoff_us + 1, ["transaction_id", "event_time_us", "label", "source"]
    )
    with replay_room(settings, window) as room, replay.alone(room.home, FRAUD.domain):
        replay.refresh(room.home, history, FRAUD.domain)
        spine = replay.spine(room.home, FRAUD.domain, window.start_us, window.cutoff_us + 1)
        target = _targets(spine, known, window.cutoff_us, settings)
        decided = history.read(DECISIONS, window.start_us, window.cutoff_us + 1, _OF_DECISIONS)
        seen = selective_labels.chances(_ids(spine), decided)
        learnable = ~np.isnan(target) & seen.passed
        chosen = spine.filter(pa.array(learnable))
        matrix = joined(FRAUD, chosen, feature_store(room, FRAUD))
    described = history.read(TRANSACTIONS, window.start_us, window.cutoff_us + 1, _DESCRIBED)
    columns = {
        **_measured(chosen, described),
        **labels.told(_ids(chosen), known, window.cutoff_us),
        "champion_score": _first_scores(_ids(chosen), decided),
    }
    data = _dataset(
        chosen, matrix, target[learnable], columns, window.cutoff_us, _weight(seen.rows(learnable))
    )
    mature = _mature(spine, window.cutoff_us, settings)
    found = selective_labels.figures(
        seen.rows(mature), spine["amount"].to_numpy()[mature], target[mature], settings.fraud
    )
    found |= _contradicted(chosen, known, window.cutoff_us)
    return replace(data, selection=found, origin=origin)


def from_file(settings: Settings, file: EventFile, span: Span) -> Dataset:
    """The same from a file of transactions with labels, by the fold alone."""
    events = _events(settings, file)
    data = from_tables(settings, events.decided, events.settled, span)
    return replace(data, origin=of_file(file, Window(data.cutoff_us, data.start_us)))


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
    columns = {**_measured(rows, rows), **labels.told(_ids(rows), known, window.cutoff_us)}
    data = _dataset(rows, values[chosen], target[chosen], columns, window.cutoff_us)
    data = replace(data, start_us=window.start_us)
    return replace(data, selection=_contradicted(rows, known, window.cutoff_us))


def learn(data: Dataset, incumbent: Incumbent | None, settings: Settings) -> Trial:
    """Learn from the older part, measure on the newer beside every rival, then learn from all.

    Raises:
        UserError: too little is known to learn anything.
    """
    end_us = incumbent.model.card.trained.end_us if incumbent else None
    start_us = test_start(data, TEST_DAYS, end_us, 2 * settings.gate.min_labels)
    before, after = data.split(start_us)
    _enough(before)
    judged, untuned = Judged(after, settings), fraud_model.trees(before)
    models: dict[str, Scorer] = {
        "lightgbm": fraud_model.finished(untuned, *fraud_model.witness(before), settings.fraud),
        "logistic": baselines.train(before.matrix, before.target, fraud_model.blank(before), before.weight),
    }
    notes = list(incumbent.notes(FRAUD.hash, start_us) if incumbent else ())
    if incumbent and incumbent.model.card.feature_hash == FRAUD.hash:
        models[CHAMPION] = incumbent.model
    figures = {name: judged.of_model(each) for name, each in models.items()} | {"rules": judged.of_rules()}
    chosen, why = _simplest(figures, settings.gate.simple_margin)
    final = _final(chosen, data, untuned, after, settings)
    if (share := judged.passed_share(models[chosen])) is not None:
        final.card = replace(final.card, extra={**final.card.extra, PASSED: share})
    return _trial(judged, chosen, models[chosen], final, figures, before, (*notes, *why))


def _simplest(figures: Mapping[str, Mapping[str, float]], margin: float) -> tuple[str, tuple[str, ...]]:
    """The simple model unless the trees' average precision is better by the margin; and why."""
    trees, simple = (figures[name]["average_precision"] for name in ("lightgbm", "logistic"))
    if not trees < simple * (1.0 + margin):
        return "lightgbm", ()
    return "logistic", (
        f"logistic regression stays: LightGBM's average precision {trees:.4g} is not {margin:.0%} above its"
        f" {simple:.4g}",
    )


def _final(chosen: str, data: Dataset, untuned: Model, after: Dataset, settings: Settings) -> Scorer:
    """A model of the chosen kind that learned from all, the test window too."""
    if chosen == "logistic":
        return baselines.train(data.matrix, data.target, fraud_model.blank(data), data.weight)
    return fraud_model.finished(fraud_model.trees(data), untuned, after, settings.fraud)


def _trial(
    judged: Judged,
    chosen: str,
    model: Scorer,
    final: Scorer,
    figures: Mapping[str, Mapping[str, float]],
    before: Dataset,
    notes: tuple[str, ...],
) -> Trial:
    own, rows = figures[chosen], judged.rows
    rivals = {name: each for name, each in figures.items() if name != chosen}
    slices = judged.slices(model)
    levels = {"policy": own["expected_cost"], "rules": figures["rules"]["expected_cost"]}
    return Trial(
        model=final,
        parameters={"kind": final.card.kind, **_parameters(final)},
        metrics={**own, **rows.selection},
        rivals=rivals,
        headline=HEADLINE,
        comparisons=judged.comparisons(own, rivals),
        evidence=judged.evidence(),
        limits=judged.limits(own, slices),
        test_start_us=int(rows.time_us[0]) if len(rows) else before.cutoff_us,
        rows_train=len(before),
        rows_test=len(rows),
        slices=slices,
        documents={"slices.json": slices},
        figures=judged.plots(chosen, model, levels, slices)
        | {"importance.png": plots.importance_bars(final.importance())},
        beside=judged.reference(model, final).file(),
        notes=(*notes, *_notes(rows.selection)),
    )


def _parameters(model: Scorer) -> dict[str, Any]:
    """What the trees were told, and slope and intercept of their calibration; nothing of another kind."""
    if model.card.kind != booster.KIND:
        return {}
    found = model.card.extra.get("calibration", {})
    calibration = {f"calibration_{name}": value for name, value in found.items()}
    return {**booster.STEADY, **booster.CLASSIFIER, **calibration}


def evaluate(settings: Settings, options: EvaluateOptions) -> dict[str, Any]:
    """The Fraud Detection Handbook's protocol on a file; keys as in the contract, and more."""
    fold = handbook.fold_of(options)
    events = _events(settings, options.file)
    group_of = None if options.by is None else _groups(options.file, options.by)
    return evaluate_tables(settings, events.decided, events.settled, fold, group_of)


def _groups(file: EventFile, column: str) -> dict[str, str]:
    return file_source.column_by_id(file.data, mapping.load(file.mapping), column)


def _events(settings: Settings, file: EventFile) -> PastEvents:
    """Payments and labels of a file, placed in one order as a backfill would."""
    found = file_source.payments(file.data, mapping.load(file.mapping), settings.currency)
    return file_source.placed(found, [entity.name for entity in FRAUD.entities], start=0)


def evaluate_tables(
    settings: Settings,
    transactions: pa.Table,
    known: pa.Table,
    fold: Fold,
    group_of: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The same of tables shaped as the history's, and what was caught of each group of transactions."""
    began = time.perf_counter()
    relevant = pc.less(transactions["event_time_us"], fold.test_end * DAY_US)
    data = from_tables(settings, transactions.filter(relevant), known, Span())
    train, test = _of_fold(data, fold)
    judged, model = Judged(test, settings), fraud_model.learned(train, settings.fraud)
    found: dict[str, Any] = {} if group_of is None else {"by": judged.caught(model, group_of)}
    return (
        judged.of_model(model)
        | found
        | {
            "card_precision_at_100_ceiling": judged.card_precision(test.target),
            "rules_cost": judged.of_rules()["expected_cost"],
            "n_train": len(train),
            "n_test": len(test),
            "seconds": time.perf_counter() - began,
        }
    )


def search_parameters(
    settings: Settings, file: EventFile, until_us: int, weeks: int, trials: int, told: progress.Task
) -> search.Found:
    """Search the trees' parameters on the last matured weeks before a moment, by the handbook's protocol.

    Raises:
        UserError: the file has no payments with labels in those weeks.
    """
    told.say("reading the file")
    data = from_file(settings, file, Span(until_us=until_us))
    matured = until_us // DAY_US - math.ceil(settings.labels.maturity_days)
    newest = Fold(train_start=0)
    starts = [matured - newest.test_end - 7 * week for week in reversed(range(weeks))]
    folds = [_of_fold(data, Fold(train_start=start)) for start in starts]
    return search.search(folds, booster.CLASSIFIER, trials, told.say)


def _of_fold(data: Dataset, fold: Fold) -> tuple[Dataset, Dataset]:
    day = data.time_us // DAY_US
    train = data.rows(fold.learns(day))
    test = data.rows(fold.examines(day, data.columns["customer_id"], data.target > 0))
    for rows, what in ((train, "to train on"), (test, "to test on")):
        if not len(rows):
            raise UserError(f"expected transactions with labels {what}, the file has none in those days.")
    _enough(train)
    return train, test


def _enough(rows: Dataset) -> None:
    """Refuse what nothing can be learned from."""
    frauds = int((rows.target > 0).sum())
    if frauds in (0, len(rows)):
        raise UserError(
            f"expected frauds and legitimate payments to learn from, got {frauds} frauds among {len(rows)}"
            " matured labels; wait for labels, or `tollgate backfill` past events."
        )


def _targets(transactions: pa.Table, known: pa.Table, cutoff_us: int, settings: Settings) -> Floats:
    ids = transactions["transaction_id"].to_pandas().to_numpy(object)
    maturity_us = round(settings.labels.maturity_days * DAY_US)
    return labels.targets(ids, transactions["event_time_us"].to_numpy(), known, cutoff_us, maturity_us)


def _mature(rows: pa.Table, cutoff_us: int, settings: Settings) -> Flags:
    """Payments whose label should have come by the cut-off."""
    maturity_us = round(settings.labels.maturity_days * DAY_US)
    mature: Flags = rows["event_time_us"].to_numpy() <= cutoff_us - maturity_us
    return mature


def _first_scores(ids: Objects, decided: pa.Table) -> Floats:
    """What each payment was scored when it was decided; NaN where it was not."""
    first = decided.select(_OF_DECISIONS).sort_by("decision_position").to_pandas()
    score = first.drop_duplicates("transaction_id").set_index("transaction_id")["score"]
    found: Floats = score.reindex(ids).to_numpy(np.float64)
    return found


def _weight(seen: Chances) -> Floats | None:
    """None where every row counts once, as without any decision."""
    weight = seen.weight
    return weight if (weight != 1.0).any() else None


def _ids(rows: pa.Table) -> Objects:
    ids: Objects = rows["transaction_id"].to_pandas().to_numpy(object)
    return ids


def _measured(rows: pa.Table, described: pa.Table) -> dict[str, Objects]:
    """Columns that figures need, found by transaction id."""
    by_id = described.select(_DESCRIBED).to_pandas().drop_duplicates("transaction_id")
    found = by_id.set_index("transaction_id").reindex(rows["transaction_id"].to_pandas())
    return {name: found[name].to_numpy(object) for name in _TOLD_BY}


def _contradicted(rows: pa.Table, known: pa.Table, cutoff_us: int) -> dict[str, float]:
    """How many rows' labels disagree, whichever of them is believed."""
    disputed = pc.is_in(rows["transaction_id"], labels.contradicted(known, cutoff_us))
    return {CONTRADICTED: float(pc.sum(disputed).as_py() or 0)}


def _notes(selection: Mapping[str, float]) -> tuple[str, ...]:
    """What a reader should know of how the rows came to be known."""
    said = selective_labels.notes(selection)
    if not (contradicted := selection.get(CONTRADICTED, 0.0)):
        return said
    what = "transactions have labels that contradict each other; `training.labels` decides"
    return (*said, f"{contradicted:,.0f} {what}")


def _dataset(
    rows: pa.Table,
    matrix: Floats,
    target: Floats,
    columns: Mapping[str, Objects],
    cutoff_us: int,
    weight: Floats | None = None,
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
        weight=None if weight is None else weight[order],
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
    data_tests=fraud_data_tests.parts,
    check=lambda settings: rule_book(settings.fraud),
)
