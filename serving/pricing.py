"""From a request to a price with its demand curve: list price while there is no model."""

import time
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Protocol

import numpy as np

from features.pricing import PRICING, impersonal, request_columns
from features.state import MICROSECONDS, Floats
from infra.settings import FraudPolicy, Objective, PricingPolicy, Product
from ingestion.events import QuoteRequest, microseconds
from training import pricing_policy as policies
from training import quoting
from training.demand import Doubt, doubt_of, elasticity
from training.elasticity import NORMAL_95
from training.pricing_policy import GUARDRAILS, NO_FRAUD, Chosen, FraudLoss, Terms
from training.quoting import Asked, Curves, Demand

BASELINE = {"name": "baseline", "version": "rules", "alias": "champion"}

_MONEY, _SHARE = 4, 6
"""Decimals of what is told; nothing is computed from rounded numbers."""


class Draws(Protocol):
    """A source of uniform numbers in [0, 1), such as `random.Random(seed)`."""

    def random(self) -> float:
        """The next one."""
        ...


@dataclass(frozen=True)
class Policy:
    """The rules of the price and their version."""

    rules: PricingPolicy
    version: str
    fraud: FraudPolicy | None = None
    """What a fraud costs; None if no price asks."""


@dataclass(frozen=True)
class Held:
    """A price that the same context was quoted a moment ago, and how it came about then."""

    price: float
    propensity: float
    exploration: bool


@dataclass(frozen=True)
class Known:
    """What was known when the price was asked for."""

    product: Product
    state: Floats
    """Of the product, shape (1, columns of `PRODUCT`); cold for one never seen."""
    degraded: bool = False
    """The state is not that of the store, because it did not answer: then the list price is quoted."""
    took_ms: float = 0.0
    """What finding it out took, for `latency_ms`."""
    held: Held | None = None
    """What the same context was quoted, to be quoted again; None if nothing was."""
    fraud_share: float | None = None
    """Of the payments that pass, as the fraud champion expects it; None if not known."""


@dataclass(frozen=True)
class _Curve:
    """Demand at the candidate prices, each of shape (k,)."""

    price: Floats
    chance: Floats
    low: Floats
    high: Floats
    opportunity_cost: float
    """Of a unit, in money: what it would earn later."""


@dataclass(frozen=True)
class _Quoted:
    """One request and the batch of one that it is priced as."""

    request: QuoteRequest
    known: Known
    asked: Asked

    @property
    def product(self) -> Product:
        return self.known.product


def objective_of(request: QuoteRequest, product: Product | None, rules: PricingPolicy) -> Objective:
    """What the price is for: the request's word goes before the product's, that before the policy's."""
    own = product.objective if product else None
    return request.objective or own or rules.objective


def quote(
    request: QuoteRequest, known: Known, model: Demand | None, policy: Policy, draws: Draws
) -> dict[str, Any]:
    """The answer of `POST /v1/prices/quote`, which is the event of topic `quotes` too.

    Args:
        request: what was asked.
        known: the product and its state before this quote.
        model: the champion; None before the first.
        policy: objective, guardrails and exploration.
        draws: one number is taken, whatever the price.
    """
    start = time.perf_counter()
    likely = _likely(request, known, policy)
    quoted = _quoted(request, known, policy.rules, _lost(likely, policy))
    used = None if known.degraded else model
    found = None if used is None else quoting.curves(quoted.asked, used, policy.rules)
    model_ms = _since_ms(start)
    chosen = _repeated(quoted, _chosen(quoted, found, policy.rules, draws), policy.rules)
    row = quoted.asked.matrix(chosen.price[:, None])
    curve = None if used is None or found is None else _told_curve(found, used, quoted.product)
    price = float(chosen.price[0])
    answer = _answer(quoted, chosen, curve, policy) | _demand(quoted, price, row, used, curve)
    if policy.rules.fraud_loss:
        answer["fraud_probability"] = likely
        answer["expected"]["fraud_loss"] = _fraud_loss(answer, quoted.asked.fraud, likely)
    total_ms = known.took_ms + _since_ms(start)
    return answer | {
        "features": dict(zip(PRICING.names, row[0].tolist(), strict=True)),
        "latency_ms": {
            "features": round(known.took_ms, 3),
            "model": round(model_ms, 3),
            "total": round(total_ms, 3),
        },
    }


def _likely(request: QuoteRequest, known: Known, policy: Policy) -> float | None:
    """That the payment of a sale is fraud: of this shopper where the policy allows it, else of any sale.

    None where it is not known, or no price asks.
    """
    if not policy.rules.fraud_loss or policy.fraud is None:
        return None
    own = request.fraud_probability if policy.rules.asks_who_pays else None
    return known.fraud_share if own is None else own


def _lost(likely: float | None, policy: Policy) -> FraudLoss:
    if likely is None or policy.fraud is None:
        return NO_FRAUD
    return FraudLoss.of(np.array([likely]), policy.fraud)


def _quoted(request: QuoteRequest, known: Known, rules: PricingPolicy, fraud: FraudLoss) -> _Quoted:
    product = known.product
    given = request_columns(
        np.array([product.list_price]),
        np.array([product.list_price]),
        np.array([product.unit_cost]),
        ([request.product_id], [request.segment]),
        [request.context | {"category": product.category}],
    )
    asked = Asked(
        products=[product.product_id],
        terms=_terms(product),
        columns=impersonal(given, rules.unused),
        states=known.state,
        at_s=np.array([microseconds(request.event_time) / MICROSECONDS]),
        objective=objective_of(request, product, rules),
        fraud=fraud,
    )
    return _Quoted(request, known, asked)


