"""Fraud models in shadow: what two of them would have decided of the same live payments, and what it cost."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.fraud import FRAUD
from features.state import Flags, Floats
from infra.settings import Settings
from ingestion.history import History
from ingestion.tables import DAY_US, DECISIONS, LABELS, TRANSACTIONS
from training import fraud_policy, fraud_watching, labels, metrics, selective_labels
from training.dataset import Dataset, Objects
from training.fraud_judging import COLUMNS, Judged, slices_of, type_of_figures
from training.gate import Limit
from training.paired import Draws, groups_of
from training.shadow_gate import Matured, tail
from training.traffic import NEEDED, Canaried, Pair, Scored, Traffic, vectors

FIGURES = ("average_precision", "expected_cost", "recall", "false_decline_rate", "expected_calibration_error")
_DECIDED = ("event_time_us", "customer_id", *selective_labels.NEEDED, *NEEDED)
_DESCRIBED = tuple(name for name in COLUMNS if name not in ("amount", "customer_id"))
_AMOUNT = FRAUD.names.index("amount")


def matured(settings: Settings, start_us: int, cutoff_us: int) -> Dataset:
    """Decided payments that passed and whose label has matured, in order of time.

    Of several decisions on a payment the first was acted upon.
    """
    history, maturity_us = History(settings.history), round(settings.labels.maturity_days * DAY_US)
    end_us = cutoff_us - maturity_us + 1
    decided, matrix = vectors(_first(history.read(DECISIONS, start_us, end_us, _DECIDED)), FRAUD)
    ids: Objects = decided["transaction_id"].to_pandas().to_numpy(object)
    time_us = decided["event_time_us"].to_numpy()
    known = history.read(
        LABELS, start_us, cutoff_us + 1, ["transaction_id", "event_time_us", "label", "source"]
    )
    target = labels.targets(ids, time_us, known, cutoff_us, maturity_us)
    chances = selective_labels.chances(ids, decided)
    rows = Dataset(
        features=FRAUD.names,
        feature_hash=FRAUD.hash,
        ids=ids,
        time_us=time_us,
        matrix=matrix,
        target=target,
        columns=_columns(history, decided, ids, matrix, (start_us, end_us)),
        cutoff_us=cutoff_us,
        weight=chances.weight,
    )
    return rows.rows(~np.isnan(target) & chances.passed)


def made(settings: Settings, version: str, start_us: int) -> Dataset:
    """Payments that a version decided, in order of time; no target, no weight."""
    columns = (
        "transaction_id",
        "event_time_us",
        "customer_id",
        "model_version",
        "decision_position",
        *NEEDED,
    )
    decided = _first(History(settings.history).read(DECISIONS, start_us, None, columns))
    own = pc.fill_null(pc.equal(decided["model_version"], version), False)
    rows, matrix = vectors(decided.filter(own), FRAUD)
    return Dataset(
        features=FRAUD.names,
        feature_hash=FRAUD.hash,
        ids=rows["transaction_id"].to_pandas().to_numpy(object),
        time_us=rows["event_time_us"].to_numpy(),
        matrix=matrix,
        target=np.full(len(matrix), np.nan),
        columns={"customer_id": rows["customer_id"].to_pandas().to_numpy(object)},
        cutoff_us=start_us,
    )


def stopped(settings: Settings, rows: Dataset, scored: Scored) -> Flags:
    """Which payments the policy would decline or review by the model's scores, before the control group."""
    amount = rows.matrix[:, _AMOUNT]
    codes = fraud_watching.decide(settings, scored.model, rows.matrix, scored.score, amount)
    found: Flags = codes != fraud_policy.APPROVE
    return found


def _first(decided: pa.Table) -> pa.Table:
    """The first decision on each payment, in order of event time."""
    table = decided.sort_by("decision_position")
    names = table["transaction_id"].to_pandas()
    first = table.filter(pa.array(~names.duplicated().to_numpy()))
    return first.sort_by([("event_time_us", "ascending"), ("transaction_id", "ascending")])


