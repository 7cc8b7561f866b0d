"""Elasticity of past prices that were not drawn by lot, with its interval: for all, by group, by product.

Prices of the past follow season and demand. Double machine learning (Chernozhukov et al. 2018, partially
linear model) takes what product and context tell of the log price and of the log of units away from both, by
models that did not see the row (cross-fitting); what is left gives the elasticity. Of a file with times a
level of each day goes first where several products share it: what everybody wants on a day is no smooth
season. `within` also takes away a level of each series and of each period (two-way fixed effects).

Errors are robust to unequal variances, to rows of one place that go together where the file tells the place
(Liang and Zeger 1986; Cameron and Miller 2015), and to what goes on in a series through time where it tells
the time (Newey and West 1987, as wide as Lazarus et al. 2018 say, with the wider quantile of Kiefer and
Vogelsang 2005). The largest counts, as few places or periods make theirs too small. Elasticities
of many products are drawn towards the mean of all, the more the less is known of one (DerSimonian and Laird
1986).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from features.state import Flags, Floats, Ints
from training.cross_fit import CrossFit
from training.elasticity import NORMAL_95
from training.price_table import DAY, PRICE, PriceTable, curved_design

WIDEST = 2.0
"""An elasticity whose interval is wider is not known yet: at -2 ± 1 the price with the best margin,
cost × e / (1 + e) (Lerner 1934), may be anything from 1.5 times the cost to without end."""
MOST_LEFT_OUT = 0.2
"""Nor if more of the rows with a price are left out as nothing was sold: those who stay are chosen by the
outcome, which hides the effect. So it is with single quotes, of which most are not bought."""
LEAST_OF_ONE = 30
"""A group with fewer rows tells nothing by itself."""
LEAST_OF_DAY = 2
"""Rows that a day must have on average, or taking away its level would leave nothing."""
LEAST_PERIODS = 20
"""Fewer periods do not tell what goes on through time."""
LEAST_POOLED = 4
"""Of fewer products one can't tell how far they differ (Morris 1983 divides by their number less 3)."""
QUANTILES = 5
"""Groups that the numbers of a column are cut into."""
_STEPS = 200
_CLOSE = 1e-10


@dataclass(frozen=True)
class Estimate:
    """A number and its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def known(self) -> bool:
        """Whether the interval is narrow enough to decide by."""
        return self.high - self.low <= WIDEST

    def as_json(self) -> dict[str, Any]:
        """With its sentence, and without a value, if it is not known yet."""
        ends = {"low": _or_none(self.low), "high": _or_none(self.high)}
        if self.known:
            return {"value": self.value, **ends}
        wide = f"the interval is wider than {WIDEST:g}"
        few = f"fewer than {LEAST_OF_ONE} rows, or prices that do not differ"
        told = wide if np.isfinite(self.high - self.low) else few
        return {"value": None, **ends, "note": f"not known yet: {told}"}


UNKNOWN = Estimate(np.nan, -np.inf, np.inf)


def interval(value: float, error: float) -> Estimate:
    """An estimate by its standard error."""
    return Estimate(value, value - NORMAL_95 * error, value + NORMAL_95 * error)


@dataclass(frozen=True)
class Residuals:
    """Log price and log units of the usable rows without what product and context tell of them."""

    rows: Ints
    """Their rows in the table."""
    price: Floats
    units: Floats
    place: Ints | None = None
    series: Ints | None = None
    period: Ints | None = None
    """Number of each row's period in order of time; None, as `series`, if the file has no time."""

    def of(self, chosen: Flags) -> "Residuals":
        """Of some of them."""
        columns: dict[str, Any] = {
            name: None if each is None else each[chosen] for name, each in vars(self).items()
        }
        return Residuals(**columns)


def hidden(table: PriceTable) -> str:
    """Why the rows left out hide the elasticity; empty if they do not."""
    priced = np.isfinite(table.matrix[:, PRICE])
    share = 1.0 - float(table.usable.sum() / max(priced.sum(), 1))
    if share <= MOST_LEFT_OUT:
        return ""
    return (
        f"not known yet: {share:.0%} of the rows with a price have no units above 0 and no logarithm;"
        " sum the units of a product by day or week"
    )


def residuals(table: PriceTable, fold: Ints) -> Residuals:
    """By models that did not see the row."""
    usable, table = table.usable, _within_days(table)
    rows = np.flatnonzero(usable)
    beside = CrossFit(table.matrix[:, 1:], table.names[1:], usable, fold, design=curved_design(table))
    price, units = (
        (target - beside.predict_nuisance(target))[usable]
        for target in (table.matrix[:, PRICE], table.log_units)
    )
    place = None if table.place is None else table.place[usable]
    if table.period is None:
        return Residuals(rows, price, units, place)
    return Residuals(rows, price, units, place, table.series[rows], _periods(table, rows))


