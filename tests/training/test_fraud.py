from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from features.fraud import FRAUD
from features.state import Flags
from infra import settings
from infra.errors import UserError
from infra.settings import Settings
from ingestion.history import History
from ingestion.tables import DAY_US, DECISIONS, LABELS, TRANSACTIONS, completed
from tests.training.made import MIDNIGHT_US, PastEvents, past_events
from training import baselines, booster, fraud, fraud_model, runs
from training.booster import Model
from training.dataset import Dataset, Span
from training.fraud_judging import Judged
from training.fraud_policy import passed_share
from training.freshness import present
from training.gate import decisive, judge
from training.handbook import Fold
from training.tasks import Incumbent, Trial

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def events() -> PastEvents:
    return past_events()


@pytest.fixture(scope="module")
def chosen() -> Settings:
    """With trees even where the simple model is better: these are about something else."""
    loaded = settings.load()
    return loaded.model_copy(update={"gate": loaded.gate.model_copy(update={"simple_margin": -1.0})})


@pytest.fixture(scope="module")
def data(chosen: Settings, events: PastEvents) -> Dataset:
    return fraud.from_tables(chosen, *events, Span())


@pytest.fixture(scope="module")
def first(chosen: Settings, data: Dataset) -> Trial:
    """The first training, before there is a champion."""
    return fraud.learn(data, None, chosen)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small models, where it does not matter how good they are."""
    monkeypatch.setattr(booster, "CLASSIFIER", {**booster.CLASSIFIER, "num_iterations": 15})


def test_what_is_known_is_in_order_of_time_with_its_features(data: Dataset, events: PastEvents) -> None:
    assert (np.diff(data.time_us) >= 0).all()
    assert data.features == FRAUD.names
    assert np.array_equal(data.matrix[:, FRAUD.names.index("amount")], data.columns["amount"].astype(float))
    assert len(data) == events[0].num_rows


def test_labels_after_the_cutoff_are_unknown(chosen: Settings, events: PastEvents) -> None:
    cutoff_us = MIDNIGHT_US + 20 * DAY_US
    data = fraud.from_tables(chosen, *events, Span(until_us=cutoff_us, days=15))
    assert data.time_us.max() <= cutoff_us - 7 * DAY_US
    assert data.time_us.min() >= cutoff_us - 15 * DAY_US


def test_later_labels_change_nothing_that_was_learned(chosen: Settings, events: PastEvents) -> None:
    transactions, labels = events
    cutoff_us = MIDNIGHT_US + 20 * DAY_US
    later = pc.greater(labels["event_time_us"], cutoff_us)
    flipped = pc.if_else(later, "fraud", labels["label"])
    changed = labels.set_column(labels.schema.get_field_index("label"), "label", flipped)
    span = Span(until_us=cutoff_us)
    honest, probed = (fraud.from_tables(chosen, transactions, each, span) for each in (labels, changed))
    assert honest.version == probed.version


@pytest.mark.slow
def test_transactions_whose_labels_disagree_are_counted_and_told(
    chosen: Settings, events: PastEvents, small: None
) -> None:
    """Settlements that came before a chargeback: what is learned is the same, and the run says how many."""
    transactions, labels = events
    frauds = labels.filter(pc.equal(labels["label"], "fraud")).slice(0, 5)
    said = [
        {
            **row,
            "label": "legitimate",
            "source": "settlement",
            "event_time_us": row["event_time_us"] - DAY_US,
        }
        for row in frauds.to_pylist()
    ]
    both = pa.concat_tables([labels, pa.Table.from_pylist(said, labels.schema)])
    disputed = fraud.from_tables(chosen, transactions, both, Span())
    agreed = fraud.from_tables(chosen, transactions, labels, Span())
    assert np.array_equal(disputed.target, agreed.target)
    trial = fraud.learn(disputed, None, chosen)
    assert trial.metrics["contradicted_transactions"] == 5
    assert trial.notes[0].startswith("5 transactions have labels that contradict each other")


def test_the_first_model_beats_the_rules_and_says_so(data: Dataset, first: Trial) -> None:
    trial = first
    assert set(trial.rivals) == {"logistic", "rules"}
    assert trial.metrics["average_precision"] > trial.rivals["rules"]["average_precision"]
    assert trial.metrics["expected_cost"] < trial.rivals["rules"]["expected_cost"]
    assert {each.rival_name for each in trial.comparisons} == {"logistic", "rules"}
    assert trial.model.card.trained.rows == len(data)
    assert trial.rows_train + trial.rows_test == len(data)
    assert trial.test_start_us >= data.time_us[trial.rows_train - 1]
    assert trial.figures["cost.png"].startswith(b"\x89PNG")


def test_the_models_card_keeps_the_share_of_fraud_that_passes(data: Dataset, first: Trial) -> None:
    share = passed_share(first.model.card.extra)
    assert share is not None
    assert 0.0 < share < (data.target > 0).mean(), "less passes than comes"


@pytest.mark.slow
def test_the_same_data_again_do_not_beat_the_champion(chosen: Settings, data: Dataset, first: Trial) -> None:
    trial = fraud.learn(data, Incumbent("1", first.model), chosen)
    at_once = decisive(trial.comparisons, shadowed=False)
    assert {each.rival_name for each in at_once} == {"champion"}
    assert not judge(at_once, trial.evidence, chosen.gate.min_gain).passed
    into_shadow = decisive(trial.comparisons, shadowed=True)
    assert {each.rival_name for each in into_shadow} == {"logistic", "rules"}
    assert judge(into_shadow, trial.evidence, chosen.gate.min_gain).passed, "it meets the champion there"
    assert trial.notes == ("champion 1 has learned from part of the test window, which favours it",)


@pytest.mark.slow
def test_the_simple_model_stays_unless_trees_are_better_by_the_margin(
    chosen: Settings, data: Dataset, first: Trial
) -> None:
    margin = first.metrics["average_precision"] / first.rivals["logistic"]["average_precision"] - 1.0 + 0.01
    strict = chosen.model_copy(update={"gate": chosen.gate.model_copy(update={"simple_margin": margin})})
    trial = fraud.learn(data, None, strict)
    assert trial.model.card.kind == "linear"
    assert trial.model.card.trained.rows == len(data)
    assert trial.metrics["average_precision"] == first.rivals["logistic"]["average_precision"]
    assert trial.rivals["lightgbm"]["average_precision"] == first.metrics["average_precision"]
    assert {each.rival_name for each in trial.comparisons} == {"rules"}
    assert "logistic regression stays" in trial.notes[0]


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_a_champion_of_other_features_is_not_compared(chosen: Settings, data: Dataset, first: Trial) -> None:
    old = Model(first.model.text, replace(first.model.card, feature_hash="old"))
    trial = fraud.learn(data, Incumbent("1", old), chosen)
    assert {each.rival_name for each in trial.comparisons} == {"logistic", "rules"}
    assert trial.notes == ("champion 1 knows other features and was not compared",)


def test_nothing_can_be_learned_without_fraud(chosen: Settings, data: Dataset) -> None:
    with pytest.raises(UserError, match="got 0 frauds among"):
        fraud.learn(data.rows(data.target == 0), None, chosen)


def test_a_rehearsal_needs_no_stack(chosen: Settings, data: Dataset, first: Trial) -> None:
    task = replace(fraud.TASK, learn=lambda *_: first)
    report = runs.rehearse(task, data, chosen)
    assert report.run_id is None
    assert report.as_json()["verdict"]["passed"] in (True, False)


def test_a_fold_of_the_handbook(chosen: Settings, events: PastEvents) -> None:
    fold = Fold(train_start=20_010, train_days=10, delay_days=7, test_days=7)
    found = fraud.evaluate_tables(chosen, *events, fold)
    assert {
        "auc_roc",
        "average_precision",
        "card_precision_at_100",
        "n_train",
        "n_test",
        "expected_cost",
    } <= found.keys()
    assert found["average_precision"] > 0.3
    assert found["expected_cost"] < min(found["rules_cost"], found["cost_approve_all"])
    assert 0 < found["card_precision_at_100"] <= found["card_precision_at_100_ceiling"] <= 1


def test_a_fold_outside_of_the_file_is_refused(chosen: Settings, events: PastEvents) -> None:
    with pytest.raises(UserError, match="to train on"):
        fraud.evaluate_tables(chosen, *events, Fold(train_start=20_100))


@pytest.mark.slow
def test_a_label_counts_only_if_the_payment_passed_and_as_often_as_it_stands_for(
    chosen: Settings, events: PastEvents, tmp_path: Path
) -> None:
    """Every fourth of the dear payments is in the control group; labels of the others are left out."""
    here = chosen.model_copy(update={"home": tmp_path})
    history, (transactions, labels) = History(here.history), events
    history.append(TRANSACTIONS, transactions)
    history.append(LABELS, labels)
    dear = transactions.filter(pc.greater(transactions["amount"], 100.0))
    lucky = np.arange(dear.num_rows) % 4 == 0
    history.append(DECISIONS, decisions(dear, lucky))
    newest = present(history, fraud.TASK)
    assert newest is not None
    joined = fraud.from_history(here, Span().window(newest))
    folded = fraud.from_tables(here, transactions, labels, Span())
    passed = set(dear.filter(pa.array(lucky))["transaction_id"].to_pylist())
    declined = set(dear["transaction_id"].to_pylist()) - passed
    assert joined.ids.tolist() == [each for each in folded.ids if each not in declined]
    assert joined.weight is not None
    assert joined.weight.tolist() == [4.0 if each in passed else 1.0 for each in joined.ids]
    assert (joined.selection["declined/payments"], joined.selection["control_group/payments"]) == (
        dear.num_rows,
        len(passed),
    )
    assert 0 < joined.selection["declined/fraud_share_low"] < joined.selection["declined/fraud_share"] < 1


def decisions(payments: pa.Table, lucky: Flags) -> pa.Table:
    """All would be declined; the lucky pass."""
    n = payments.num_rows
    more = {
        "decision": np.where(lucky, "approve", "decline"),
        "policy_decision": np.full(n, "decline"),
        "propensity": np.full(n, 0.25),
        "decision_partition": np.zeros(n, np.int32),
        "decision_position": np.arange(n),
    }
    rows = payments.select(["transaction_id", "event_time_us"])
    for name, column in more.items():
        rows = rows.append_column(name, pa.array(column))
    return completed(DECISIONS, rows)


def test_weights_count_in_every_figure(chosen: Settings, data: Dataset) -> None:
    before, after = data.split(int(data.time_us[int(0.7 * len(data))]))
    simple = baselines.train(before.matrix, before.target, fraud_model.blank(before))
    once = Judged(after, chosen)
    doubled = Judged(replace(after, weight=np.full(len(after), 2.0)), chosen)
    ours, theirs = once.of_rules(), doubled.of_rules()
    for name in ("expected_cost", "caught_amount", "reviews", "false_declines"):
        assert theirs[name] == pytest.approx(2 * ours[name]), name
    skewed = Judged(replace(after, weight=np.where(after.target > 0, 50.0, 1.0)), chosen)
    assert skewed.of_model(simple)["average_precision"] > once.of_model(simple)["average_precision"]


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_weights_count_in_learning_and_the_selection_is_told(chosen: Settings, data: Dataset) -> None:
    facts = {"declined/payments": 7.0, "declined/outside_support_amount_share": 0.5}
    heavy = replace(data, weight=np.where(data.target > 0, 50.0, 1.0), selection=facts)
    trial, plain = (fraud.learn(each, None, chosen) for each in (heavy, data))
    assert trial.model.predict(data.matrix).mean() > 2 * plain.model.predict(data.matrix).mean()
    assert trial.metrics["declined/payments"] == 7.0
    assert "50% of the declined amount had no chance to pass" in trial.notes[0]
