import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

import pytest

from features.connection import type_of_command
from infra.settings import PricingPolicy, Product, load
from serving.catalogue import Catalogue, asking, faults, found

T = TypeVar("T")


class Hashes:
    """Redis' hashes in memory, as far as a catalogue needs them."""

    def __init__(self) -> None:
        self._kept: dict[Any, dict[Any, bytes]] = {}

    async def execute(self, commands: Sequence[type_of_command]) -> list[Any]:
        return [self._reply(*command) for command in commands]

    def _reply(self, verb: Any, key: Any, *rest: Any) -> Any:
        mine = self._kept.setdefault(key, {})
        if verb == "HGET":
            return mine.get(rest[0])
        if verb == "HVALS":
            return list(mine.values())
        if verb == "HSETNX" and rest[0] in mine:
            return 0
        assert verb in ("HSET", "HSETNX")
        mine[rest[0]] = rest[1].encode()
        return 1


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


@pytest.fixture
def products() -> tuple[Product, ...]:
    return load().catalogue


@pytest.fixture
def policy() -> PricingPolicy:
    return load().pricing


def test_the_first_products_come_from_the_settings(products: tuple[Product, ...]) -> None:
    catalogue = Catalogue(Hashes())
    run(catalogue.seed(products[::-1]))
    assert run(catalogue.all()) == sorted(products, key=lambda each: each.product_id)
    assert run(catalogue.get(products[0].product_id)) == products[0]
    assert run(catalogue.get("nothing")) is None


def test_what_a_person_put_stays_over_a_restart(products: tuple[Product, ...]) -> None:
    catalogue = Catalogue(Hashes())
    run(catalogue.seed(products))
    dearer = products[0].model_copy(update={"list_price": products[0].list_price + 1})
    run(catalogue.put(dearer))
    run(catalogue.seed(products))
    assert run(catalogue.get(dearer.product_id)) == dearer
    assert len(run(catalogue.all())) == len(products)


def test_a_products_own_objective_is_kept(products: tuple[Product, ...]) -> None:
    catalogue = Catalogue(Hashes())
    terms = products[0].model_dump()
    assert "objective" not in terms, "as before for a product that states none"
    own = Product(**terms, objective={"growth": 1, "margin": 3})  # type: ignore[arg-type]
    run(catalogue.put(own))
    kept = run(catalogue.get(own.product_id))
    assert kept == own
    assert own.model_dump()["objective"] == "0.75 margin + 0.25 growth"


def test_no_products_are_no_command() -> None:
    catalogue = Catalogue(Hashes())
    run(catalogue.seed(()))
    assert run(catalogue.all()) == []


def test_a_product_can_be_asked_for_beside_other_commands(products: tuple[Product, ...]) -> None:
    store = Hashes()
    run(Catalogue(store).put(products[1]))
    replies = run(store.execute([asking(products[1].product_id), asking("nothing")]))
    assert [found(reply) for reply in replies] == [products[1], None]


def test_the_settings_own_products_can_be_priced(
    products: tuple[Product, ...], policy: PricingPolicy
) -> None:
    assert [faults(each, policy) for each in products] == [[]] * len(products)


def test_a_product_that_no_price_can_serve_is_told_why(
    products: tuple[Product, ...], policy: PricingPolicy
) -> None:
    terms = {"unit_cost": 100.0, "ceiling": 80.0, "max_step": 0.01}
    wrong = faults(products[0].model_copy(update=terms), policy)
    assert [each.split(":")[0] for each in wrong] == ["ceiling", "max_step"]
    assert "came 80.0" in wrong[0]
