"""Demand and elasticity of a table of past prices: `tollgate evaluate pricing`."""

import time
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from features.state import Floats, Ints
from infra.errors import UserError
from infra.objectives import canonical, weights
from infra.settings import Objective, Settings
from ingestion import mapping
from ingestion.events import microseconds
from ingestion.tables import DAY_US
from training import price_curves, price_effect, sales_forecast
from training.cross_fit import folds
from training.price_table import COST, DAY, PRICE, PriceTable, read
from training.pricing_policy import best, worth
from training.tasks import EvaluateOptions

CANDIDATES = 10
"""Prices tried for each row if none are asked for ..."""
SUPPORTED = (0.02, 0.98)
"""... between these quantiles of the product's prices, in equal steps of their logarithm."""


def evaluate(settings: Settings, options: EvaluateOptions) -> dict[str, Any]:
    """Fit demand to a table of past prices, correct its elasticity, forecast and recommend if asked to.

    Raises:
        UserError: the file or its mapping do not fit, or too few rows can be used.
    """
    began = time.perf_counter()
    table = read(options.file)
    objective, fold = _objective(table, options, settings), folds(len(table.log_units))
    found = elasticities(table, fold, options.by) | {
        "demand_rmse_log": demand_error(table, fold),
        "rows": int(table.usable.sum()),
        "rows_left_out": int((~table.usable).sum()),
        "rows_without_cost": int((~np.isfinite(table.cost)).sum()),
    }
    notes = _left_out(table)
    if options.test_from is not None:
        ahead = sales_forecast.forecast(table, _period(options.test_from, table))
        found["forecast"] = {"test_from": options.test_from, **ahead.errors(table.log_units)}
    if options.out is not None:
        unused = settings.pricing.unused
        known = table.without(unused)
        prices = recommended(known, fold, _candidates(table, options), objective, settings)
        pq.write_table(pa.table({"recommended_price": prices}), options.out)
        found |= {"objective": objective, "out": str(options.out)}
        notes += _of_recommended(table, objective, unused)
    return found | {"notes": notes, "seconds": time.perf_counter() - began}


def _left_out(table: PriceTable) -> list[str]:
    """What a reader should know of rows that demand and elasticity are not told by."""
    wrong = ~table.usable
    if not wrong.any():
        return []
    count, unpriced = int(wrong.sum()), int((~np.isfinite(table.matrix[:, PRICE])).sum())
    return [
        f"{count:,} of {len(wrong):,} rows are left out of demand and elasticity: {unpriced:,} without a"
        f" price above 0, {count - unpriced:,} others without units above 0"
    ]


def _of_recommended(table: PriceTable, objective: Objective, unused: Collection[str]) -> list[str]:
    """The same of the recommended prices."""
    found, wrong = [], int((~table.usable).sum())
    if wrong:
        found.append(f"these {wrong:,} rows have a recommended price too, by what the others tell")
    uncosted = int((~np.isfinite(table.cost)).sum())
    if uncosted and objective != "revenue":
        found.append(f"{uncosted:,} rows have no {COST!r}: they were priced as if a unit cost nothing")
    if personal := [name for name in table.names if name in unused]:
        found.append(
            f"recommended prices know nothing of {', '.join(personal)}, which the policy calls personal"
        )
    return found


def elasticities(table: PriceTable, fold: Ints, by: str | None = None) -> dict[str, Any]:
    """Corrected and as it is; within series and periods, by product, by a column where the file has them."""
    column = None if by is None else _column(table, by)
    if why := price_effect.hidden(table):
        return {"elasticity": {"value": None, "low": None, "high": None, "note": why}}
    rest = price_effect.residuals(table, fold)
    found: dict[str, Any] = {
        "elasticity": price_effect.slope(rest).as_json(),
        "elasticity_least_squares": least_squares(table),
    }
    if table.place is not None or table.period is not None:
        found["elasticity_within"] = price_effect.within(table, fold).as_json()
    if len(table.words.get("product", ())) > 1:
        products = price_effect.by_product(table, rest)
        found["elasticity_by_product"] = {name: each.as_json() for name, each in products.items()}
    if column is not None:
        found["elasticity_by"] = price_effect.by_column(table, rest, column)
    return found


