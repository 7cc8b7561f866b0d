"""The pricing task: how likely a quote is bought at its price, learned from what became of past quotes."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from features import replay
from features.pricing import PRICING, PRODUCT, impersonal
from features.state import Flags, Floats, Ints
from infra.errors import UserError
from infra.settings import PricingPolicy, Settings
from ingestion import file_source, mapping
from ingestion.tables import DAY_US, OUTCOMES, QUOTES, completed
from training import (
    bid_prices,
    booster,
    demand_model,
    drift,
    elasticity,
    metrics,
    plots,
    pricing_data_tests,
)
from training.card import Card
from training.dataset import Dataset, Objects, Span, Window, finished, states_before, test_start
from training.demand import doubt_of
from training.demand_model import DemandModel
from training.departures import in_stock, learned
from training.elasticity import ConstantElasticity
from training.gate import CHAMPION, Comparison, Evidence
from training.models import Scorer
from training.parity import common, groups_of, parity
from training.performance import Standard, Tally
from training.pricing_file import evaluate
from training.pricing_judging import LogJudgement, judged_by_log
from training.pricing_log import LOGGED, logged
from training.reference import Reference
from training.sources import of_file, opened, replay_room
from training.stores import feature_store
from training.tasks import EventFile, Incumbent, Task, Trial

MATURITY_DAYS = 1.0
"""Quotes younger than this are not learned from; an older one without an outcome was not bought."""
TEST_DAYS = 7.0
BASELINE = "constant_elasticity"
HEADLINE = ("log_loss", "poisson_deviance", "brier", "auc_roc", "expected_calibration_error", "elasticity")

READ = (QUOTES, OUTCOMES)
"""Tables of the history that a training set is made of."""

_LEAST = 1e-9


def from_history(settings: Settings, window: Window) -> Dataset:
    """Matured quotes, and what was known at each, joined by the feature store."""
    history, origin = opened(settings, window, READ)
    with replay_room(settings, window) as room, replay.alone(room.home, PRICING.domain):
        replay.refresh(room.home, history, PRICING.domain)
        spine = replay.spine(room.home, PRICING.domain, window.start_us, _matured_us(window) + 1)
        states = states_before(PRICING, spine, feature_store(room, PRICING))
    known = _Known(finished(PRICING, _without_persons(spine, settings.pricing), states), states[PRODUCT.name])
    outcomes = history.read(OUTCOMES, None, window.cutoff_us + 1, ["quote_id", "event_time_us", "units"])
    described = history.read(QUOTES, window.start_us, _matured_us(window) + 1, [*_DESCRIBED])
    data = _dataset(spine, known, outcomes, described, window, settings.pricing)
    return replace(data, origin=origin)


def from_file(settings: Settings, file: EventFile, span: Span) -> Dataset:
    """The same from a file of past prices, by the fold alone."""
    found = file_source.prices(file.data, mapping.load(file.mapping), settings.currency)
    events = file_source.placed(found, [entity.name for entity in PRICING.entities], start=0)
    data = from_tables(events.decided, events.settled, span, settings.pricing)
    return replace(data, origin=of_file(file, Window(data.cutoff_us, data.start_us)))


def from_tables(
    quotes: pa.Table, outcomes: pa.Table, span: Span, policy: PricingPolicy | None = None
) -> Dataset:
    """The same from tables shaped as the history's; without a policy nothing tells of a person."""
    if not quotes.num_rows or not outcomes.num_rows:
        raise UserError(f"expected quotes and outcomes, got {quotes.num_rows} and {outcomes.num_rows}.")
    unused = policy.unused if policy else ()
    states = replay.states_before(PRICING, quotes, outcomes)
    known = replay.matrix_of(PRICING, quotes, outcomes, lambda asked: impersonal(asked, unused), states)
    times, arrived = quotes["event_time_us"].to_numpy(), outcomes["event_time_us"].to_numpy()
    window = span.window(int(max(times.max(), arrived.max())))
    start_us = times.min() if window.start_us is None else window.start_us
    chosen = (times >= start_us) & (times <= _matured_us(window))
    rows = quotes.filter(pa.array(chosen))
    known_then = _Known(known.values[chosen], states[PRODUCT.name][chosen])
    return _dataset(rows, known_then, outcomes, completed(QUOTES, rows), window, policy)


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
    start_us = test_start(data, TEST_DAYS, end_us, 2 * settings.gate.min_labels)
    before, after = in_stock(data).split(start_us)
    _enough(before)
    simple = elasticity.fit(before.matrix, before.target, data.features)
    challenger = trained_with_doubt(_until(data, start_us))
    chances = {
        "lightgbm": challenger.predict(after.matrix),
        BASELINE: simple.predict(after.matrix, data.features),
    }
    if incumbent and incumbent.model.card.feature_hash == PRICING.hash:
        chances[CHAMPION] = incumbent.model.predict(after.matrix)
    judged = _Judged(after, units_per_sale(before), simple, settings)
    return judged.trial(
        chances,
        trained_with_doubt(data),
        before,
        incumbent.notes(PRICING.hash, start_us) if incumbent else (),
        judged_by_log(after, challenger, settings),
    )


