"""The pricing task: how likely a quote is bought at its price, learned from what became of past quotes."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from features import replay
from features.pricing import PRICING, impersonal
from features.state import Flags, Floats, Ints
from infra.errors import UserError
from infra.settings import PricingPolicy, Settings
from ingestion import file_source, mapping
from ingestion.history import DAY_US, OUTCOMES, QUOTES, History
from training import bid_prices, booster, demand_model, elasticity, metrics, plots
from training.card import Card
from training.dataset import Dataset, Objects, Span, Window, holdout_start, joined
from training.demand import doubt_of
from training.demand_model import DemandModel
from training.departures import in_stock, learned
from training.elasticity import ConstantElasticity
from training.gate import Comparison, Evidence
from training.models import Scorer
from training.parity import common, groups_of, parity
from training.pricing_file import evaluate
from training.stores import feature_store
from training.tasks import EventFile, Incumbent, Task, Trial

MATURITY_DAYS = 1.0
"""Quotes younger than this are not learned from; an older one without an outcome was not bought."""
TEST_DAYS = 7.0
BASELINE = "constant_elasticity"
HEADLINE = ("log_loss", "poisson_deviance", "brier", "auc_roc", "expected_calibration_error", "elasticity")

_LEAST = 1e-9


def from_history(settings: Settings, window: Window) -> Dataset:
    """Matured quotes, and what was known at each, joined by the feature store."""
    history = History(settings.history)
    with replay.alone(settings.home, PRICING.domain):
        replay.refresh(settings.home, history, PRICING.domain)
        spine = replay.spine(settings.home, PRICING.domain, window.start_us, _matured_us(window) + 1)
        matrix = joined(PRICING, _without_persons(spine, settings.pricing), feature_store(settings, PRICING))
    outcomes = history.read(OUTCOMES, None, window.cutoff_us + 1, ["quote_id", "event_time_us", "units"])
    described = history.read(QUOTES, window.start_us, _matured_us(window) + 1, _DESCRIBED)
    return _dataset(spine, matrix, outcomes, described, window, settings.pricing)


def from_file(settings: Settings, file: EventFile, span: Span) -> Dataset:
    """The same from a file of past prices, by the fold alone."""
    found = file_source.prices(file.data, mapping.load(file.mapping), settings.currency)
    events = file_source.placed(found, [entity.name for entity in PRICING.entities], start=0)
    return from_tables(events.decided, events.settled, span, settings.pricing)


def from_tables(
    quotes: pa.Table, outcomes: pa.Table, span: Span, policy: PricingPolicy | None = None
) -> Dataset:
    """The same from tables shaped as the history's; without a policy nothing tells of a person."""
    if not quotes.num_rows or not outcomes.num_rows:
        raise UserError(f"expected quotes and outcomes, got {quotes.num_rows} and {outcomes.num_rows}.")
    unused = policy.unused if policy else ()
    values = replay.matrix_of(PRICING, quotes, outcomes, lambda asked: impersonal(asked, unused)).values
    times, arrived = quotes["event_time_us"].to_numpy(), outcomes["event_time_us"].to_numpy()
    window = span.window(int(max(times.max(), arrived.max())))
    start_us = times.min() if window.start_us is None else window.start_us
    chosen = (times >= start_us) & (times <= _matured_us(window))
    rows = quotes.filter(pa.array(chosen))
    return _dataset(rows, values[chosen], outcomes, rows, window, policy)


def _without_persons(spine: pa.Table, policy: PricingPolicy) -> pa.Table:
    """Request columns as a request's features know them."""
    asked = {name: spine[name].to_numpy() for name in PRICING.request}
    for name, column in impersonal(asked, policy.unused).items():
        spine = spine.set_column(spine.column_names.index(name), name, pa.array(column))
    return spine


