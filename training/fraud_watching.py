"""What the history shows of a fraud champion on payments later than those that it learned from."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features import replay
from features.fraud import FRAUD
from features.state import Flags, Floats, Ints
from infra.settings import Settings
from ingestion.history import History
from ingestion.tables import DAY_US, DECISIONS, LABELS, TRANSACTIONS
from training import fraud_policy as policies
from training import labels, performance, selective_labels, skew
from training.dataset import Objects
from training.drift import numbered
from training.fraud_policy import APPROVE, Codes
from training.models import Scorer
from training.performance import Decline, Known, Looked, Standard, Tally
from training.rule_book import rule_book
from training.sight import Moment, Sight, Watched, sample
from training.skew import Skew
from training.traffic import vectors

MOST_WITHOUT = 0.5
"""Where more payments than this share have no decision, they are decided again by a replay of the history."""

_DECIDED = (
    *selective_labels.NEEDED, "event_time_us", "score", "model_version", "feature_names", "features",
)  # fmt: skip
_PAID = ("transaction_id", "event_time_us", "customer_id", "amount")
_CODE = {name: code for code, name in enumerate(policies.DECISIONS)}


@dataclass(frozen=True)
class Payments:
    """Payments in order of time with what the champion says of them, all arrays of shape (n,)."""

    ids: Objects
    customer: Objects
    time_us: Ints
    amount: Floats
    matrix: Floats
    """Shape (n, features)."""
    score: Floats
    decisions: Codes
    """Of the policy, before the control group was drawn."""
    passed: Flags
    weight: Floats

    def rows(self, chosen: Flags) -> "Payments":
        """The same of some payments."""
        return Payments(**{name: values[chosen] for name, values in vars(self).items()})


def see(settings: Settings, champion: Scorer, standard: Standard, moment: Moment) -> Sight:
    """Drift sample, matured and estimated figures, and whether more frauds pass than the scores say."""
    history = History(settings.history)
    champion.card.expect(FRAUD.names, FRAUD.hash)
    rows = _payments(settings, history, champion, moment)
    fraud = _truth(history, rows, moment)
    mature = rows.time_us <= moment.now_us - round(settings.labels.maturity_days * DAY_US)
    known = _known(rows, fraud, mature)
    price = policies.review_price(champion.card.extra, settings.fraud)
    recent = rows.passed & moment.recent(rows.time_us)
    young = rows.rows(~mature)
    return Sight(
        rows=len(rows.ids),
        columns=sample(FRAUD.names, rows.matrix, rows.score, recent),
        groups=numbered(rows.customer[recent]),
        matured=performance.figures(known, settings.fraud),
        days=performance.by_day(known, settings.fraud),
        estimated=performance.estimated(young.score, young.amount, young.decisions, settings.fraud, price),
        declines={"missed_fraud": _decline(settings, rows, fraud, standard)},
    )


def compared(settings: Settings, after_ms: int | None, start_us: int) -> Skew:
    """Logged features of decisions against a replay of the history."""
    history = History(settings.history)
    return skew.compare(FRAUD, history, after_ms, start_us, settings.watching.skew_rows)


def _payments(settings: Settings, history: History, champion: Scorer, moment: Moment) -> Payments:
    """All payments of the time that the champion has not learned from, decided live or again."""
    start_us, end_us = moment.start_us, moment.now_us + 1
    paid = history.read(TRANSACTIONS, start_us, end_us, _PAID)
    paid = paid.sort_by("event_time_us")
    decided = history.read(DECISIONS, start_us, end_us, _DECIDED).sort_by("decision_position")
    without = 1.0 - decided.num_rows / paid.num_rows if paid.num_rows else 0.0
    if without > MOST_WITHOUT:
        return _again(settings, history, champion, paid, moment)
    return _live(settings, champion, paid, decided)


def _live(settings: Settings, champion: Scorer, paid: pa.Table, decided: pa.Table) -> Payments:
    """By the vectors that decisions logged; those of another version are scored by the champion."""
    rows, matrix = vectors(decided, FRAUD)
    ids = _objects(rows, "transaction_id")
    first = np.sort(np.unique(ids, return_index=True)[1])
    rows, matrix, ids = rows.take(first), matrix[first], ids[first]
    place = pc.index_in(pa.array(ids, pa.string()), paid["transaction_id"].combine_chunks())
    there = pc.is_valid(place).to_numpy(zero_copy_only=False)
    at = place.filter(pc.is_valid(place)).to_numpy()
    order = np.argsort(at, kind="stable")
    rows, matrix, at = rows.filter(pa.array(there)).take(order), matrix[there][order], at[order]
    amount = paid["amount"].to_numpy()[at]
    score, codes = _said(settings, champion, rows, matrix, amount)
    seen = selective_labels.chances(ids[there][order], rows)
    return Payments(
        ids=ids[there][order],
        customer=_objects(paid, "customer_id")[at],
        time_us=paid["event_time_us"].to_numpy()[at],
        amount=amount,
        matrix=matrix,
        score=score,
        decisions=codes,
        passed=seen.passed,
        weight=seen.weight,
    )


def _said(
    settings: Settings, champion: Scorer, rows: pa.Table, matrix: Floats, amount: Floats
) -> tuple[Floats, Codes]:
    """Score and decision of each row: as logged by this champion, else as it would have decided."""
    if not rows.num_rows:
        return np.empty(0), np.empty(0, np.int8)
    own = pc.equal(rows["model_version"], champion.card.version).to_numpy()
    meant = pc.coalesce(rows["policy_decision"], rows["decision"])
    logged = pc.fill_null(pc.index_in(meant, pa.array(list(_CODE))), 0).to_numpy().astype(np.int8)
    score, codes = rows["score"].to_numpy().copy(), logged.copy()
    if not own.all():
        score[~own] = champion.predict(matrix[~own])
        codes[~own] = decide(settings, champion, matrix[~own], score[~own], amount[~own])
    return score, codes


def decide(settings: Settings, champion: Scorer, matrix: Floats, score: Floats, amount: Floats) -> Codes:
    """What the policy makes of a champion's scores."""
    price = policies.review_price(champion.card.extra, settings.fraud)
    costs = policies.expected_costs(score, amount, settings.fraud, price)
    rules = rule_book(settings.fraud).rules
    return policies.decide(costs, rules.outcome(rules.hits(matrix), beside_model=True))


