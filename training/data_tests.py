"""Data tests before a training: what can't be, or is far from usual, is left out, each part with its reason.

What is wrong by itself (a row out of range, a label before its payment, a row that came twice) is left out
row by row (`row_checks`). What is only wrong beside the rest (a day of too many rows, a source whose labels
flip, a slice that lost its frauds, a burst) is left out as a part: days, a source on some days, a slice on
some days. A pattern that is merely new is kept: frauds rise where a gang is at work, demand falls where it is
autumn.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from features.state import Flags, Floats, Ints
from infra.errors import UserError
from infra.settings import DataTests
from ingestion.tables import DAY_US, day_of
from training.dataset import Dataset, LeftOut, Objects
from training.odd_stretches import Limits, odd_stretches
from training.quarantine import Part, held_by

log = logging.getLogger(__name__)

AROUND = 10
"""Days before a day, and days after it, that its volume is compared with."""
LEAST_OTHERS = 3

type_of_columns = Mapping[str, NDArray[Any]]
type_of_tests = Callable[[Dataset, DataTests], Iterable[Part]]


def tested(data: Dataset, tests: type_of_tests, limits: DataTests) -> Dataset:
    """The rows that pass a task's tests, with what was left out.

    Raises:
        UserError: too much would be left out; the largest parts are told.
    """
    if not len(data):
        return data
    parts = [part for part in tests(data, limits) if part.rows]
    kept = without(data, parts)
    for part in parts:
        log.warning("left out of the training: %s", part)
    if kept.left_out.share > limits.max_left_out:
        raise UserError(_too_much(kept.left_out, limits))
    return kept


def without(data: Dataset, parts: Sequence[Part]) -> Dataset:
    """The rows that are in none of the parts."""
    held = held_by(parts, data.ids, days_of(data))
    left = LeftOut(tuple(parts), int(held.sum()), float(held.mean()) if len(held) else 0.0)
    return replace(data.rows(~held), left_out=left)


def days_of(data: Dataset) -> type_of_columns:
    """The columns of a set with the `day` of each event and the `arrival_day` of what became of it."""
    arrived = data.columns.get("arrived_us", np.full(len(data), -1))
    return {**data.columns, "day": data.time_us // DAY_US, "arrival_day": arrived // DAY_US}


def _too_much(left: LeftOut, limits: DataTests) -> str:
    largest = sorted(left.parts, key=lambda part: -part.rows)[:3]
    return (
        f"expected at most {limits.max_left_out:.0%} of the events to fail the data tests, {left.share:.0%}"
        f" ({left.rows:,}) did: {'; '.join(map(str, largest))}. Put the source right, or raise"
        " data_tests.max_left_out if this is how your data are."
    )


def wrong_rows(data: Dataset, test: str, reason: str, wrong: Flags) -> Iterator[Part]:
    """A part of single rows; nothing if none is wrong."""
    if wrong.any():
        ids = tuple(sorted(set(map(str, data.ids[wrong]))))
        yield Part(test, reason, ids=ids, rows=int(wrong.sum()))


def bursts(data: Dataset, same: Mapping[str, NDArray[Any]], least: int) -> Iterator[Part]:
    """Rows that are alike in everything that `same` names, but for the first of them.

    Args:
        data: the rows.
        same: columns, each of shape (n,).
        least: so many alike are a burst.
    """
    groups = pd.DataFrame(dict(same)).groupby(list(same), dropna=False, sort=False)
    size = groups[next(iter(same))].transform("size").to_numpy()
    many = (size >= least) & (groups.cumcount().to_numpy() > 0)
    yield from wrong_rows(data, "burst", f"one of {least} or more identical records", many)


def volumes(data: Dataset, limits: DataTests) -> Iterator[Part]:
    """Days, not the first or last, with far more or fewer rows than before, than after and on their weekday.

    Few rows are no fault of theirs: only what is usual must be `min_day_rows` or more.
    """
    day = data.time_us // DAY_US
    first = int(day.min())
    counts = np.bincount(day - first).astype(np.float64)
    for at in range(1, len(counts) - 1):
        usual = _usual_volumes(counts, at)
        if not counts[at] or len(usual) == 0 or usual.min() < limits.min_day_rows:
            continue
        ratio = limits.max_volume_ratio
        if counts[at] > ratio * usual.max() or counts[at] < usual.min() / ratio:
            when, expected = day_of((first + at) * DAY_US), np.median(usual)
            reason = f"{counts[at]:,.0f} rows on {when}, {expected:,.0f} are usual"
            yield Part("volume", reason, (first + at, first + at), rows=int(counts[at]))


def _usual_volumes(counts: Floats, at: int) -> Floats:
    """Median rows of the days before, of those after, and of the same weekday; empty where there are too few.

    Both sides, as a business that grows or shrinks for good has nothing wrong with its days.
    """
    sides = [counts[max(0, at - AROUND) : at], counts[at + 1 : at + 1 + AROUND]]
    sides = [side[side > 0] for side in sides]
    if min(map(len, sides)) < LEAST_OTHERS:
        return np.empty(0)
    same = np.array([counts[other] for other in range(at % 7, len(counts), 7) if other != at])
    return np.array([float(np.median(days)) for days in (*sides, same[same > 0]) if len(days) > 1])


def odd_parts(
    test: str,
    what: str,
    day: Ints,
    hit: Flags,
    limits: Limits,
    chosen: Flags,
    where: Mapping[str, str],
    by: str,
) -> Iterator[Part]:
    """Parts of stretches of days in which a share of the chosen rows is odd.

    Args:
        test: its name.
        what: the share, for the reason.
        day: of each row.
        hit: of each row.
        limits: what is too far.
        chosen: rows that are looked at.
        where: what they have in common; the part holds all such rows of the days.
        by: name of the `day`.
    """
    for odd in odd_stretches(day[chosen], hit[chosen], limits):
        of = "".join(f" of {name} {value}" for name, value in where.items())
        first, last = (day_of(each * DAY_US) for each in (odd.first, odd.last))
        when = first if first == last else f"{first} to {last}"
        yield Part(test, f"{what}{of}, {when}: {odd}", (odd.first, odd.last), by, where, rows=odd.rows)


def frequent(values: Objects, least: int) -> list[str]:
    """Values that at least so many rows have, in order of their names."""
    counts = pd.Series(values, dtype=object).dropna().value_counts()
    return sorted(str(value) for value, count in counts.items() if count >= least)
