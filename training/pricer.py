"""A pricing policy with its model, over many past quotes at once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from features.fraud import FRAUD
from features.pricing import PRICING
from features.state import Floats
from infra.settings import FraudPolicy, Objective, PricingPolicy, Settings
from training import card, demand, models, quoting
from training.champions import Champions
from training.fraud_policy import passed_share
from training.pricing_log import Past
from training.pricing_policy import NO_FRAUD, FraudLoss, Offers, Terms, value
from training.quoting import Demand

WITHOUT_MODEL = ("", "rules")
"""Versions that quotes of no model carry."""


@dataclass(frozen=True)
class _Again:
    """Past quotes, asked for once more."""

    past: Past
    objective: Objective
    fraud: FraudLoss

    @property
    def terms(self) -> Terms:
        return self.past.terms

    @property
    def products(self) -> Sequence[str]:
        found: list[str] = self.past.product.tolist()
        return found

    @property
    def last_price(self) -> Floats:
        return self.past.last_price

    @property
    def day_price(self) -> Floats:
        return self.past.day_price

    def matrix(self, prices: Floats) -> Floats:
        shares = prices / self.terms.list_price[:, None]
        return demand.at_price(self.past.matrix.repeat(prices.shape[1], axis=0), shares.ravel())


@dataclass(frozen=True)
class Pricer:
    """A pricing policy with the model that it prices by."""

    rules: PricingPolicy
    model: Demand | None
    """None: the list price is what it wants."""
    costs: FraudPolicy | None = None
    """Of a fraud, for a policy whose margin is less its loss."""
    fraud_share: float | None = None
    """Of the payments that pass, for quotes whose price did not know of it; None: then none is."""

    def offers(self, past: Past, objective: Objective) -> Offers:
        """What it would show for each quote; by the same arithmetic as a request's."""
        asked = _Again(past, objective, self.fraud(past))
        found = None if self.model is None else quoting.curves(asked, self.model, self.rules)
        return quoting.offers(asked, found, self.rules)

    def units(self, past: Past, prices: Floats) -> Floats:
        """Expected units of each quote at each of its prices, shape (n, k). There is a model."""
        assert self.model
        doubt = demand.doubt_of(self.model.card.extra)
        asked = _Again(past, self.rules.objective, NO_FRAUD)
        chance = self.model.predict(asked.matrix(prices)).reshape(prices.shape)
        return chance * (doubt.units_per_sale if doubt else 1.0)

    def value(self, past: Past, prices: Floats, units: Floats) -> Floats:
        """Money that its objective makes of units at each price of each quote, shape (n, k)."""
        cost, usual = past.terms.unit_cost[:, None], past.terms.list_price[:, None]
        fraud = self.fraud(past).of_rows
        return value(prices, units, cost, self.rules.objective, list_price=usual, fraud=fraud)

    def fraud(self, past: Past) -> FraudLoss:
        """What sales lose, as this policy may know it: of the shopper, else as any sale did or does."""
        if not self.rules.fraud_loss or self.costs is None:
            return NO_FRAUD
        known, shopper = past.fraud_probability, past.shopper_probability
        of_any = np.where(np.isnan(known) | (known == shopper), self.fraud_share or 0.0, known)
        ours = self.rules.asks_who_pays & ~np.isnan(shopper)
        return FraudLoss.of(np.where(ours, shopper, of_any), self.costs)


def pricers(champions: Champions, chosen: Settings, versions: set[str]) -> dict[str, Pricer]:
    """The settings' policy with each model that quoted, as far as they are kept and know our features.

    What it did not know of fraud when it quoted, it does not know now.
    """
    present, costs = chosen.pricing, chosen.fraud
    found = {version: Pricer(present, None, costs) for version in versions & set(WITHOUT_MODEL)}
    for version in versions - set(WITHOUT_MODEL):
        if champions.kept(PRICING.domain, version):
            model = models.load(champions.folder(PRICING.domain, version))
            if model.card.feature_hash == PRICING.hash:
                found[version] = Pricer(present, model, costs)
    return found


def fraud_share(champions: Champions) -> float | None:
    """Of the payments that pass, as the fraud champion's card says; None without one."""
    champion = champions.current(FRAUD.domain)
    return None if champion is None else passed_share(card.read(champion.folder).extra)
