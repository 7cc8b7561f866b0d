"""Demand models in shadow: how well two of them foretold what became of the same live quotes."""

import numpy as np

from features.pricing import PRICING
from features.state import Flags, Floats, Ints
from infra.settings import Settings
from ingestion.history import History
from ingestion.tables import DAY_US, OUTCOMES, QUOTES
from training.dataset import Dataset, Objects
from training.demand import doubt_of
from training.gate import Limit
from training.paired import Draws, groups_of
from training.parity import common
from training.pricing import MATURITY_DAYS, settled_units
from training.shadow_gate import Matured, tail
from training.traffic import NEEDED, Pair, Scored, Traffic, vectors

HOUR_US = DAY_US // 24
_QUOTED = ("quote_id", "event_time_us", "product_id", "segment", "product_position", *NEEDED)
_LEAST = 1e-9


def matured(settings: Settings, start_us: int, cutoff_us: int) -> Dataset:
    """Live quotes that are old enough for their outcome to have come, in order of time."""
    history = History(settings.history)
    end_us = cutoff_us - round(MATURITY_DAYS * DAY_US) + 1
    quoted = history.read(QUOTES, start_us, end_us, _QUOTED)
    quotes, matrix = vectors(
        quoted.sort_by([("event_time_us", "ascending"), ("quote_id", "ascending")]), PRICING
    )
    ids: Objects = quotes["quote_id"].to_pandas().to_numpy(object)
    outcomes = history.read(OUTCOMES, start_us, cutoff_us + 1, ["quote_id", "event_time_us", "units"])
    units, _ = settled_units(ids, outcomes, cutoff_us)
    names = {"product": "product_id", "segment": "segment"}
    return Dataset(
        features=PRICING.names,
        feature_hash=PRICING.hash,
        ids=ids,
        time_us=quotes["event_time_us"].to_numpy(),
        matrix=matrix,
        target=(units > 0).astype(np.float64),
        columns={
            "units": units,
            **{key: quotes[name].to_pandas().to_numpy(object) for key, name in names.items()},
        },
        cutoff_us=cutoff_us,
    )


def compared(settings: Settings, rows: Dataset, pair: Pair, looks: int) -> Matured:
    """Log loss and Poisson deviance with intervals, by product and hour; calibration and slices as limits."""
    gate, both = settings.gate, (pair.challenger, pair.champion)
    losses = [_log_losses(rows.target, each.score) for each in both]
    hours: Ints = rows.time_us // HOUR_US
    draws = Draws(
        groups_of(rows.columns["product"].tolist(), hours.tolist()), np.ones(len(rows)), tail(gate, looks)
    )
    return Matured(
        gains=(
            draws.of_losses("log_loss", losses[0], losses[1]),
            draws.of_losses("poisson_deviance", *(_deviances(rows, each) for each in both)),
        ),
        limits=(_calibration(rows.target, pair.challenger.score, settings), *_slices(rows, losses, settings)),
        figures={
            name: _figures(rows, each) for name, each in zip(("challenger", "champion"), both, strict=True)
        },
    )


def _log_losses(bought: Floats, chance: Floats) -> Floats:
    inside = np.clip(chance, _LEAST, 1.0 - _LEAST)
    losses: Floats = -(bought * np.log(inside) + (1.0 - bought) * np.log(1.0 - inside))
    return losses


def _deviances(rows: Dataset, scored: Scored) -> Floats:
    """Poisson deviance of each row's units against what the model expects of them."""
    doubt, units = doubt_of(scored.model.card.extra), rows.columns["units"]
    mean = np.maximum(scored.score * (doubt.units_per_sale if doubt else 1.0), _LEAST)
    logs = np.log(np.where(units > 0, units, 1.0) / np.where(units > 0, mean, 1.0))
    found: Floats = 2.0 * (units * logs - (units - mean))
    return found


def _figures(rows: Dataset, scored: Scored) -> dict[str, float]:
    if not len(rows):
        return {}
    return {
        "log_loss": float(_log_losses(rows.target, scored.score).mean()),
        "poisson_deviance": float(_deviances(rows, scored).mean()),
        "predicted": float(scored.score.mean()),
        "observed": float(rows.target.mean()),
    }


def _calibration(truth: Floats, score: Floats, settings: Settings) -> Limit:
    highest, came = settings.gate.max_calibration_ratio, float(truth.sum())
    ratio = float(score.sum()) / came if came else np.nan
    return Limit("predicted purchases for each that came", ratio, low=1.0 / highest, high=highest)


def _slices(rows: Dataset, losses: list[Floats], settings: Settings) -> list[Limit]:
    """No product or segment with enough purchases to tell may be foretold much worse."""
    gate, found = settings.gate, []
    for name in ("product", "segment"):
        values = common(rows.columns[name])
        for value in sorted(set(values)):
            mine: Flags = values == value
            if rows.target[mine].sum() < gate.min_frauds:
                continue
            ratio = float(losses[0][mine].sum() / losses[1][mine].sum())
            what = f"log loss of {name}:{value} against the champion's"
            found.append(Limit(what, ratio, high=1.0 + gate.max_slice_loss))
    return found


TRAFFIC = Traffic(
    features=PRICING,
    table=QUOTES,
    key="quote_id",
    what=("matured quotes", "purchases"),
    matured=matured,
    compared=compared,
)
