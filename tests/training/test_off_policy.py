"""Judging a policy from logs, on a market where the truth is known."""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import pytest
from scipy.stats import skew

from features.state import Floats, Ints
from infra.errors import UserError
from infra.settings import PricingPolicy, load
from ingestion.simulators.columns import take
from ingestion.simulators.market import Market, MarketProcess
from training.off_policy import DOUBLE, INVERSE, NORMALISED, Judgement, Logged, Support, effective_size, judge
from training.pricing_policy import Offers, Terms, choose, limits, offers, trials

pytestmark = pytest.mark.slow

LOGS, QUOTES = 200, 2_000
ALL = (INVERSE, NORMALISED, DOUBLE)


@dataclass(frozen=True)
class World:
    """Every kind of quote there is, both policies, and what each price is truly worth."""

    cost: Floats
    old: Offers
    new: Offers
    bought_old: Floats
    """True chance of purchase at each of the old policy's prices."""
    model_old: Floats
    """A wrong model's chance there."""
    model_new: Floats
    truth_old: float
    truth_new: float

    def log(self, rng: np.random.Generator) -> Logged:
        """One log: quotes drawn from all, a price drawn for each, bought or not."""
        rows = rng.integers(0, len(self.cost), QUOTES)
        old, new = picked(self.old, rows), picked(self.new, rows)
        shown = choose(old, rng.random(QUOTES))
        at = (old.price == shown.price[:, None]).argmax(axis=1)[:, None]
        bought = rng.random(QUOTES) < np.take_along_axis(self.bought_old[rows], at, axis=1)[:, 0]
        margin = shown.price - self.cost[rows]
        believed = np.take_along_axis(self.model_old[rows], at, axis=1)[:, 0]
        of_new = self.model_new[rows] * (new.price - self.cost[rows][:, None])
        return Logged(
            worth=margin * bought,
            propensity=shown.propensity,
            chance=new.propensity(shown.price),
            unsupported=unseen(old, new),
            expected_shown=margin * believed,
            expected_new=(new.chance * of_new).sum(axis=1),
        )


def picked(offered: Offers, rows: Ints) -> Offers:
    return Offers(offered.path[rows], offered.chance[rows], offered.wanted)


def unseen(old: Offers, new: Offers) -> Floats:
    """The new policy's chance of prices that the old one never shows."""
    seen = (new.price[:, :, None] == old.price[:, None, :]) & (old.chance > 0)[:, None, :]
    found: Floats = np.where(seen.any(axis=2), 0.0, new.chance).sum(axis=1)
    return found


def policy(**changed: float) -> PricingPolicy:
    """Price points of which exploration tries every one within the limits."""
    usual = {"exploration_share": 0.4, "candidates": 5, "price_step": 0.1}
    return load().pricing.model_copy(update={**usual, **changed})


def world_of(market: Market, wanted_old: float, wanted_new: float, chosen: PricingPolicy) -> World:
    """Two policies that want these shares of the list price; both explore around the same last price."""
    quotes = market.quotes(6)
    mine = take(market.products, quotes.product)
    terms = Terms(mine.list_price, mine.unit_cost, mine.floor, mine.ceiling, mine.list_price)
    within = limits(terms, mine.list_price, "margin", chosen)
    tried = trials(within, chosen)
    nearest = {share: tried[:, [round(share * (tried.shape[1] - 1))]] for share in (wanted_old, wanted_new)}
    old, new = (
        offers(nearest[wanted_old], tried, within, chosen),
        offers(nearest[wanted_new], tried, within, chosen.model_copy(update={"exploration_share": 0.1})),
    )
    chances = [
        np.column_stack([market.probability(quotes, price) for price in each.price.T]) for each in (old, new)
    ]
    truths = [
        float((each.chance * (each.price - mine.unit_cost[:, None]) * chance).sum(axis=1).mean())
        for each, chance in zip((old, new), chances, strict=True)
    ]
    wrong = [0.5 * chance + 0.1 for chance in chances]
    return World(mine.unit_cost, old, new, chances[0], *wrong, *truths)


