from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from pydantic import SecretStr

from infra.settings import FraudPolicy
from training.control_group import Admission, ControlGroup
from training.fraud_policy import APPROVE, DECLINE, NO_RULE, REVIEW, Codes

N = 20_000
IDS = [f"t-{number}" for number in range(N)]


def policy(share: float = 0.1, salt: str = "secret", rules: bool = False) -> FraudPolicy:
    return FraudPolicy(
        chargeback_fee=15.0,
        loss_share=1.0,
        margin_share=0.1,
        review_cost=3.0,
        review_capacity_per_day=2,
        control_group_share=share,
        control_group_max_amount=50.0,
        control_group_rules=rules,
        control_group_salt=SecretStr(salt),
        rules=(),
    )


def admitted(
    decisions: Sequence[int] = (DECLINE,) * N,
    ids: Sequence[str] = IDS,
    ruled: Codes | int = NO_RULE,
    amount: float = 10.0,
    **chosen: Any,
) -> Admission:
    n = len(decisions)
    codes, rules = np.array(decisions, np.int8), np.full(n, ruled, np.int8)
    return ControlGroup(policy(**chosen)).admit(codes, rules, ids, np.full(n, amount))


def test_the_share_passes_and_everybody_knows_how_likely_that_was() -> None:
    found = admitted()
    passed = found.decisions == APPROVE
    assert np.array_equal(passed, found.control_group)
    assert passed.mean() == pytest.approx(0.1, abs=0.01)
    assert (found.propensity == 0.1).all()


def test_only_what_would_be_declined_is_drawn() -> None:
    found = admitted([APPROVE, REVIEW, DECLINE], ids=["a", "b", "c"], share=1.0)
    assert found.decisions.tolist() == [APPROVE, REVIEW, APPROVE]
    assert found.control_group.tolist() == [False, False, True]
    assert found.propensity.tolist() == [1.0, 1.0, 1.0]
    assert admitted([APPROVE, REVIEW], ids=["a", "b"]).propensity.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(("amount", "propensity"), [(50.0, 1.0), (50.01, 0.0), (np.nan, 0.0)])
def test_nothing_over_the_cap_passes(amount: float, propensity: float) -> None:
    found = admitted([DECLINE], ids=["a"], amount=amount, share=1.0)
    assert found.control_group.tolist() == [propensity == 1.0]
    assert found.propensity.tolist() == [propensity]


def test_a_rules_decline_stands_unless_the_policy_says_otherwise() -> None:
    for rules, propensity in ((False, 0.0), (True, 1.0)):
        found = admitted([DECLINE], ids=["a"], ruled=DECLINE, share=1.0, rules=rules)
        assert (found.decisions[0] == APPROVE, found.propensity[0]) == (rules, propensity)


def test_without_a_share_nothing_passes() -> None:
    found = admitted(share=0.0)
    assert not found.control_group.any()
    assert (found.propensity == 0.0).all()


def test_the_lot_is_the_transactions_own_whatever_comes_with_it() -> None:
    together = admitted().control_group
    backwards = admitted(ids=IDS[::-1]).control_group[::-1]
    alone = [bool(admitted([DECLINE], ids=[each]).control_group[0]) for each in IDS[:300]]
    assert np.array_equal(together, backwards)
    assert alone == together[:300].tolist()


def test_a_larger_share_passes_the_same_and_more() -> None:
    small, large = (admitted(share=share).control_group for share in (0.1, 0.3))
    assert (large | ~small).all()


def test_another_salt_draws_another_group_independently() -> None:
    ours, theirs = (admitted(salt=salt).control_group for salt in ("ours", "theirs"))
    assert (ours & theirs).mean() == pytest.approx(0.01, abs=0.003)


def test_the_lots_are_uniform() -> None:
    lots = ControlGroup(policy()).lots(IDS)
    counts = np.histogram(lots, bins=20, range=(0.0, 1.0))[0]
    expected = N / 20
    assert ((counts - expected) ** 2 / expected).sum() < 43.8, "chi-squared, 19 degrees, 0.1 %"
    assert len(ControlGroup(policy()).lots([])) == 0
