"""What will be sold at the prices of a period, told from what was sold in the periods before it.

The price of the period itself and of the other products at the place are the seller's own to know; units of
the period, and of any later one, are not. What lies before is summed up by series (a product at a place):
the last period's and the mean of the last ones.
"""

from dataclasses import dataclass

import numpy as np

from features.state import Flags, Floats, Ints
from infra.errors import UserError
from training.cross_fit import fit
from training.price_table import DAY, PRICE, PriceTable

RECENT = 8
"""Periods of a series of which a mean is taken, beside the mean of all."""


@dataclass(frozen=True)
class Forecast:
    """Log units of the rows from a period on, by a model of the rows before it."""

    tested: Flags
    """Rows that were forecast, shape (n,)."""
    log_units: Floats
    """Shape (n,); NaN where not tested."""
    last: Floats
    """What the last period before each row had; NaN if there was none."""
    rows_train: int

    def errors(self, log_units: Floats) -> dict[str, float | int]:
        """Root mean square errors of log units: the forecast's, and the last period's value's."""
        missed = (log_units - self.log_units)[self.tested]
        before = (log_units - self.last)[self.tested]
        known = before[~np.isnan(before)]
        return {
            "rmse_log": float(np.sqrt(np.mean(missed**2))),
            "rmse_log_last_period": float(np.sqrt(np.mean(known**2))) if len(known) else np.nan,
            "rows_train": self.rows_train,
            "rows_test": int(self.tested.sum()),
        }


def forecast(table: PriceTable, test_from: float) -> Forecast:
    """Forecast the rows of period `test_from` and later, each from the periods before its own.

    Raises:
        UserError: the file has no time, or there are no rows on one side.
    """
    if table.period is None or np.isnan(table.period).all():
        raise UserError("a forecast needs a time: map event_time or period in the mapping's [prices].")
    usable = table.usable & np.isfinite(table.period)
    learned, tested = usable & (table.period < test_from), usable & (table.period >= test_from)
    if not (learned.any() and tested.any()):
        raise UserError(
            f"expected rows before {test_from:g} and from it on; the file's periods go from"
            f" {np.nanmin(table.period):g} to {np.nanmax(table.period):g}."
        )
    names, matrix = inputs(table, table.period)
    model = fit(matrix[learned], table.log_units[learned], names, {})
    predicted = np.full(len(matrix), np.nan)
    predicted[tested] = model.predict(matrix[tested])
    return Forecast(tested, predicted, matrix[:, names.index("units_last")], int(learned.sum()))


def inputs(table: PriceTable, period: Floats) -> tuple[tuple[str, ...], Floats]:
    """Names and values, shape (n, names), of what is known of each row before its period's sales."""
    price = table.matrix[:, PRICE]
    known = {name: table.matrix[:, table.names.index(name)] for name in table.names if name != DAY}
    known |= _others(table, period, price)
    units = _Past(table.series, period, table.log_units)
    prices = _Past(table.series, period, price)
    for name, past in (("units", units), ("price", prices)):
        known |= {f"{name}_last": past.last(), f"{name}_recent": past.recent(), f"{name}_before": past.mean()}
    known |= {"price_to_last": price - known["price_last"], "price_to_usual": price - known["price_before"]}
    return tuple(known), np.column_stack(list(known.values()))


def _others(table: PriceTable, period: Floats, price: Floats) -> dict[str, Floats]:
    """Log prices of the other products of the same period and place: the lowest, and one's own above it."""
    place = np.zeros(len(price)) if table.place is None else table.place
    if len(np.unique(table.product)) < 2:
        return {}
    where = np.unique(np.column_stack([period, place]), axis=0, return_inverse=True)[1].ravel()
    low = _lowest_of_others(where, table.product, price)
    return {"others_lowest": low, "price_to_others": price - low}


def _lowest_of_others(where: Ints, product: Ints, price: Floats) -> Floats:
    """Of each row the lowest price of another product at the same `where`; NaN if there is none."""
    cell, row = np.unique(np.column_stack([where, product]), axis=0, return_inverse=True)
    lowest = np.full(len(cell), np.inf)
    np.fmin.at(lowest, row.ravel(), price)
    order = np.lexsort((lowest, cell[:, 0]))
    first = np.flatnonzero(np.r_[True, np.diff(cell[order, 0]) > 0])
    last = np.r_[first[1:], len(order)] - 1
    best = order[first][cell[:, 0]]
    second = order[np.minimum(first + 1, last)][cell[:, 0]]
    mine = np.arange(len(cell))
    found = np.where(best == mine, np.where(second == mine, np.inf, lowest[second]), lowest[best])
    return np.where(np.isfinite(found), found, np.nan)[row.ravel()]


class _Past:
    """Values of a series in the periods before each row's own; NaN where there are none."""

    def __init__(self, series: Ints, period: Floats, values: Floats) -> None:
        cells, row = np.unique(np.column_stack([series, period]), axis=0, return_inverse=True)
        self._row: Ints = row.ravel()
        known = ~np.isnan(values)
        count = np.bincount(self._row[known], minlength=len(cells))
        total = np.bincount(self._row[known], values[known], minlength=len(cells))
        self._first: Ints = np.searchsorted(cells[:, 0], cells[:, 0])
        self._known: Flags = count > 0
        self._mean: Floats = np.divide(total, count, out=np.zeros(len(cells)), where=count > 0)

    def last(self) -> Floats:
        """Of the latest period."""
        return self._over(1)

    def recent(self) -> Floats:
        """Mean of the latest `RECENT` periods."""
        return self._over(RECENT)

    def mean(self) -> Floats:
        """Mean of all periods."""
        return self._over(len(self._first))

    def _over(self, periods: int) -> Floats:
        """Mean of the latest rows of the series before each; those without a value are not counted."""
        place = np.arange(len(self._first))
        begin = np.maximum(self._first, place - periods)
        total, count = (
            np.concatenate([[0.0], np.cumsum(each)]) for each in (self._mean, self._known.astype(np.float64))
        )
        counted = count[place] - count[begin]
        found = np.full(len(place), np.nan)
        np.divide(total[place] - total[begin], counted, out=found, where=counted > 0)
        return found[self._row]
