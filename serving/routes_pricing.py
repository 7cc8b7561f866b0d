"""HTTP calls of the pricing side: quotes, outcomes and the catalogue."""

import time
from contextlib import suppress
from dataclasses import replace
from http import HTTPStatus
from random import Random
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from features.connection import StoreError
from features.fraud import FRAUD
from features.index import KnownQuote, known_entry, known_quote_key, read_quote
from features.online import Codec
from features.pricing import PRICING, PRODUCT
from features.state import States
from infra.settings import Objective, Product
from ingestion.events import Id, Outcome, QuoteRequest, microseconds
from ingestion.topics import OUTCOMES, QUOTES
from serving.catalogue import asking, faults, found
from serving.guard import GuardedRoute
from serving.measures import BROKER, STORE
from serving.outbox import Kept
from serving.pricing import Held, Known
from serving.pricing import quote as price_of
from serving.problems import Problem
from serving.routes_fraud import JSON, answer, body_of, parse_many, refuse_future
from serving.same_price import SameContext
from serving.services import Services, UsesServices
from serving.stage import Outgoing
from training.fraud_policy import passed_share

router = APIRouter(prefix="/v1", tags=["pricing"], route_class=GuardedRoute)

_products = Codec(PRODUCT)
DAY_S = 86_400


class Terms(BaseModel):
    """What the catalogue says of a product; `max_step` in money, without `objective` the policy's."""

    model_config = ConfigDict(extra="forbid")

    list_price: Annotated[float, Field(gt=0, le=1e9)]
    unit_cost: Annotated[float, Field(ge=0, le=1e9)]
    currency: Annotated[str, Field(pattern="^[A-Z]{3}$")]
    floor: Annotated[float, Field(ge=0, le=1e9)]
    ceiling: Annotated[float, Field(gt=0, le=1e9)]
    max_step: Annotated[float, Field(gt=0, le=1e9)]
    category: Annotated[str, Field(min_length=1, max_length=64)]
    objective: Objective | None = None


@router.post("/prices/quote", openapi_extra=body_of(QuoteRequest))
async def post_quote(request: Request, services: UsesServices) -> Response:
    """Quote a price; the same `quote_id` again gives the same answer."""
    start = time.perf_counter()
    asked = services.pseudonyms.event(QuoteRequest.model_validate_json(await request.body()))
    refuse_future([asked])
    same = SameContext(asked, services.pricing.rules)
    product, states, before, held, degraded = await _look_up(services, asked, same)
    if before is not None:
        return Response(before, media_type=JSON)
    if product is None:
        raise _unknown(asked, degraded)
    took_ms = (time.perf_counter() - start) * 1e3
    known = Known(product, states.columns, degraded, took_ms, held, _fraud_share(services))
    quote = await _priced(services, asked, known, same)
    services.measures.stages("quote", {k: v / 1e3 for k, v in quote["latency_ms"].items() if k != "total"})
    return await _published(services, asked, quote)


def _unknown(asked: QuoteRequest, degraded: bool) -> Problem:
    if degraded:
        detail = f"the catalogue does not answer, and {asked.product_id!r} is not known by heart; try again"
        return Problem(HTTPStatus.SERVICE_UNAVAILABLE, detail)
    detail = (
        f"product {asked.product_id!r} is not in the catalogue; add it by PUT /v1/products/{{product_id}}"
    )
    return Problem(HTTPStatus.NOT_FOUND, detail)


@router.post("/prices/outcomes", status_code=HTTPStatus.ACCEPTED, openapi_extra=body_of(Outcome, many=True))
async def post_outcomes(request: Request, services: UsesServices) -> Response:
    """What became of quotes: units bought, 0 = not bought."""
    events = [services.pseudonyms.event(each) for each in parse_many(await request.body(), Outcome)]
    replies = await services.store.execute([("GET", known_quote_key(event.quote_id)) for event in events])
    keys = [
        read_quote(reply).product_id if reply else event.quote_id
        for event, reply in zip(events, replies, strict=True)
    ]
    records = [
        Outgoing(OUTCOMES, event.model_dump_json().encode(), key.encode())
        for event, key in zip(events, keys, strict=True)
    ]
    await services.publisher.publish(records)
    return answer({"accepted": len(events)}, HTTPStatus.ACCEPTED)