def _until(data: Dataset, end_us: int) -> Dataset:
    """Quotes before a time, as if nothing were known of requests after it."""
    return replace(data.split(end_us)[0], cutoff_us=end_us)


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
        self,
        chances: Mapping[str, Floats],
        model: DemandModel,
        before: Dataset,
        notes: tuple[str, ...],
        by_log: LogJudgement,
    ) -> Trial:
        """Everything about a trial whose model's chances come under `lightgbm`."""
        figures = {name: self.figures(chance) for name, chance in chances.items()}
        own = figures.pop("lightgbm") | self._elasticity()
        slices = metrics.by_slice(self.rows.target, chances["lightgbm"], _slices(self.rows))
        return Trial(
            model=model,
            parameters={**booster.STEADY, **demand_model.TREES},
            metrics=own | by_log.metrics,
            rivals=figures,
            headline=HEADLINE,
            comparisons=tuple(_compared(own, figures)),
            evidence=self._evidence(),
            limits=by_log.limits,
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
            beside=self._reference(chances["lightgbm"], model).file(),
            notes=(*notes, *by_log.notes),
            off_policy=by_log.figures,
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

    def _reference(self, chance: Floats, model: Scorer) -> Reference:
        """What the model is watched by once it decides; `chance` is of the one that was tested."""
        tally = Tally.of(self.rows.time_us // DAY_US, self.rows.target, chance)
        score = model.predict(self.rows.matrix) if len(self.rows) else chance
        products = drift.numbered(self.rows.columns["product_name"])
        columns = drift.columns_of(self.rows.features, self.rows.matrix, score, products)
        return Reference(columns, Standard.of(tally, self.figures(chance)))

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
    """With the champion and with the baseline."""
    return [
        Comparison(figure, own[figure], rivals[rival][figure], rival, higher_is_better=False)
        for rival in rivals
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


def settled_units(ids: Objects, outcomes: pa.Table, cutoff_us: int) -> tuple[Floats, Ints]:
    """Units of each quote as known at the cut-off, and when that was: of its first outcome; 0, -1 without."""
    known = outcomes.filter(pc.less_equal(outcomes["event_time_us"], cutoff_us)).sort_by("event_time_us")
    names = known["quote_id"].to_pandas().to_numpy(object)
    said = pd.DataFrame({"units": known["units"].to_numpy(), "at": known["event_time_us"].to_numpy()}, names)
    found = said[~said.index.duplicated()].reindex(ids)
    return (
        found["units"].fillna(0.0).to_numpy(np.float64),
        found["at"].fillna(-1).to_numpy(np.int64),
    )


_DESCRIBED = ("quote_id", "segment", "context", *LOGGED)


@dataclass(frozen=True)
class _Known:
    """What was known at each quote."""

    matrix: Floats
    """Features, shape (n, features)."""
    product: Floats
    """State of its product, shape (n, columns of `PRODUCT`)."""


def _dataset(
    rows: pa.Table,
    known: _Known,
    outcomes: pa.Table,
    described: pa.Table,
    window: Window,
    policy: PricingPolicy | None,
) -> Dataset:
    """In order of time; `described` has the columns `_DESCRIBED` by quote id."""
    ids = rows["quote_id"].to_pandas().to_numpy(object)
    units, arrived_us = settled_units(ids, outcomes, window.cutoff_us)
    time_us: Ints = rows["event_time_us"].to_numpy()
    said = described.select(_DESCRIBED).to_pandas().drop_duplicates("quote_id")
    said = said.set_index("quote_id").reindex(ids)
    columns = {
        "units": units,
        "arrived_us": arrived_us,
        "product_name": rows["product_id"].to_pandas().to_numpy(object),
        "segment_name": said["segment"].to_numpy(object),
        **groups_of(said, policy.personal if policy and policy.use_personal else ()),
        **logged(said, known.product, time_us),
    }
    order = np.argsort(time_us, kind="stable")
    sold: Flags = units > 0
    return Dataset(
        features=PRICING.names,
        feature_hash=PRICING.hash,
        ids=ids[order],
        time_us=time_us[order],
        matrix=known.matrix[order],
        target=sold.astype(np.float64)[order],
        columns={name: column[order] for name, column in columns.items()},
        cutoff_us=window.cutoff_us,
        start_us=window.start_us,
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
    data_tests=pricing_data_tests.parts,
)
