"""What a control group says of declined payments; on the simulator, whose truth is known."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import SecretStr

from features.fraud import FRAUD
from features.state import Flags, Floats
from infra import settings
from infra.settings import FraudPolicy
from ingestion.file_source import placed
from ingestion.simulated import past_payments
from ingestion.simulators.payments import Payments, simulate
from ingestion.simulators.population import Population
from ingestion.simulators.scenarios import Fraud
from ingestion.tables import DECISIONS, completed
from training import booster, fraud, metrics, selective_labels
from training import fraud_policy as policies
from training.card import Card
from training.control_group import Admission, ControlGroup
from training.dataset import Dataset, Span
from training.fraud_policy import DECLINE, NO_RULE, Codes
from training.selective_labels import Chances, Estimate, chances, share, total

DRAWS = 400
SHARE, CAP = 0.1, 100.0


def rows_of(ids: Sequence[str], meant: Codes, admission: Admission) -> pa.Table:
    """Decisions as the history keeps them."""
    names = np.array(policies.DECISIONS)
    rows = {
        "transaction_id": pa.array(ids, pa.string()),
        "decision": names[admission.decisions],
        "policy_decision": names[meant],
        "propensity": admission.propensity,
        "control_group": admission.control_group,
        "decision_position": np.arange(len(ids)),
    }
    return completed(DECISIONS, pa.table(rows))


def test_each_way_of_the_gate_has_its_chance() -> None:
    rows = pa.table(
        {
            "transaction_id": ["approved", "reviewed", "declined", "lucky", "dear", "old", "old declined"],
            "decision": ["approve", "review", "decline", "approve", "decline", "approve", "decline"],
            "policy_decision": ["approve", "review", "decline", "decline", "decline", None, None],
            "propensity": [1.0, 1.0, 0.1, 0.1, 0.0, None, None],
            "decision_position": range(7),
        }
    )
    ids = np.array([*rows["transaction_id"].to_pylist(), "backfilled"], object)
    seen = chances(ids, completed(DECISIONS, rows))
    assert seen.decided.tolist() == [True] * 7 + [False]
    assert seen.passed.tolist() == [True, True, False, True, False, True, False, True]
    assert seen.declined.tolist() == [False, False, True, True, True, False, True, False]
    assert seen.propensity.tolist() == [1.0, 1.0, 0.1, 0.1, 0.0, 1.0, 0.0, 1.0]
    assert seen.outside.tolist() == [False, False, False, False, True, False, True, False]
    assert seen.weight[seen.passed].tolist() == [1.0, 1.0, 10.0, 1.0, 1.0]


def test_of_two_decisions_the_first_was_acted_upon() -> None:
    rows = pa.table(
        {
            "transaction_id": ["t", "t"],
            "decision": ["approve", "decline"],
            "policy_decision": ["decline", "decline"],
            "propensity": [0.1, 0.0],
            "decision_position": [8, 9],
        }
    )
    for order in ([0, 1], [1, 0]):
        seen = chances(np.array(["t"], object), completed(DECISIONS, rows.take(order)))
        assert (seen.passed.tolist(), seen.propensity.tolist()) == ([True], [0.1])


def test_no_row_counts_more_often_than_the_cap() -> None:
    ones = np.ones(3, np.bool_)
    seen = Chances(ones, ones, ones, np.array([1.0, 0.01, 0.001]))
    assert seen.weight.tolist() == [1.0, 100.0, 100.0]


def test_an_interval_is_told_even_where_no_fraud_or_nothing_passed() -> None:
    none, chance = np.zeros(50, np.bool_), np.full(50, 0.01)
    found = share(none, chance)
    assert (found.value, found.low) == (0.0, pytest.approx(0.0, abs=1e-12))
    assert found.high == pytest.approx(0.0713, abs=1e-4), "Wilson, 0 of 50"
    found = total(none, np.ones(50), chance)
    assert (found.value, found.low) == (0.0, 0.0)
    assert found.high == pytest.approx(368.9, abs=0.1), "exact Poisson, 3.689 for none, each for 100"
    for found in (share(none[:0], chance[:0]), total(none[:0], chance[:0], chance[:0])):
        assert np.isnan([found.value, found.low, found.high]).all()


def test_what_the_group_cost_and_what_is_outside_of_its_reach() -> None:
    policy = settings.load().fraud.model_copy(
        update={"loss_share": 1.0, "chargeback_fee": 15.0, "margin_share": 0.1}
    )
    yes, no = True, False
    seen = Chances(
        decided=np.array([yes] * 6),
        declined=np.array([yes, yes, yes, yes, yes, no]),
        passed=np.array([yes, yes, yes, no, no, yes]),
        propensity=np.array([0.5, 0.5, 0.5, 0.5, 0.0, 1.0]),
    )
    amount = np.array([20.0, 40.0, 30.0, 10.0, 300.0, 1_000.0])
    target = np.array([1.0, 0.0, np.nan, 1.0, 1.0, 1.0])  # of what was declined nobody would know
    found = selective_labels.figures(seen, amount, target, policy)
    assert (found["declined/payments"], found["declined/amount"]) == (5.0, 400.0)
    assert found[selective_labels.OUTSIDE] == 300.0 / 400.0
    assert found["declined/fraud_share"] == 0.5
    assert found["declined/fraud_amount"] == 20.0 / 0.5
    assert (found["control_group/payments"], found["control_group/labelled"]) == (3.0, 2.0)
    assert found["control_group/lost"] == 20.0 + 15.0
    assert found["control_group/net_cost"] == 20.0 + 15.0 - 4.0, "the good payment's margin was earned"
    assert found["frauds_effective"] == pytest.approx((2 + 1) ** 2 / (4 + 1))
    assert found["rows_effective"] == pytest.approx((2 + 2 + 1) ** 2 / (4 + 4 + 1))
    assert "75%" in selective_labels.notes(found)[0]


def test_without_decisions_there_is_nothing_to_tell() -> None:
    seen = chances(np.array(["a", "b"], object), completed(DECISIONS, pa.table({})))
    assert selective_labels.figures(seen, np.ones(2), np.zeros(2), settings.load().fraud) == {}
    assert selective_labels.notes({}) == ()


@dataclass(frozen=True)
class World:
    """Payments whose truth the simulator knows, and what the policy says of them by an earlier model."""

    rows: Dataset
    meant: Codes
    later: Dataset
    later_meant: Codes
    policy: FraudPolicy

    @property
    def amount(self) -> Floats:
        return self.rows.columns["amount"].astype(float)

    @property
    def within(self) -> Flags:
        """Would-be declines that may pass."""
        return (self.meant == DECLINE) & (self.amount <= CAP)

    def seen(self, draw: int, **changed: Any) -> Chances:
        """What one salt's control group lets be known."""
        salted = {"control_group_salt": SecretStr(str(draw)), **changed}
        group = ControlGroup(self.policy.model_copy(update=salted))
        ruled = np.full(len(self.rows), NO_RULE, np.int8)
        ids = self.rows.ids.tolist()
        admission = group.admit(self.meant, ruled, ids, self.amount)
        return chances(self.rows.ids, rows_of(ids, self.meant, admission))


