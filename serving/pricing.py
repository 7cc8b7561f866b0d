"""From a request to a price with its demand curve: list price while there is no model."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Protocol

import numpy as np

from features.pricing import PRICING, PRODUCT, at_prices, last_price, request_columns
from features.state import MICROSECONDS, Floats
from infra.settings import Objective, PricingPolicy, Product
from ingestion.events import QuoteRequest, microseconds
from training import pricing_policy as policies
from training.bid_prices import bid_prices_of
from training.card import Card
from training.demand import Doubt, doubt_of, elasticity
from training.elasticity import NORMAL_95
from training.pricing_policy import GUARDRAILS, Chosen, Limits, Terms

BASELINE = {"name": "baseline", "version": "rules", "alias": "champion"}

_MONEY, _SHARE = 4, 6
"""Decimals of what is told; nothing is computed from rounded numbers."""


class Demand(Protocol):
    """What a price needs of a model; `training.models.Scorer` is one."""

    card: Card

    def predict(self, matrix: Floats) -> Floats:
        """Chance of purchase of each row of `PRICING`'s features, shape (n,)."""
        ...


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


@dataclass(frozen=True)
class _Curve:
    """Demand at the candidate prices, each of shape (k,)."""

    price: Floats
    chance: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True)
class _Asked:
    """One request with what is known, ready for any price."""

    request: QuoteRequest
    known: Known
    objective: Objective
    columns: Mapping[str, Floats]
    at_s: float
    opportunity_cost: float = 0.0
    """Of a unit, in money: what it would earn later. 0 unless its stock is perishable."""

    @property
    def product(self) -> Product:
        return self.known.product

    def matrix(self, prices: Floats) -> Floats:
        """Features at each price, shape (k, features)."""
        states = {PRODUCT.name: np.repeat(self.known.state, len(prices), axis=0)}
        return PRICING.matrix(states, at_prices(self.columns, prices), np.full(len(prices), self.at_s))


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
    asked = _asked(request, known, policy.rules)
    used = None if known.degraded else model
    asked = replace(asked, opportunity_cost=_opportunity_cost(asked, used))
    curve = None if used is None else _curve(asked, used, policy.rules)
    model_ms = _since_ms(start)
    chosen = _chosen(asked, curve, policy.rules, draws)
    row = asked.matrix(chosen.price)
    answer = _answer(asked, chosen, curve, policy) | _demand(asked, float(chosen.price[0]), row, used, curve)
    total_ms = known.took_ms + _since_ms(start)
    return answer | {
        "features": dict(zip(PRICING.names, row[0].tolist(), strict=True)),
        "latency_ms": {
            "features": round(known.took_ms, 3),
            "model": round(model_ms, 3),
            "total": round(total_ms, 3),
        },
    }


def _asked(request: QuoteRequest, known: Known, rules: PricingPolicy) -> _Asked:
    product = known.product
    columns = request_columns(
        np.array([product.list_price]),
        np.array([product.list_price]),
        np.array([product.unit_cost]),
        [request.segment],
        [request.context],
    )
    at_s = microseconds(request.event_time) / MICROSECONDS
    return _Asked(request, known, request.objective or rules.objective, columns, at_s)


def _opportunity_cost(asked: _Asked, model: Demand | None) -> float:
    """Bid price of a unit now, as the model's card keeps it; 0 where nothing is known of it."""
    bids = bid_prices_of(model.card.extra, asked.objective, asked.product.product_id) if model else None
    if bids is None:
        return 0.0
    return float(bids.of(asked.columns["inventory"], asked.columns["hours_to_departure"])[0])


def _curve(asked: _Asked, model: Demand, rules: PricingPolicy) -> _Curve:
    doubt = doubt_of(model.card.extra)
    list_price = np.array([asked.product.list_price])
    support = (doubt.lowest, doubt.highest) if doubt else ()
    prices = policies.candidate_prices(list_price, rules, *support)[0]
    chance = model.predict(asked.matrix(prices))
    low, high = doubt.band(chance, prices / list_price) if doubt else (np.full_like(chance, np.nan),) * 2
    return _Curve(prices, chance, low, high)


def _chosen(asked: _Asked, curve: _Curve | None, rules: PricingPolicy, draws: Draws) -> Chosen:
    """The best candidate, or the list price without a curve, inside the guardrails."""
    raw = np.array([asked.product.list_price]) if curve is None else _best(asked, curve, rules)
    if asked.known.degraded:
        rules = rules.model_copy(update={"exploration_share": 0.0})
    within = _limits(asked, rules)
    offered = policies.offers(raw[:, None], policies.trials(within, rules), within, rules)
    return policies.choose(offered, np.array([draws.random()]))


def _best(asked: _Asked, curve: _Curve, rules: PricingPolicy) -> Floats:
    worths = policies.worth(
        curve.price,
        curve.chance,
        np.array(asked.product.unit_cost),
        asked.objective,
        rules,
        asked.opportunity_cost,
    )
    return policies.best(curve.price[None], worths[None])


def _limits(asked: _Asked, rules: PricingPolicy) -> Limits:
    product = asked.product
    terms = Terms(
        *(
            np.array([value])
            for value in (
                product.list_price,
                product.unit_cost,
                product.floor,
                product.ceiling,
                product.max_step,
            )
        )
    )
    return policies.limits(terms, last_price(asked.known.state), asked.objective, rules)


def _answer(asked: _Asked, chosen: Chosen, curve: _Curve | None, policy: Policy) -> dict[str, Any]:
    """Everything about the price; prices are as they are shown, unrounded beyond the price points."""
    request, product = asked.request, asked.product
    return {
        "quote_id": request.quote_id,
        "price": float(chosen.price[0]),
        "currency": product.currency,
        "raw_price": round(float(chosen.raw[0]), _MONEY),
        "objective": asked.objective,
        "guardrails": _guardrails(chosen),
        "demand_curve": [] if curve is None else _points(curve),
        "opportunity_cost": round(asked.opportunity_cost, _MONEY),
        "exploration": bool(chosen.exploration[0]),
        "propensity": min(float(chosen.propensity[0]), 1.0),
        "policy_version": policy.version,
        "degraded": asked.known.degraded,
        "event_time": _rfc3339(request.event_time),
        "product_id": request.product_id,
        "segment": request.segment,
        "context": request.context,
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
    asked: _Asked, price: float, row: Floats, model: Demand | None, curve: _Curve | None
) -> dict[str, Any]:
    """What is expected at the price, how demand answers to it, and who says so."""
    if model is None or curve is None:
        units = float(row[0, _UNITS_RATE])
        unknown = {"value": None, "low": None, "high": None}
        return {"elasticity": unknown, "expected": _expected(units, price, asked.product), "model": BASELINE}
    doubt = doubt_of(model.card.extra)
    units = float(model.predict(row)[0]) * (doubt.units_per_sale if doubt else 1.0)
    return {
        "elasticity": _elasticity(elasticity(curve.price, curve.chance, price), doubt),
        "expected": _expected(units, price, asked.product),
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