@lru_cache
def world() -> World:
    return world_of(Market(MarketProcess(seed=4, quotes_per_day=300)), 0.5, 1.0, policy())


@lru_cache
def judgements() -> list[Judgement]:
    rng = np.random.default_rng(1)
    return [judge(world().log(rng)) for _ in range(LOGS)]


@pytest.mark.parametrize("name", ALL)
def test_intervals_cover_the_truth_in_19_of_20_logs(name: str) -> None:
    """The truth is the mean over all quotes that a log is drawn from."""
    found = [each.estimates[name] for each in judgements()]
    truth, gain = world().truth_new, world().truth_new - world().truth_old
    assert abs(gain) > 0.02 * truth, "a difference worth finding"
    assert 0.90 <= np.mean([each.worth.low <= truth <= each.worth.high for each in found]) <= 0.98
    assert 0.90 <= np.mean([each.gain.low <= gain <= each.gain.high for each in found]) <= 0.98


def test_the_logging_policys_own_worth_is_covered() -> None:
    held = [each.logged.low <= world().truth_old <= each.logged.high for each in judgements()]
    assert 0.90 <= np.mean(held) <= 0.98


@pytest.mark.parametrize("name", ALL)
def test_estimates_are_unbiased(name: str) -> None:
    """Within four standard errors of the mean of all logs; the logging policy's own worth is far outside."""
    found = np.array([each.estimates[name].worth.value for each in judgements()])
    error = found.std() / np.sqrt(LOGS)
    assert abs(found.mean() - world().truth_new) < 4 * error
    assert abs(found.mean() - world().truth_old) > 8 * error


def test_a_model_makes_it_surer_and_normalising_too() -> None:
    """The model is wrong everywhere by half, and yet it helps."""
    width = {
        name: np.mean(
            [each.estimates[name].worth.high - each.estimates[name].worth.low for each in judgements()]
        )
        for name in ALL
    }
    assert width[DOUBLE] < width[NORMALISED] < width[INVERSE]


def test_pairs_are_surer_than_two_intervals() -> None:
    for each in judgements()[:20]:
        found = each.estimates[DOUBLE]
        apart = np.hypot(found.worth.high - found.worth.low, each.logged.high - each.logged.low)
        assert found.gain.high - found.gain.low < apart


def test_the_same_policy_gains_nothing() -> None:
    log = world().log(np.random.default_rng(3))
    found = judge(replace(log, chance=log.propensity, expected_shown=None, expected_new=None))
    assert found.effective_size == pytest.approx(QUOTES)
    assert found.conclusion == "no difference seen"
    for each in found.estimates.values():
        assert each.worth == found.logged
        assert (each.gain.low, each.gain.high) == pytest.approx((0.0, 0.0), abs=1e-12)


def test_prices_that_the_log_never_showed_are_refused() -> None:
    """The new policy's prices lie between those that were logged, but for those both explore."""
    seen = world()
    between = replace(seen.new, path=seen.new.path + 0.05)
    log = replace(seen, new=between).log(np.random.default_rng(5))
    assert log.chance.sum() == 0.0
    found = judge(log)
    assert found.estimates == {}
    assert found.best is None
    assert found.conclusion == "cannot be judged"
    assert found.unsupported == 1.0
    assert "100.0 % of what the new policy would show was never shown" in found.refusals[0]


@pytest.mark.parametrize("known", [True, False])
def test_part_of_the_prices_missing(known: bool) -> None:
    """A fifth of the quotes get a price that nobody ever saw: told, or found by the mean weight."""
    log = world().log(np.random.default_rng(6))
    gone = np.arange(QUOTES) % 5 == 0
    told = gone.astype(np.float64) if known else None
    found = judge(replace(log, chance=np.where(gone, 0.0, log.propensity), unsupported=told))
    assert found.unsupported == pytest.approx(0.2, abs=0.001)
    assert "20.0 % of what" in found.refusals[0]
    lenient = judge(
        replace(log, chance=np.where(gone, 0.0, log.propensity), unsupported=told),
        Support(most_unsupported=0.25),
    )
    assert lenient.refusals == ()


