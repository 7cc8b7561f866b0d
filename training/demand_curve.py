"""A demand curve for every product, pooled over products: what sells of one tells something of the others.

With r = price / list price, the log odds that a quote is bought are

    a + b · log x + d · (x - 1 - log x),    x = r / (level(t) · exp(c · z)),

where a, b and d are the sum of what is common to all, what the category adds and what the product adds
(partial pooling; Gelman and Hill 2007): with d = 0 they are a straight line in the logarithm of the price,
with d = b in the price itself. What changes the willingness to pay moves the curve along the price instead of
bending it: z is segment, competitor, weekday and time left, and level(t) is what buyers of all products are
willing to pay now against then, a random walk over blocks of quotes, 1 in the newest. All of it is one
penalised logistic regression by Gauss and Newton's method; the widths of the priors are estimated with it
(empirical Bayes), and the posterior is its Laplace approximation (MacKay 1992), from which `draws` are taken
for Thompson sampling. Curves fall with the price everywhere.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from features.pricing import PRICING
from features.state import Floats, Ints

DRAWS = 8
MOST_PRODUCTS, MOST_CATEGORIES, MOST_SEGMENTS = 100, 20, 8
"""The most frequent have terms of their own, the others have what is common."""
BLOCK, MOST_BLOCKS = 500, 40
"""Quotes in a block of time at least, and blocks at most."""
STEEPEST, FLATTEST = -12.0, -0.3
"""Bounds of a curve's slope: per cent of the odds lost for a per cent of price."""
USUAL_SLOPE = -2.5
"""Of b before anything is known; elasticities of consumer goods lie about there (Bijmolt et al. 2005)."""
USUAL_BEND = USUAL_SLOPE / 2
"""Of d: between a line in the logarithm of the price and one in the price."""
LOWEST, HIGHEST = 0.2, 3.0
"""Prices, as shares of the level, between which curves bend; they go straight on in the logarithm."""

MOST_ROWS = 60_000

_ROUNDS, _STEPS, _CLOSE = 5, 15, 1e-5
_LONGEST, _LONGEST_STEP, _FARTHEST = 2.0, 0.3, 1.5
"""Of a Newton step; of a step of the level in a round; of the level from 0, in logarithms."""
_CHEAPEST = 1e-3
_TERMS = 3
"""Of the price: a, b and d."""
_WEEK, _HOURS = 7, 24.0 * 30.0

_WIDTHS = (1.5, 0.3, 0.7, 1.0, 0.3, 0.5, 1.25, 0.5, 1.0, 0.5, 0.015)
"""Standard deviations to begin with: of a what is common, by category, by product; the same of b and of d; of
the context; of a step of the level."""
_CONTEXT, _LEVEL = 9, 10
_ESTIMATED, _GUESSES = (1, 2, 4, 5, 7, 8, _LEVEL), 2.0
"""Groups whose width is estimated, and how many coefficients the first guess counts for."""

_AT = {name: PRICING.names.index(name) for name in PRICING.names}


@dataclass(frozen=True)
class Terms:
    """Which words and columns have coefficients."""

    products: tuple[float, ...]
    """Codes, rising; so are the next two."""
    categories: tuple[float, ...]
    segments: tuple[float, ...]
    """But the most frequent one, against which the others are measured."""

    @property
    def pooled(self) -> int:
        """Coefficients of a, as many as of b and of d: common, by category, by product."""
        return 1 + len(self.categories) + len(self.products)

    def members(self, matrix: Floats) -> Floats:
        """Columns that a, b and d sum over, shape (n, pooled); a word without a coefficient is in none."""
        return np.hstack(
            [
                np.ones((len(matrix), 1)),
                _indicators(matrix[:, _AT["category_code"]], self.categories),
                _indicators(matrix[:, _AT["product_code"]], self.products),
            ]
        )

    def context(self, matrix: Floats) -> Floats:
        """Columns of z, shape (n, columns); what is not known is 0."""
        competitor = np.log(np.maximum(matrix[:, _AT["competitor_to_list"]], 1e-3))
        left = matrix[:, _AT["hours_to_departure"]] / _HOURS
        days = _indicators(matrix[:, _AT["weekday"]], tuple(range(1, _WEEK)))
        segments = _indicators(matrix[:, _AT["segment_code"]], self.segments)
        columns: Floats = np.hstack([segments, np.column_stack([competitor, left, left**2]), days])
        known: Floats = np.where(np.isnan(columns), 0.0, columns)
        return known


