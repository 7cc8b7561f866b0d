"""A would-be decline that passes says so, and keeps its reasons."""

from typing import Any

import numpy as np
import orjson
import pytest
from pydantic import SecretStr

from features.fraud import FRAUD
from infra import settings
from infra.settings import FraudPolicy
from serving.fraud import FraudDecider, encoded
from training.baselines import Coefficients, Linear
from training.card import Card, Trained
from training.models import Scorer
from training.rule_book import rule_book

N = 400
AMOUNT = FRAUD.names.index("amount")


class Champion:
    """A logistic regression on the amount alone: certain fraud from 20 on."""

    def current(self, task: str) -> Scorer:
        weight = np.zeros(len(FRAUD.names))
        weight[AMOUNT] = 10.0
        mean = np.full(len(weight), 20.0)
        trained = Trained(0, 1, 2, 3)
        card = Card("fraud", "7", FRAUD.names, FRAUD.hash, trained, reference=tuple(mean.tolist()))
        return Linear(Coefficients(mean, np.ones(len(weight)), weight, 0.0), card)

    def canary(self, task: str) -> None:
        """None."""


def policy(share: float, salt: str = "secret") -> FraudPolicy:
    return settings.load().fraud.model_copy(
        update={
            "rules": (),
            "control_group_share": share,
            "control_group_max_amount": 50.0,
            "control_group_salt": SecretStr(salt),
        }
    )


def decided(amount: float, share: float = 0.25, salt: str = "secret", at: slice = slice(N)) -> list[Any]:
    payments = [
        {
            "transaction_id": f"t-{number}",
            "event_time_us": number,
            "customer_id": "c",
            "terminal_id": "m",
            "amount": amount,
            "currency": "EUR",
        }
        for number in range(N)[at]
    ]
    matrix = np.zeros((len(payments), len(FRAUD.names)))
    matrix[:, AMOUNT] = amount
    book = rule_book(policy(share, salt))
    decider = FraudDecider(Champion(), lambda: book)
    return [orjson.loads(encoded(each)) for each in decider.decide(payments, matrix)]


def test_some_would_be_declines_pass_and_say_so() -> None:
    found = decided(amount=25.0)
    passed = [each for each in found if each["control_group"]]
    assert len(passed) == pytest.approx(N / 4, abs=30)
    assert {each["decision"] for each in passed} == {"approve"}
    assert {each["decision"] for each in found if not each["control_group"]} == {"decline"}
    assert {(each["policy_decision"], each["propensity"]) for each in found} == {("decline", 0.25)}


def test_reasons_and_costs_stay_those_of_the_decline() -> None:
    passed = next(each for each in decided(amount=25.0) if each["control_group"])
    assert passed["reasons"][0]["code"] == "AMOUNT"
    costs = passed["expected_cost"]
    assert min(costs, key=lambda name: costs[name]) == "decline"


@pytest.mark.parametrize(
    ("amount", "decision", "propensity"), [(1.0, "approve", 1.0), (50.5, "decline", 0.0)]
)
def test_everything_else_is_decided_as_ever(amount: float, decision: str, propensity: float) -> None:
    for each in decided(amount=amount, at=slice(20)):
        assert (each["decision"], each["policy_decision"]) == (decision, decision)
        assert (each["control_group"], each["propensity"]) == (False, propensity)


def test_the_same_payment_is_decided_alike_alone_and_in_a_batch() -> None:
    together = [each["decision"] for each in decided(amount=25.0)]
    alone = [decided(amount=25.0, at=slice(number, number + 1))[0]["decision"] for number in range(40)]
    assert alone == together[:40]
    other = [each["decision"] for each in decided(amount=25.0, salt="another")]
    assert other != together
