"""How a fraud model is kept up to date: learned from scratch, trees added to it, or its leaves refitted.

Walked forward week by week: at each week's beginning every way learns from the labels that had arrived by
then, and decides the week's payments, which are judged by what they turned out to be. All ways have the same
features, the same calibration and the same policy.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from features import replay
from features.fraud import FRAUD
from features.state import Floats
from infra.errors import UserError
from infra.settings import Settings
from ingestion.tables import DAY_US
from training import booster, fraud_model, labels
from training.booster import Model
from training.dataset import Dataset
from training.fraud_judging import COLUMNS, Judged

WEEK_US = 7 * DAY_US
MORE_TREES = 20
"""Trees that a continued model gets a week."""
DECAY = 0.9
"""Weight of what a leaf said before, against what the new rows say (LightGBM's `refit_decay_rate`)."""
KEPT = 240
"""Most trees of a continued model: one that has more can't be explained in time and begins anew."""

type_of_way = Callable[[Dataset, Dataset, Model | None, Settings], tuple[Model, Model]]
"""From all known rows, those known since the last week and the last week's raw trees to new raw trees and
the calibrated model of them."""


def from_scratch(known: Dataset, _: Dataset, __: Model | None, settings: Settings) -> tuple[Model, Model]:
    """All anew, from the whole window."""
    model = fraud_model.learned(known, settings.fraud)
    return model, model


def continued(known: Dataset, news: Dataset, last: Model | None, settings: Settings) -> tuple[Model, Model]:
    """A few trees more, that learn from the news what the trees before leave."""
    if last is None or last.trees + MORE_TREES > KEPT:
        return _begun(known, settings)
    few = {**booster.CLASSIFIER, "num_iterations": MORE_TREES}
    raw = booster.train(news.matrix, news.target, fraud_model.blank(known), few, onto=last)
    return raw, _calibrated(raw, last, news, settings)


def refitted(known: Dataset, news: Dataset, last: Model | None, settings: Settings) -> tuple[Model, Model]:
    """The same splits, with leaves that lean towards the news."""
    if last is None:
        return _begun(known, settings)
    raw = booster.refit(last, news.matrix, news.target, DECAY)
    return raw, _calibrated(raw, last, news, settings)


WAYS: dict[str, type_of_way] = {"scratch": from_scratch, "continued": continued, "refit": refitted}


def _begun(known: Dataset, settings: Settings) -> tuple[Model, Model]:
    raw = fraud_model.trees(known)
    return raw, fraud_model.finished(raw, *fraud_model.witness(known), settings.fraud)


def _calibrated(raw: Model, last: Model, news: Dataset, settings: Settings) -> Model:
    """The last week's trees have not seen the news, so they are the witness of how far scores are off."""
    if not 0 < (news.target > 0).sum() < len(news):
        return raw
    return fraud_model.finished(raw, last, news, settings.fraud)


@dataclass(frozen=True)
class Week:
    """One way's week."""

    way: str
    start_us: int
    cost: float
    """Money by the policy: frauds that passed, sales that were declined, reviews."""
    average_precision: float
    seconds: float
    """To learn."""
    rows: int
    """That were learned from."""
    trees: int


@dataclass(frozen=True)
class Compared:
    """All weeks of all ways."""

    weeks: tuple[Week, ...]

    def of(self, way: str) -> list[Week]:
        """Weeks of a way, in order, without the first, in which all are alike."""
        return [week for week in self.weeks if week.way == way][1:]

    def summary(self) -> dict[str, dict[str, float]]:
        """By way: money of all weeks, mean average precision, mean seconds, and the money against scratch.

        `cost_above_scratch` is the mean a week with the ends of its 95 % interval, from the weeks as pairs.
        """
        usual = np.array([week.cost for week in self.of("scratch")])
        return {way: self._of(way, usual) for way in dict.fromkeys(week.way for week in self.weeks)}

    def _of(self, way: str, usual: Floats) -> dict[str, float]:
        weeks = self.of(way)
        above = np.array([week.cost for week in weeks]) - usual
        mean, half = float(above.mean()), _half_width(above)
        return {
            "cost": float(sum(week.cost for week in weeks)),
            "average_precision": float(np.mean([week.average_precision for week in weeks])),
            "seconds": float(np.mean([week.seconds for week in weeks])),
            "cost_above_scratch": mean,
            "cost_above_scratch_low": mean - half,
            "cost_above_scratch_high": mean + half,
        }

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"ways": self.summary(), "weeks": [asdict(week) for week in self.weeks]}


