"""No input whatever breaks a guardrail, and the objective chooses what it says."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from infra.objectives import canonical, weights
from infra.settings import FraudPolicy, Objective, PricingPolicy, load
from training.fraud_policy import APPROVE, expected_costs
from training.pricing_policy import (
    GUARDRAILS,
    NO_FRAUD,
    FraudLoss,
    Limits,
    Offers,
    Terms,
    best,
    candidate_prices,
    choose,
    guarded,
    least_price,
    limits,
    margin,
    margin_share,
    offers,
    repeated,
    trials,
    value,
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
mixes = st.dictionaries(st.sampled_from(["margin", "revenue", "growth"]), st.floats(0.01, 1), min_size=1).map(
    canonical
)
objectives = st.sampled_from(["margin", "revenue", "growth"]) | mixes
losses = st.just(NO_FRAUD) | st.builds(
    FraudLoss, st.floats(0, 1).map(lambda share: np.array([share])), st.floats(0, 1), st.floats(0, 1e6)
)


@st.composite
def policies(draw: st.DrawFn) -> PricingPolicy:
    return PricingPolicy(
        objective=draw(objectives),
        growth_margin_floor=draw(st.floats(0, 1)),
        min_margin_share=draw(st.floats(0, 1)),
        price_step=draw(st.sampled_from([0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 0.3]) | st.floats(0.001, 100)),
        max_step_share=draw(st.floats(0, 1)),
        max_day_share=draw(st.floats(0.01, 3)),
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
any_price = amount | any_float
"""What the store may say of the past: a price, or anything."""
units = st.floats(0, 1, exclude_max=True)


def points_inside(within: Limits, step: float) -> bool:
    """Whether a multiple of the step lies in the range."""
    first = np.floor(within.low[0] / step) + np.arange(-1, 3)
    multiples = np.round(first * step, 9)
    return bool(((multiples >= within.low[0]) & (multiples <= within.high[0])).any())


def reach(centre: float, share: float, policy: PricingPolicy, most: float = np.inf) -> tuple[float, float]:
    """What a step from a price allows; everything from one that is none."""
    if not (0 < centre < np.inf):
        return -np.inf, np.inf
    far = float(min(most, max(share * centre, policy.price_step)))
    centre = float(centre)
    return centre - far, centre + far


def around(*centres: float) -> float:
    """Room for rounding beside these prices."""
    return sum(1e-9 * each for each in centres if 0 < each < np.inf)


def outside(price: float, low: float, high: float) -> float:
    return max(low - price, price - high, 0.0)


@settings(max_examples=500)
@given(terms(), policies(), objectives, any_price, any_price, any_price, any_float, any_float, units, losses)
@example(
    Terms(*(np.array([each]) for each in (10.0, 9.0, 8.0, 12.0, 0.5))),
    POLICY, "margin", 2.0, np.nan, np.nan, 3.0, 3.0, 0.99, NO_FRAUD,
)  # fmt: skip
@example(
    Terms(*(np.array([each]) for each in (10.0, 9.0, 8.0, 12.0, 0.5))),
    POLICY, "margin", 1.7e308, 1.7e308, -1.7e308, -1.7e308, 1.7e308, 0.99, NO_FRAUD,
)  # fmt: skip
@example(
    Terms(*(np.array([each]) for each in (1.0, 0.0, 1.0, 1.0, 1.0))),
    POLICY, "margin", 1.7976931330646228e308, 1.0, 1.0, 0.0, 0.0, 0.0, NO_FRAUD,
)  # fmt: skip
@example(
    Terms(*(np.array([each]) for each in (60.0, 9.0, 8.0, 200.0, 50.0))),
    POLICY, "margin", 100.0, 50.0, np.nan, 3.0, 199.0, 0.1, NO_FRAUD,
)  # fmt: skip
@example(
    Terms(*(np.array([each]) for each in (60.0, 9.0, 8.0, 200.0, 50.0))),
    POLICY, "0.9 revenue + 0.1 growth", 10.0, 10.0, np.nan, 3.0, 3.0, 0.1,
    FraudLoss(np.array([0.5]), 1.0, 15.0),
)  # fmt: skip
def test_no_input_breaks_a_guardrail(
    product: Terms,
    policy: PricingPolicy,
    objective: Objective,
    last: float,
    day: float,
    held: float,
    raw: float,
    other: float,
    draw: float,
    fraud: FraudLoss,
) -> None:
    within = limits(product, np.array([last]), objective, policy, np.array([day]), fraud)
    wanted = np.array([[raw, other]])
    offered = offers(wanted, trials(within, policy), within, policy)
    np.testing.assert_allclose(offered.chance.sum(), 1.0)
    chosen = choose(offered, np.array([draw]))
    price = float(chosen.price[0])

    assert product.floor[0] <= price <= product.ceiling[0]
    grows = "growth" in weights(objective)
    least = least_price(product.unit_cost, policy.min_margin_share)[0]
    if grows:
        least = max(least, least_price(product.unit_cost, policy.growth_margin_floor, fraud)[0])
    least = min(max(least, product.floor[0]), product.ceiling[0])
    assert price >= least
    if grows and price < product.ceiling[0]:
        share = margin_share(np.array([price]), product.unit_cost, fraud)[0]
        assert share >= policy.growth_margin_floor - 1e-9 * (1 + product.unit_cost[0] / price)
    least, ceiling = float(least), float(product.ceiling[0])  # whose sums may be infinite without a warning
    step = reach(last, policy.max_step_share, policy, product.max_step[0])
    forced = max(step[0] - ceiling, least - step[1], 0.0)
    assert outside(price, *step) <= forced + around(last), "no further than floor and ceiling make it go"
    step_low, step_high = np.clip(step, least, ceiling).tolist()
    daily = reach(day, policy.max_day_share, policy)
    forced = max(daily[0] - step_high, step_low - daily[1], 0.0)
    assert outside(price, *daily) <= forced + around(last, day), (
        "no further than the step, floor and ceiling make it go"
    )
    if points_inside(within, policy.price_step):
        assert price == np.round(np.rint(price / policy.price_step) * policy.price_step, 9)
    assert 0 < chosen.propensity[0] <= 1 + 1e-12

    again = repeated(chosen, np.array([held]), within, policy)
    if least <= held <= product.ceiling[0]:
        assert again.price[0] == held
    elif not np.isfinite(held):
        assert again.price[0] == price
    assert least <= again.price[0] <= product.ceiling[0]


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
    return stepped_range(low, high, low, high, floor, ceiling)


def stepped_range(
    step_low: float, step_high: float, low: float, high: float, floor: float = 0.0, ceiling: float = 1e9
) -> Limits:
    return Limits(*(np.array([each]) for each in (floor, ceiling, step_low, step_high, low, high)))


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        (5.0, [5.0, 10.0, 10.0, 11.0, 12.0, 12.0, 12.7]),
        (99.0, [99.0, 99.0, 30.0, 20.0, 14.05, 14.0, 12.7]),
        (13.26, [13.26, 13.26, 13.26, 13.26, 13.26, 13.3, 12.7]),
    ],
)
def test_guardrails_come_in_their_order(raw: float, path: list[float]) -> None:
    within = stepped_range(11.0, 20.0, 12.0, 14.05, floor=10.0, ceiling=30.0)
    assert guarded(np.array([raw]), within, 0.1, held=np.array([12.7]))[0].tolist() == path
    assert len(path) == 1 + len(GUARDRAILS)


def test_a_range_without_a_price_point_keeps_the_price() -> None:
    assert guarded(np.array([7.0]), range_of(7.02, 7.08), 0.1)[0, -1] == 7.02


def test_a_price_that_is_not_a_number_becomes_the_dearest_allowed() -> None:
    assert guarded(np.array([np.nan]), range_of(3.0, 4.0), 0.5)[0].tolist() == [4.0] * 7


def test_the_step_lets_a_cheap_product_move_by_a_point() -> None:
    product = Terms(*(np.array([each]) for each in (0.5, 0.1, 0.1, 9.0, 5.0)))
    within = limits(product, np.array([0.5]), "margin", POLICY)
    assert (within.low[0], within.high[0]) == (0.4, 0.6)


def limits_of(last: float, day: float, share: float = 0.3, floor: float = 1.0) -> tuple[float, float]:
    """Prices that are left to a product between floor and 1,000 whose largest step is 5."""
    product = Terms(*(np.array([each]) for each in (50.0, 0.1, floor, 1_000.0, 5.0)))
    policy = POLICY.model_copy(update={"max_day_share": share})
    within = limits(product, np.array([last]), "margin", policy, np.array([day]))
    return float(within.low[0]), float(within.high[0])


def test_a_day_has_its_own_largest_step() -> None:
    assert limits_of(64.0, 50.0) == (59.0, 65.0), "at most 30 % over what the day began with"
    assert limits_of(36.0, 50.0) == (35.0, 41.0)
    assert limits_of(50.0, 50.0) == (45.0, 55.0), "the smaller step counts"
    assert limits_of(50.0, np.nan) == (45.0, 55.0)


def test_outside_the_days_range_the_price_comes_as_near_as_one_step_allows() -> None:
    assert limits_of(100.0, 50.0) == (95.0, 95.0)
    assert limits_of(20.0, 50.0) == (23.0, 23.0)
    assert limits_of(100.0, 50.0, floor=98.0) == (98.0, 98.0), "and the floor goes before both"


def test_a_day_lets_a_cheap_product_move_by_a_point() -> None:
    product = Terms(*(np.array([each]) for each in (0.2, 0.1, 0.1, 9.0, 5.0)))
    within = limits(product, np.array([0.2]), "margin", POLICY, np.array([0.2]))
    np.testing.assert_allclose((within.low[0], within.high[0]), (0.1020408, 0.3), rtol=1e-6)


def held_to(held: float, floor: float = 3.0) -> float:
    within = range_of(3.5, 4.0, floor=floor, ceiling=9.0)
    chosen = choose(offered_of(3.7, 0.0), np.array([0.5]))
    return float(repeated(chosen, np.array([held]), within, POLICY).price[0])


def test_a_price_that_is_held_is_shown_again_wherever_the_steps_are_by_now() -> None:
    assert held_to(8.4) == 8.4
    assert held_to(8.43) == 8.43, "one without a price point in its range was shown like this"
    assert held_to(np.nan) == held_to(np.inf) == 3.7


def test_floor_and_ceiling_hold_for_what_is_held_too() -> None:
    assert held_to(20.0) == 9.0
    assert held_to(2.0, floor=3.03) == 3.1, "a price point"


def test_a_repeated_price_keeps_how_the_new_one_came_about() -> None:
    chosen = choose(offered_of(3.3, 1.0), np.array([0.999]))
    again = repeated(chosen, np.array([3.2]), range_of(3.0, 4.0), POLICY)
    assert again.path[0].tolist() == [*chosen.path[0, :-1].tolist(), 3.2]
    assert (again.raw[0], again.propensity[0], again.exploration[0]) == (4.0, 0.5, True)


@pytest.mark.parametrize(
    ("floor", "cost", "step", "least"),
    [
        (np.nan, np.nan, 5.0, 0.0),
        (40.0, np.nan, 5.0, 40.0),
        (-np.inf, np.inf, np.nan, 80.0),
        (90.0, np.nan, -1.0, 80.0),
        (np.inf, 0.0, 0.0, 80.0),
    ],
)
def test_terms_that_are_no_numbers_bound_nothing(
    floor: float, cost: float, step: float, least: float
) -> None:
    product = Terms(*(np.array([each]) for each in (50.0, cost, floor, 80.0, step)))
    for last in (np.nan, np.inf, 0.0, -1.0, 60.0):
        within = limits(product, np.array([last]), "margin", POLICY, np.array([last]))
        price = guarded(np.array([70.03]), within, 0.1)[0, -1]
        assert within.floor[0] == least
        assert least <= within.low[0] <= price <= within.high[0] <= 80.0


def test_objectives_choose_what_they_say() -> None:
    prices = np.array([[10.0, 12.0, 14.0, 20.0]])
    chance = np.array([[0.9, 0.8, 0.5, 0.3]])
    cost = np.array([9.5])

    def chosen(objective: Objective) -> float:
        return float(best(prices, worth(prices, chance, cost, objective, POLICY))[0])

    assert chosen("revenue") == 12.0
    assert chosen("margin") == 20.0
    assert chosen("growth") == 12.0, "10.0 sells more, but leaves only 5 % margin"


PRICES = np.array([[10.0, 12.0, 14.0, 20.0]])
CHANCE = np.array([[0.9, 0.8, 0.5, 0.3]])
COST = np.array([9.5])


def test_a_mix_lies_between_its_parts() -> None:
    """By hand: at 10, 12, 14 and 20 margin is .45, 2, 2.25, 3.15, revenue 9, 9.6, 7, 6."""

    def chosen(objective: Objective) -> float:
        return float(best(PRICES, worth(PRICES, CHANCE, COST, objective, POLICY, list_price=15.0))[0])

    mixed = worth(PRICES, CHANCE, COST, "0.7 margin + 0.3 revenue", POLICY)
    np.testing.assert_allclose(mixed, [[3.015, 4.28, 3.675, 4.005]])
    assert chosen("0.7 margin + 0.3 revenue") == 12.0
    assert chosen("0.8 margin + 0.2 revenue") == 20.0
    assert chosen("0.5 margin + 0.5 growth") == 12.0, "0.8 units more weigh 12, and 10.0 leaves 5 % margin"
    assert chosen("0.99 margin + 0.01 growth") == 20.0


@given(mixes, amount, st.floats(0, 100), st.floats(0, 1e4))
def test_a_mix_is_worth_its_parts_by_their_shares(
    mix: Objective, price: float, units: float, later: float
) -> None:
    of = np.array([price]), np.array([units]), np.array([7.0])
    parts = {name: value(*of, name, list_price=30.0)[0] for name in ("margin", "revenue", "growth")}
    expected = sum(share * parts[name] for name, share in weights(mix).items()) - later * units
    found = value(*of, mix, later, 30.0)[0]
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-9 * (1 + price + later) * (1 + units))


def test_growth_alone_is_units_and_in_a_mix_units_at_the_list_price() -> None:
    assert value(PRICES, CHANCE, COST, "growth").tolist() == CHANCE.tolist()
    mixed = value(PRICES, CHANCE, COST, "0.5 revenue + 0.5 growth", list_price=40.0)
    np.testing.assert_allclose(mixed, CHANCE * (0.5 * PRICES + 0.5 * 40.0))


@given(mixes.filter(lambda mix: "growth" in mix), st.floats(0, 1e3), losses)
def test_a_mix_with_growth_takes_no_price_that_leaves_too_little(
    mix: Objective, later: float, fraud: FraudLoss
) -> None:
    worths = worth(PRICES, CHANCE, COST, mix, POLICY, later, 15.0, fraud.of_rows)
    keeps = margin_share(PRICES, COST, fraud.of_rows) >= POLICY.growth_margin_floor
    if keeps.any() and not keeps.all():
        assert worths[keeps].min() > worths[~keeps].max()
    missing = margin_share(PRICES, COST, fraud.of_rows)[~keeps]
    assert (np.diff(worths[~keeps]) >= 0).all() == (np.diff(missing) >= 0).all(), "the nearest is the best"


def test_the_margin_of_a_sale_is_less_its_loss_to_fraud() -> None:
    """Of a hundred sales at 50 of what costs 30, two are frauds: 98 earn 20, two lose 30 and a fee of 15."""
    fraud = FraudLoss(np.array([0.02]), 1.0, 15.0)
    price, cost = np.array([50.0]), np.array([30.0])
    assert margin(price, cost, fraud)[0] == pytest.approx((98 * 20 - 2 * (30 + 15)) / 100)
    assert margin(price, cost, FraudLoss(np.array([1.0]), 1.0, 15.0))[0] == -45.0
    assert margin(price, cost)[0] == 20.0
    assert margin_share(price, cost, fraud)[0] == pytest.approx(margin(price, cost, fraud)[0] / 50)
    least = least_price(cost, 0.1, fraud)
    assert margin_share(least, cost, fraud)[0] == pytest.approx(0.1)
    assert least_price(cost, 0.5, FraudLoss(np.array([0.5]), 1.0, 0.0))[0] == np.inf


FRAUD_COSTS: FraudPolicy = load().fraud


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 100), amount)
def test_the_loss_is_what_the_fraud_policy_expects_of_approving(
    probability: float, share: float, fee: float, price: float
) -> None:
    costs = FRAUD_COSTS.model_copy(update={"loss_share": share, "chargeback_fee": fee})
    likely, paid = np.array([probability]), np.array([price])
    expected = expected_costs(likely, paid, costs)[0, APPROVE]
    assert FraudLoss.of(likely, costs).expected(paid)[0] == pytest.approx(expected, rel=1e-12)


def test_fraud_makes_margin_dearer_and_leaves_revenue_alone() -> None:
    """At a constant elasticity of -2 margin's best price is twice the unit's cost over what fraud leaves."""
    prices = np.linspace(10.0, 100.0, 901)[None]
    chance = prices**-2.0
    lossy = FraudLoss(np.array([[0.1]]), 1.0, 15.0)

    def chosen(objective: Objective, fraud: FraudLoss) -> float:
        return float(best(prices, worth(prices, chance, np.array([20.0]), objective, POLICY, fraud=fraud))[0])

    assert chosen("margin", NO_FRAUD) == pytest.approx(40.0, abs=0.06)
    assert chosen("margin", lossy) == pytest.approx(2 * (20.0 + 1.5) / 0.9, abs=0.06)
    assert chosen("revenue", lossy) == chosen("revenue", NO_FRAUD)
    assert chosen("growth", NO_FRAUD) == pytest.approx(20.0 / 0.9, abs=0.1)
    assert chosen("growth", lossy) == pytest.approx(21.5 / 0.8, abs=0.1), "the floor is of the same margin"


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


@pytest.mark.slow
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