@router.get("/products")
async def get_products(services: UsesServices) -> Response:
    """The catalogue."""
    return answer([product.model_dump() for product in await services.catalogue.all()])


@router.put("/products/{product_id:whole}")
async def put_product(product_id: Id, terms: Terms, services: UsesServices) -> Response:
    """Add or replace a product."""
    product = Product(product_id=product_id, **terms.model_dump())
    if wrong := faults(product, services.settings.pricing):
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "; ".join(wrong))
    await services.catalogue.put(product)
    return answer(product.model_dump())


async def _look_up(
    services: Services, asked: QuoteRequest, same: SameContext
) -> tuple[Product | None, States, bytes | None, Held | None, bool]:
    """Product, its state, an earlier answer and what is held for its context, in one round trip.

    A product with an objective of its own may take a second one, as its context was not known before. Without
    the store there are cold states and the products that are known by heart. An answer that waits in the
    outbox is an earlier one, too.
    """
    waiting = services.publisher.kept(_name(asked.quote_id))
    commands = [
        asking(asked.product_id),
        _products.read(asked.product_id),
        ("GET", _answer_key(asked.quote_id)),
        same.asking,
    ]
    try:
        reply, state, before, held = await services.store.execute(commands)
        product = found(reply) or services.catalogue.remembered(asked.product_id)  # an emptied store
        if product is not None and same.turned_by(product):
            (held,) = await services.store.execute([same.asking])
    except StoreError:
        product, state, before = services.catalogue.remembered(asked.product_id), None, None
        return product, States.cold(PRODUCT, 1), waiting.value if waiting else None, None, True
    before = waiting.value if waiting else before
    return product, _products.decode([state]), before, same.found(held), False


def _fraud_share(services: Services) -> float | None:
    """Of the payments that pass, as the fraud champion's card says."""
    champion = services.models.current(FRAUD.domain)
    return None if champion is None else passed_share(champion.card.extra)


async def _priced(services: Services, asked: QuoteRequest, known: Known, same: SameContext) -> dict[str, Any]:
    """The quote; of several of one context at the same moment all have the price of the first."""
    model = services.models.current(PRICING.domain)
    quote = price_of(asked, known, model, services.pricing, Random(asked.quote_id))
    if known.degraded or known.held is not None:
        return quote
    mine = Held(quote["price"], quote["propensity"], quote["exploration"])
    try:
        other = await same.keep(services.store, mine)
    except StoreError:  # nobody can hold it: then as without the store
        again = replace(known, degraded=True)
    else:
        if other is None:
            return quote
        again = replace(known, held=other)
    return price_of(asked, again, model, services.pricing, Random(asked.quote_id))


async def _published(services: Services, asked: QuoteRequest, quote: dict[str, Any]) -> Response:
    """Publish the quote, and keep it so that a retry and an outcome find it."""
    lacking = _lacking(services, quote)
    quote["degraded"] = bool(lacking)
    services.measures.quoted(quote["objective"], quote["exploration"], lacking)
    value = orjson.dumps(quote)
    record = Outgoing(QUOTES, value, asked.product_id.encode())
    await services.publisher.deliver([Kept(_name(asked.quote_id), record)])
    known = known_entry(KnownQuote(asked.product_id, quote["price"], microseconds(asked.event_time)))
    remember_s = int(services.settings.topics.idempotency_days * DAY_S)
    if STORE not in lacking:
        with suppress(StoreError):  # it is quoted, and a worker notes it from the topic
            await services.store.execute(
                [
                    ("SET", known_quote_key(asked.quote_id), known, "NX", "EX", remember_s),
                    ("SET", _answer_key(asked.quote_id), value, "EX", DAY_S),
                ]
            )
    return Response(value, media_type=JSON)


def _lacking(services: Services, quote: dict[str, Any]) -> list[str]:
    """Neighbours that are away."""
    away = {STORE: quote["degraded"], BROKER: services.publisher.away}
    return [neighbour for neighbour, gone in away.items() if gone]


def _name(quote_id: str) -> str:
    """Of a quote in the outbox."""
    return f"q:{quote_id}"


def _answer_key(quote_id: str) -> bytes:
    """Redis key of a quote's answer, kept for a day's retries."""
    return b"quote:" + quote_id.encode()
