"""Data tests of labelled payments: volumes, labels by day, source and slice, duplicates, planted payments."""

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pandas as pd

from features.state import Flags, Ints
from infra.settings import DataTests
from ingestion.checks import MAX_MONEY
from ingestion.tables import DAY_US, day_of
from training import data_tests
from training.data_tests import frequent, odd_parts
from training.dataset import Dataset
from training.labels import CLOSENESS
from training.odd_stretches import SURE, Limits, deviance_root
from training.quarantine import Part, held_by
from training.row_checks import refused

SLICES = ("channel", "country")
"""Columns whose values are compared over time; few values with many payments each."""
_KINDS = {"amount": float, **dict.fromkeys(("customer_id", "terminal_id", *SLICES, "source", "agreed"))}
_CHECKS = (
    (
        "range",
        f"amount: expected a number from 0 up to {MAX_MONEY:g}",
        lambda rows: rows.amount.between(0, MAX_MONEY),
    ),
    ("schema", "customer_id: expected an id, came nothing", lambda rows: rows.customer_id.notna()),
    ("schema", "terminal_id: expected an id, came nothing", lambda rows: rows.terminal_id.notna()),
    (
        "schema",
        f"source: expected one of {', '.join(CLOSENESS)}",
        lambda rows: rows.source.isin(CLOSENESS),
    ),
)
_WARM_UP_DAYS = 14
"""So long is everybody new."""
_ALIKE = 1.1
"""Amounts within this factor are near to identical."""
_TIMES_MORE = 5.0
_PLANTED_WITHIN = (1, 7)
"""Days."""
_BOTH_WORDS = 0.2
"""Least share of either word."""
_COIN = 0.45
"""Agreement that is worse than a coin's."""
_AGREEMENT = 0.3
"""How far the share that agrees may be from usual: people differ, and cases come in waves."""


def parts(data: Dataset, limits: DataTests) -> Iterator[Part]:
    """All that is to be left out of a set of labelled payments."""
    yield from refused(data, _KINDS, _CHECKS)
    yield from _bursts(data, limits)
    yield from _of_days(data, limits)
    yield from _look_alikes(data, limits)


