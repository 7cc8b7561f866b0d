"""No input whatever breaks a guardrail, and the objective chooses what it says."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from infra.settings import Objective, PricingPolicy
from training.pricing_policy import (
    GUARDRAILS,
    Limits,
    Offers,
    Terms,
    best,
    candidate_prices,
    choose,
    guarded,
    least_price,
    limits,
    margin_share,
    offers,
    trials,
    worth,
)

POLICY = PricingPolicy(
    objective="margin",
    growth_margin_floor=0.1,
    min_margin_share=0.02,
    price_step=0.1,
    max_step_share=0.15,
    candidate_low=0.6,
    candidate_high=1.6,
    candidates=25,
    exploration_share=0.05,
)

any_float = st.floats(allow_nan=True, allow_infinity=True)
amount = st.floats(0.01, 1e6)
objectives = st.sampled_from(["margin", "revenue", "growth"])


@st.composite
def policies(draw: st.DrawFn) -> PricingPolicy:
    return PricingPolicy(
        objective=draw(objectives),
        growth_margin_floor=draw(st.floats(0, 1)),
        min_margin_share=draw(st.floats(0, 1)),
        price_step=draw(st.sampled_from([0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 0.3]) | st.floats(0.001, 100)),
        max_step_share=draw(st.floats(0, 1)),
        candidate_low=draw(st.floats(0.1, 1.0)),
        candidate_high=draw(st.floats(1.01, 3.0)),
        candidates=draw(st.integers(2, 30)),
        exploration_share=draw(st.just(0.0) | st.floats(1e-6, 1)),
    )


@st.composite
def terms(draw: st.DrawFn) -> Terms:
    """One product as the catalogue may hold it: floor <= list price <= ceiling, any cost."""
    floor, list_price, ceiling = sorted(draw(st.tuples(amount, amount, amount)))
    cost, step = draw(st.floats(0, 1e6)), draw(st.floats(0.001, 1e6))
    return Terms(*(np.array([each]) for each in (list_price, cost, floor, ceiling, step)))


last_prices = st.just(np.nan) | st.just(0.0) | amount
units = st.floats(0, 1, exclude_max=True)


def points_inside(within: Limits, step: float) -> bool:
    """Whether a multiple of the step lies in the range."""
    first = np.floor(within.low[0] / step) + np.arange(-1, 3)
    multiples = np.round(first * step, 9)
    return bool(((multiples >= within.low[0]) & (multiples <= within.high[0])).any())


@settings(max_examples=500)
@given(terms(), policies(), objectives, last_prices, any_float, any_float, units)
@example(
    Terms(*(np.array([each]) for each in (10.0, 9.0, 8.0, 12.0, 0.5))), POLICY, "margin", 2.0, 3.0, 3.0, 0.99
)
def test_no_input_breaks_a_guardrail(
    product: Terms,
    policy: PricingPolicy,
    objective: Objective,
    last: float,
    raw: float,
    other: float,
    draw: float,
) -> None:
    within = limits(product, np.array([last]), objective, policy)
    wanted = np.array([[raw, other]])
    offered = offers(wanted, trials(within, policy), within, policy)
    np.testing.assert_allclose(offered.chance.sum(), 1.0)
    chosen = choose(offered, np.array([draw]))
    price = chosen.price[0]

    assert product.floor[0] <= price <= product.ceiling[0]
    kept = max(policy.min_margin_share, policy.growth_margin_floor if objective == "growth" else 0.0)
    assert price >= min(least_price(product.unit_cost, kept)[0], product.ceiling[0])
    if last > 0:
        step = min(product.max_step[0], max(policy.max_step_share * last, policy.price_step))
        possible = last + step >= within.floor[0] and last - step <= within.ceiling[0]
        assert abs(price - last) <= step + 1e-9 * last or not possible
    if points_inside(within, policy.price_step):
        assert price == np.round(np.rint(price / policy.price_step) * policy.price_step, 9)
    assert 0 < chosen.propensity[0] <= 1 + 1e-12


@given(terms(), policies(), objectives, amount)
def test_floor_and_ceiling_go_before_the_step_which_then_is_the_least_that_is_needed(
    product: Terms, policy: PricingPolicy, objective: Objective, last: float
) -> None:
    within = limits(product, np.array([last]), objective, policy)
    assert within.floor[0] <= within.low[0] <= within.high[0] <= within.ceiling[0]
    if last < within.floor[0]:
        assert within.low[0] == within.floor[0]
    if last > within.ceiling[0]:
        assert within.high[0] == within.ceiling[0]


def range_of(low: float, high: float, floor: float = 0.0, ceiling: float = 1e9) -> Limits:
    return Limits(*(np.array([each]) for each in (floor, ceiling, low, high)))


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        (5.0, [5.0, 10.0, 10.0, 12.0, 12.0]),
        (99.0, [99.0, 99.0, 30.0, 14.05, 14.0]),
        (13.26, [13.26, 13.26, 13.26, 13.26, 13.3]),
    ],
)
def test_guardrails_come_in_their_order(raw: float, path: list[float]) -> None:
    within = range_of(12.0, 14.05, floor=10.0, ceiling=30.0)
    assert guarded(np.array([raw]), within, 0.1)[0].tolist() == path
    assert len(path) == 1 + len(GUARDRAILS)


def test_a_range_without_a_price_point_keeps_the_price() -> None:
    assert guarded(np.array([7.0]), range_of(7.02, 7.08), 0.1)[0, -1] == 7.02


def test_a_price_that_is_not_a_number_becomes_the_dearest_allowed() -> None:
    assert guarded(np.array([np.nan]), range_of(3.0, 4.0), 0.5)[0].tolist() == [4.0] * 5


def test_the_step_lets_a_cheap_product_move_by_a_point() -> None:
    product = Terms(*(np.array([each]) for each in (0.5, 0.1, 0.1, 9.0, 5.0)))
    within = limits(product, np.array([0.5]), "margin", POLICY)
    assert (within.low[0], within.high[0]) == (0.4, 0.6)


def test_objectives_choose_what_they_say() -> None:
    prices = np.array([[10.0, 12.0, 14.0, 20.0]])
    chance = np.array([[0.9, 0.8, 0.5, 0.3]])
    cost = np.array([9.5])

    def chosen(objective: Objective) -> float:
        return float(best(prices, worth(prices, chance, cost, objective, POLICY))[0])

    assert chosen("revenue") == 12.0
    assert chosen("margin") == 20.0
    assert chosen("growth") == 12.0, "10.0 sells more, but leaves only 5 % margin"


def test_growth_without_any_price_that_keeps_the_margin_takes_the_nearest() -> None:
    prices = np.array([[10.0, 12.0]])
    worths = worth(prices, np.array([[0.9, 0.1]]), np.array([50.0]), "growth", POLICY)
    assert best(prices, worths)[0] == 12.0


def test_of_equally_good_prices_the_dearest() -> None:
    assert best(np.array([[1.0, 2.0, 3.0]]), np.array([[5.0, 5.0, 1.0]]))[0] == 2.0


def test_margin_share() -> None:
    assert margin_share(np.array([10.0, 0.0]), np.array([4.0, 4.0])).tolist() == [0.6, -np.inf]


@given(amount, st.floats(0.05, 5.0), st.floats(0.05, 5.0))
def test_candidates_rise_and_stay_where_policy_and_data_allow(
    list_price: float, one: float, other: float
) -> None:
    lowest, highest = sorted((one, other))
    prices = candidate_prices(np.array([list_price]), POLICY, lowest, highest)[0] / list_price
    assert len(prices) == POLICY.candidates
    assert (np.diff(prices) >= 0).all()
    assert prices[0] >= POLICY.candidate_low - 1e-9
    assert prices[-1] <= POLICY.candidate_high + 1e-9
    if lowest > POLICY.candidate_low * 1.05 and highest * 1.05 < POLICY.candidate_high:
        np.testing.assert_allclose([prices[0], prices[-1]], [lowest / 1.05, highest * 1.05])


def test_propensities_are_the_frequencies_of_the_prices_shown() -> None:
    n = 200_000
    product = Terms(*(np.full(n, each) for each in (50.0, 20.0, 30.0, 80.0, 2.0)))
    policy = POLICY.model_copy(update={"exploration_share": 0.3, "candidates": 7, "price_step": 0.5})
    within = limits(product, np.full(n, 50.0), "margin", policy)
    wanted = np.tile([51.0, 51.0, 49.0], (n, 1))
    offered = offers(wanted, trials(within, policy), within, policy)
    chosen = choose(offered, np.random.default_rng(1).random(n))
    assert np.isclose(chosen.exploration.mean(), 0.3, atol=0.005)
    prices, first, counts = np.unique(chosen.price, return_index=True, return_counts=True)
    assert len(prices) > 3
    np.testing.assert_allclose(chosen.propensity[first], counts / n, atol=0.004)
    assert np.isclose(chosen.propensity[first].sum(), 1.0)


def offered_of(raw: float, share: float, allowed: list[bool] | None = None, candidates: int = 2) -> Offers:
    policy = POLICY.model_copy(update={"exploration_share": share, "candidates": candidates})
    within = range_of(3.0, 4.0)
    some = None if allowed is None else np.array([allowed])
    return offers(np.array([[raw]]), trials(within, policy), within, policy, some)


def test_a_policy_that_does_not_explore_is_certain() -> None:
    for draw in (0.0, 0.5, np.nextafter(1.0, 0.0)):
        chosen = choose(offered_of(3.3, 0.0), np.array([draw]))
        assert (chosen.price[0], chosen.propensity[0], chosen.exploration[0]) == (3.3, 1.0, False)


def test_a_drawn_price_is_told_as_explored() -> None:
    chosen = choose(offered_of(3.3, 1.0), np.array([0.999]))
    assert (chosen.price[0], chosen.propensity[0], chosen.exploration[0]) == (4.0, 0.5, True)


def test_what_costs_too_much_to_try_is_not_drawn() -> None:
    offered = offered_of(3.3, 0.2, [False, True, False], candidates=3)
    assert offered.price.tolist() == [[3.3, 3.0, 3.5, 4.0]]
    np.testing.assert_allclose(offered.chance, [[0.8, 0.0, 0.2, 0.0]])
    np.testing.assert_allclose(offered_of(3.3, 0.2, [False, False]).chance, [[1.0, 0.0, 0.0]])
