"""Errors as RFC 9457 problem documents: what was expected, what came, what to do."""

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import ValidationError
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import ClientDisconnect

from features.connection import StoreError
from infra.card_numbers import masked
from infra.errors import UserError
from ingestion.broker import BrokerError
from ingestion.events import reason
from training.tracking import RegistryAwayError

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
SAFE = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
"""Headers of every answer: a browser shall show, keep and guess nothing of it."""
NEIGHBOURS: dict[type[Exception], str] = {
    BrokerError: "the event stream",
    StoreError: "the feature store",
    RegistryAwayError: "the model registry",
}
"""Who did not answer, by what was raised."""


class Problem(Exception):  # noqa: N818 - the RFC's word
    """An answer that is an error; `extra` members go into the document."""

    def __init__(self, status: HTTPStatus, detail: str, **extra: Any) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.extra = extra


def problem_response(
    status: int, detail: str, headers: Mapping[str, str] | None = None, **extra: Any
) -> Response:
    """The problem document as a response; a card number that came is not sent back."""
    document = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    if headers is None and status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers = {"Retry-After": "1"}
    told = masked(orjson.dumps(document | extra).decode())
    return Response(told, status, headers=headers, media_type=MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Answer every error of the application with a problem document."""
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(ValidationError, _invalid)
    app.add_exception_handler(RequestValidationError, _bad_request)
    app.add_exception_handler(StarletteHTTPException, _http)
    app.add_exception_handler(UserError, _user)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(Exception, _bug)
    for unavailable in NEIGHBOURS:
        app.add_exception_handler(unavailable, _unavailable)


async def _problem(_: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return problem_response(error.status, error.detail, **error.extra)


async def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, ValidationError)
    return problem_response(HTTPStatus.UNPROCESSABLE_ENTITY, reason(error))


async def _bad_request(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    parts = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()[:5]]
    return problem_response(HTTPStatus.UNPROCESSABLE_ENTITY, "; ".join(parts))


async def _http(_: Request, error: Exception) -> Response:
    assert isinstance(error, StarletteHTTPException | HTTPException)
    if error.status_code == HTTPStatus.BAD_REQUEST:  # the framework's word for bytes that are no JSON
        return problem_response(
            HTTPStatus.UNPROCESSABLE_ENTITY, "expected JSON in UTF-8, came something else"
        )
    return problem_response(error.status_code, str(error.detail), headers=error.headers)


async def _user(_: Request, error: Exception) -> Response:
    return problem_response(HTTPStatus.CONFLICT, str(error))


async def _gone(_: Request, __: Exception) -> Response:
    """Nobody hears it: the client went, or was cut off, before its body was there."""
    return problem_response(HTTPStatus.REQUEST_TIMEOUT, "expected a whole body, the connection ended")


async def _unavailable(_: Request, error: Exception) -> Response:
    """Which neighbour it was is for who calls; where it lives and what it said is for our log."""
    log.warning("%s", error)
    neighbour = next(name for kind, name in NEIGHBOURS.items() if isinstance(error, kind))
    detail = f"{neighbour} did not answer as expected; try again in a moment"
    return problem_response(HTTPStatus.SERVICE_UNAVAILABLE, detail)


async def _bug(_: Request, __: Exception) -> Response:
    """What went wrong is for our log, where the server writes it, and not for who called."""
    detail = "this is an error of ours and has been logged; try again, or tell who runs this API"
    return problem_response(HTTPStatus.INTERNAL_SERVER_ERROR, detail, headers=SAFE)