def _again(
    settings: Settings, history: History, champion: Scorer, paid: pa.Table, moment: Moment
) -> Payments:
    """By a replay of the history, as if the champion had decided; all of them passed."""
    end_us = moment.now_us + 1
    all_paid = history.read(TRANSACTIONS, None, end_us)
    found = replay.matrix_of(FRAUD, all_paid, history.read(LABELS, None, end_us))
    place = pc.index_in(paid["transaction_id"], found.ids.combine_chunks()).to_numpy()
    matrix, amount = found.values[place], paid["amount"].to_numpy()
    score = champion.predict(matrix) if len(matrix) else np.empty(0)
    codes = decide(settings, champion, matrix, score, amount)
    ids, customer = _objects(paid, "transaction_id"), _objects(paid, "customer_id")
    certain = np.ones(len(amount))
    times = paid["event_time_us"].to_numpy()
    return Payments(ids, customer, times, amount, matrix, score, codes, certain > 0, certain)


def _truth(history: History, rows: Payments, moment: Moment) -> Floats:
    """1.0 fraud, 0.0 legitimate, NaN not known, of each payment at the moment."""
    names = ["transaction_id", "event_time_us", "label", "source"]
    arrived = history.read(LABELS, moment.start_us, moment.now_us + 1, names)
    return labels.truth(arrived, moment.now_us).reindex(rows.ids).to_numpy(np.float64)


def _known(rows: Payments, fraud: Floats, mature: Flags) -> Known:
    """Matured payments that passed and have a label."""
    chosen = mature & rows.passed & ~np.isnan(fraud)
    mine = rows.rows(chosen)
    return Known(
        mine.time_us // DAY_US, mine.score, fraud[chosen] > 0, mine.amount, mine.decisions, mine.weight
    )


def _decline(settings: Settings, rows: Payments, fraud: Floats, standard: Standard) -> Decline:
    """Frauds known so far among all that was approved, against their share when the champion was tested.

    A share and not the sum of scores: calibration is learned where decisions change, and the sum of the many
    lowest scores may be several times off. Also of payments whose label has not come: they can only make the
    alarm later, however labels are delayed.
    """
    approved = rows.passed & (rows.decisions == APPROVE)
    came = np.nan_to_num(fraud[approved])
    tally = Tally.of(rows.time_us[approved] // DAY_US, came, np.ones(len(came)))
    looked = Looked(settings.watching.fraud_ratios, settings.watching.false_alarm_days)
    return performance.decline(tally, standard.usual.high, standard.dispersion, looked)


def _objects(rows: pa.Table, name: str) -> Objects:
    found: Objects = rows[name].to_pandas().to_numpy(object)
    return found


WATCHED = Watched(see, compared)
