"""Demand and elasticity of a table of past prices: `tollgate evaluate pricing`.

Prices of the past were not drawn by lot: they follow season and demand. Double machine learning (Chernozhukov
et al. 2018, partially linear model) takes what product and context tell of the log price and of the log of
units away from both, by models that did not see the row (cross-fitting); what is left gives the elasticity.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from features.state import Flags, Floats, Ints
from infra.errors import UserError
from infra.settings import Objective, Settings
from ingestion import file_source, mapping
from ingestion.history import DAY_US
from training import booster
from training.card import Card, Trained
from training.elasticity import NORMAL_95
from training.pricing_policy import best, worth
from training.tasks import EvaluateOptions

FOLDS = 5
LEAST_ROWS = 100
COST = "unit_cost"
"""Context column that margin needs."""

TREES: booster.Parameters = {
    "objective": "regression",
    "num_iterations": 200,
    "num_leaves": 15,
    "learning_rate": 0.05,
    "min_data_in_leaf": 50,
    "lambda_l2": 1.0,
}

_SEED = 17
_PRICE = 0
"""Column of the log price in `PriceTable.matrix`."""


@dataclass(frozen=True)
class PriceTable:
    """Past prices with what was known beside them, in the file's order."""

    names: tuple[str, ...]
    matrix: Floats
    """Shape (n, names): the log price, then product and context; a word is a number without order."""
    log_units: Floats
    """NaN where nothing was sold or the file has no such number."""
    product: Ints
    cost: Floats
    """NaN if not given."""

    @property
    def usable(self) -> Flags:
        """Rows with a price and units above 0."""
        return np.isfinite(self.matrix[:, _PRICE]) & np.isfinite(self.log_units)


@dataclass(frozen=True)
class Estimate:
    """A number and its 95 % interval."""

    value: float
    low: float
    high: float


def evaluate(settings: Settings, options: EvaluateOptions) -> dict[str, Any]:
    """Fit demand to a table of past prices, correct its elasticity, and recommend prices if asked to.

    Raises:
        UserError: the file or its mapping do not fit, or too few rows can be used.
    """
    began = time.perf_counter()
    table = read(options)
    objective, fold = _objective(table, options, settings), folds(len(table.log_units))
    found: dict[str, Any] = {
        "elasticity": asdict(double_machine_learning(table, fold)),
        "elasticity_least_squares": least_squares(table),
        "demand_rmse_log": demand_error(table, fold),
        "rows": int(table.usable.sum()),
        "rows_left_out": int((~table.usable).sum()),
    }
    if options.out is not None:
        prices = recommended(table, fold, _candidates(table, options), objective, settings)
        pq.write_table(pa.table({"recommended_price": prices}), options.out)
        found |= {"objective": objective, "out": str(options.out)}
    return found | {"seconds": time.perf_counter() - began}


def read(options: EvaluateOptions) -> PriceTable:
    """The file as numbers."""
    columns = mapping.load(options.file.mapping).prices
    if columns is None:
        raise UserError(
            f"{options.file.mapping}: expected [prices]; it says which column is price and which units."
        )
    rows = file_source.price_table(options.file.data, columns)
    table = table_of(rows, columns.context)
    if table.usable.sum() < LEAST_ROWS:
        raise UserError(
            f"{options.file.data}: expected at least {LEAST_ROWS} rows with a price and units above 0,"
            f" got {table.usable.sum()}."
        )
    return table


def table_of(rows: pa.Table, context: Sequence[str]) -> PriceTable:
    """A table of `file_source.price_table` with these context columns."""
    product = _codes(rows["product_id"]) if "product_id" in rows.column_names else np.zeros(rows.num_rows)
    named = {"log_price": _log(rows["price"]), "product": product}
    if "event_time_us" in rows.column_names:
        named["day"] = _numbers(rows["event_time_us"]) // DAY_US
    named |= {name: _numbers(rows[name]) for name in context}
    cost = named.get(COST, np.full(rows.num_rows, np.nan))
    names = tuple(named)
    return PriceTable(
        names, np.column_stack(list(named.values())), _log(rows["units"]), product.astype(np.int64), cost
    )


def least_squares(table: PriceTable) -> float:
    """Slope of log units on log price with a level for each product, as it is: not corrected for anything."""
    rows = table.usable
    design = np.column_stack(
        [table.matrix[rows, _PRICE], table.product[rows, None] == np.unique(table.product[rows])]
    )
    return float(np.linalg.lstsq(design.astype(np.float64), table.log_units[rows], rcond=None)[0][0])