def _bursts(data: Dataset, limits: DataTests) -> Iterator[Part]:
    alike = {name: data.columns[name] for name in ("customer_id", "terminal_id", "channel", "country")}
    same = alike | {"amount": data.columns["amount"].astype(np.float64), "day": data.time_us // DAY_US}
    yield from data_tests.bursts(data, same, limits.burst)


def _of_days(data: Dataset, limits: DataTests) -> Iterator[Part]:
    """Parts of days, the narrowest first: what one of them explains is not in those that follow."""
    tests = (
        _volumes,
        _flipped_slices,
        _flipped_sources,
        _disagreeing_sources,
        _rate_of_days,
        _gone_from_slices,
    )
    for test in tests:
        found = list(test(data, limits))
        yield from found
        data = data_tests.without(data, found)


def _volumes(data: Dataset, limits: DataTests) -> Iterator[Part]:
    return data_tests.volumes(data, limits)


def _rate_of_days(data: Dataset, limits: DataTests) -> Iterator[Part]:
    columns, all_rows = data_tests.days_of(data), np.ones(len(data), np.bool_)
    far = _of_payments(limits)
    yield from odd_parts(
        "label_rate", "share of fraud", columns["day"], data.target > 0, far, all_rows, {}, "day"
    )


def _of_payments(limits: DataTests) -> Limits:
    """Frauds may multiply where a gang is at work; that nearly all of them vanish is no work of nature."""
    gone = 2.0 * limits.max_rate_ratio
    return Limits(limits.max_rate_change, times_down=gone, least_rows=limits.min_day_rows)


def _flipped_sources(data: Dataset, limits: DataTests) -> Iterator[Part]:
    """Sources whose labels, on the days they came, are other than usual of that source."""
    columns = data_tests.days_of(data)
    far = Limits(limits.max_rate_change, limits.max_rate_ratio, least_rows=LEAST_LABELS)
    for source in frequent(data.columns["source"], LEAST_LABELS):
        mine = data.columns["source"] == source
        yield from odd_parts(
            "flipped_source", "share of fraud", columns["arrival_day"], data.target > 0, far, mine,
            {"source": source}, "arrival_day",
        )  # fmt: skip


LEAST_LABELS = 20
"""Labels of a source in a stretch of days; fewer tell nothing."""


def _disagreeing_sources(data: Dataset, _: DataTests) -> Iterator[Part]:
    """Sources that say the opposite of others on the same payment, or of what the champion had scored.

    A source that agrees less than before may have found what nobody else knows; one that agrees less than a
    coin would says the opposite.
    """
    columns = data_tests.days_of(data)
    far = Limits(_AGREEMENT, least_rows=LEAST_LABELS, under=_COIN)
    for what, agrees, known in _agreements(data):
        for source in frequent(data.columns["source"][known], LEAST_LABELS):
            mine = known & (data.columns["source"] == source)
            yield from odd_parts(
                "disagreeing_source", what, columns["arrival_day"], agrees, far, mine, {"source": source},
                "arrival_day",
            )  # fmt: skip


def _agreements(data: Dataset) -> Iterator[tuple[str, Flags, Flags]]:
    """What is agreed with, which rows agree, and of which rows it is known.

    Scores tell of a source only if it says both words often: one that only ever says fraud agrees less as
    soon as there is a fraud that the champion does not know.
    """
    agreed = data.columns["agreed"].astype(np.float64)
    yield "agreement with other sources", agreed > 0, ~np.isnan(agreed)
    if "champion_score" not in data.columns:
        return
    by_source = data.columns["source"]
    score = pd.Series(data.columns["champion_score"].astype(np.float64))
    usual = score.groupby(by_source).transform("median").to_numpy()
    share = pd.Series(data.target).groupby(by_source).transform("mean").to_numpy()
    both = (share > _BOTH_WORDS) & (share < 1.0 - _BOTH_WORDS)
    known = ~np.isnan(score.to_numpy()) & both
    yield "agreement with the champion's scores", (score.to_numpy() > usual) == (data.target > 0), known


def _flipped_slices(data: Dataset, limits: DataTests) -> Iterator[Part]:
    """Slices whose labels change at once: the one that changed most, then what is odd without it, and so on.

    What most values of a column share is not theirs but the days' or a source's.
    """
    far = Limits(limits.max_rate_change, least_rows=limits.min_day_rows)
    while len(data) and (found := [each for name in SLICES for each in _own(data, name, far, limits)]):
        worst = max(found, key=lambda parts: _share_of_fraud(data, parts))
        yield from worst
        data = data_tests.without(data, worst)


def _own(data: Dataset, name: str, far: Limits, limits: DataTests) -> Iterator[list[Part]]:
    """The parts of each value of a column, on days that at most half of its values find odd."""
    values = frequent(data.columns[name], limits.min_day_rows)
    found = [list(_of_slice(data, name, value, far)) for value in values]
    shared = Counter(day for parts in found for day in {day for part in parts for day in _days(part)})
    for parts in found:
        if own := [part for part in parts if max(shared[day] for day in _days(part)) <= len(values) / 2]:
            yield own


def _share_of_fraud(data: Dataset, parts: list[Part]) -> float:
    held = held_by(parts, data.ids, data_tests.days_of(data))
    return float(data.target[held].mean())


def _gone_from_slices(data: Dataset, limits: DataTests) -> Iterator[Part]:
    """Slices that lost nearly all of their frauds."""
    for name in SLICES:
        for value in frequent(data.columns[name], limits.min_day_rows):
            yield from _of_slice(data, name, value, _of_payments(limits))


def _of_slice(data: Dataset, name: str, value: str, far: Limits) -> Iterator[Part]:
    mine, day = data.columns[name] == value, data_tests.days_of(data)["day"]
    yield from odd_parts("slice", "share of fraud", day, data.target > 0, far, mine, {name: value}, "day")


def _days(part: Part) -> range:
    first, last = part.days or (0, -1)
    return range(first, last + 1)


def _look_alikes(data: Dataset, limits: DataTests) -> Iterator[Part]:
    """Legitimate payments of new customers that are as good as identical: planted, to pass for usual ones."""
    fresh = _fresh(data)
    good = data.target == 0
    if not (fresh & good).any():
        return
    kind = _kind(data)
    usual = np.bincount(kind[good & ~fresh], minlength=int(kind.max()) + 1) + 0.5
    share = usual / usual.sum()
    rows = np.flatnonzero(fresh & good)
    for length in _PLANTED_WITHIN:
        period = data.time_us[rows] // DAY_US // length
        groups = pd.DataFrame({"period": period, "kind": kind[rows], "row": rows})
        everybody = groups.groupby("period")["row"].size().to_dict()
        for at, one in groups[["period", "kind"]].drop_duplicates().to_numpy().tolist():
            alike = rows[(period == at) & (kind[rows] == one)]
            if _planted(len(alike), everybody[at], float(share[one]), limits):
                ids = tuple(sorted(map(str, data.ids[alike])))
                since = day_of(at * length * DAY_US)
                reason = f"{len(alike)} alike of new customers within {length} days from {since}"
                yield Part("look_alikes", reason, ids=ids, rows=len(alike))


def _planted(alike: int, fresh: int, usual: float, limits: DataTests) -> bool:
    if alike < limits.look_alikes or alike <= _TIMES_MORE * fresh * usual:
        return False
    return deviance_root(alike, fresh, usual) > SURE


def _fresh(data: Dataset) -> Flags:
    """Payments within a day of their customer's first one, once not everybody is new."""
    first = pd.Series(data.time_us).groupby(data.columns["customer_id"]).transform("min").to_numpy()
    warm = first >= int(data.time_us.min()) + _WARM_UP_DAYS * DAY_US
    fresh: Flags = warm & (data.time_us < first + DAY_US)
    return fresh


def _kind(data: Dataset) -> Ints:
    """Number of each payment's kind: amount as good as identical, same channel and country."""
    size = np.floor(np.log(np.maximum(data.columns["amount"].astype(np.float64), 0.01)) / np.log(_ALIKE))
    alike = pd.DataFrame({"size": size, **{name: data.columns[name] for name in SLICES}})
    number = alike.groupby(["size", *SLICES], dropna=False).ngroup()
    kinds: Ints = np.asarray(number, np.int64)
    return kinds