def trees(rows: Dataset) -> booster.Model:
    """Few: the laws of selection hold for small models too."""
    card = Card("fraud", "", rows.features, rows.feature_hash, rows.trained)
    few = {**booster.CLASSIFIER, "num_iterations": 60}
    return booster.train(rows.matrix, rows.target, card, few, rows.weight)


def decided(model: booster.Model, rows: Dataset, policy: FraudPolicy) -> Codes:
    amount = rows.columns["amount"].astype(float)
    return policies.decide(policies.expected_costs(model.predict(rows.matrix), amount, policy))


@pytest.fixture(scope="module")
def world() -> World:
    """Sixty days: learn from a third of the payments, decide the next, judge on the last."""
    chosen = settings.load()
    policy = chosen.fraud.model_copy(
        update={"review_cost": 1e6, "control_group_share": SHARE, "control_group_max_amount": CAP}
    )
    process = Payments(
        seed=3,
        population=Population(customers=500, terminals=300),
        fraud=Fraud(large_share=0.004, terminal_share=0.02, card_share=0.02),
    )
    events = placed(past_payments(simulate(process, 60)), [each.name for each in FRAUD.entities], 0)
    data = fraud.from_tables(chosen, events.decided, events.settled, Span())
    third = np.arange(len(data)) * 3 // len(data)
    first, rows, later = (data.rows(third == number) for number in range(3))
    model = trees(first)
    return World(rows, decided(model, rows, policy), later, decided(model, later, policy), policy)


@dataclass(frozen=True)
class Drawn:
    """Estimates of fraud among would-be declines by many control groups, beside the truth."""

    count: list[Estimate]
    amount: list[Estimate]
    share: list[Estimate]
    labelled: list[int]
    """Frauds that were seen: what is known without weights."""


