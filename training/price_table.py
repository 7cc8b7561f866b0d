"""A table of past prices as arrays: what was asked, what was sold, and what was known beside it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa

from features.state import Flags, Floats, Ints
from infra.errors import UserError
from ingestion import file_source, mapping
from ingestion.tables import DAY_US
from training.tasks import EventFile

LEAST_ROWS = 100
COST = "unit_cost"
"""Context column that margin needs."""
PRICE = 0
"""Column of the log price in `PriceTable.matrix`."""
DAY = "day"
"""Column of the days since 1970 in `PriceTable.matrix`, if the file has times."""
MONDAY = 3
"""1970-01-01 was a Thursday, Monday = 0."""
YEAR_DAYS = 365.25
TIME = (DAY, "day_of_week", "day_of_year")
_KEPT = ("log_price", "product", *TIME)
MOST_LEVELS = 100
"""More products have no line of their own."""
KNOTS = 6
LEAST_TO_BEND = 10
"""A number with fewer values, or as many, has no spline."""
MOST_TO_PAIR = 20
"""More numbers are not multiplied with each other."""


@dataclass(frozen=True)
class PriceTable:
    """Past prices with what was known beside them, in the file's order."""

    names: tuple[str, ...]
    matrix: Floats
    """Shape (n, names): the log price, then product and context; a word is a number without order."""
    log_units: Floats
    """NaN where nothing was sold or the file has no such number."""
    product: Ints
    """Place of its name in `words["product"]`; -1 if it has none."""
    cost: Floats
    """NaN if not given."""
    period: Floats | None = None
    """Number that rises with time; what was sold at the same time shares it. None if the file has no time."""
    place: Ints | None = None
    """Where it was sold, such as the number of a store; None if the file does not say."""
    words: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Of each column of words what its numbers stand for."""

    @property
    def usable(self) -> Flags:
        """Rows with a price and units above 0."""
        return np.isfinite(self.matrix[:, PRICE]) & np.isfinite(self.log_units)

    def without(self, columns: Collection[str]) -> "PriceTable":
        """The same as if these columns of the context had not been given: NaN. Others are no complaint."""
        blank = [place for place, name in enumerate(self.names) if name in columns and name not in _KEPT]
        matrix = self.matrix.copy()
        matrix[:, blank] = np.nan
        return replace(self, matrix=matrix)

    @property
    def series(self) -> Ints:
        """Number of what is sold time and again: a product at a place, shape (n,)."""
        place = np.zeros(len(self.product), np.int64) if self.place is None else self.place
        found: Ints = np.unique(np.column_stack([self.product, place]), axis=0, return_inverse=True)[
            1
        ].ravel()
        return found


def design(table: PriceTable) -> Floats:
    """Shape (n, columns) for straight lines: levels, weekdays, products' seasons, numbers of the context.

    Trees follow a smooth season in steps, and what the steps leave would be taken for the price's effect.
    """
    codes = np.unique(table.product)
    own = table.product[:, None] == (codes if len(codes) <= MOST_LEVELS else codes[:0])
    columns = [np.ones((len(own), 1)), own.astype(np.float64), *_seasons(table, own)]
    return np.column_stack([*columns, *_numbers_of_context(table)])


def curved_design(table: PriceTable) -> Floats:
    """The same with cubic splines of the context's numbers, and the products of each two of them.

    What prices and demand have in common may bend, and trees follow a bend in steps.
    """
    numbers = _numbers_of_context(table)
    bends = [_spline(column) for column in numbers if len(np.unique(column)) > LEAST_TO_BEND]
    products = (
        [one * other for place, one in enumerate(numbers) for other in numbers[:place]]
        if len(numbers) <= MOST_TO_PAIR
        else []
    )
    return np.column_stack([design(table), *(_scaled(each) for each in (*bends, *products))])


def _numbers_of_context(table: PriceTable) -> list[Floats]:
    """Each number of the context that differs, of mean 0 and spread 1, 0 where unknown; shape (n, 1)."""
    names = [name for name in table.names[1:] if name not in (*TIME, "product", *table.words)]
    columns, found = [table.matrix[:, [table.names.index(name)]] for name in names], []
    for column in columns:
        known = column[np.isfinite(column)]
        if len(known) and np.ptp(known):
            found.append(np.nan_to_num((column - known.mean()) / known.std()))
    return found


def _spline(column: Floats) -> Floats:
    """Squares, cubes, and cubes from `KNOTS` evenly filled knots on (a cubic spline by truncated powers)."""
    knots = np.unique(np.quantile(column, np.linspace(0.0, 1.0, KNOTS + 2)[1:-1]))
    found: Floats = np.column_stack([column**2, column**3, np.maximum(column - knots, 0.0) ** 3])
    return found


def _scaled(columns: Floats) -> Floats:
    """Columns of mean 0 and spread 1; those that never differ are 0."""
    spread = columns.std(axis=0)
    found: Floats = (columns - columns.mean(axis=0)) / np.where(spread > 0, spread, np.inf)
    return found


def _seasons(table: PriceTable, own: Flags) -> list[Floats]:
    """Two waves a year for each product (Harvey 1989), and the days of the week."""
    if DAY not in table.names:
        return []
    day = np.nan_to_num(table.matrix[:, table.names.index(DAY)])
    angle = 2.0 * np.pi * day / YEAR_DAYS
    waves = np.column_stack([np.sin(angle), np.cos(angle), np.sin(2 * angle), np.cos(2 * angle)])
    weekday = (day[:, None] + MONDAY) % 7 == np.arange(7)
    return [waves, *(own * wave[:, None] for wave in waves.T), weekday.astype(np.float64)]


def read(file: EventFile) -> PriceTable:
    """The file as numbers.

    Raises:
        UserError: the file or its mapping do not fit, or too few rows can be used.
    """
    columns = mapping.load(file.mapping).prices
    if columns is None:
        raise UserError(f"{file.mapping}: expected [prices]; it says which column is price and which units.")
    table = table_of(file_source.price_table(file.data, columns), columns.context)
    if table.usable.sum() < LEAST_ROWS:
        raise UserError(
            f"{file.data}: expected at least {LEAST_ROWS} rows with a price and units above 0,"
            f" got {table.usable.sum()}."
        )
    return table


def table_of(rows: pa.Table, context: Sequence[str]) -> PriceTable:
    """A table of `file_source.price_table` with these context columns."""
    sold = rows.column_names
    product = _codes(rows["product_id"]) if "product_id" in sold else np.zeros(rows.num_rows)
    named = {"log_price": _log(rows["price"]), "product": product}
    if "event_time_us" in sold:
        day = _numbers(rows["event_time_us"]) // DAY_US
        named |= {DAY: day, "day_of_week": (day + MONDAY) % 7, "day_of_year": day % YEAR_DAYS}
    period = _numbers(rows["period"]) if "period" in sold else named.get(DAY)
    named |= {name: _numbers(rows[name]) for name in context}
    return PriceTable(
        names=tuple(named),
        matrix=np.column_stack(list(named.values())),
        log_units=_log(rows["units"]),
        product=product.astype(np.int64),
        cost=named.get(COST, np.full(rows.num_rows, np.nan)),
        period=period,
        place=_codes(rows["place"]).astype(np.int64) if "place" in sold else None,
        words=_words(rows, context),
    )


def _words(rows: pa.Table, context: Sequence[str]) -> dict[str, tuple[str, ...]]:
    columns = {"product": "product_id"} if "product_id" in rows.column_names else {}
    columns |= {name: name for name in context if not _is_number(rows[name])}
    return {name: tuple(map(str, _distinct(rows[column]))) for name, column in columns.items()}


def _log(column: pa.ChunkedArray) -> Floats:
    """Logarithm; NaN for null and what is not above 0."""
    values = _numbers(column)
    return np.log(np.where(values > 0, values, np.nan))


def _numbers(column: pa.ChunkedArray) -> Floats:
    """Numbers, NaN where null; words and flags as numbers without order."""
    if _is_number(column):
        found: Floats = column.to_numpy().astype(np.float64)
        return found
    return _codes(column)


def _is_number(column: pa.ChunkedArray) -> bool:
    return bool(pa.types.is_integer(column.type) or pa.types.is_floating(column.type))


def _codes(column: pa.ChunkedArray) -> Floats:
    """Place of each value among the distinct ones in order of the alphabet; null is -1."""
    place = {value: number for number, value in enumerate(_distinct(column))}
    return np.array([place.get(value, -1) for value in column.to_pylist()], np.float64)


def _distinct(column: pa.ChunkedArray) -> list[object]:
    return sorted(set(column.drop_null().to_pylist()))