def _terms(product: Product) -> Terms:
    values = (product.list_price, product.unit_cost, product.floor, product.ceiling, product.max_step)
    return Terms(*(np.array([value]) for value in values))


def _told_curve(found: Curves, model: Demand, product: Product) -> _Curve:
    """With its band; NaN where the model does not say."""
    price, chance, doubt = found.price[0], found.chance[0], doubt_of(model.card.extra)
    unknown = np.full_like(chance, np.nan)
    low, high = doubt.band(chance, price / product.list_price) if doubt else (unknown, unknown)
    return _Curve(price, chance, low, high, float(found.opportunity_cost[0]))


def _chosen(quoted: _Quoted, found: Curves | None, rules: PricingPolicy, draws: Draws) -> Chosen:
    """One of the policy's offers; without the store no experiment."""
    if quoted.known.degraded:
        rules = rules.model_copy(update={"exploration_share": 0.0, "exploration_at_start": 0.0})
    return policies.choose(quoting.offers(quoted.asked, found, rules), np.array([draws.random()]))


def _repeated(quoted: _Quoted, chosen: Chosen, rules: PricingPolicy) -> Chosen:
    """What is held, as it came about when it was first quoted; else what was chosen."""
    held = quoted.known.held
    if held is None:
        return chosen
    again = policies.repeated(chosen, np.array([held.price]), quoting.limits(quoted.asked, rules), rules)
    return replace(again, exploration=np.array([held.exploration]), propensity=np.array([held.propensity]))


def _answer(quoted: _Quoted, chosen: Chosen, curve: _Curve | None, policy: Policy) -> dict[str, Any]:
    """Everything about the price; prices are as they are shown, unrounded beyond the price points."""
    request, product = quoted.request, quoted.product
    return {
        "quote_id": request.quote_id,
        "price": float(chosen.price[0]),
        "currency": product.currency,
        "raw_price": round(float(chosen.raw[0]), _MONEY),
        "objective": quoted.asked.objective,
        "guardrails": _guardrails(chosen),
        "demand_curve": [] if curve is None else _points(curve),
        "opportunity_cost": 0.0 if curve is None else round(curve.opportunity_cost, _MONEY),
        "exploration": bool(chosen.exploration[0]),
        "propensity": min(float(chosen.propensity[0]), 1.0),
        "held": quoted.known.held is not None,
        "policy_version": policy.version,
        "degraded": quoted.known.degraded,
        "event_time": _rfc3339(request.event_time),
        "product_id": request.product_id,
        "segment": request.segment,
        "context": request.context | {"category": product.category},
        "list_price": product.list_price,
        "unit_cost": product.unit_cost,
    }


def _guardrails(chosen: Chosen) -> list[dict[str, Any]]:
    """Those that changed the price, in their order."""
    path = chosen.path[0].tolist()
    return [
        {"code": code, "before": round(before, _MONEY), "after": round(after, _MONEY)}
        for code, before, after in zip(GUARDRAILS, path, path[1:], strict=False)
        if before != after
    ]


def _points(curve: _Curve) -> list[dict[str, Any]]:
    """The curve in rising order of price; a band that nobody knows is null in JSON (NaN here)."""
    names = ("price", "purchase_probability", "low", "high")
    columns = (curve.price, curve.chance, curve.low, curve.high)
    rows = np.column_stack(columns).round(_SHARE).tolist()
    return [dict(zip(names, row, strict=True)) for row in rows]


def _demand(
    quoted: _Quoted, price: float, row: Floats, model: Demand | None, curve: _Curve | None
) -> dict[str, Any]:
    """What is expected at the price, how demand answers to it, and who says so."""
    if model is None or curve is None:
        units = float(row[0, _UNITS_RATE])
        unknown = {"value": None, "low": None, "high": None}
        return {"elasticity": unknown, "expected": _expected(units, price, quoted.product), "model": BASELINE}
    doubt = doubt_of(model.card.extra)
    units = float(model.predict(row)[0]) * (doubt.units_per_sale if doubt else 1.0)
    return {
        "elasticity": _elasticity(elasticity(curve.price, curve.chance, price), doubt),
        "expected": _expected(units, price, quoted.product),
        "model": {"name": model.card.task, "version": model.card.version, "alias": "champion"},
    }


_UNITS_RATE = PRICING.names.index("product_units_rate_30d")
"""Without a model the units of recent quotes, whatever their prices, are what is expected."""


def _expected(units: float, price: float, product: Product) -> dict[str, float | None]:
    return {
        "units": _told(units),
        "revenue": _told(units * price),
        "margin": _told(units * (price - product.unit_cost)),
    }


def _fraud_loss(answer: dict[str, Any], fraud: FraudLoss, likely: float | None) -> float | None:
    """Of the expected units at the price, in money."""
    units = answer["expected"]["units"]
    if units is None or likely is None:
        return None
    return _told(units * float(fraud.expected(np.array([answer["price"]]))[0]))


def _elasticity(value: float, doubt: Doubt | None) -> dict[str, float | None]:
    half = NORMAL_95 * doubt.elasticity if doubt else np.nan
    return {"value": _told(value), "low": _told(value - half), "high": _told(value + half)}


def _told(value: float) -> float | None:
    """None for what is not known (NaN)."""
    return None if np.isnan(value) else round(value, _SHARE)


def _since_ms(start: float) -> float:
    return (time.perf_counter() - start) * 1e3


def _rfc3339(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")
