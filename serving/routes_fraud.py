"""HTTP calls of the fraud side: transactions, scores, labels and decisions."""

import time
from collections.abc import Sequence
from http import HTTPStatus
from typing import Annotated, Any, TypeVar

import orjson
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, TypeAdapter, ValidationError

from features.state import MICROSECONDS
from ingestion.events import MAX_AHEAD_US, Label, Transaction, event_time, microseconds, reason
from serving import label_log
from serving.direct_route import DirectRoute
from serving.guard import GuardedRoute
from serving.problems import Problem
from serving.reviews import Case
from serving.scoring import Asked, outgoing
from serving.services import Services, UsesServices

MOST_AT_ONCE = 1_000
JSON = "application/json"
DRY_RUN = "Publish nothing."
EXPLAIN = "Give reasons for what is simply approved, too; a decision that was made before stays as it is."
E = TypeVar("E", bound=BaseModel)

router = APIRouter(prefix="/v1", tags=["fraud"], route_class=GuardedRoute)


def body_of(model: type[BaseModel], many: bool = False) -> dict[str, Any]:
    """OpenAPI's description of a body that the route parses itself, straight from the bytes."""
    one = TypeAdapter(model).json_schema()
    listed = {"type": "array", "items": one, "maxItems": MOST_AT_ONCE}
    schema = {"anyOf": [one, listed]} if many else one
    return {"requestBody": {"required": True, "content": {JSON: {"schema": schema}}}}


def flag(name: str, description: str) -> dict[str, Any]:
    """OpenAPI's description of a parameter that the route reads itself; not given is false."""
    schema = {"type": "boolean", "default": False, "title": name}
    return {"name": name, "in": "query", "schema": schema, "description": description}


def answer(content: Any, status: int = HTTPStatus.OK) -> Response:
    """JSON; NaN becomes null."""
    return Response(orjson.dumps(content), status, media_type=JSON)


async def post_score(request: Request) -> Response:
    """Decide one transaction, and publish it with its decision; with `dry_run` nothing is published.

    Reasons come with what is not simply approved, with `explain` also with what is.
    """
    services: Services = request.app.state.services
    body = await request.body()
    start = time.perf_counter()
    event = services.pseudonyms.event(Transaction.model_validate_json(body))
    refuse_future([event])
    services.measures.stages("score", {"parse": time.perf_counter() - start})
    asked = Asked(_asked(request, "dry_run"), _asked(request, "explain"))
    return Response(await services.scoring.score(event, asked), media_type=JSON)


def _asked(request: Request, name: str) -> bool:
    value = request.query_params.get(name, "false").lower()
    if value not in ("true", "false"):
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, f"{name}: expected true or false, came {value!r}")
    return value == "true"


router.add_api_route(
    "/fraud/score",
    post_score,
    methods=["POST"],
    route_class_override=DirectRoute,
    openapi_extra=body_of(Transaction) | {"parameters": [flag("dry_run", DRY_RUN), flag("explain", EXPLAIN)]},
)


@router.post("/transactions", status_code=HTTPStatus.ACCEPTED, openapi_extra=body_of(Transaction, many=True))
async def post_transactions(request: Request, services: UsesServices) -> Response:
    """Take one transaction or at most 1,000; 202 once Kafka has acknowledged all of them."""
    events = await _transactions(request, services)
    await services.publisher.publish([outgoing(event) for event in events])
    return answer({"accepted": len(events)}, HTTPStatus.ACCEPTED)


@router.post("/labels", status_code=HTTPStatus.ACCEPTED, openapi_extra=body_of(Label, many=True))
async def post_labels(request: Request, services: UsesServices) -> Response:
    """Take one label or at most 1,000: what a transaction turned out to be, and since when that is known."""
    events = parse_many(await request.body(), Label)
    await services.publisher.publish([label_log.outgoing(event) for event in events])
    return answer({"accepted": len(events)}, HTTPStatus.ACCEPTED)


@router.post("/fraud/score/batch", openapi_extra=body_of(Transaction, many=True))
async def post_score_batch(
    request: Request,
    services: UsesServices,
    dry_run: Annotated[bool, Query(description=DRY_RUN)] = False,
    explain: Annotated[bool, Query(description=EXPLAIN)] = False,
) -> Response:
    """Decide at most 1,000 transactions; each on what was known before the call."""
    events = await _transactions(request, services)
    decisions = await services.scoring.decide(events, Asked(dry_run, explain))
    return Response(b"[" + b",".join(decisions) + b"]", media_type=JSON)


async def _transactions(request: Request, services: Services) -> list[Transaction]:
    """One or many; behind this nobody knows whose they are."""
    events = parse_many(await request.body(), Transaction)
    return [services.pseudonyms.event(event) for event in events]


@router.get("/decisions/{transaction_id:whole}")
async def get_decision(transaction_id: str, services: UsesServices) -> Response:
    """The decision on a transaction with all its evidence, its labels since, and what analysts said."""
    return answer((await case_of(services, transaction_id)).described())


async def case_of(services: Services, transaction_id: str) -> Case:
    """What is known of a transaction; a Problem if no decision on it is."""
    case = await services.reviews.case(transaction_id)
    if case is None:
        raise Problem(HTTPStatus.NOT_FOUND, f"no decision on transaction {transaction_id!r} is known")
    return case


def parse_many(body: bytes, model: type[E]) -> list[E]:
    """One event or a list; a Problem that names the position and the reason of each bad one."""
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, f"expected JSON: {error}") from None
    items = content if isinstance(content, list) else [content]
    if not 1 <= len(items) <= MOST_AT_ONCE:
        raise Problem(
            HTTPStatus.UNPROCESSABLE_ENTITY, f"expected 1 to {MOST_AT_ONCE} events, came {len(items)}"
        )
    return _all_valid(items, model)


def _all_valid(items: Sequence[Any], model: type[E]) -> list[E]:
    events: list[E] = []
    errors: list[dict[str, Any]] = []
    for position, item in enumerate(items):
        try:
            events.append(model.model_validate_json(orjson.dumps(item)))
        except ValidationError as error:
            errors.append({"position": position, "reason": reason(error)})
        except orjson.JSONEncodeError:
            errors.append({"position": position, "reason": "expected less depth"})
    if errors:
        detail = f"{len(errors)} of {len(items)} events are not valid; none was taken"
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, detail, errors=errors[:100])
    refuse_future(events)
    return events


def refuse_future(events: Sequence[BaseModel]) -> None:
    """An event from tomorrow would age everything that comes after it."""
    latest = time.time() * MICROSECONDS + MAX_AHEAD_US
    for position, event in enumerate(events):
        moment = event_time(event)  # type: ignore[arg-type]
        if microseconds(moment) > latest:
            detail = f"expected a time at most a day ahead, came {moment.isoformat()}"
            raise Problem(
                HTTPStatus.UNPROCESSABLE_ENTITY, detail, errors=[{"position": position, "reason": detail}]
            )
