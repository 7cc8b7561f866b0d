"""Data tests of quotes and what became of them: volumes, duplicates, outcomes that were lost."""

from collections.abc import Iterator

import numpy as np

from infra.settings import DataTests
from ingestion.checks import MAX_MONEY
from training import data_tests
from training.dataset import Dataset
from training.odd_stretches import Limits
from training.quarantine import Part
from training.row_checks import refused

_ALIKE = ("product_name", "segment_name")
_KINDS = {"units": float, **dict.fromkeys(_ALIKE)}
_CHECKS = (
    (
        "range",
        f"units: expected a number from 0 up to {MAX_MONEY:g}",
        lambda rows: rows.units.between(0, MAX_MONEY),
    ),
)


def parts(data: Dataset, limits: DataTests) -> Iterator[Part]:
    """All that is to be left out of a set of matured quotes."""
    yield from refused(data, _KINDS, _CHECKS)
    same = {name: data.columns[name] for name in _ALIKE}
    yield from data_tests.bursts(data, {**same, "time_us": data.time_us}, limits.burst)
    yield from data_tests.volumes(data, limits)
    yield from _lost_outcomes(data, limits)


def _lost_outcomes(data: Dataset, limits: DataTests) -> Iterator[Part]:
    """Days on which next to nothing was bought: an outcome that is lost looks like a quote that did not sell.

    Demand may fall by half from one day to the next, and stay there; it does not vanish.
    """
    day, all_rows = data_tests.days_of(data)["day"], np.ones(len(data), np.bool_)
    far = Limits(np.inf, times_down=2.0 * limits.max_rate_ratio, least_rows=limits.min_day_rows)
    yield from data_tests.odd_parts(
        "lost_outcomes", "share bought", day, data.target > 0, far, all_rows, {}, "day"
    )