def least_squares(table: PriceTable) -> float:
    """Slope of log units on log price with a level for each product, as it is: not corrected for anything."""
    rows = table.usable
    design = np.column_stack(
        [table.matrix[rows, PRICE], table.product[rows, None] == np.unique(table.product[rows])]
    )
    return float(np.linalg.lstsq(design.astype(np.float64), table.log_units[rows], rcond=None)[0][0])


def demand_error(table: PriceTable, fold: Ints) -> float:
    """Root mean square error of log units, predicted by models that did not see the row."""
    predicted = price_curves.falling(table, fold).predict(table.log_units)
    return float(np.sqrt(np.mean((table.log_units - predicted)[table.usable] ** 2)))


def recommended(
    table: PriceTable, fold: Ints, candidates: Floats, objective: Objective, settings: Settings
) -> Floats:
    """Best candidate for every row by models that did not see it, shape (n,).

    Args:
        table: past prices.
        fold: each row's fold.
        candidates: prices, rising: shape (k,), or (n, k) for each row its own.
        objective: what the best one has most of.
        settings: for the margin that growth keeps.
    """
    n = len(table.log_units)
    prices = np.broadcast_to(candidates, (n, candidates.shape[-1]))
    units = np.exp(price_curves.curves(table, fold, prices))
    cost = np.zeros(n) if objective == "revenue" else np.nan_to_num(table.cost)
    return best(prices, worth(prices, units, cost[:, None], objective, settings.pricing))


def _candidates(table: PriceTable, options: EvaluateOptions) -> Floats:
    """Those that were asked for, rising; else the middle of the prices that each row's product ever had."""
    if options.candidates:
        return np.sort(np.array(options.candidates, np.float64))
    log_price = np.empty((len(table.product), CANDIDATES))
    for code in np.unique(table.product):
        mine = table.product == code
        shown = table.usable & mine if (table.usable & mine).any() else table.usable
        low, high = np.quantile(table.matrix[shown, PRICE], SUPPORTED)
        log_price[mine] = np.linspace(low, high, CANDIDATES)
    return np.exp(log_price)


def _objective(table: PriceTable, options: EvaluateOptions, settings: Settings) -> Objective:
    known = bool(np.isfinite(table.cost).all())
    try:
        wanted = canonical(options.objective or (settings.pricing.objective if known else "revenue"))
    except ValueError:
        raise UserError(
            "expected an objective, margin, revenue or growth, or a mix such as '0.7 margin + 0.3 revenue';"
            f" came {options.objective!r}."
        ) from None
    parts = weights(wanted)
    if "margin" in parts and not known:
        raise UserError(f"objective margin needs the cost of every row: a context column named {COST!r}.")
    if "growth" in parts and len(parts) > 1:
        raise UserError(
            f"objective {wanted}: growth weighs units by the list price, which a table of past prices has"
            " not; choose another by --objective."
        )
    return wanted


def _column(table: PriceTable, by: str) -> str:
    """A column that elasticity can be told by: the product, or one of the context."""
    known = [name for name in table.names[1:] if name != DAY]
    if by not in known:
        near = mapping.did_you_mean(by, known)
        raise UserError(f"--by: expected product or a context column of the mapping, came {by!r}.{near}")
    return by


def _period(text: str, table: PriceTable) -> float:
    """A period's number; where the file has times, a date's days since 1970."""
    try:
        return _day(text) if DAY in table.names else float(text)
    except ValueError:
        wanted = "a date such as 2026-03-01" if DAY in table.names else "a period's number"
        raise UserError(f"--test-from: expected {wanted}, came {text!r}.") from None


def _day(text: str) -> float:
    moment = datetime.fromisoformat(text)
    return float(microseconds(moment if moment.tzinfo else moment.replace(tzinfo=UTC)) // DAY_US)