def learn(data: Dataset, incumbent: Incumbent | None, settings: Settings) -> Trial:
    """Learn from the older part, measure on the newer beside every rival, then learn from all.

    Raises:
        UserError: too little is known to learn anything.
    """
    end_us = incumbent.model.card.trained.end_us if incumbent else None
    start_us = holdout_start(data.time_us, TEST_DAYS, end_us, 2 * settings.gate.min_labels)
    before, after = in_stock(data).split(start_us)
    _enough(before)
    simple = elasticity.fit(before.matrix, before.target, data.features)
    chances = {
        "lightgbm": train(before).predict(after.matrix),
        BASELINE: simple.predict(after.matrix, data.features),
    }
    if incumbent and incumbent.model.card.feature_hash == PRICING.hash:
        chances["champion"] = incumbent.model.predict(after.matrix)
    judged = _Judged(after, units_per_sale(before), simple, settings)
    return judged.trial(
        chances,
        trained_with_doubt(data),
        before,
        incumbent.notes(PRICING.hash, start_us) if incumbent else (),
    )


def train(data: Dataset) -> DemandModel:
    """A demand model of these quotes."""
    return demand_model.train(data.matrix, data.target, _card(data))


def trained_with_doubt(data: Dataset) -> DemandModel:
    """The same, with how unsure it is in its card, and what perishable stock is worth."""
    stocked = in_stock(data)
    model = demand_model.with_doubt(train(stocked), stocked.matrix, units_per_sale(stocked))
    doubt = doubt_of(model.card.extra)
    assert doubt
    bids = bid_prices.kept(learned(data, model, doubt))
    model.card = replace(model.card, extra={**model.card.extra, **bids})
    return model


def units_per_sale(data: Dataset) -> float:
    """Mean units of the quotes that were bought; 1 if none was."""
    units: Floats = data.columns["units"][data.target > 0]
    return float(units.mean()) if len(units) else 1.0


@dataclass(frozen=True)
class _Judged:
    """The test window, and how demand models are measured on it."""

    rows: Dataset
    units_per_sale: float
    simple: ConstantElasticity
    settings: Settings

    def figures(self, chance: Floats) -> dict[str, float]:
        """Sharpness and calibration of chances of purchase, and of the units expected of them."""
        return {
            "log_loss": log_loss(self.rows.target, chance),
            "poisson_deviance": poisson_deviance(self.rows.columns["units"], chance * self.units_per_sale),
        } | metrics.of_scores(self.rows.target, chance)

    def trial(
        self, chances: Mapping[str, Floats], model: DemandModel, before: Dataset, notes: tuple[str, ...]
    ) -> Trial:
        """Everything about a trial whose model's chances come under `lightgbm`."""
        figures = {name: self.figures(chance) for name, chance in chances.items()}
        own = figures.pop("lightgbm") | self._elasticity()
        slices = metrics.by_slice(self.rows.target, chances["lightgbm"], _slices(self.rows))
        return Trial(
            model=model,
            parameters={**booster.STEADY, **demand_model.TREES, "shape": model.curve.shape},
            metrics=own,
            rivals=figures,
            headline=HEADLINE,
            comparisons=tuple(_compared(own, figures)),
            evidence=self._evidence(),
            test_start_us=int(self.rows.time_us[0]) if len(self.rows) else before.cutoff_us,
            rows_train=len(before),
            rows_test=len(self.rows),
            slices=slices,
            documents={
                f"{BASELINE}.json": asdict(self.simple),
                "demand.json": dict(model.card.extra),
                "parity.json": parity(self.rows),
            },
            figures=self._plots(chances["lightgbm"], model, slices),
            notes=notes,
        )

    def _elasticity(self) -> dict[str, float]:
        low, high = self.simple.interval
        return {"elasticity": self.simple.elasticity, "elasticity_low": low, "elasticity_high": high}

    def _evidence(self) -> tuple[Evidence, ...]:
        gate = self.settings.gate
        return (
            Evidence("matured quotes", len(self.rows), gate.min_labels),
            Evidence("purchases", int(self.rows.target.sum()), gate.min_frauds),
        )

    def _plots(
        self, chance: Floats, model: Scorer, slices: Mapping[str, Mapping[str, float]]
    ) -> dict[str, bytes]:
        if not len(self.rows):
            return {}
        curve = metrics.calibration(self.rows.target, chance)
        return {
            "calibration.png": plots.calibration_curve(curve, "lightgbm"),
            "importance.png": plots.importance_bars(model.importance()),
            "slices.png": plots.slice_bars(slices, "brier"),
        }