def test_few_quotes_that_speak_of_the_new_policy_are_refused() -> None:
    log = world().log(np.random.default_rng(7))
    some = replace(log, **{name: each[:120] for name, each in vars(log).items() if each is not None})
    found = judge(some)
    assert found.effective_size < 60
    assert found.refusals == (
        f"the log has as much to say as {found.effective_size:,.0f} quotes of the new policy's own,"
        " expected at least 100",
    )


def test_propensities_that_cannot_be_right_are_refused() -> None:
    log = world().log(np.random.default_rng(8))
    for factor in (0.5, 2.0):
        off = replace(log, propensity=np.minimum(log.propensity * factor, 1.0), unsupported=np.zeros(QUOTES))
        assert any("propensities cannot be right" in each for each in judge(off).refusals), factor
    assert judge(replace(log, unsupported=np.zeros(QUOTES))).refusals == ()


def test_better_and_worse() -> None:
    log = world().log(np.random.default_rng(9))
    same = replace(log, chance=log.propensity)
    good = replace(same, expected_new=log.worth + 3.0, expected_shown=log.worth)
    assert judge(good).conclusion == "better"
    assert judge(replace(good, expected_new=log.worth - 3.0)).conclusion == "worse"


def test_by_hand() -> None:
    """Four quotes; weights 2, 0, 1, 1."""
    log = Logged(
        worth=np.array([3.0, 5.0, 1.0, 0.0]),
        propensity=np.array([0.5, 0.5, 0.25, 1.0]),
        chance=np.array([1.0, 0.0, 0.25, 1.0]),
        expected_shown=np.array([2.0, 4.0, 1.0, 1.0]),
        expected_new=np.array([2.0, 3.0, 1.0, 1.0]),
    )
    found = judge(log, Support(least_size=2.0))
    values = {name: each.worth.value for name, each in found.estimates.items()}
    assert values == {INVERSE: 7 / 4, NORMALISED: 7 / 4, DOUBLE: (4 + 3 + 1 + 0) / 4}
    assert found.logged.value == 9 / 4
    assert found.effective_size == effective_size(np.array([2.0, 0.0, 1.0, 1.0])) == 16 / 6
    half = 1.96 * np.sqrt(np.var([4.0, 3.0, 1.0, 0.0], ddof=1) / 4)
    assert found.estimates[DOUBLE].worth.high == pytest.approx(2.0 + half)
    gain = np.array([4.0 - 3.0, 3.0 - 5.0, 1.0 - 1.0, 0.0])
    for side, bound in ((1.96, found.estimates[DOUBLE].gain.low), (-1.96, found.estimates[DOUBLE].gain.high)):
        assert halls((gain.mean() - bound) / (gain.std(ddof=1) / 2), skew(gain) / 2) == pytest.approx(side)


def halls(t: float, skewness: float) -> float:
    """What Hall (1992) makes of a studentised mean, so that it is nearly normal."""
    return t + skewness * t**2 / 3 + skewness**2 * t**3 / 27 + skewness / 6


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"propensity": np.array([0.0, 1.0])}, "propensities above 0"),
        ({"propensity": np.array([1.2, 1.0])}, "at most 1, got 1 to 1.2"),
        ({"propensity": np.array([np.nan, 1.0])}, "propensity lacks some"),
        ({"chance": np.array([-0.1, 1.0])}, "chances from 0"),
        ({"worth": np.empty(0)}, "got none"),
    ],
)
def test_what_is_no_log_is_refused(changed: dict[str, Floats], reason: str) -> None:
    log = Logged(worth=np.ones(2), propensity=np.ones(2), chance=np.ones(2))
    with pytest.raises(UserError, match=reason):
        judge(replace(log, **changed))
