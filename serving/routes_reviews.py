"""HTTP calls of the fraud analysts: the queue, and their verdicts."""

from datetime import UTC, datetime
from http import HTTPStatus
from typing import Annotated, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from serving.guard import GuardedRoute
from serving.problems import Problem
from serving.review_queue import TOP, Spot, spot
from serving.reviews import ContraryVerdict, NotLater, Verdict
from serving.routes_fraud import MOST_AT_ONCE, answer, body_of, case_of, refuse_future
from serving.services import UsesServices

router = APIRouter(prefix="/v1", tags=["fraud"], route_class=GuardedRoute)


@router.get("/reviews")
async def get_reviews(
    services: UsesServices,
    status: Literal["pending", "done"] = "pending",
    limit: Annotated[int, Query(ge=1, le=MOST_AT_ONCE)] = 100,
    after: Annotated[
        str | None, Query(description="Where the last page ended; the header Link has it.")
    ] = None,
) -> Response:
    """The analyst's queue: pending, dearest expected loss first, or done, latest verdict first.

    The header Link names the next page. A page goes on below the last one's last entry, whatever has come or
    gone meanwhile: what came in above it is found by beginning anew.
    """
    start = TOP if after is None else _spot(after)
    page = await (services.reviews.pending if status == "pending" else services.reviews.done)(start, limit)
    response = answer(page.items)
    if page.last is not None:
        query = urlencode({"status": status, "limit": limit, "after": str(page.last)})
        response.headers["Link"] = f'</v1/reviews?{query}>; rel="next"'
    return response


@router.post(
    "/reviews/{transaction_id:whole}/verdict",
    status_code=HTTPStatus.ACCEPTED,
    openapi_extra=body_of(Verdict),
)
async def post_verdict(transaction_id: str, request: Request, services: UsesServices) -> Response:
    """Say what an analyst found: it becomes a label that arrives now, and the payment leaves the queue.

    Any decided payment can be judged, in the queue or not. The same again is accepted and changes nothing.
    The contrary of what an analyst said before is a 409 problem, unless `revise` is true: then it is a later
    label, and both are kept.
    """
    verdict = Verdict.model_validate_json(await request.body())
    case, now = await case_of(services, transaction_id), datetime.now(UTC)
    refuse_future([verdict.label_of(transaction_id, now)])
    try:
        given = await services.reviews.judge(case, verdict, now)
    except ContraryVerdict as contrary:
        raise _conflict(contrary, verdict) from None
    except NotLater as error:
        detail = f"label_time: expected a time after the verdict that it revises, {error.than.isoformat()}"
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, detail) from None
    return answer({"accepted": 1, "verdict": given.model_dump(mode="json")}, HTTPStatus.ACCEPTED)


def _conflict(contrary: ContraryVerdict, verdict: Verdict) -> Problem:
    detail = (
        f"an analyst has said {contrary.label!r} of this transaction, came {verdict.label!r}; "
        'look at the transaction again, and send "revise": true if it is so'
    )
    earlier = contrary.earlier.model_dump(mode="json") if contrary.earlier else None
    return Problem(HTTPStatus.CONFLICT, detail, verdict=earlier)


def _spot(after: str) -> Spot:
    try:
        return spot(after)
    except ValueError:
        detail = f"after: expected what the header Link of the last page has, came {after!r}"
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, detail) from None
