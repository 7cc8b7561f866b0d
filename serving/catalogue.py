"""The products that can be quoted, in Redis: one hash, one field a product, JSON.

The first products come from the settings; what a person has put since stays over a restart.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from features.connection import type_of_command
from infra.settings import PricingPolicy, Product
from training.pricing_policy import least_price

KEY = b"catalogue"


class Store(Protocol):
    """Sends commands, gives their replies in order."""

    async def execute(self, commands: Sequence[type_of_command]) -> list[Any]:
        """Replies in the order of the commands."""
        ...


def asking(product_id: str) -> type_of_command:
    """Command for a product, to go in one round trip with others; `found` takes its reply."""
    return ("HGET", KEY, product_id)


def found(reply: bytes | None) -> Product | None:
    """The product of a reply to `asking`; None if there is none."""
    return None if reply is None else Product.model_validate_json(reply)


class Catalogue:
    """Reads and changes the products."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def seed(self, products: Sequence[Product]) -> None:
        """Add those products that are not there; a product that is there stays as it is."""
        if products:
            await self._store.execute([("HSETNX", KEY, each.product_id, _value(each)) for each in products])

    async def get(self, product_id: str) -> Product | None:
        """The product, or None."""
        (reply,) = await self._store.execute([asking(product_id)])
        return found(reply)

    async def all(self) -> list[Product]:
        """Every product, by id."""
        (reply,) = await self._store.execute([("HVALS", KEY)])
        products = [Product.model_validate_json(each) for each in reply]
        return sorted(products, key=lambda each: each.product_id)

    async def put(self, product: Product) -> None:
        """Add or replace a product."""
        await self._store.execute([("HSET", KEY, product.product_id, _value(product))])


def faults(product: Product, policy: PricingPolicy) -> list[str]:
    """Why the policy cannot price this product; nothing if it can."""
    wrong = []
    least = float(least_price(np.array(product.unit_cost), policy.min_margin_share))
    if least > product.ceiling:
        wrong.append(
            f"ceiling: expected at least {least:.2f}, the unit cost with a margin of"
            f" {policy.min_margin_share:.0%}; came {product.ceiling}"
        )
    if product.max_step < policy.price_step:
        wrong.append(
            f"max_step: expected at least the price step {policy.price_step}; came {product.max_step}"
        )
    return wrong


def _value(product: Product) -> str:
    return product.model_dump_json()
