"""Reasons say what a person understands, and with base and rest they are the whole score."""

import math

import numpy as np
import pytest

from features.fraud import FRAUD
from features.state import Floats
from infra import settings
from serving.fraud import PAYMENT_FIELDS, FraudDecider
from serving.reasons import MOST, explained
from training import booster
from training.booster import Model
from training.card import Card, Trained
from training.rule_book import rule_book

NOWHERE = (math.nan,) * len(FRAUD.names)


def rows(n: int, seed: int) -> Floats:
    """Any values; a third of them not known."""
    rng = np.random.default_rng(seed)
    matrix = rng.gamma(1.0, 30.0, (n, len(FRAUD.names)))
    return np.where(rng.random(matrix.shape) < 0.3, np.nan, matrix)


@pytest.fixture(scope="module")
def model() -> Model:
    matrix = rows(4_000, 1)
    odds = np.nan_to_num(matrix).sum(axis=1) / 300.0 - 4.0
    target = (np.random.default_rng(2).random(4_000) < 1 / (1 + np.exp(-odds))).astype(float)
    card = Card("fraud", "", FRAUD.names, FRAUD.hash, Trained(0, 1, 1, 4_000))
    return booster.train(matrix, target, card, {**booster.CLASSIFIER, "num_iterations": 40})


@pytest.mark.slow
def test_they_add_up_to_the_score_of_ten_thousand_payments(model: Model) -> None:
    matrix = rows(10_000, 3)
    told = explained(matrix, model.contributions(matrix), NOWHERE)
    score = model.predict(matrix)
    for each, log_odds in zip(told, np.log(score / (1 - score)), strict=True):
        pushed = sum(reason["contribution"] for reason in each["reasons"])
        assert sum(each["explanation"].values()) + pushed == pytest.approx(log_odds, abs=1e-9)


def test_the_strongest_come_first_and_only_those_that_push(model: Model) -> None:
    matrix = rows(200, 4)
    for each in explained(matrix, model.contributions(matrix), NOWHERE):
        pushes = [reason["contribution"] for reason in each["reasons"]]
        assert pushes == sorted(pushes, reverse=True)
        assert len(pushes) <= MOST
        assert min(pushes, default=1.0) > 0
        assert len({reason["code"] for reason in each["reasons"]}) == len(pushes)


@pytest.mark.parametrize("feature", range(len(FRAUD.names)), ids=FRAUD.names)
def test_every_feature_has_a_sentence_known_or_not(feature: int) -> None:
    contributions = np.zeros((2, len(FRAUD.names) + 1))
    contributions[:, feature] = 1.5
    matrix = np.full((2, len(FRAUD.names)), np.nan)
    matrix[1, feature] = 2.0
    usual = [7.0 if i == feature else math.nan for i in range(len(FRAUD.names))]
    (unknown,), (known,) = (each["reasons"] for each in explained(matrix, contributions, usual))
    assert unknown["feature"] == known["feature"] == FRAUD.names[feature]
    assert (unknown["value"], known["value"], known["usual"]) == (None, 2.0, 7.0)
    assert known["contribution"] == 1.5
    assert known["text"] != unknown["text"]
    assert "nan" not in unknown["text"]


def test_lives_of_one_thing_are_one_reason() -> None:
    contributions = np.zeros((1, len(FRAUD.names) + 1))
    matrix = np.zeros((1, len(FRAUD.names)))
    for name, share, value in (("terminal_fraud_rate_7d", 1.2, 0.21), ("terminal_fraud_rate_30d", 0.7, 0.1)):
        contributions[0, FRAUD.names.index(name)] = share
        matrix[0, FRAUD.names.index(name)] = value
    ((reason,),) = (each["reasons"] for each in explained(matrix, contributions, NOWHERE))
    assert reason == {
        "code": "TERMINAL_RISK_7D",
        "feature": "terminal_fraud_rate_7d",
        "value": 0.21,
        "usual": None,
        "contribution": pytest.approx(1.9),
        "text": "21 % of this terminal's settled payments were fraud in 7 days",
    }


class Champion:
    """A model that knows what it learned."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def current(self, task: str) -> Model:
        return self._model

    def canary(self, task: str) -> None:
        """None."""


@pytest.mark.parametrize("explain", [False, True])
def test_what_is_simply_approved_has_reasons_if_they_are_asked_for(model: Model, explain: bool) -> None:
    matrix = np.zeros((1, len(FRAUD.names)))
    free = {"chargeback_fee": 0.0, "loss_share": 0.0, "rules": ()}  # approving costs nothing
    book = rule_book(settings.load().fraud.model_copy(update=free))
    paid = dict.fromkeys(PAYMENT_FIELDS, "x") | {"event_time_us": 0, "amount": 1.0}
    (decision,) = FraudDecider(Champion(model), lambda: book).decide([paid], matrix, explain=explain)
    assert decision["policy_decision"] == "approve"
    assert ("explanation" in decision) == explain
    if explain:
        pushed = sum(each["contribution"] for each in decision["reasons"])
        log_odds = math.log(decision["score"] / (1 - decision["score"]))
        assert pushed + sum(decision["explanation"].values()) == pytest.approx(log_odds, abs=1e-9)
