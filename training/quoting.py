"""Prices for many requests at once: demand at the candidates, the best of them, the guardrails, exploration.

A request is a batch of one, so what serving asks, a rehearsal on a simulated market and a backtest on past
quotes are the same arithmetic.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from features.pricing import PRICING, PRODUCT, at_prices, day_price, last_price
from features.state import Flags, Floats
from infra.objectives import weights
from infra.settings import Objective, PricingPolicy
from training import pricing_policy as policies
from training.bid_prices import EXTRA, bid_prices_of
from training.card import Card
from training.demand import doubt_of
from training.pricing_policy import NO_FRAUD, FraudLoss, Limits, Offers, Terms

_INVENTORY, _HOURS = PRICING.names.index("inventory"), PRICING.names.index("hours_to_departure")


class Demand(Protocol):
    """What a price needs of a model; `training.models.Scorer` is one."""

    card: Card

    def predict(self, matrix: Floats) -> Floats:
        """Chance of purchase of each row of `PRICING`'s features, shape (n,)."""
        ...


@runtime_checkable
class Believes(Protocol):
    """A demand model that can say what else may be true."""

    def believed(self, matrix: Floats) -> Floats:
        """Chance of purchase of each row as likeliest, then under each draw, shape (1 + k, n)."""
        ...


class Requests(Protocol):
    """n requests with what is known of each."""

    @property
    def terms(self) -> Terms:
        """What the catalogue says of each product."""

    @property
    def products(self) -> Sequence[str]:
        """Which product each is for."""

    @property
    def objective(self) -> Objective:
        """Of all of them."""

    @property
    def last_price(self) -> Floats:
        """What each product showed last, shape (n,); NaN if nothing."""

    @property
    def day_price(self) -> Floats:
        """What each product's day began with, shape (n,); NaN if nothing was shown."""

    @property
    def fraud(self) -> FraudLoss:
        """What sales lose, if margins are less that."""

    def matrix(self, prices: Floats) -> Floats:
        """Features at prices of shape (n, k), shape (n k, features), a request's prices together."""


@dataclass(frozen=True)
class Asked:
    """Requests by their columns and the states of their products."""

    products: Sequence[str]
    terms: Terms
    columns: Mapping[str, Floats]
    """`PRICING`'s request columns, each of shape (n,); the price among them does not count."""
    states: Floats
    """Of each request's product, shape (n, columns of `PRODUCT`)."""
    at_s: Floats
    """Seconds since 1970 UTC."""
    objective: Objective
    fraud: FraudLoss = NO_FRAUD

    @property
    def last_price(self) -> Floats:
        """What each product showed last."""
        return last_price(self.states)

    @property
    def day_price(self) -> Floats:
        """What each product's day began with."""
        return day_price(self.states, self.at_s)

    def matrix(self, prices: Floats) -> Floats:
        """Features at prices of shape (n, k), shape (n k, features), a request's prices together."""
        k = prices.shape[1]
        states = {PRODUCT.name: np.repeat(self.states, k, axis=0)}
        return PRICING.matrix(states, at_prices(self.columns, prices), np.repeat(self.at_s, k))


@dataclass(frozen=True)
class Curves:
    """Demand at the candidate prices of n requests."""

    price: Floats
    """Shape (n, k), rising."""
    chance: Floats
    """Shape (n, k)."""
    drawn: Floats
    """The same under each draw of what may be true, shape (draws, n, k)."""
    opportunity_cost: Floats
    """What a unit would earn later, in money, shape (n,); 0 unless its stock is perishable."""


def curves(asked: Requests, model: Demand, policy: PricingPolicy) -> Curves:
    """Demand at the policy's candidates, as far as the data support them."""
    doubt = doubt_of(model.card.extra)
    support = (doubt.lowest, doubt.highest) if doubt else ()
    price = policies.candidate_prices(asked.terms.list_price, policy, *support)
    matrix = asked.matrix(price)
    if isinstance(model, Believes):
        chance, *drawn = model.believed(matrix).reshape(-1, *price.shape)
    else:
        chance, drawn = model.predict(matrix).reshape(price.shape), []
    later = _opportunity_cost(asked, matrix[:: price.shape[1]], model)
    return Curves(price, chance, np.array(drawn or [chance]), later)


def _opportunity_cost(asked: Requests, matrix: Floats, model: Demand) -> Floats:
    """Bid price of a unit now, as the model's card keeps it; 0 where nothing is known of it.

    That of a mix is its parts' bid prices by their shares, though each is that of a seller who wants nothing
    else; growth has none.
    """
    found, products = np.zeros(len(matrix)), np.array(asked.products, dtype=object)
    for product in set(asked.products) if EXTRA in model.card.extra else ():
        mine = products == product
        for name, share in weights(asked.objective).items():
            if (bids := bid_prices_of(model.card.extra, name, product)) is not None:
                found[mine] += share * bids.of(matrix[mine, _INVENTORY], matrix[mine, _HOURS])
    return found


def offers(asked: Requests, found: Curves | None, policy: PricingPolicy) -> Offers:
    """Every price that each request may be shown: around the list price while there is no model."""
    within = limits(asked, policy)
    trials = policies.trials(within, policy)
    if found is None:
        starting = policy.model_copy(update={"exploration_share": policy.exploration_at_start})
        return policies.offers(asked.terms.list_price[:, None], trials, within, starting)
    worth = _worth(asked, found, found.chance, policy)
    beliefs = found.drawn if policy.thompson else found.chance[None]
    wanted = [policies.best(found.price, _worth(asked, found, each, policy)) for each in beliefs]
    allowed = _affordable(trials, found.price, worth, policy.exploration_max_loss)
    return policies.offers(np.column_stack(wanted), trials, within, policy, allowed)


def limits(asked: Requests, policy: PricingPolicy) -> Limits:
    """Where the guardrails let each price lie."""
    return policies.limits(
        asked.terms, asked.last_price, asked.objective, policy, asked.day_price, asked.fraud
    )


def _worth(asked: Requests, found: Curves, chance: Floats, policy: PricingPolicy) -> Floats:
    cost, later = asked.terms.unit_cost[:, None], found.opportunity_cost[:, None]
    usual, fraud = asked.terms.list_price[:, None], asked.fraud.of_rows
    return policies.worth(found.price, chance, cost, asked.objective, policy, later, usual, fraud)


def _affordable(trials: Floats, price: Floats, worth: Floats, most: float) -> Flags:
    """Trials that cost at most this share of the best worth, by the curve between the candidates."""
    best = worth.max(axis=1, keepdims=True)
    rows = zip(trials, price, worth, strict=True)
    expected = np.array([np.interp(each, x, y) for each, x, y in rows]).reshape(trials.shape)
    found: Flags = expected >= best - most * np.abs(best)
    return found
