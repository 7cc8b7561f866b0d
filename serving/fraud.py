"""From features to a fraud decision with its costs and reasons: the same for the stream and for HTTP."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from itertools import compress
from typing import Any, Protocol

import numpy as np
import orjson

from features.fraud import FRAUD
from features.state import Flags, Floats
from ingestion.events import EPOCH
from serving.reasons import explained
from training.control_group import ControlGroup
from training.fraud_policy import (
    APPROVE,
    DECISIONS,
    decide,
    expected_costs,
    review_price,
    risk_score,
    rules_scores,
)
from training.models import Scorer
from training.rule_book import RuleBook

EXPLAINERS = 2
"""Threads that explain decisions."""
BASELINE = {"name": "baseline", "version": "rules", "alias": "champion"}

PAYMENT_FIELDS = ("transaction_id", "event_time_us", "customer_id", "terminal_id", "amount", "currency")
"""What of a transaction goes into the decision on it; its time is in microseconds since 1970 UTC."""

type_of_payment = Mapping[str, Any]
"""`PAYMENT_FIELDS` of a transaction."""


class Deputy(Protocol):
    """A canary: a model that decides for some customers."""

    @property
    def model(self) -> Scorer:
        """What decides."""
        ...

    def takes(self, customer_ids: Sequence[str]) -> Flags:
        """Which of the customers it decides for, shape (n,)."""
        ...


class Current(Protocol):
    """Knows which model decides now."""

    def current(self, task: str) -> Scorer | None:
        """The champion; None before the first."""
        ...

    def canary(self, task: str) -> Deputy | None:
        """Who decides for some customers instead; None if the champion does for all."""
        ...


@dataclass(frozen=True)
class _InForce:
    """What decides until policy or model changes."""

    book: RuleBook
    model: Scorer | None
    control_group: ControlGroup
    review_price: float
    described: Mapping[str, str]
    """The model, as an answer names it."""


@dataclass(frozen=True)
class _Judged:
    """What model and policy say of n payments, as Python values."""

    score: Sequence[float]
    risk: Sequence[float]
    costs: Sequence[Sequence[float]]
    """By payment, in the order of `DECISIONS`."""
    rules: Sequence[Sequence[Mapping[str, str]]]
    """What each rule said, by payment."""
    codes: Sequence[int]
    decided: Sequence[int]
    """The codes after the control group was drawn."""
    control_group: Sequence[bool]
    propensity: Sequence[float]
    by: _InForce
    asked: Sequence[int]
    """Rows that a person may ask about: all that is not simply approved, unless more was asked for."""
    contributions: Iterator[Floats] | None
    """TreeSHAP of those rows in log odds, in parts; None from the rules, which are reasons themselves."""
    usual: Sequence[float]
    """Of every feature, where the model knows."""


class FraudDecider:
    """Decides payments by the champion and the policy, or by the rules alone while there is no champion.

    For some customers a canary decides instead, if there is one.

    Args:
        policy: gives what decides now; asked once a batch.
    """

    def __init__(self, models: Current, policy: Callable[[], RuleBook]) -> None:
        self._models = models
        self._policy = policy
        self._last: dict[str, _InForce] = {}
        self._explainers = ThreadPoolExecutor(EXPLAINERS, "reasons")

    def decide(
        self,
        payments: Sequence[type_of_payment],
        matrix: Floats,
        features_ms: float = 0.0,
        degraded: bool = False,
        explain: bool = False,
    ) -> list[dict[str, Any]]:
        """One decision a payment, in order, as `POST /v1/fraud/score` answers it, with the features it used.

        Args:
            payments: n transactions' fields.
            matrix: features in the order of `FRAUD.names`, shape (n, features).
            features_ms: what reading the features took, for `latency_ms`.
            degraded: the features are not those of the store, because it did not answer.
            explain: give reasons to all, also to those that are simply approved.
        """
        start = time.perf_counter()
        book, model = self._policy(), self._models.current(FRAUD.domain)
        champion, deputy = self._in_force(book, model, "champion"), self._models.canary(FRAUD.domain)
        if deputy is None:
            decisions = self._decided(payments, matrix, champion, explain)
        else:
            canary = self._in_force(book, deputy.model, "canary")
            mine = deputy.takes([each["customer_id"] for each in payments])
            sides = ((champion, ~mine), (canary, mine))
            decisions = self._shared(payments, matrix, sides, explain)
        model_ms = (time.perf_counter() - start) * 1e3
        shared = {
            "degraded": degraded,
            "latency_ms": {
                "features": round(features_ms, 3),
                "model": round(model_ms / len(payments), 3),
                "total": round(features_ms + model_ms, 3),
            },
        }
        for decision in decisions:
            decision.update(shared)
        return decisions

    def _shared(
        self,
        payments: Sequence[type_of_payment],
        matrix: Floats,
        sides: Sequence[tuple[_InForce, Flags]],
        explain: bool,
    ) -> list[dict[str, Any]]:
        """Each side's rows decided by its own model, in the order of the payments."""
        found: dict[int, dict[str, Any]] = {}
        for now, mine in sides:
            rows = np.flatnonzero(mine).tolist()
            if rows:
                decided = self._decided([payments[i] for i in rows], matrix[rows], now, explain)
                found |= zip(rows, decided, strict=True)
        return [found[i] for i in range(len(payments))]

    def _decided(
        self, payments: Sequence[type_of_payment], matrix: Floats, now: _InForce, explain: bool
    ) -> list[dict[str, Any]]:
        """By one model, with reasons; without what all decisions of a batch share."""
        amount = np.array([float(each["amount"]) for each in payments])
        ids = [each["transaction_id"] for each in payments]
        judged = self._judge(matrix, amount, ids, now, explain)
        rows, missing = matrix.tolist(), _missing(matrix)
        decisions = [
            self._decision(payment, judged, i, rows[i], missing[i]) for i, payment in enumerate(payments)
        ]
        if judged.contributions is not None:
            contributions = np.concatenate(list(judged.contributions))
            told = explained(matrix[judged.asked], contributions, judged.usual)
            for i, each in zip(judged.asked, told, strict=True):
                decisions[i].update(each)
        return decisions

    def _in_force(self, book: RuleBook, model: Scorer | None, alias: str) -> _InForce:
        """Made anew when policy or model is another."""
        last = self._last.get(alias)
        if last is None or last.book is not book or last.model is not model:
            price = review_price(model.card.extra, book.policy) if model else 0.0
            control_group, described = ControlGroup(book.policy), _described(model, alias)
            last = self._last[alias] = _InForce(book, model, control_group, price, described)
        return last

    def _judge(
        self, matrix: Floats, amount: Floats, ids: Sequence[str], now: _InForce, explain: bool
    ) -> _Judged:
        model, rules = now.model, now.book.rules
        hits = rules.hits(matrix)
        ruled = rules.outcome(hits, beside_model=model is not None)
        score = rules_scores(ruled) if model is None else model.predict(matrix)
        costs = expected_costs(score, amount, now.book.policy, now.review_price)
        codes = decide(costs, ruled)
        admission = now.control_group.admit(codes, ruled, ids, amount)
        asked = np.flatnonzero((codes != APPROVE) | explain)
        return _Judged(
            score.tolist(),
            risk_score(score).tolist(),
            np.round(costs, 4).tolist(),
            _outcomes(rules.names, hits),
            codes.tolist(),
            admission.decisions.tolist(),
            admission.control_group.tolist(),
            admission.propensity.tolist(),
            now,
            asked.tolist(),
            self._explain(model, matrix[asked]),
            () if model is None else model.card.reference,
        )

    def _explain(self, model: Scorer | None, matrix: Floats) -> Iterator[Floats] | None:
        """Aside, on both cores: TreeSHAP of one row takes as long as twenty predictions.

        Not a lone row: there is no half to hand over, and who hands it over waits for it all the same.
        """
        if model is None or not len(matrix):
            return None
        if len(matrix) == 1:
            return iter([model.contributions(matrix)])
        parts = np.array_split(matrix, min(EXPLAINERS, len(matrix)))
        return self._explainers.map(model.contributions, parts)

    def _decision(
        self,
        payment: type_of_payment,
        judged: _Judged,
        i: int,
        values: Sequence[float],
        missing: Sequence[str],
    ) -> dict[str, Any]:
        return {
            "transaction_id": payment["transaction_id"],
            "decision": DECISIONS[judged.decided[i]],
            "policy_decision": DECISIONS[judged.codes[i]],
            "control_group": judged.control_group[i],
            "propensity": judged.propensity[i],
            "score": judged.score[i],
            "risk_score": int(judged.risk[i]),
            "expected_cost": dict(zip(DECISIONS, judged.costs[i], strict=True)),
            "reasons": [],
            "rules": judged.rules[i],
            "model": judged.by.described,
            "policy_version": judged.by.book.version,
            "missing_features": missing,
            "event_time": EPOCH + timedelta(microseconds=payment["event_time_us"]),
            "customer_id": payment["customer_id"],
            "terminal_id": payment["terminal_id"],
            "amount": payment["amount"],
            "currency": payment["currency"],
            "features": dict(zip(FRAUD.names, values, strict=True)),
        }


