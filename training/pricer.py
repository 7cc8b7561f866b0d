"""A pricing policy with its model, over many quotes at once."""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from features.state import Floats
from infra.settings import Objective, PricingPolicy
from training import demand
from training import pricing_policy as policies
from training.card import Card
from training.pricing_log import Past
from training.pricing_policy import Offers


class Demand(Protocol):
    """What prices need of a model; `training.models.Scorer` is one."""

    card: Card

    def predict(self, matrix: Floats) -> Floats:
        """Chance of purchase of each row of the matrix of `PRICING`, shape (n,)."""
        ...


@dataclass(frozen=True)
class Pricer:
    """A pricing policy with the model that it prices by."""

    rules: PricingPolicy
    model: Demand | None
    """None: the list price is what it wants."""

    def offers(self, past: Past, objective: Objective) -> Offers:
        """What it would show for each quote; the same as `serving.pricing` does for one."""
        within = policies.limits(past.terms, past.last_price, objective, self.rules)
        wanted = past.terms.list_price if self.model is None else self._best(past, objective)
        return policies.offers(wanted[:, None], policies.trials(within, self.rules), within, self.rules)

    def units(self, past: Past, prices: Floats) -> Floats:
        """Expected units of each quote at each of its prices, shape (n, k). There is a model."""
        return self._chance(past, prices) * (self._doubt.units_per_sale if self._doubt else 1.0)

    def _best(self, past: Past, objective: Objective) -> Floats:
        support = (self._doubt.lowest, self._doubt.highest) if self._doubt else ()
        prices = policies.candidate_prices(past.terms.list_price, self.rules, *support)
        chance = self._chance(past, prices)
        return policies.best(
            prices, policies.worth(prices, chance, past.terms.unit_cost[:, None], objective, self.rules)
        )

    def _chance(self, past: Past, prices: Floats) -> Floats:
        assert self.model
        shares = (prices / past.terms.list_price[:, None]).T
        return np.column_stack([self.model.predict(demand.at_price(past.matrix, share)) for share in shares])

    @cached_property
    def _doubt(self) -> demand.Doubt | None:
        return demand.doubt_of(self.model.card.extra) if self.model else None