def _within_days(table: PriceTable) -> PriceTable:
    """Without a level for each day, and for each product, of a file with times where days have two rows."""
    rows = np.flatnonzero(table.usable)
    if DAY not in table.names or len(rows) < LEAST_OF_DAY * len(np.unique(_periods(table, rows))):
        return table
    return _levelled(table, rows, [_periods(table, rows), np.maximum(table.product[rows], 0)])


def _levelled(table: PriceTable, rows: Ints, effects: list[Ints]) -> PriceTable:
    """Log price and log units of these rows without a level for each code of each effect."""
    matrix, units = table.matrix.copy(), table.log_units.copy()
    matrix[rows, PRICE] = _without(matrix[rows, PRICE], effects)
    units[rows] = _without(units[rows], effects)
    return replace(table, matrix=matrix, log_units=units)


def _periods(table: PriceTable, rows: Ints) -> Ints:
    """Number of each of these rows' period in order of time. The file has a time."""
    assert table.period is not None
    return np.unique(table.period[rows], return_inverse=True)[1].ravel()


def within(table: PriceTable, fold: Ints) -> Estimate:
    """The same with a level for each series and, where the file has a time, for each period too.

    Levels go first, the context's share of what is left after them (Clarke and Polselli 2025).
    """
    rows = np.flatnonzero(table.usable)
    effects = [table.series[rows]]
    if table.period is not None:
        effects.append(_periods(table, rows))
    return slope(residuals(_levelled(table, rows, effects), fold))


def slope(found: Residuals) -> Estimate:
    """Elasticity of these rows; one without end if they are too few, or their prices never differ."""
    if len(found.rows) < LEAST_OF_ONE or not np.ptp(found.price):
        return UNKNOWN
    value, error = _regression(found, np.ones((len(found.rows), 1)))
    return interval(float(value[0]), float(error[0]))


def by_column(table: PriceTable, found: Residuals, column: str) -> dict[str, Any]:
    """Elasticity by a column's words, or by fifths of its numbers; for numbers also how it goes with them.

    Args:
        table: past prices.
        found: its residuals.
        column: one of `table.names` but the first.
    """
    values = table.matrix[found.rows, table.names.index(column)]
    if column in table.words:
        names = table.words[column]
        groups = [_group(found, values == code, {"is": name}) for code, name in enumerate(names)]
        return {"column": column, "groups": groups}
    return {"column": column, "groups": _fifths(found, values), "trend": _trend(found, values)}


def by_product(table: PriceTable, found: Residuals) -> dict[str, Estimate]:
    """Elasticity of each product, drawn towards the mean of all."""
    product = table.product[found.rows]
    single = [slope(found.of(product == code)) for code in range(len(table.words["product"]))]
    return dict(zip(table.words["product"], pooled(single), strict=True))


def pooled(single: list[Estimate]) -> list[Estimate]:
    """Estimates that borrow from each other: normal around a mean of all (DerSimonian and Laird 1986).

    Each moves to the mean by the share of its own variance in the whole, a little less and with a wider
    interval as the whole is an estimate too (Morris 1983). One that is not known by itself is told as any
    other of its kind would be. With less than four that are known nothing is moved.
    """
    value = np.array([each.value for each in single])
    variance = np.array([((each.high - each.low) / (2 * NORMAL_95)) ** 2 for each in single])
    sure = np.isfinite(value) & (variance > 0)
    if sure.sum() < LEAST_POOLED:
        return single
    mean, doubt, between = _common(value[sure], variance[sure])
    found = iter(_moved(value[sure], variance[sure], mean, between))
    other = interval(mean, float(np.sqrt(doubt + between)))
    return [next(found) if known else other for known in sure.tolist()]


def _moved(value: Floats, variance: Floats, mean: float, between: float) -> list[Estimate]:
    """Empirical Bayes estimates with the intervals of Morris (1983, section 5)."""
    k = len(value)
    share = variance / (variance + between)
    back = (k - 3) / (k - 1) * share
    usual = (share * (variance + between)).sum() / share.sum()
    unsure = 2 / (k - 3) * back**2 * usual / (variance + between) * (value - mean) ** 2
    error = np.sqrt(variance * (1 - (k - 1) / k * back) + unsure)
    moved = (1 - back) * value + back * mean
    return [interval(*pair) for pair in zip(moved.tolist(), error.tolist(), strict=True)]


def _common(value: Floats, variance: Floats) -> tuple[float, float, float]:
    """Mean of all, the variance of that mean, and the variance of the true values."""
    between = _between(value, variance)
    weight = 1.0 / (variance + between)
    return float(weight @ value / weight.sum()), 1.0 / float(weight.sum()), between


