"""Curves pooled over products find the demand behind the purchases, and doubt what they can't know."""

import json

import numpy as np
import pytest

from features.pricing import PRICING
from features.state import Floats
from tests.payments import same_bits
from training import demand_curve
from training.demand_curve import DemandCurve, fit, from_json, price_term

AT = {name: PRICING.names.index(name) for name in PRICING.names}
WEB, APP = 10.0, 20.0

pytestmark = pytest.mark.slow


def quotes(n: int, seed: int, products: int = 6) -> Floats:
    """Rows of products 0, 1, ... in categories 0 and 1, at prices between 0.6 and 1.6 of the list price."""
    rng = np.random.default_rng(seed)
    matrix = np.full((n, len(PRICING.names)), np.nan)
    product = rng.integers(0, products, n)
    matrix[:, AT["product_code"]], matrix[:, AT["category_code"]] = product, product % 2
    matrix[:, AT["segment_code"]] = np.where(rng.random(n) < 0.5, WEB, APP)
    matrix[:, AT["weekday"]] = rng.integers(0, 7, n)
    matrix[:, AT["price_to_list"]] = np.exp(rng.uniform(np.log(0.6), np.log(1.6), n))
    return matrix


def chance(matrix: Floats, level: float | Floats = 1.0) -> Floats:
    """True chance: product p has a slope of -(1.5 + p / 2), apps sell more, all move with the level."""
    product, app = matrix[:, AT["product_code"]], matrix[:, AT["segment_code"]] == APP
    slope = -(1.5 + product / 2)
    odds = slope * np.log(matrix[:, AT["price_to_list"]] / level) + 0.4 * app - 0.5
    return 1.0 / (1.0 + np.exp(-odds))


def bought(matrix: Floats, seed: int, level: float | Floats = 1.0) -> Floats:
    found: Floats = (np.random.default_rng(seed).random(len(matrix)) < chance(matrix, level)).astype(float)
    return found


def told(curve: DemandCurve, matrix: Floats) -> Floats:
    return 1.0 / (1.0 + np.exp(-curve.log_odds(matrix)))


@pytest.fixture(scope="module")
def curve() -> DemandCurve:
    matrix = quotes(20_000, 1)
    return fit(matrix, bought(matrix, 2), seed=3)


def test_it_finds_the_demand_of_each_product_and_segment(curve: DemandCurve) -> None:
    asked = quotes(4_000, 4)
    assert np.abs(told(curve, asked) - chance(asked)).mean() < 0.025


def test_a_price_that_is_not_known_counts_as_the_list_price(curve: DemandCurve) -> None:
    nothing = np.full((1, len(PRICING.names)), np.nan)
    at_list = nothing.copy()
    at_list[:, AT["price_to_list"]] = 1.0
    assert np.isfinite(curve.believed(nothing)).all()
    assert same_bits(curve.believed(nothing), curve.believed(at_list))


def test_each_product_has_a_shape_of_its_own() -> None:
    """A straight line in the price, and one in its logarithm, side by side; weekdays move both along it."""
    matrix = quotes(20_000, 14, products=2)
    asked = quotes(4_000, 15, products=2)

    def truth(rows: Floats) -> Floats:
        x = rows[:, AT["price_to_list"]] / np.where(rows[:, AT["weekday"]] >= 5, 1.3, 1.0)
        odds = np.where(rows[:, AT["product_code"]] == 0, -4.0 * np.log(x), -4.0 * (x - 1.0)) - 0.5
        return 1.0 / (1.0 + np.exp(-odds))

    bought_ones = (np.random.default_rng(16).random(len(matrix)) < truth(matrix)).astype(float)
    off = np.abs(told(fit(matrix, bought_ones, seed=1), asked) - truth(asked))
    assert max(off[asked[:, AT["product_code"]] == product].mean() for product in (0, 1)) < 0.013


