"""What makes two requests one context, and when what is held counts."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.settings import PricingPolicy, Product, load
from ingestion.events import QuoteRequest
from serving.pricing import Held
from serving.same_price import SameContext

WINDOW = load().pricing.model_copy(update={"same_price_s": 60.0})
ENTRY = orjson.dumps([44.5, 0.25, True, 1_772_366_400_000_000])
"""Of a quote at 2026-03-01T12:00:00Z."""


def asked(at: str = "12:00:00", **changes: Any) -> QuoteRequest:
    body = {"quote_id": "q-1", "event_time": f"2026-03-01T{at}Z", "product_id": "p-1", "segment": "web"}
    body |= {"context": {"inventory": 12, "hours_to_departure": 5}} | changes
    return QuoteRequest.model_validate_json(orjson.dumps(body))


def same(one: QuoteRequest, other: QuoteRequest, rules: PricingPolicy = WINDOW) -> bool:
    return SameContext(one, rules).asking == SameContext(other, rules).asking


def test_another_quote_of_the_same_context() -> None:
    assert same(asked(), asked(at="12:00:30", quote_id="q-2"))
    assert same(asked(), asked(objective="margin")), "the policy's objective"
    assert same(asked(), asked(context={"hours_to_departure": 5.0, "inventory": 12.0, "unread": 3}))


@pytest.mark.parametrize(
    "changes",
    [
        {"product_id": "p-2"},
        {"segment": "app"},
        {"segment": None},
        {"objective": "revenue"},
        {"context": {"inventory": 11, "hours_to_departure": 5}},
        {"context": {"inventory": 12}},
    ],
    ids=str,
)
def test_another_context(changes: dict[str, Any]) -> None:
    assert not same(asked(), asked(**changes))


def key(request: QuoteRequest, own: str | None) -> tuple[bool, Any]:
    """Whether a product's own objective made another context, and the context."""
    product: Product = load().catalogue[0].model_copy(update={"objective": own})
    context = SameContext(request, WINDOW)
    return context.turned_by(product), context.asking


def test_the_products_own_objective_is_part_of_the_context() -> None:
    """`margin` is the policy's."""
    assert key(asked(), None) == (False, SameContext(asked(), WINDOW).asking)
    assert key(asked(), "margin") == key(asked(), None)
    turned, asking = key(asked(), "revenue")
    assert turned
    assert asking == key(asked(objective="revenue"), None)[1] != key(asked(), None)[1]
    assert key(asked(objective="margin"), "revenue") == key(asked(), None), "the request's goes before it"


def test_mixes_that_say_the_same_are_the_same() -> None:
    assert same(
        asked(objective={"margin": 7, "revenue": 3}), asked(objective={"revenue": 0.3, "margin": 0.7})
    )
    assert not same(
        asked(objective={"margin": 7, "revenue": 3}), asked(objective={"margin": 7, "revenue": 4})
    )


@pytest.mark.parametrize(("personal", "one"), [(True, True), (False, False)])
def test_shoppers_of_other_risk_have_one_context_where_no_price_may_tell_them_apart(
    personal: bool, one: bool
) -> None:
    rules = WINDOW.model_copy(update={"fraud_loss": True, "fraud_probability_personal": personal})
    good, bad = (asked(context={"inventory": 12, "fraud_probability": each}) for each in (0.01, 0.3))
    assert same(good, bad, rules) == same(good, asked(context={"inventory": 12}), rules) == one
    assert same(good, good, rules)
    assert same(good, bad), "no price asks"


@given(st.sampled_from(["web", "app", "seniors"]), st.floats(-1e9, 1e9))
def test_two_persons_have_one_context_where_no_price_may_tell_them_apart(group: str, age: float) -> None:
    rules = WINDOW.model_copy(update={"personal": ("segment", "inventory")})
    other = asked(segment=group, context={"inventory": age, "hours_to_departure": 5})
    assert same(asked(), other, rules)
    assert same(asked(), other, rules.model_copy(update={"use_personal": True})) == same(asked(), other)


@pytest.mark.parametrize(
    ("at", "counts"), [("12:00:00", True), ("12:00:59.999999", True), ("12:01:00", False), ("11:59:01", True)]
)
def test_the_window_counts_in_event_time(at: str, counts: bool) -> None:
    found = SameContext(asked(at), WINDOW).found(ENTRY)
    assert found == (Held(44.5, 0.25, exploration=True) if counts else None)


def test_without_a_window_nothing_is_held() -> None:
    assert SameContext(asked(), WINDOW.model_copy(update={"same_price_s": 0.0})).found(ENTRY) is None
