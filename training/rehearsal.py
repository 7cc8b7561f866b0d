"""Continual pricing rehearsed on a simulated market: from nothing, learning on, against who knows demand.

Quotes are priced some at a time by what was known at the time: states folded from quotes and from outcomes
that had arrived, the model of the last retraining on matured quotes. What is earned is expected money under
the market's true demand, so that the luck of single purchases does not blur it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from features.pricing import OUTCOME, PRICING, PRODUCT, QUOTE, event_values, request_columns
from features.state import Events, Flags, Floats, Ints, States, fold
from infra.settings import PricingPolicy
from ingestion.simulators.columns import DAY_US, take
from ingestion.simulators.market import CATEGORIES, Family, Market, MarketProcess, Quotes
from training import demand_model, quoting
from training.card import Card, Trained
from training.pricing_policy import Terms, choose
from training.quoting import Asked, Demand

AT_ONCE = 50
"""Quotes priced with the same states."""
FIRST, EVERY = 500, 2_000
"""Quotes before the first training, and between two."""

type_of_training = Callable[[Floats, Floats, Ints], Demand]
"""From features of matured quotes, whether each was bought, and their times to a model."""


def _trained(matrix: Floats, bought: Floats, time_us: Ints) -> Demand:
    ends = int(time_us[0]), int(time_us[-1])
    card = Card(PRICING.domain, "", PRICING.names, PRICING.hash, Trained(*ends, ends[1], len(bought)))
    return demand_model.with_doubt(demand_model.train(matrix, bought, card), matrix, 1.0)


@dataclass(frozen=True)
class Rehearsed:
    """Every quote of a rehearsal in order; money is expected under the true demand."""

    event_time_us: Ints
    price: Floats
    earned: Floats
    best: Floats
    """By who knows the demand, within floor and ceiling."""
    at_list_price: Floats
    without_exploration: Floats
    """Had the policy shown what it believes to be best."""
    off: Flags
    """Whether the product's list price is far from its best."""
    trainings: int

    def share(self, part: slice = slice(None)) -> float:
        """Of the best possible, over some of the quotes."""
        return float(self.earned[part].sum() / self.best[part].sum())

    def quarters(self) -> list[float]:
        """The share in each quarter of the quotes."""
        edges = np.linspace(0, len(self.earned), 5).astype(int)
        return [self.share(slice(a, b)) for a, b in pairwise(edges)]

    @property
    def last_quarter(self) -> slice:
        """The newest fourth of the quotes."""
        return slice(3 * len(self.earned) // 4, None)

    @property
    def exploration_cost(self) -> float:
        """Share of the margin that exploration gave up, the start around the list price included."""
        whole = self.without_exploration.sum()
        return float((whole - self.earned.sum()) / whole)

    @property
    def gain_where_off(self) -> float:
        """What the last quarter earned above the list price, of products whose list price is far off."""
        rows = np.flatnonzero(self.off[self.last_quarter]) + self.last_quarter.start
        return float(self.earned[rows].sum() / self.at_list_price[rows].sum() - 1.0)

    def recovery(self, day: int, block: int, enough: float) -> int | None:
        """Quotes after the beginning of a day until a block of them earns enough again; None if none does."""
        first_us = (self.event_time_us[0] // DAY_US + day) * DAY_US
        first = int(np.searchsorted(self.event_time_us, first_us))
        for start in range(first, len(self.earned) - block + 1, block):
            if self.share(slice(start, start + block)) >= enough:
                return start + block - first
        return None


@dataclass(frozen=True)
class Scenario:
    """A market to be priced."""

    family: Family
    seed: int
    quotes: int = 40_000
    shift_day: int | None = None
    """From this day on buyers are willing to pay `shift_factor` times as much."""
    shift_factor: float = 2 / 3

    def market(self) -> Market:
        """Ten products, of which six have a list price that is off by a third."""
        shift = {"shift_first_day": self.shift_day, "shift_factor": self.shift_factor}
        return Market(MarketProcess(self.seed, family=self.family, **shift))  # type: ignore[arg-type]


def played(scenario: Scenario, policy: PricingPolicy) -> Rehearsed:
    """Price such a market with the demand model of the pricing task."""
    market = scenario.market()
    days = math.ceil(1.3 * scenario.quotes / market.process.quotes_per_day) + 2
    quotes = market.quotes(days)
    return rehearse(market, take(quotes, np.arange(len(quotes)) < scenario.quotes), policy, scenario.seed)


def rehearse(
    market: Market, quotes: Quotes, policy: PricingPolicy, seed: int, train: type_of_training = _trained
) -> Rehearsed:
    """Price the quotes in their order, learning as they go."""
    return _Rehearsal(market, quotes, policy, train, seed).run()


class _Rehearsal:
    """One run."""

    def __init__(
        self, market: Market, quotes: Quotes, policy: PricingPolicy, train: type_of_training, seed: int
    ) -> None:
        self._market, self._quotes, self._policy, self._train = market, quotes, policy, train
        off = {"exploration_share": 0.0, "exploration_at_start": 0.0, "thompson": False}
        self._certain = policy.model_copy(update=off)
        self._draws = np.random.default_rng(seed).random(len(quotes))
        self._terms, self._columns = _terms(market, quotes), _columns(market, quotes)
        self._arrives_us = market.outcome_time_us(quotes)
        self._states = States.cold(PRODUCT, len(market.products))
        self._matrix: list[Floats] = []
        self._price = np.empty(len(quotes))
        self._sure = np.empty(len(quotes))
        self._bought = np.empty(len(quotes))
        self._settled = 0
        self._folded = 0
        self._order = np.argsort(self._arrives_us, kind="stable")
        self._model: Demand | None = None
        self._trainings = 0

    def run(self) -> Rehearsed:
        """All quotes."""
        n = len(self._quotes)
        for start in range(0, n, AT_ONCE):
            self._settle(int(self._quotes.event_time_us[start]))
            self._learn(start)
            self._price_some(np.arange(start, min(start + AT_ONCE, n)))
        return self._result()

    def _settle(self, now_us: int) -> None:
        """Fold the outcomes that have arrived."""
        end = self._settled
        while end < len(self._order) and self._arrives_us[self._order[end]] <= now_us:
            end += 1
        rows, self._settled = self._order[self._settled : end], end
        self._fold(OUTCOME, rows, self._arrives_us[rows])

    def _learn(self, n: int) -> None:
        due = FIRST if self._trainings == 0 else FIRST + EVERY * self._trainings
        if n < due:
            return
        matrix = np.vstack(self._matrix)
        known = np.flatnonzero(self._arrives_us[:n] <= self._quotes.event_time_us[n])
        self._model = self._train(matrix[known], self._bought[known], self._quotes.event_time_us[known])
        self._trainings += 1

    def _price_some(self, rows: Ints) -> None:
        asked = self._asked(rows)
        found = None if self._model is None else quoting.curves(asked, self._model, self._policy)
        offered = quoting.offers(asked, found, self._policy)
        price = choose(offered, self._draws[rows]).price
        self._sure[rows] = quoting.offers(asked, found, self._certain).price[:, 0]
        self._price[rows] = price
        self._bought[rows] = self._market.purchase(take(self._quotes, rows), price)
        self._matrix.append(asked.matrix(price[:, None]))
        self._fold(QUOTE, rows, self._quotes.event_time_us[rows])

    def _asked(self, rows: Ints) -> Asked:
        return Asked(
            products=self._quotes.product_id[rows].tolist(),
            terms=Terms(*(each[rows] for each in vars(self._terms).values())),
            columns={name: value[rows] for name, value in self._columns.items()},
            states=self._states.columns[self._quotes.product[rows]],
            at_s=self._quotes.event_time_us[rows] / 1e6,
            objective=self._policy.objective,
        )

    def _fold(self, kind: int, rows: Ints, time_us: Ints) -> None:
        kinds = np.full(len(rows), kind)
        units = self._bought[rows] if kind == OUTCOME else np.full(len(rows), np.nan)
        values = event_values(kinds, self._price[rows], units, time_us)
        position = self._folded + np.arange(len(rows))
        self._folded += len(rows)
        fold(PRODUCT, self._states, Events(kinds, time_us, self._quotes.product[rows], position, values))

    def _result(self) -> Rehearsed:
        margin = self._margin
        shown = np.clip(self._terms.list_price, self._terms.floor, self._terms.ceiling)
        best = self._market.optimal(self._quotes, bounded=True).expected
        return Rehearsed(
            self._quotes.event_time_us, self._price, margin(self._price), best, margin(shown),
            margin(self._sure), self._off(), self._trainings,
        )  # fmt: skip

    def _off(self) -> Flags:
        """List prices that are off by a fifth or more from the best of a product's quotes."""
        products, best = self._market.products, self._market.optimal(self._quotes, bounded=True).price
        usual = np.array([np.median(best[self._quotes.product == row]) for row in range(len(products))])
        ratio = np.abs(np.log(products.list_price / usual))
        found: Flags = (ratio > np.log(1.2))[self._quotes.product]
        return found

    def _margin(self, price: Floats) -> Floats:
        return (price - self._terms.unit_cost) * self._market.probability(self._quotes, price)


def _terms(market: Market, quotes: Quotes) -> Terms:
    mine = take(market.products, quotes.product)
    return Terms(
        mine.list_price, mine.unit_cost, mine.floor, mine.ceiling, np.round(0.15 * mine.list_price, 2)
    )


def _columns(market: Market, quotes: Quotes) -> dict[str, Floats]:
    mine = take(market.products, quotes.product)
    context: Sequence[dict[str, Any]] = [
        {"competitor_price": competitor, "category": CATEGORIES[category]}
        for competitor, category in zip(quotes.competitor_price.tolist(), mine.category.tolist(), strict=True)
    ]
    words = (quotes.product_id.tolist(), quotes.segment.tolist())
    return request_columns(mine.list_price, mine.list_price, mine.unit_cost, words, context)