def double_machine_learning(table: PriceTable, fold: Ints) -> Estimate:
    """Elasticity by the partially linear model; its interval is robust to unequal variances."""
    rows = table.usable
    beside = _CrossFit(table.matrix[:, 1:], table.names[1:], rows, fold)
    price, units = (
        (target - beside.predict(target))[rows] for target in (table.matrix[:, _PRICE], table.log_units)
    )
    variation = price @ price
    value = float(price @ units / variation)
    error = float(np.sqrt(((price * (units - value * price)) ** 2).sum()) / variation)
    return Estimate(value, value - NORMAL_95 * error, value + NORMAL_95 * error)


def demand_error(table: PriceTable, fold: Ints) -> float:
    """Root mean square error of log units, predicted by models that did not see the row."""
    predicted = _demand(table, fold).predict(table.log_units)
    return float(np.sqrt(np.mean((table.log_units - predicted)[table.usable] ** 2)))


def recommended(
    table: PriceTable, fold: Ints, candidates: Floats, objective: Objective, settings: Settings
) -> Floats:
    """Best candidate for every row by models that did not see it, shape (n,)."""
    demand, n = _demand(table, fold), len(table.log_units)
    matrices = [np.column_stack([np.full(n, np.log(each)), table.matrix[:, 1:]]) for each in candidates]
    units = np.exp(np.column_stack(demand.predict_each(table.log_units, matrices)))
    cost = np.zeros(n) if objective == "revenue" else np.nan_to_num(table.cost)
    worths = worth(candidates, units, cost[:, None], objective, settings.pricing)
    return best(np.broadcast_to(candidates, units.shape), worths)


def _demand(table: PriceTable, fold: Ints) -> "_CrossFit":
    falling = ",".join(["-1"] + ["0"] * (len(table.names) - 1))
    return _CrossFit(table.matrix, table.names, table.usable, fold, {"monotone_constraints": falling})


@dataclass(frozen=True)
class _CrossFit:
    """Predictions for every row by a model of the usable rows of the other folds."""

    matrix: Floats
    names: tuple[str, ...]
    usable: Flags
    fold: Ints
    constraints: booster.Parameters = field(default_factory=dict)

    def predict(self, target: Floats) -> Floats:
        """Of a target of shape (n,), of which only usable rows are read."""
        return self.predict_each(target, [self.matrix])[0]

    def predict_each(self, target: Floats, matrices: Sequence[Floats]) -> list[Floats]:
        """The same for the rows as they are in each of these matrices."""
        predicted = [np.empty(len(target)) for _ in matrices]
        for number in range(FOLDS):
            held = self.fold == number
            model = self._fit(target, self.usable & ~held)
            for matrix, values in zip(matrices, predicted, strict=True):
                values[held] = model.predict(matrix[held])
        return predicted

    def _fit(self, target: Floats, rows: Flags) -> booster.Model:
        card = Card("pricing", "", self.names, "", Trained(0, 0, 0, int(rows.sum())))
        return booster.train(self.matrix[rows], target[rows], card, {**TREES, **self.constraints})


def folds(n: int) -> Ints:
    """Number of each row's fold, drawn by a fixed seed."""
    drawn: Ints = np.random.default_rng(_SEED).permutation(n) % FOLDS
    return drawn


def _candidates(table: PriceTable, options: EvaluateOptions) -> Floats:
    """Those that were asked for, rising; else the middle of the prices that were ever shown."""
    if options.candidates:
        return np.sort(np.array(options.candidates, np.float64))
    return np.unique(np.exp(np.quantile(table.matrix[table.usable, _PRICE], np.linspace(0.05, 0.95, 10))))


def _objective(table: PriceTable, options: EvaluateOptions, settings: Settings) -> Objective:
    known = bool(np.isfinite(table.cost).all())
    wanted = options.objective or (settings.pricing.objective if known else "revenue")
    if wanted not in ("margin", "revenue", "growth"):
        raise UserError(f"expected an objective, margin, revenue or growth; came {wanted!r}.")
    if wanted == "margin" and not known:
        raise UserError(f"objective margin needs the cost of every row: a context column named {COST!r}.")
    return wanted  # type: ignore[return-value]


def _log(column: pa.ChunkedArray) -> Floats:
    """Logarithm; NaN for null and what is not above 0."""
    values = _numbers(column)
    return np.log(np.where(values > 0, values, np.nan))


def _numbers(column: pa.ChunkedArray) -> Floats:
    """Numbers, NaN where null; words and flags as numbers without order."""
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        found: Floats = column.to_numpy().astype(np.float64)
        return found
    return _codes(column)


def _codes(column: pa.ChunkedArray) -> Floats:
    """Place of each value among the distinct ones in order of the alphabet; null is -1."""
    distinct = {value: place for place, value in enumerate(sorted(set(column.drop_null().to_pylist())))}
    return np.array([distinct.get(value, -1) for value in column.to_pylist()], np.float64)
