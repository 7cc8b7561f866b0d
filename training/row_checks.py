"""What each row of a training set must be by itself, as a Pandera schema; rows that are not become parts.

The one module that speaks Pandera, and only when data are tested: to import it takes a while.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from infra.errors import UserError
from ingestion.events import EARLIEST, LATEST, microseconds
from training.data_tests import wrong_rows
from training.dataset import Dataset
from training.quarantine import Part

type_of_check = tuple[str, str, Callable[[pd.DataFrame], Any]]
"""Name of the data test, reason of its part, and which rows pass it, of those without a value too."""

_FIRST_US, _LAST_US = microseconds(EARLIEST), microseconds(LATEST) - 1
_KINDS = {"target": float, "time_us": int, "arrived_us": int}
_CHECKS: Sequence[type_of_check] = (
    ("range", "a feature that is not finite", lambda rows: ~rows.endless),
    ("range", "target: expected 0 or 1", lambda rows: rows.target.isin((0.0, 1.0))),
    ("time_travel", "a clock that is decades off", lambda rows: rows.time_us.between(_FIRST_US, _LAST_US)),
    ("time_travel", "settled before it happened", lambda rows: ~rows.arrived_us.between(0, rows.time_us - 1)),
    (
        "time_travel",
        "from after the label cut-off",
        lambda rows: np.maximum(rows.time_us, rows.arrived_us) <= rows.cutoff_us,
    ),
    ("duplicate", "the same id more than once", lambda rows: ~rows.id.duplicated(keep=False)),
)
_ORDER = ("range", "schema", "time_travel", "duplicate")
"""Of the parts."""


def refused(data: Dataset, kinds: Mapping[str, type | None], checks: Sequence[type_of_check]) -> list[Part]:
    """A part for each check that rows fail; a row may be in several.

    Args:
        data: the rows.
        kinds: type of each column of the task; None: any.
        checks: of the task, beside those that are every task's.

    Raises:
        UserError: a column is missing, or of another length or type.
    """
    kinds = {**kinds, **_KINDS}
    ordered = sorted((*checks, *_CHECKS), key=lambda check: _ORDER.index(check[0]))
    try:
        failed = _failed(_rows(data), kinds, ordered)
        wrong = [each.schema.name or each.failure_cases for each in failed if isinstance(each.check, str)]
    except ValueError as error:
        wrong = [str(error)]
    if wrong:
        raise UserError(
            f"expected a training set of {len(data)} rows with the columns {', '.join(kinds)} and"
            f" {len(data.features)} features; wrong or missing: {', '.join(dict.fromkeys(wrong))}."
        )
    found = ((each.check, ~each.check_output.to_numpy()) for each in failed)
    return [part for check, rows in found for part in wrong_rows(data, check.name, check.error, rows)]


def _rows(data: Dataset) -> pd.DataFrame:
    endless = np.isinf(pd.DataFrame(data.matrix, columns=list(data.features))).any(axis=1)
    own = {"id": data.ids, "time_us": data.time_us, "target": data.target, "endless": endless}
    return pd.DataFrame({**data.columns, **own, "cutoff_us": data.cutoff_us})


def _failed(
    rows: pd.DataFrame, kinds: Mapping[str, type | None], checks: Sequence[type_of_check]
) -> list[Any]:
    """Pandera's errors of the whole schema, whatever the environment tells it to skip."""
    from pandera.config import ValidationDepth, config_context
    from pandera.errors import SchemaErrors
    from pandera.pandas import Check, Column, DataFrameSchema

    columns = {name: Column(kind, nullable=True, coerce=kind is float) for name, kind in kinds.items()}
    # Empty rows and lists of all failures would take seconds; the rows of `check_output` are enough.
    told = [
        Check(passes, name=test, error=reason, ignore_na=False, n_failure_cases=1)
        for test, reason, passes in checks
    ]
    with warnings.catch_warnings(), config_context(True, ValidationDepth.SCHEMA_AND_DATA):
        warnings.simplefilter("ignore", FutureWarning)  # pandas, of how Pandera sums its errors up
        try:
            DataFrameSchema(columns, told).validate(rows, lazy=True, inplace=True)
        except SchemaErrors as found:
            return found.schema_errors
    return []