def _between(value: Floats, variance: Floats) -> float:
    """Variance of the true values, by moments (DerSimonian and Laird 1986)."""
    weight = 1.0 / variance
    spread = weight @ (value - weight @ value / weight.sum()) ** 2
    free = weight.sum() - (weight**2).sum() / weight.sum()
    return float(max(0.0, (spread - (len(value) - 1)) / free))


def _fifths(found: Residuals, values: Floats) -> list[dict[str, Any]]:
    if np.isnan(values).all():
        return []
    edges = np.unique(np.nanquantile(values, np.linspace(0, 1, QUANTILES + 1)))
    place = np.searchsorted(edges[1:-1], values, side="left")
    return [
        _group(found, (place == number) & ~np.isnan(values), {"above": low, "up_to": high})
        for number, (low, high) in enumerate(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))
    ]


def _group(found: Residuals, chosen: Flags, name: Mapping[str, Any]) -> dict[str, Any]:
    return {**name, **slope(found.of(chosen)).as_json(), "rows": int(chosen.sum())}


def _trend(found: Residuals, values: Floats) -> dict[str, Any] | None:
    """What one standard deviation more of a column adds to the elasticity; None if it never differs."""
    known = np.isfinite(values)
    spread = float(values[known].std()) if known.any() else 0.0
    if not spread or known.sum() < LEAST_OF_ONE:
        return None
    scaled = (values[known] - values[known].mean()) / spread
    value, error = _regression(found.of(known), np.column_stack([np.ones(len(scaled)), scaled]))
    return {**interval(float(value[1]), float(error[1])).as_json(), "standard_deviation": spread}


def _regression(found: Residuals, basis: Floats) -> tuple[Floats, Floats]:
    """Elasticity as a sum of the basis's columns, shape (n, k): coefficients and their standard errors."""
    price = found.price[:, None] * basis
    bread = np.asarray(np.linalg.pinv(price.T @ price), np.float64)
    value = bread @ price.T @ found.units
    scores = price * (found.units - price @ value)[:, None]
    error = _error(bread, scores)
    if found.place is not None:
        together = np.unique(found.place, return_inverse=True)[1]
        sums = np.column_stack([np.bincount(together, column) for column in scores.T]).astype(np.float64)
        error = np.maximum(error, _error(bread, sums))
    if found.series is not None and found.period is not None:
        error = np.maximum(error, _error_through_time(bread, scores, found.series, found.period))
    return value, error


def _error_through_time(bread: Floats, scores: Floats, series: Ints, period: Ints) -> Floats:
    """Standard errors if the scores of a series go together the more, the nearer their periods are.

    Bartlett weights up to 1.3 √T periods apart (Lazarus, Lewis, Stock and Watson 2018), widened by what the
    quantile for so many lags has over the normal one (Kiefer and Vogelsang 2005, table 1). 0 for too few
    periods.
    """
    periods = int(period.max()) + 1
    if periods < LEAST_PERIODS:
        return np.zeros(scores.shape[1])
    reach = int(np.ceil(1.3 * np.sqrt(periods)))
    cell, row = np.unique(series * 2 * periods + period, return_inverse=True)
    sums = np.column_stack([np.bincount(row.ravel(), column) for column in scores.T])
    meat = sums.T @ sums
    for lag in range(1, reach + 1):
        later = np.minimum(np.searchsorted(cell, cell + lag), len(cell) - 1)
        there = cell[later] == cell + lag
        both = sums[there].T @ sums[later[there]]
        meat += (1.0 - lag / (reach + 1)) * (both + both.T)
    share = reach / periods
    wider = (NORMAL_95 + 2.9694 * share + 0.4160 * share**2 - 0.5324 * share**3) / NORMAL_95
    found: Floats = wider * np.sqrt(np.maximum(np.diag(bread @ meat @ bread), 0.0))
    return found


def _error(bread: Floats, scores: Floats) -> Floats:
    """Standard errors by the sandwich of independent scores, with the correction for few of them."""
    n, k = scores.shape
    found: Floats = np.sqrt(np.diag(bread @ (scores.T @ scores) @ bread) * n / max(n - k, 1))
    return found


def _without(values: Floats, effects: list[Ints]) -> Floats:
    """Values without a level for each code of each effect, by taking means away in turn."""
    for _ in range(_STEPS):
        before = values
        for code in effects:
            values = values - (np.bincount(code, values) / np.maximum(np.bincount(code), 1))[code]
        if np.abs(values - before).max() < _CLOSE:
            break
    return values


def _or_none(value: float) -> float | None:
    return value if np.isfinite(value) else None
