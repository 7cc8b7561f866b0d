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
MOST_REMEMBERED, PAGE = 100_000, 200
"""Products that are known by heart, and how many are looked at at a time."""


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
        self._remembered: dict[bytes, bytes] = {}

    def expect(self, products: Sequence[Product]) -> None:
        """Know these by heart until what is in the store is known."""
        self._remembered = {each.product_id.encode(): _value(each).encode() for each in products}

    async def seed(self, products: Sequence[Product]) -> None:
        """Add those products that are not there; a product that is there stays as it is."""
        if products:
            await self._store.execute([("HSETNX", KEY, each.product_id, _value(each)) for each in products])

    async def remember(self) -> None:
        """Keep what is there now, for `remembered`; a page at a time, so that nobody waits behind it."""
        cursor = b"0"
        while len(self._remembered) < MOST_REMEMBERED:
            ((cursor, found),) = await self._store.execute([("HSCAN", KEY, cursor, "COUNT", PAGE)])
            self._remembered |= zip(found[::2], found[1::2], strict=True)
            if cursor == b"0":
                return

    def remembered(self, product_id: str) -> Product | None:
        """The product as it was known last, for when the store is away or was emptied; None if it was not."""
        return found(self._remembered.get(product_id.encode()))

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
        self._remembered[product.product_id.encode()] = _value(product).encode()


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