@pytest.mark.parametrize("slope", [-8.0, -2.0, -0.3, 0.0, 3.0])
@pytest.mark.parametrize("bend", [-9.0, -1.0, 0.0, 1e-9, 1.0, 9.0])
def test_the_price_term_falls_everywhere(slope: float, bend: float) -> None:
    at = np.exp(np.linspace(np.log(0.01), np.log(100.0), 4_000))
    each = np.diff(price_term(at, np.array(slope), np.array(bend))) / np.diff(np.log(at))
    assert each.max() <= demand_curve.FLATTEST + 1e-6
    inside = (at > demand_curve.LOWEST) & (at < demand_curve.HIGHEST)
    wanted = slope + bend * (at - 1.0)
    free = (inside & (wanted < demand_curve.FLATTEST))[:-1] & (inside & (wanted < demand_curve.FLATTEST))[1:]
    np.testing.assert_allclose(each[free], wanted[:-1][free], atol=0.05)


def test_no_draw_rises_with_the_price(curve: DemandCurve) -> None:
    asked = quotes(200, 5)
    dearer = asked.copy()
    dearer[:, AT["price_to_list"]] *= 1.1
    assert (curve.believed(dearer) < curve.believed(asked)).all()


def test_the_truth_lies_among_the_draws() -> None:
    """Of each product's slope, over twenty logs: standardised errors of about one."""
    errors = []
    for seed in range(20):
        matrix = quotes(3_000, 100 + seed)
        found = fit(matrix, bought(matrix, 200 + seed), seed=seed)
        rows = np.array([matrix[matrix[:, AT["product_code"]] == product][0] for product in range(6)])
        low, high = rows.copy(), rows.copy()
        low[:, AT["price_to_list"]], high[:, AT["price_to_list"]] = 1.0, np.e
        slopes = found.believed(high)[1:] - found.believed(low)[1:]
        truth = -(1.5 + np.arange(6) / 2)
        errors.append((slopes.mean(axis=0) - truth) / slopes.std(axis=0, ddof=1))
    spread = np.sqrt(np.mean(np.array(errors) ** 2))
    assert 0.7 < spread < 1.6


def test_a_new_product_borrows_from_its_category_and_the_others() -> None:
    matrix = quotes(20_000, 6, products=8)
    kept = matrix[matrix[:, AT["product_code"]] != 4]
    found = fit(kept, bought(kept, 7), seed=1)
    fresh = quotes(2_000, 8, products=8)
    fresh = fresh[fresh[:, AT["product_code"]] == 4]
    mean_of_others = bought(kept, 7).mean()
    assert np.abs(told(found, fresh) - chance(fresh)).mean() < 0.06
    assert np.abs(mean_of_others - chance(fresh)).mean() > 0.12


def test_a_shift_of_demand_moves_the_curve_along_the_price() -> None:
    matrix = quotes(16_000, 9)
    level = np.where(np.arange(len(matrix)) < 12_000, 1.0, 0.7)
    found = fit(matrix, bought(matrix, 10, level), seed=1)
    asked = quotes(3_000, 11)
    assert np.abs(told(found, asked) - chance(asked, 0.7)).mean() < 0.03
    assert np.abs(told(found, asked) - chance(asked, 1.0)).mean() > 0.08
    assert found.level_now[0] == pytest.approx(1 / 0.7, abs=0.15)


def test_json_keeps_it(curve: DemandCurve) -> None:
    again = from_json(json.loads(json.dumps(curve.as_json(), allow_nan=False)))
    asked = quotes(100, 12)
    np.testing.assert_array_equal(again.log_odds(asked), curve.log_odds(asked))
    np.testing.assert_array_equal(again.believed(asked), curve.believed(asked))


@pytest.mark.parametrize("n", [1, 30])
def test_few_quotes_give_the_usual_slope_with_much_doubt(n: int) -> None:
    matrix = quotes(n, 13)
    found = fit(matrix, np.zeros(n), seed=1)
    low, high = matrix[:1].copy(), matrix[:1].copy()
    low[:, AT["price_to_list"]], high[:, AT["price_to_list"]] = 1.0, np.e
    slopes = (found.believed(high)[1:] - found.believed(low)[1:])[:, 0]
    assert slopes.std() > 0.3
    assert demand_curve.STEEPEST <= slopes.min() <= slopes.max() <= demand_curve.FLATTEST