def _half_width(values: Floats) -> float:
    """Half of the mean's 95 % interval by Student's t; NaN of fewer than two."""
    if len(values) < 2:
        return math.nan
    from scipy.stats import t

    return float(t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)))


def compare(
    settings: Settings,
    tables: tuple[pa.Table, pa.Table],
    weeks: int,
    window_days: float,
    told: Callable[[str], None],
    ways: Sequence[str] = tuple(WAYS),
) -> Compared:
    """Walk the last `weeks` whose labels are all known, every way by itself.

    Args:
        settings: policy and maturity of labels.
        tables: payments and labels, as in the history.
        weeks: that are decided; before the first there must be something to learn from.
        window_days: that training from scratch, and the first training of the others, looks back.
        told: called with a line after each week.
        ways: names of `WAYS`.

    Raises:
        UserError: there are too few weeks of labelled payments.
    """
    past = _Past(settings, *tables)
    found = list(_walked(past, past.starts(weeks), window_days, ways, told))
    return Compared(tuple(found))


def _walked(
    past: "_Past", starts: Sequence[int], window_days: float, ways: Sequence[str], told: Callable[[str], None]
) -> Iterator[Week]:
    last: dict[str, Model] = {}
    for number, start_us in enumerate(starts):
        known = past.known(start_us, start_us - round(window_days * DAY_US))
        news = past.news(known, start_us)
        judged = Judged(past.week(start_us), past.settings)
        for way in ways:
            began = time.perf_counter()
            last[way], model = WAYS[way](known, news, last.get(way), past.settings)
            seconds = time.perf_counter() - began
            figures = judged.of_model(model)
            rows = len(known) if way == "scratch" or number == 0 else len(news)
            cost, precision = figures["expected_cost"], figures["average_precision"]
            yield Week(way, start_us, cost, precision, seconds, rows, last[way].trees)
        told(f"week {number + 1} of {len(starts)}")


class _Past:
    """Payments, their features and their labels, as they became known."""

    def __init__(self, settings: Settings, transactions: pa.Table, known: pa.Table) -> None:
        self.settings = settings
        self._labels = known
        self._rows = transactions
        self._ids = transactions["transaction_id"].to_pandas().to_numpy(object)
        self._time_us = transactions["event_time_us"].to_numpy()
        self._matrix = replay.matrix_of(FRAUD, transactions, known).values
        self._truth = labels.targets(self._ids, self._time_us, known, self._end_us, 0)

    @property
    def _end_us(self) -> int:
        return int(self._labels["event_time_us"].to_numpy().max())

    @property
    def _maturity_us(self) -> int:
        return round(self.settings.labels.maturity_days * DAY_US)

    def starts(self, weeks: int) -> list[int]:
        """Beginnings of the last weeks that are known to their end.

        Raises:
            UserError: nothing could be learned before the first one.
        """
        paid_us = int(self._time_us.max())
        last = min(paid_us, self._end_us - self._maturity_us) - WEEK_US
        found = [last - week * WEEK_US for week in reversed(range(weeks))]
        if found[0] - self._maturity_us - WEEK_US < int(self._time_us.min()):
            raise UserError(
                f"expected {weeks} weeks of payments with labels after one to learn from, the events end too"
                " early; ask for fewer by --weeks."
            )
        return found

    def known(self, at_us: int, since_us: int) -> Dataset:
        """Payments since a time whose label had come by another."""
        target = labels.targets(self._ids, self._time_us, self._labels, at_us, self._maturity_us)
        return self._set(target, since_us, at_us, at_us)

    def news(self, known: Dataset, at_us: int) -> Dataset:
        """Those of them that were not old enough a week before."""
        return known.rows(known.time_us > at_us - self._maturity_us - WEEK_US)

    def week(self, start_us: int) -> Dataset:
        """Payments of the week that begins, by what they turned out to be."""
        return self._set(self._truth, start_us, start_us + WEEK_US, self._end_us)

    def _set(self, target: Floats, from_us: int, to_us: int, cutoff_us: int) -> Dataset:
        chosen = np.flatnonzero((self._time_us >= from_us) & (self._time_us < to_us) & ~np.isnan(target))
        chosen = chosen[np.argsort(self._time_us[chosen], kind="stable")]
        rows = self._rows.take(pa.array(chosen))
        return Dataset(
            features=FRAUD.names,
            feature_hash=FRAUD.hash,
            ids=self._ids[chosen],
            time_us=self._time_us[chosen],
            matrix=self._matrix[chosen],
            target=target[chosen],
            columns={name: rows[name].to_pandas().to_numpy(object) for name in COLUMNS},
            cutoff_us=cutoff_us,
        )