def drawn(world: World, wrong: float = 1.0) -> Drawn:
    """Over many salts; `wrong` falsifies the logged propensity."""
    rows = replace(world, rows=world.rows.rows(world.within), meant=world.meant[world.within])
    found = Drawn([], [], [], [])
    for draw in range(DRAWS):
        seen = rows.seen(draw)
        group, chance = seen.passed, seen.propensity[seen.passed] * wrong
        is_fraud, amount = rows.rows.target[group] > 0, rows.amount[group]
        found.count.append(total(is_fraud, np.ones(len(chance)), chance))
        found.amount.append(total(is_fraud, amount, chance))
        found.share.append(share(is_fraud, chance))
        found.labelled.append(int(is_fraud.sum()))
    return found


def off(found: Sequence[float], truth: float) -> float:
    """How many of its own standard errors the mean lies from the truth."""
    return (np.mean(found) - truth) / (np.std(found) / np.sqrt(len(found)))


@pytest.mark.slow
def test_the_estimate_of_fraud_among_declined_payments_is_unbiased(world: World) -> None:
    is_fraud, amount = world.rows.target[world.within], world.amount[world.within]
    assert is_fraud.sum() > 100
    found = drawn(world)
    for estimates, truth in (
        (found.count, is_fraud.sum()),
        (found.amount, (is_fraud * amount).sum()),
        (found.share, is_fraud.mean()),
    ):
        assert abs(off([each.value for each in estimates], truth)) < 3
        covered = np.mean([each.low <= truth <= each.high for each in estimates])
        assert 0.93 < covered < 0.99
    assert np.mean(found.labelled) == pytest.approx(SHARE * is_fraud.sum(), rel=0.05), "unweighted: a tenth"


@pytest.mark.slow
@pytest.mark.parametrize("wrong", [0.8, 1.25, 10.0])
def test_a_propensity_that_was_not_drawn_with_shows(world: World, wrong: float) -> None:
    truth = world.rows.target[world.within].sum()
    found = drawn(world, wrong)
    assert abs(off([each.value for each in found.count], truth)) > 8
    assert np.mean([each.low <= truth <= each.high for each in found.count]) < 0.93


@pytest.mark.slow
def test_weighted_figures_are_those_of_full_labels_and_unweighted_ones_are_not(world: World) -> None:
    known = (world.meant != DECLINE) | world.within
    rows, score = world.rows.rows(known), world.rows.matrix[known, 0]  # any score will do: the amount
    score = score / score.max()
    full = metrics.of_scores(rows.target, score) | {"rate": rows.target.mean()}
    inside = replace(world, rows=rows, meant=world.meant[known])
    weighted: list[dict[str, float]] = []
    naive: list[dict[str, float]] = []
    for draw in range(400):
        seen = inside.seen(draw)
        passed, weight = seen.passed, seen.weight[seen.passed]
        truth, scored = rows.target[passed], score[passed]
        rate = float(np.average(truth, weights=weight))
        weighted.append(metrics.of_scores(truth, scored, weight) | {"rate": rate})
        naive.append(metrics.of_scores(truth, scored) | {"rate": float(truth.mean())})
    for name in ("auc_roc", "average_precision", "brier", "rate"):
        ours, theirs = (
            abs(np.mean([each[name] for each in found]) - full[name]) for found in (weighted, naive)
        )
        assert ours < 0.2 * theirs, name


@pytest.mark.slow
def test_a_model_that_learns_with_weights_is_closer_to_one_that_has_all_labels(world: World) -> None:
    declined = world.later_meant == DECLINE
    full = trees(world.rows).predict(world.later.matrix)[declined]
    ours, theirs = [], []
    for draw in range(4):
        seen = world.seen(draw, control_group_max_amount=1e9)
        rows = world.rows.rows(seen.passed)
        weighted = replace(rows, weight=seen.weight[seen.passed])
        ours.append(trees(weighted).predict(world.later.matrix)[declined])
        theirs.append(trees(rows).predict(world.later.matrix)[declined])
    assert np.abs(np.array(ours) - full).mean() < 0.9 * np.abs(np.array(theirs) - full).mean()
    assert abs(np.mean(ours) - full.mean()) < 0.6 * abs(np.mean(theirs) - full.mean())
    assert np.mean(theirs) < full.mean(), "who never sees what is declined thinks it harmless"
