"""What stands before every call: a key, a limit of calls and of bytes; and what goes with every answer."""

import base64
import hashlib
import re
import time
from collections.abc import Callable
from http import HTTPStatus
from math import ceil

from fastapi import HTTPException
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import Response
from fastapi.routing import APIRoute
from starlette.convertors import PathConvertor, register_url_convertor
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from infra.settings import Api
from serving.access import DOCS, HEALTH, Caller, Keyring, listed, may
from serving.problems import SAFE, problem_response

CALLER = "tollgate.caller"
"""Of an ASGI scope: whose key came. Not there: keys are off."""
CHALLENGE = {"WWW-Authenticate": "Bearer"}
_POLICY = b"content-security-policy"
_SAFE = [(name.lower().encode(), value.encode()) for name, value in SAFE.items()]


class _Whole(PathConvertor):
    """An id in a path; not as `path`, which stops at the end of a line: what checks ids sees all of it."""

    regex = r"[\s\S]*"


register_url_convertor("whole", _Whole())


class GuardedRoute(APIRoute):
    """A route that lets only those in who have a scope for it, before anything of the body is read."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the caller, or answer."""
        caller: Caller | None = scope.get(CALLER)
        method = scope["method"]
        if (
            caller is not None
            and method in (self.methods or ())
            and not may(caller, method, self.path_format)
        ):
            await forbidden(caller)(scope, receive, send)
            return
        await self.answer(scope, receive, send)

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as any route does."""
        await super().handle(scope, receive, send)


class Guard:
    """Refuses who has no key or calls too often, and bodies that are too large; `clock` gives seconds.

    A body whose length was told is as long as that: the server sees to it. Any other is counted as it comes.
    """

    def __init__(self, app: ASGIApp, api: Api, clock: Callable[[], float] = time.monotonic) -> None:
        self._app, self._clock = app, clock
        self._keyring = Keyring(api)
        self._most = api.max_body_bytes
        self._open = HEALTH if api.docs_need_key else HEALTH | DOCS
        self._docs = [*(each for each in _SAFE if each[0] != _POLICY), (_POLICY, docs_policy().encode())]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the call on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        safe = self._docs if scope["path"] in DOCS else _SAFE

        async def safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *safe]
            await send(message)

        headers = dict(scope["headers"])
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await refusal(scope, receive, safely)
        elif b"content-length" in headers and b"transfer-encoding" not in headers:
            await self._app(scope, receive, safely)
        else:
            await self._app(scope, limited(receive, self._most), safely)

    def _refusal(self, scope: Scope, headers: dict[bytes, bytes]) -> Response | None:
        if self._keyring and scope["path"] not in self._open:
            caller = self._keyring.caller(headers.get(b"authorization", b""))
            if caller is None:
                return unknown(b"authorization" in headers)
            if caller.bucket is not None and (wait_s := caller.bucket.wait_s(self._clock())):
                return too_often(caller, wait_s)
            if not listed(scope["path"]) and _answered(scope):
                return forbidden(caller)
            scope[CALLER] = caller
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._most:
            return problem_response(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, too_large(self._most, length.decode())
            )
        return None


def _answered(scope: Scope) -> bool:
    """Whether any route takes the path: one that is not listed, and may be no guarded one, is nobody's."""
    routes: list[BaseRoute] = scope["app"].router.routes
    return any(route.matches(scope)[0] is not Match.NONE for route in routes)


def limited(receive: Receive, most: int) -> Receive:
    """The same body, whose length nobody told; once it is longer than `most` it is refused, not kept."""
    came = 0

    async def counted() -> Message:
        nonlocal came
        message = await receive()
        came += len(message.get("body", b""))
        if came > most:
            raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, too_large(most, "more"))
        return message

    return counted


def too_large(most: int, came: str) -> str:
    """The sentence of a 413."""
    return f"expected a body of at most {most} bytes, came {came}; send lists in parts"


def unknown(sent: bool) -> Response:
    """401: no key came, or none that is known."""
    came = "one that is not known" if sent else "none"
    detail = f"expected an API key as `Authorization: Bearer KEY`, came {came}; `tollgate secrets` makes keys"
    return problem_response(HTTPStatus.UNAUTHORIZED, detail, headers=CHALLENGE)


def forbidden(caller: Caller) -> Response:
    """403: the key is for other calls."""
    detail = (
        f"the key {caller.name!r} is for {', '.join(sorted(caller.scopes))}, not for this call; use another"
    )
    return problem_response(HTTPStatus.FORBIDDEN, detail)


def too_often(caller: Caller, wait_s: float) -> Response:
    """429, with the whole seconds after which the next call may be made."""
    detail = (
        f"the key {caller.name!r} has made its calls for now; try again in {wait_s:.1f} s, or send batches"
    )
    headers = {"Retry-After": str(ceil(wait_s))}
    return problem_response(HTTPStatus.TOO_MANY_REQUESTS, detail, headers=headers)


def docs_policy() -> str:
    """What the page of `/docs` may load: Swagger's files, and the one script in it, by its hash."""
    page = bytes(get_swagger_ui_html(openapi_url="/openapi.json", title="").body).decode()
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    hashes = [base64.b64encode(hashlib.sha256(each.encode()).digest()).decode() for each in scripts]
    files = "https://cdn.jsdelivr.net"
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {files} " + " ".join(f"'sha256-{each}'" for each in hashes),
            f"style-src {files} 'unsafe-inline'",
            "img-src data: https://fastapi.tiangolo.com",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    )
