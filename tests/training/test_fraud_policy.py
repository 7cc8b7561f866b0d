import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.settings import FraudPolicy, Rule
from training import fraud_policy as policy
from training.fraud_policy import APPROVE, DECLINE, NO_RULE, REVIEW, AtStake, RuleError

POLICY = FraudPolicy(
    chargeback_fee=15.0,
    loss_share=1.0,
    margin_share=0.1,
    review_cost=3.0,
    review_capacity_per_day=2,
    control_group_share=0.0,
    control_group_max_amount=0.0,
    rules=(),
)


def test_costs_are_what_each_choice_loses_on_average() -> None:
    costs = policy.expected_costs(np.array([0.25]), np.array([100.0]), POLICY)
    assert costs.tolist() == [[0.25 * 115.0, 3.0, 0.75 * 10.0]]


def test_the_cheapest_choice_wins_and_the_gentler_one_at_a_tie() -> None:
    costs = np.array([[1.0, 2.0, 3.0], [2.0, 1.0, 3.0], [3.0, 2.0, 1.0], [1.0, 1.0, 1.0]])
    assert policy.decide(costs).tolist() == [APPROVE, REVIEW, DECLINE, APPROVE]


def test_a_rule_goes_before_costs() -> None:
    costs = np.array([[1.0, 2.0, 3.0]] * 4)
    ruled = np.array([NO_RULE, REVIEW, DECLINE, APPROVE], np.int8)
    assert policy.decide(costs, ruled).tolist() == [APPROVE, REVIEW, DECLINE, APPROVE]


def test_without_analysts_the_next_cheapest_is_chosen() -> None:
    costs = np.array([[5.0, 1.0, 3.0], [2.0, 1.0, 3.0]])
    assert policy.decide(costs, may_review=False).tolist() == [DECLINE, APPROVE]
    assert policy.decide(costs, may_review=np.array([True, False])).tolist() == [REVIEW, APPROVE]


def test_each_days_first_reviews_find_an_analyst_and_rules_always_do() -> None:
    costs = np.array([[5.0, 1.0, 3.0]] * 6)
    ruled = np.array([NO_RULE] * 5 + [REVIEW], np.int8)
    day = np.array([1, 1, 2, 1, 1, 1])
    decided = policy.within_capacity(costs, ruled, day, capacity=2)
    assert decided.tolist() == [REVIEW, REVIEW, REVIEW, DECLINE, DECLINE, REVIEW]


@given(st.lists(st.floats(0, 1), min_size=2))
def test_the_risk_score_never_falls_as_the_probability_rises(probabilities: list[float]) -> None:
    scores = policy.risk_score(np.sort(probabilities))
    assert (np.diff(scores) >= 0).all()
    assert scores.min() >= 0
    assert scores.max() <= 100


def test_the_first_rule_that_hits_decides_and_the_unknown_hits_nothing() -> None:
    rules = policy.rules_over(
        ("amount", "rate"),
        (
            Rule(name="trusted", when="rate < 0.01", outcome="allow"),
            Rule(name="dear", when="amount > 100", outcome="review"),
            Rule(name="bad", when="NOT rate <= 0.5", outcome="decline"),
        ),
    )
    matrix = np.array([[200.0, 0.0], [200.0, 0.9], [100.0, 0.9], [50.0, np.nan]])
    hits = rules.hits(matrix)
    assert hits.tolist() == [[True, True, False], [False, True, True], [False, False, True], [False] * 3]
    assert rules.outcome(hits, beside_model=True).tolist() == [APPROVE, REVIEW, DECLINE, NO_RULE]


def test_no_rules_say_nothing() -> None:
    rules = policy.rules_over(("amount",), ())
    assert rules.outcome(rules.hits(np.ones((2, 1))), beside_model=True).tolist() == [NO_RULE, NO_RULE]


def test_a_refused_rule_is_told_by_its_position() -> None:
    right = Rule(name="right", when="amount > 1", outcome="review")
    with pytest.raises(RuleError, match="there is no feature 'amuont', did you mean `amount`") as refusal:
        policy.rules_over(("amount",), (right, right.model_copy(update={"when": "amuont > 1"})))
    assert refusal.value.position == 1


def test_money_counts_what_each_decision_cost() -> None:
    decisions = np.array([APPROVE, APPROVE, REVIEW, DECLINE, DECLINE], np.int8)
    fraud = np.array([True, False, True, True, False])
    amount = np.array([100.0, 50.0, 30.0, 20.0, 40.0])
    money = policy.money(decisions, fraud, amount, POLICY)
    assert money.cost == pytest.approx(115.0 + 0.0 + 3.0 + 0.0 + 4.0)
    assert money.cost_approve_all == pytest.approx(115.0 + 45.0 + 35.0)
    assert (money.fraud_amount, money.caught_amount) == (150.0, 50.0)
    assert (money.reviews, money.declines, money.false_declines) == (1, 2, 1)


def test_a_row_of_weight_three_costs_and_is_reviewed_as_three_rows() -> None:
    decisions, fraud = np.array([APPROVE, REVIEW, DECLINE], np.int8), np.array([True, True, False])
    amount, weight = np.array([100.0, 30.0, 40.0]), np.array([3, 2, 2])
    repeated = (np.repeat(each, weight) for each in (decisions, fraud, amount))
    assert policy.money(decisions, fraud, amount, POLICY, weight.astype(float)) == policy.money(
        *repeated, POLICY
    )
    costs, ruled = np.array([[5.0, 1.0, 3.0]] * 3), np.full(3, NO_RULE, np.int8)
    decided = policy.within_capacity(costs, ruled, np.ones(3), 4, np.array([3.0, 2.0, 1.0]))
    assert decided.tolist() == [REVIEW, DECLINE, DECLINE]


def test_a_rule_of_day_0_has_no_say_beside_a_model() -> None:
    rules = policy.rules_over(
        ["x"],
        [
            Rule(name="first", when="x > 0", outcome="decline", day_0=True),
            Rule(name="always", when="x > 1", outcome="review"),
        ],
    )
    hits = rules.hits(np.array([[0.5], [2.0]]))
    assert hits.tolist() == [[True, False], [True, True]]
    assert rules.outcome(hits, beside_model=False).tolist() == [DECLINE, DECLINE]
    assert rules.outcome(hits, beside_model=True).tolist() == [NO_RULE, REVIEW]


def test_a_review_costs_what_the_last_one_that_finds_an_analyst_is_worth() -> None:
    """Capacity 2 a day and one day: the third best gain is the price, and cheaper cases find no analyst."""
    amount = np.array([1_000.0, 400.0, 200.0, 100.0, 10.0])
    probability = np.full(5, 0.2)
    gains = policy.review_gains(probability, amount, POLICY)
    assert (np.diff(gains) < 0).all()
    stake = AtStake.of(probability, amount, 1.0, POLICY)
    assert stake.review_price(POLICY) == pytest.approx(gains[2])
    costs = policy.expected_costs(probability, amount, POLICY, stake.review_price(POLICY) + 1e-9)
    assert (policy.decide(costs) == REVIEW).tolist() == [True, True, False, False, False]
    plenty = POLICY.model_copy(update={"review_capacity_per_day": 100})
    assert stake.review_price(plenty) == 0.0
    assert AtStake.of(probability, amount, 5.0, POLICY).review_price(POLICY) == 0.0
    assert policy.review_price({"at_stake": stake.as_json()}, POLICY) == pytest.approx(gains[2], abs=1e-5)
    assert policy.review_price({}, POLICY) == 0.0