def log_loss(bought: Floats, chance: Floats) -> float:
    """Mean negative log likelihood of what happened, in nats; NaN for no rows."""
    inside = np.clip(chance, _LEAST, 1.0 - _LEAST)
    return _mean(-(bought * np.log(inside) + (1.0 - bought) * np.log(1.0 - inside)))


def poisson_deviance(units: Floats, expected: Floats) -> float:
    """Mean Poisson deviance of units against what was expected; 0 is perfect; NaN for no rows."""
    mean = np.maximum(expected, _LEAST)
    logs = np.log(np.where(units > 0, units, 1.0) / np.where(units > 0, mean, 1.0))
    return _mean(2.0 * (units * logs - (units - mean)))


def _mean(values: Floats) -> float:
    return float(values.mean()) if len(values) else np.nan


def _compared(own: Mapping[str, float], rivals: Mapping[str, Mapping[str, float]]) -> list[Comparison]:
    """The champion is the one to beat; before there is one, the baseline."""
    rival = "champion" if "champion" in rivals else BASELINE
    return [
        Comparison(figure, own[figure], rivals[rival][figure], rival, higher_is_better=False)
        for figure in ("log_loss", "poisson_deviance")
    ]


def _slices(rows: Dataset) -> dict[str, Objects]:
    """Product and segment of each row; rare values together."""
    return {name: common(rows.columns[f"{name}_name"]) for name in ("product", "segment")}


def _enough(rows: Dataset) -> None:
    """Refuse what nothing can be learned from."""
    bought = int(rows.target.sum())
    if bought in (0, len(rows)):
        raise UserError(
            f"expected quotes that were bought and others to learn from, got {bought} bought among"
            f" {len(rows)} matured quotes; wait for outcomes, or `tollgate backfill` past prices."
        )


def _card(data: Dataset) -> Card:
    return Card(PRICING.domain, "", data.features, data.feature_hash, data.trained)


def _matured_us(window: Window) -> int:
    """Time of the youngest quote to learn from, inclusive."""
    return window.cutoff_us - round(MATURITY_DAYS * DAY_US)


def units_of(ids: Objects, outcomes: pa.Table, cutoff_us: int) -> Floats:
    """Units of each quote as known at the cut-off: of its first outcome; 0 without one."""
    known = outcomes.filter(pc.less_equal(outcomes["event_time_us"], cutoff_us)).sort_by("event_time_us")
    units = pd.Series(known["units"].to_numpy(), known["quote_id"].to_pandas().to_numpy(object))
    found: Floats = units[~units.index.duplicated()].reindex(ids).fillna(0.0).to_numpy(np.float64)
    return found


_DESCRIBED = ["quote_id", "segment", "context"]


def _dataset(
    rows: pa.Table,
    matrix: Floats,
    outcomes: pa.Table,
    described: pa.Table,
    window: Window,
    policy: PricingPolicy | None,
) -> Dataset:
    """In order of time; `described` has segment and context by quote id."""
    ids = rows["quote_id"].to_pandas().to_numpy(object)
    units = units_of(ids, outcomes, window.cutoff_us)
    said = described.select(_DESCRIBED).to_pandas().drop_duplicates("quote_id")
    said = said.set_index("quote_id").reindex(ids)
    columns = {
        "units": units,
        "product_name": rows["product_id"].to_pandas().to_numpy(object),
        "segment_name": said["segment"].to_numpy(object),
        **groups_of(said, policy.personal if policy and policy.use_personal else ()),
    }
    time_us: Ints = rows["event_time_us"].to_numpy()
    order = np.argsort(time_us, kind="stable")
    sold: Flags = units > 0
    return Dataset(
        features=PRICING.names,
        feature_hash=PRICING.hash,
        ids=ids[order],
        time_us=time_us[order],
        matrix=matrix[order],
        target=sold.astype(np.float64)[order],
        columns={name: column[order] for name, column in columns.items()},
        cutoff_us=window.cutoff_us,
    )


TASK = Task(
    name=PRICING.domain,
    tables=(QUOTES, OUTCOMES),
    settled=OUTCOMES,
    least_settled=lambda settings: settings.retraining.min_new_outcomes,
    from_history=from_history,
    from_file=from_file,
    learn=learn,
    evaluate=evaluate,
)
