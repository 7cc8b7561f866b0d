"""Units at prices that were not shown, for recommended prices: two models and their mean.

Trees that fall with the price follow any shape where there are many rows; between the prices shown they are
flat. The other model draws a straight line of log units over log price for each product, with the corrected
elasticity (partially linear model, drawn towards the mean of all products), and few trees for what that
leaves. Neither is the better one everywhere, and the mean of both log curves is rarely worse than either
(Bates and Granger 1969).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from features.state import Floats, Ints
from training import booster, price_effect
from training.cross_fit import FOLDS, CrossFit, fit, folds
from training.price_effect import Residuals
from training.price_table import PRICE, PriceTable, design

REST: booster.Parameters = {
    "num_iterations": 60,
    "num_leaves": 8,
    "min_data_in_leaf": 100,
    "lambda_l2": 5.0,
}
INNER = 3
"""Folds inside a fold; each costs two models for each outer one."""
_NEVER_RISES = -0.01


def curves(table: PriceTable, fold: Ints, prices: Floats) -> Floats:
    """Log units of each row at each of its prices by models that did not see it, shape (n, k)."""
    log_price = np.log(prices)
    return (_trees(table, fold, log_price) + _lines(table, fold, log_price)) / 2.0


def falling(table: PriceTable, fold: Ints) -> CrossFit:
    """Trees for log units that never rise with the price."""
    signs = ",".join(["-1"] + ["0"] * (len(table.names) - 1))
    return CrossFit(table.matrix, table.names, table.usable, fold, {"monotone_constraints": signs})


def _trees(table: PriceTable, fold: Ints, log_price: Floats) -> Floats:
    matrices = list(_asked(table.matrix, log_price))
    return np.column_stack(falling(table, fold).predict_each(table.log_units, matrices))


def _lines(table: PriceTable, fold: Ints, log_price: Floats) -> Floats:
    found = np.empty(log_price.shape)
    for number in range(FOLDS):
        held = fold == number
        line = _learn(table, np.flatnonzero(table.usable & ~held))
        found[held] = line.at(table.matrix[held], table.product[held], log_price[held])
    return found


@dataclass(frozen=True)
class _Line:
    """A straight line for each product, and trees for what it leaves."""

    usual_price: booster.Model
    usual_units: booster.Model
    rest: booster.Model
    elasticity: Floats
    """Of each product; the last is that of one without rows."""

    def at(self, matrix: Floats, product: Ints, log_price: Floats) -> Floats:
        """Log units of rows, shape (n, k), at these log prices."""
        price, units = (model.predict(matrix[:, 1:]) for model in (self.usual_price, self.usual_units))
        straight = units[:, None] + self.elasticity[product][:, None] * (log_price - price[:, None])
        rest = [self.rest.predict(asked) for asked in _asked(matrix, log_price)]
        lines: Floats = straight + np.column_stack(rest)
        return lines


def _learn(table: PriceTable, rows: Ints) -> _Line:
    matrix, units, names = table.matrix[rows], table.log_units[rows], table.names
    left = _left(table, rows)
    elasticity = _elasticity(left, table.product[rows], int(table.product.max()))
    unexplained = left.units - elasticity[table.product[rows]] * left.price
    return _Line(
        usual_price=fit(matrix[:, 1:], matrix[:, PRICE], names[1:], {}),
        usual_units=fit(matrix[:, 1:], units, names[1:], {}),
        rest=fit(matrix, unexplained, names, REST),
        elasticity=elasticity,
    )


def _left(table: PriceTable, rows: Ints) -> Residuals:
    """What product and context leave of these rows, by models of these rows only."""
    matrix, units = table.matrix[rows], table.log_units[rows]
    usable, lines = np.full(len(rows), True), design(table)[rows]
    beside = CrossFit(matrix[:, 1:], table.names[1:], usable, folds(len(rows), INNER), design=lines)
    price, sold = (target - beside.predict_nuisance(target) for target in (matrix[:, PRICE], units))
    return Residuals(rows, price, sold)


def _elasticity(left: Residuals, product: Ints, highest: int) -> Floats:
    """Of each product by its number; of all, at the end, for rows without one. Never above zero."""
    single = [price_effect.slope(left.of(product == code)) for code in range(highest + 1)]
    common = price_effect.slope(left).value
    values = np.array([*(each.value for each in price_effect.pooled(single)), common])
    never_nan = np.where(np.isnan(values), common, values)
    return np.minimum(np.where(np.isnan(never_nan), _NEVER_RISES, never_nan), _NEVER_RISES)


def _asked(matrix: Floats, log_price: Floats) -> Iterator[Floats]:
    """The same rows at each of their prices in turn."""
    for column in log_price.T:
        yield np.column_stack([column, matrix[:, 1:]])