@dataclass(frozen=True)
class DemandCurve:
    """The curve that fits best, and others that may be as true."""

    terms: Terms
    best: Floats
    """Coefficients: a's, b's, d's, then those of z; shape (3 pooled + columns,)."""
    draws: Floats
    """The same drawn from the posterior, shape (k, 3 pooled + columns)."""
    level_now: Floats
    """Level of each block of time against the newest, for who wants to see how demand moved."""

    def log_odds(self, matrix: Floats) -> Floats:
        """Of a purchase, by the best coefficients, of each row of `PRICING`'s matrix; shape (n,).

        A price that is not known counts as the list price.
        """
        found: Floats = self._log_odds(matrix, self.best[None])[0]
        return found

    def believed(self, matrix: Floats) -> Floats:
        """The same by the best coefficients and by each draw, shape (1 + k, n)."""
        return self._log_odds(matrix, np.vstack([self.best, self.draws]))

    def _log_odds(self, matrix: Floats, each: Floats) -> Floats:
        members, pooled = self.terms.members(matrix), self.terms.pooled
        level, slope, bend = (members @ each[:, i * pooled : (i + 1) * pooled].T for i in range(_TERMS))
        willing = np.exp(self.terms.context(matrix) @ each[:, _TERMS * pooled :].T)
        price = matrix[:, _AT["price_to_list"], None]
        relative = np.where(np.isnan(price), 1.0, price) / willing
        found: Floats = (level + price_term(relative, slope, bend)).T
        return found

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "products": list(self.terms.products),
            "categories": list(self.terms.categories),
            "segments": list(self.terms.segments),
            "best": self.best.tolist(),
            "draws": self.draws.tolist(),
            "level_now": self.level_now.tolist(),
        }


def from_json(values: Mapping[str, Any]) -> DemandCurve:
    """What `as_json` gave."""
    words = (tuple(values[name]) for name in ("products", "categories", "segments"))
    arrays = (np.array(values[name]) for name in ("best", "draws", "level_now"))
    return DemandCurve(Terms(*words), *arrays)


def price_term(relative: Floats, slope: Floats, bend: Floats) -> Floats:
    """What a price adds to the log odds: b log x + d (x - 1 - log x), falling everywhere; shapes must fit.

    Where its slope in log x would be flatter than `FLATTEST`, it is that; below `LOWEST` and above `HIGHEST`
    it keeps the slope that it has there.
    """
    b, d = np.clip(slope, STEEPEST, -STEEPEST), np.clip(bend, STEEPEST, -STEEPEST)
    d = np.where(np.abs(d) < _CLOSE, -_CLOSE, d)
    flat = np.clip(1.0 + (FLATTEST - b) / d, LOWEST, HIGHEST)
    x = np.clip(relative, np.where(d > 0.0, LOWEST, flat), np.where(d > 0.0, flat, HIGHEST))
    tail = np.minimum(b + d * (x - 1.0), FLATTEST)
    beyond = np.log(np.maximum(relative, _CHEAPEST) / x)
    found: Floats = b * np.log(x) + d * (x - 1.0 - np.log(x)) + tail * beyond
    return found


def fit(matrix: Floats, bought: Floats, seed: int) -> DemandCurve:
    """Fit to quotes in order of time, of which the newest `MOST_ROWS` count.

    Args:
        matrix: columns of `PRICING`, shape (n, features).
        bought: 1.0 or 0.0, shape (n,).
        seed: of the draws.
    """
    newest = slice(-MOST_ROWS, None)
    problem = _problem(matrix[newest], bought[newest])
    return _curve(problem, _fitted(problem), np.random.default_rng(seed))


@dataclass(frozen=True)
class _Problem:
    """What a regression is given; columns are those of a, of b, of d, of z and of the level's steps."""

    terms: Terms
    price: Floats
    """As a share of the list price."""
    bought: Floats
    members: Floats
    context: Floats
    block: Ints
    group: Ints
    """Which of `_WIDTHS` each coefficient's prior has."""

    @property
    def steps(self) -> slice:
        """Coefficients of the level's steps."""
        return slice(_TERMS * self.terms.pooled + self.context.shape[1], None)

    @property
    def moves(self) -> slice:
        """Coefficients of what moves the curve along the price: those of z and the level's steps."""
        return slice(_TERMS * self.terms.pooled, None)

    def sums(self, weights: Floats) -> Floats:
        """a, b and d of each row, shape (3, n)."""
        pooled = self.terms.pooled
        each: Floats = weights[: _TERMS * pooled].reshape(_TERMS, pooled) @ self.members.T
        return each


@dataclass(frozen=True)
class _State:
    """Where a regression is."""

    weights: Floats
    """The steps among them are whole, not what was added last."""
    level: Floats
    """Logarithm for each block of time, 0 in the newest."""
    width: Floats
    """Standard deviation of each group's prior."""
    mean: Floats
    """Of each coefficient's prior."""
    hessian: Floats


def _problem(matrix: Floats, bought: Floats) -> _Problem:
    words = (
        ("product_code", MOST_PRODUCTS),
        ("category_code", MOST_CATEGORIES),
        ("segment_code", MOST_SEGMENTS),
    )
    products, categories, segments = (_frequent(matrix[:, _AT[name]], most) for name, most in words)
    terms = Terms(tuple(sorted(products)), tuple(sorted(categories)), tuple(sorted(segments[1:])))
    context, block = terms.context(matrix), _blocks(len(bought))
    pooled = [0] + [1] * len(terms.categories) + [2] * len(terms.products)
    terms_of_price = [each + 3 * term for term in range(_TERMS) for each in pooled]
    group = [*terms_of_price, *[_CONTEXT] * context.shape[1], *[_LEVEL] * int(block[-1])]
    price = np.maximum(matrix[:, _AT["price_to_list"]], _CHEAPEST)
    return _Problem(terms, price, bought, terms.members(matrix), context, block, np.array(group))