def _columns(
    history: History, decided: pa.Table, ids: Objects, matrix: Floats, within_us: tuple[int, int]
) -> dict[str, Objects]:
    described = history.read(TRANSACTIONS, *within_us, ["transaction_id", *_DESCRIBED]).to_pandas()
    said = described.drop_duplicates("transaction_id").set_index("transaction_id").reindex(ids)
    return {
        "amount": matrix[:, _AMOUNT].astype(object),
        "customer_id": decided["customer_id"].to_pandas().to_numpy(object),
        **{name: said[name].to_numpy(object) for name in _DESCRIBED},
    }


def compared(settings: Settings, rows: Dataset, pair: Pair, looks: int) -> Matured:
    """Money and average precision with their intervals, by customer; calibration and slices as limits."""
    gate = settings.gate
    judged = Judged(rows, settings, {each.model: each.score for each in (pair.challenger, pair.champion)})
    costs = _costs(judged, pair.challenger), _costs(judged, pair.champion)
    weight = np.ones(len(rows)) if rows.weight is None else rows.weight
    draws = Draws(groups_of(rows.columns["customer_id"].tolist()), weight, tail(gate, looks))
    return Matured(
        gains=(
            draws.of_ranking(rows.target, pair.challenger.score, pair.champion.score),
            draws.of_losses("expected_cost", *costs),
        ),
        limits=(
            _calibration(rows.target, pair, weight, settings.gate.max_calibration_ratio),
            *_slices(judged, pair, costs),
        ),
        figures={
            "challenger": _figures(judged, pair.challenger),
            "champion": _figures(judged, pair.champion),
        },
    )


def _costs(judged: Judged, scored: Scored) -> Floats:
    """What the policy with this model's scores would have cost, by payment."""
    decisions = judged.decisions(scored.model)
    return fraud_policy.costs_incurred(decisions, judged.fraud, judged.amount, judged.settings.fraud)


def _figures(judged: Judged, scored: Scored) -> type_of_figures:
    if not len(judged.rows):
        return {}
    found = judged.of_model(scored.model)
    return {name: found[name] for name in FIGURES}


def _calibration(truth: Floats, pair: Pair, weight: Floats, highest: float) -> Limit:
    """Within the limit, or no farther off than the champion: fraud may have become rarer than it was."""
    came = float((weight * truth).sum())
    ratio, usual = (
        float((weight * each.score).sum()) / came if came else np.nan
        for each in (pair.challenger, pair.champion)
    )
    low, high = np.fmin(1.0 / highest, usual), np.fmax(highest, usual)
    return Limit("predicted frauds for each that came", ratio, low=float(low), high=float(high))


def _slices(judged: Judged, pair: Pair, costs: tuple[Floats, Floats]) -> tuple[Limit, ...]:
    """No slice with enough frauds to tell may do much worse: neither its money nor its recall."""
    gate, found = judged.settings.gate, []
    decided = [judged.decisions(each.model) for each in (pair.challenger, pair.champion)]
    weight = judged.rows.weight
    for name, values in slices_of(judged.rows, judged.settings.fraud.slices).items():
        for value in sorted(set(values)):
            mine = values == value
            if judged.fraud[mine].sum() < gate.min_frauds:
                continue
            times = None if weight is None else weight[mine]
            own, rival = (
                metrics.of_decisions(judged.rows.target[mine], each[mine], times)["recall"]
                for each in decided
            )
            cost = _ratio(*(_summed(each[mine], times) for each in costs))
            slice_of = f"{name}:{value} against the champion's"
            found.append(Limit(f"cost of {slice_of}", cost, high=1.0 + gate.max_slice_loss))
            found.append(Limit(f"recall of {slice_of}", _ratio(own, rival), low=1.0 - gate.max_slice_loss))
    return tuple(found)


def _summed(values: Floats, weight: Floats | None) -> float:
    return float(values.sum() if weight is None else (values * weight).sum())


def _ratio(own: float, rival: float) -> float:
    """1 where both are nothing; of something against nothing, infinite."""
    if not rival:
        return np.inf if own else 1.0
    return own / rival


TRAFFIC = Traffic(
    features=FRAUD,
    table=DECISIONS,
    key="transaction_id",
    what=("matured labels", "matured frauds"),
    matured=matured,
    compared=compared,
    canaried=Canaried("customer_id", made, stopped),
)