def encoded(decision: Mapping[str, Any]) -> bytes:
    """A decision as JSON; NaN becomes null."""
    return orjson.dumps(decision, option=orjson.OPT_UTC_Z)


def _outcomes(names: Sequence[str], hits: Flags) -> list[list[dict[str, str]]]:
    """What each rule said, by row; rows without a hit, nearly all, share one list."""
    nothing = [{"name": name, "outcome": "no_hit"} for name in names]
    outcomes = [nothing] * len(hits)
    for i in np.flatnonzero(hits.any(axis=1)).tolist():
        outcomes[i] = [
            {"name": name, "outcome": "hit" if hit else "no_hit"}
            for name, hit in zip(names, hits[i].tolist(), strict=True)
        ]
    return outcomes


def _missing(matrix: Floats) -> list[list[str]]:
    """Names of the features that are not known (NaN), by row; rows that miss the same share a list."""
    unknown = np.isnan(matrix)
    patterns = [row.tobytes() for row in np.packbits(unknown, axis=1)]
    first = {pattern: i for i, pattern in reversed(list(enumerate(patterns)))}
    lists = {pattern: list(compress(FRAUD.names, unknown[i])) for pattern, i in first.items()}
    return [lists[pattern] for pattern in patterns]


def _described(model: Scorer | None, alias: str) -> Mapping[str, str]:
    if model is None:
        return BASELINE
    return {"name": model.card.task, "version": model.card.version, "alias": alias}
