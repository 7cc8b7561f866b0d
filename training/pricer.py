"""A pricing policy with its model, over many past quotes at once."""

from collections.abc import Sequence
from dataclasses import dataclass

from features.pricing import PRICING
from features.state import Floats
from infra.settings import Objective, PricingPolicy
from training import demand, models, quoting
from training.champions import Champions
from training.pricing_log import Past
from training.pricing_policy import Offers, Terms
from training.quoting import Demand

WITHOUT_MODEL = ("", "rules")
"""Versions that quotes of no model carry."""


@dataclass(frozen=True)
class _Again:
    """Past quotes, asked for once more."""

    past: Past
    objective: Objective

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

    def offers(self, past: Past, objective: Objective) -> Offers:
        """What it would show for each quote; by the same arithmetic as a request's."""
        asked = _Again(past, objective)
        found = None if self.model is None else quoting.curves(asked, self.model, self.rules)
        return quoting.offers(asked, found, self.rules)

    def units(self, past: Past, prices: Floats) -> Floats:
        """Expected units of each quote at each of its prices, shape (n, k). There is a model."""
        assert self.model
        doubt = demand.doubt_of(self.model.card.extra)
        chance = self.model.predict(_Again(past, self.rules.objective).matrix(prices)).reshape(prices.shape)
        return chance * (doubt.units_per_sale if doubt else 1.0)


def pricers(champions: Champions, present: PricingPolicy, versions: set[str]) -> dict[str, Pricer]:
    """The settings' policy with each model that quoted, as far as they are kept and know our features."""
    found = {version: Pricer(present, None) for version in versions & set(WITHOUT_MODEL)}
    for version in versions - set(WITHOUT_MODEL):
        if champions.kept(PRICING.domain, version):
            model = models.load(champions.folder(PRICING.domain, version))
            if model.card.feature_hash == PRICING.hash:
                found[version] = Pricer(present, model)
    return found
