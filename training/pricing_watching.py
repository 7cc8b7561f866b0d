"""What the history shows of a pricing champion on quotes later than those that it learned from."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.pricing import PRICING
from features.state import Flags, Floats
from infra.settings import Settings
from ingestion.history import History
from ingestion.tables import DAY_US, OUTCOMES, QUOTES
from training import performance
from training.dataset import Dataset, Span
from training.demand import doubt_of
from training.departures import in_stock
from training.drift import numbered
from training.models import Scorer
from training.performance import Decline, Looked, Standard, Tally
from training.pricing import MATURITY_DAYS, from_tables, log_loss, poisson_deviance
from training.sight import Moment, Sight, Watched, sample

SURELY_SOLD = 20.0
"""A day that promised so many sales and has none is a day without outcomes, not one without buyers."""

NEARLY, ENOUGH = 0.999, 1_000
"""Share of outcomes by which their delay is told, and how many it takes to tell it."""


@dataclass(frozen=True)
class Quoted:
    """Matured quotes in order of time with what the champion forecast of them."""

    rows: Dataset
    chance: Floats
    units_per_sale: float
    gain: Floats
    """Margin of a unit at the quoted price, in money, shape (n,); NaN if its cost is unknown."""

    def chosen(self, which: Flags) -> "Quoted":
        """The same of some quotes."""
        return Quoted(self.rows.rows(which), self.chance[which], self.units_per_sale, self.gain[which])

    @property
    def day(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """Of each quote, since 1970 UTC."""
        found: np.ndarray[tuple[int], np.dtype[np.int64]] = self.rows.time_us // DAY_US
        return found


def see(settings: Settings, champion: Scorer, standard: Standard, moment: Moment) -> Sight:
    """Drift sample, forecast error, margin against forecast, and whether sales have left the forecast."""
    champion.card.expect(PRICING.names, PRICING.hash)
    history = History(settings.history)
    quotes, outcomes = (
        history.read(QUOTES, None, moment.now_us + 1),
        history.read(OUTCOMES, None, moment.now_us + 1),
    )
    if not quotes.num_rows or not outcomes.num_rows:
        return Sight(0, {}, np.empty(0, np.int64), {"rows": 0.0}, (), {"rows": 0.0})
    until_us = moment.now_us + round(MATURITY_DAYS * DAY_US)  # the youngest, too: see `told_within_us`
    rows = in_stock(from_tables(quotes, outcomes, Span(until_us=until_us), settings.pricing))
    rows = rows.rows(rows.time_us >= moment.start_us)
    seen = _quoted(champion, rows, quotes)
    mature = rows.time_us <= moment.now_us - told_within_us(outcomes)
    known, recent = seen.chosen(mature & answered(seen, outcomes)), moment.recent(rows.time_us)
    return Sight(
        rows=len(rows),
        columns=sample(PRICING.names, rows.matrix, seen.chance, recent),
        groups=numbered(rows.columns["product_name"][recent]),
        matured=figures(known),
        days=tuple(
            {"day": float(day)} | figures(known.chosen(known.day == day))
            for day in np.unique(known.day).tolist()
        ),
        estimated=estimated(seen.chosen(~mature)),
        declines=_declines(settings, known, standard),
    )


def figures(known: Quoted) -> dict[str, float]:
    """Forecast error, and what was sold and earned against what was forecast."""
    units, bought = known.rows.columns["units"].astype(np.float64), known.rows.target
    if not len(units):
        return {"rows": 0.0}
    forecast = known.chance * known.units_per_sale
    priced = ~np.isnan(known.gain)
    earned = float(units[priced] @ known.gain[priced])
    promised = float(forecast[priced] @ known.gain[priced])
    return {
        "rows": float(len(units)),
        "log_loss": log_loss(bought, known.chance),
        "poisson_deviance": poisson_deviance(units, forecast),
        "forecast_error": float((units - forecast).mean()),
        **performance.ratio_interval(float(bought.sum()), float(known.chance.sum())).named(
            "observed_to_expected"
        ),
        "margin": earned,
        "margin_forecast": promised,
        "margin_to_forecast": earned / promised if promised else np.nan,
    }


def estimated(seen: Quoted) -> dict[str, float]:
    """What the forecast promises, and how sharp it is if it is right: the mean entropy is its log loss."""
    if not len(seen.rows):
        return {"rows": 0.0}
    chance = np.clip(seen.chance, 1e-9, 1.0 - 1e-9)
    entropy = -(chance * np.log(chance) + (1.0 - chance) * np.log(1.0 - chance))
    return {
        "rows": float(len(seen.rows)),
        "units_per_quote": float(chance.mean()) * seen.units_per_sale,
        "log_loss": float(entropy.mean()),
    }


def told_within_us(outcomes: pa.Table) -> int:
    """How old a quote must be for its outcome to count, so that sales are not told before what was not sold.

    As long as nearly every outcome of nothing sold has taken; where none is told, as long as in training.
    """
    longest = round(MATURITY_DAYS * DAY_US)
    none = outcomes.filter(pc.equal(outcomes["units"], 0))
    took = none["event_time_us"].to_numpy() - none["quoted_at_us"].to_numpy()
    took = took[~np.isnan(took.astype(np.float64))]
    if len(took) < ENOUGH:
        return longest
    return int(min(longest, np.quantile(took, NEARLY)))


def answered(seen: Quoted, outcomes: pa.Table) -> Flags:
    """Quotes whose outcome is known.

    Where outcomes of nothing sold are told, only quotes with an outcome are. Where they are not, a quote
    without one was not bought, but for days on which no sale at all was told.
    """
    if pc.any(pc.equal(outcomes["units"], 0)).as_py():
        ids = pa.array(seen.rows.ids, pa.string())
        told: Flags = pc.is_in(ids, outcomes["quote_id"].combine_chunks()).to_numpy(zero_copy_only=False)
        return told
    days, row = np.unique(seen.day, return_inverse=True)
    promised = np.bincount(row, seen.chance, len(days))
    sold = np.bincount(row, seen.rows.target, len(days))
    silent: Flags = (sold == 0) & (promised >= SURELY_SOLD)
    return ~silent[row]


def _quoted(champion: Scorer, rows: Dataset, quotes: pa.Table) -> Quoted:
    doubt = doubt_of(champion.card.extra)
    place = pc.index_in(pa.array(rows.ids, pa.string()), quotes["quote_id"].combine_chunks()).to_numpy()
    price, cost = (quotes[name].to_numpy().astype(np.float64)[place] for name in ("price", "unit_cost"))
    chance = champion.predict(rows.matrix) if len(rows) else np.empty(0)
    return Quoted(rows, chance, doubt.units_per_sale if doubt else 1.0, price - cost)


def _declines(settings: Settings, known: Quoted, standard: Standard) -> dict[str, Decline]:
    """Fewer sales than forecast, and more; sums of chances are no wider than Poisson's.

    Usual is the end of the interval of sales over forecast on the test window, or what is tolerated of any
    champion, whichever lies further off: no forecast knows the day's weather.
    """
    tally, chosen = Tally.of(known.day, known.rows.target, known.chance), settings.watching
    usual, days = standard.usual, chosen.false_alarm_days
    low, high = min(usual.low, 1.0 / chosen.demand_tolerated), max(usual.high, chosen.demand_tolerated)
    more = Looked(chosen.demand_ratios, days)
    fewer = Looked(tuple(1.0 / ratio for ratio in chosen.demand_ratios), days)
    return {
        "fewer_sales": performance.decline(tally, low, standard.dispersion, fewer),
        "more_sales": performance.decline(tally, high, standard.dispersion, more),
    }


WATCHED = Watched(see, settled="outcomes")