def _fitted(problem: _Problem) -> _State:
    """Alternate between the coefficients, the levels and the widths of the priors."""
    mean = np.zeros(len(problem.group))
    mean[[problem.terms.pooled, 2 * problem.terms.pooled]] = USUAL_SLOPE, USUAL_BEND
    blocks = int(problem.block[-1]) + 1
    state = _State(mean, np.zeros(blocks), np.array(_WIDTHS), mean, np.eye(len(mean)))
    for _ in range(_ROUNDS):
        state = _widened(problem, _moved(problem, state, _newton(problem, state)))
    return state


def _design(problem: _Problem, state: _State) -> Floats:
    """The columns, linear about where the level is now."""
    context = state.weights[problem.moves.start : problem.steps.start]
    relative = problem.price * np.exp(-state.level[problem.block] - problem.context @ context)
    members, (_, slope, bend) = problem.members, problem.sums(state.weights)
    gradient = np.minimum(slope + bend * (np.clip(relative, LOWEST, HIGHEST) - 1.0), FLATTEST)[:, None]
    before = problem.block[:, None] < np.arange(1, len(state.level))
    inside = np.clip(relative, LOWEST, HIGHEST)[:, None]
    straight, bent = np.log(np.maximum(relative, _CHEAPEST))[:, None], inside - 1.0 - np.log(inside)
    moves = [-gradient * problem.context, gradient * before]
    return np.hstack([members, members * straight, members * bent, *moves])


def _newton(problem: _Problem, state: _State) -> _State:
    """The most probable coefficients about the present level; steps count from there."""
    design, precision = _design(problem, state), state.width[problem.group] ** -2.0
    past, weights = np.zeros(len(state.weights)), state.weights.copy()
    past[problem.moves], weights[problem.moves] = weights[problem.moves], 0.0
    for _ in range(_STEPS):
        chance = _share(design @ weights)
        slope = design.T @ (problem.bought - chance) - precision * (weights + past - state.mean)
        hessian = (design * (chance * (1.0 - chance))[:, None]).T @ design + np.diag(precision)
        step = np.linalg.solve(hessian, slope)
        weights = weights + step / max(1.0, float(np.abs(step).max()) / _LONGEST)
        if np.abs(step).max() < _CLOSE:
            break
    return replace(state, weights=weights, hessian=hessian)


def _moved(problem: _Problem, before: _State, after: _State) -> _State:
    """Add the moves to those before, no more at a time than the linear design is good for."""
    added = np.clip(after.weights[problem.moves], -_LONGEST_STEP, _LONGEST_STEP)
    weights = after.weights.copy()
    weights[problem.moves] = before.weights[problem.moves] + added
    level = np.append(-np.cumsum(weights[problem.steps][::-1])[::-1], 0.0)
    return replace(after, weights=weights, level=np.clip(level, -_FARTHEST, _FARTHEST))


def _widened(problem: _Problem, state: _State) -> _State:
    """Priors as wide as the coefficients of their group lie apart (expectation maximisation)."""
    spread = (state.weights - state.mean) ** 2 + np.diag(np.linalg.inv(state.hessian))
    width = state.width.copy()
    for group in _ESTIMATED:
        mine = problem.group == group
        guess = _WIDTHS[group] ** 2
        width[group] = np.sqrt((spread[mine].sum() + _GUESSES * guess) / (mine.sum() + _GUESSES))
    return replace(state, width=width)


def _curve(problem: _Problem, state: _State, rng: np.random.Generator) -> DemandCurve:
    kept = slice(0, problem.steps.start)
    spread = np.linalg.cholesky(np.linalg.inv(state.hessian)[kept, kept])
    best = state.weights[kept]
    draws = best + rng.standard_normal((DRAWS, len(best))) @ spread.T
    return DemandCurve(problem.terms, best, draws, np.exp(state.level))


def _blocks(n: int) -> Ints:
    """Number of each row's block of time; the rows are in order."""
    count = int(np.clip(n // BLOCK, 1, MOST_BLOCKS))
    return np.arange(n) * count // n


def _frequent(codes: Floats, most: int) -> tuple[float, ...]:
    """The most frequent codes, the most frequent first; NaN is none."""
    found, counts = np.unique(codes[~np.isnan(codes)], return_counts=True)
    return tuple(found[np.argsort(-counts, kind="stable")[:most]].tolist())


def _indicators(values: Floats, of: tuple[float, ...]) -> Floats:
    """1 where a row has this value, shape (n, len(of))."""
    found: Floats = (values[:, None] == np.array(of)).astype(np.float64)
    return found


def _share(log_odds: Floats) -> Floats:
    return 1.0 / (1.0 + np.exp(-np.clip(log_odds, -50.0, 50.0)))
