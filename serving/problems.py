"""Errors as RFC 9457 problem documents: what was expected, what came, what to do."""

from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import ValidationError
from starlette.exceptions import HTTPException as StarletteHTTPException

from features.connection import StoreError
from infra.errors import UserError
from ingestion.broker import BrokerError
from ingestion.events import reason

MEDIA_TYPE = "application/problem+json"


class Problem(Exception):  # noqa: N818 - the RFC's word
    """An answer that is an error; `extra` members go into the document."""

    def __init__(self, status: HTTPStatus, detail: str, **extra: Any) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.extra = extra


def problem_response(status: int, detail: str, **extra: Any) -> Response:
    """The problem document as a response."""
    document = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    headers = {"Retry-After": "1"} if status == HTTPStatus.SERVICE_UNAVAILABLE else None
    return Response(orjson.dumps(document | extra), status, headers=headers, media_type=MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Answer every error of the application with a problem document."""
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(ValidationError, _invalid)
    app.add_exception_handler(RequestValidationError, _bad_request)
    app.add_exception_handler(StarletteHTTPException, _http)
    app.add_exception_handler(UserError, _user)
    for unavailable in (BrokerError, StoreError):
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
    return problem_response(error.status_code, str(error.detail))


async def _user(_: Request, error: Exception) -> Response:
    return problem_response(HTTPStatus.CONFLICT, str(error))


async def _unavailable(_: Request, error: Exception) -> Response:
    return problem_response(HTTPStatus.SERVICE_UNAVAILABLE, f"{error}; try again in a moment")
