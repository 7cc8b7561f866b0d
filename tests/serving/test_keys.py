"""Who may call: every route there is, without a key, with one of another scope, and with the right one."""

import asyncio
import base64
import hashlib
import re
from collections.abc import AsyncIterator, Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI, Response
from fastapi.routing import APIRoute

from features.connection import AsyncConnection
from infra import keys, settings
from infra.errors import UserError
from infra.settings import Api, Key, Settings
from serving.access import DOCS, NEEDS, PUBLIC, Bucket, refuse_open
from serving.app import create_app
from serving.catalogue import Catalogue
from serving.described import ANSWERS
from serving.guard import GuardedRoute

KEYS = {scope: keys.new_key() for scope in keys.SCOPES}
HEALTH = {"/healthz", "/readyz"}
ALL_THERE_IS = 17
"""Calls of the API."""
METHODS = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "TRACE", "QUERY")


def settings_of(**api: Any) -> Settings:
    known = tuple(Key(name=name, scopes=(name,), sha256=keys.digest(key)) for name, key in KEYS.items())
    return settings.load().model_copy(update={"api": Api(**{"keys": known, "max_body_bytes": 2_000, **api})})


@pytest.fixture(scope="module")
def app() -> FastAPI:
    """With keys; nobody has started it, so what is let in ends as an error of ours."""
    return create_app(settings_of())


def call(app: FastAPI, method: str, path: str, key: str = "", **rest: Any) -> httpx.Response:
    headers = {"Authorization": f"Bearer {key}"} if key else {}

    async def called() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test", trust_env=False) as client:
            return await client.request(method, path, headers=headers, **rest)

    return asyncio.run(called())


def routes(those: Any) -> Iterator[Any]:
    """Every route of an application, also those of included routers and mounts, whoever hid them."""
    for route in those:
        inner = getattr(route, "original_router", None) or getattr(route, "app", None)
        if hasattr(inner, "routes"):
            yield from routes(inner.routes)
        else:
            yield route


def calls(app: FastAPI) -> list[tuple[str, str]]:
    """Method and path of every call, filled in."""
    found = [each for each in routes(app.routes) if isinstance(each, APIRoute)]
    return sorted((method, route.path_format) for route in found for method in route.methods or ())


def there(app: FastAPI) -> list[tuple[str, str]]:
    """Every path that any route answers, hidden ones, the docs and mounts too, by every method there is."""
    paths = {getattr(route, "path_format", None) or route.path for route in routes(app.routes)}
    return sorted((method, path) for path in paths for method in METHODS)


CALLS = calls(create_app(settings_of()))
THERE = there(create_app(settings_of()))


def filled(path: str) -> str:
    return path.replace("{task}", "fraud").replace("{transaction_id}", "t-1").replace("{product_id}", "p-1")


def refused(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == status
    return str(answer.json()["detail"])


def test_every_route_has_a_scope_and_is_guarded(app: FastAPI) -> None:
    for route in routes(app.routes):
        if route.path in DOCS:
            continue
        assert isinstance(route, GuardedRoute), f"{route.path}: nothing looks at its callers' keys"
        for method in route.methods or ():
            assert (method, route.path_format) in NEEDS, f"{method} {route.path_format} has no scope"
    assert len(CALLS) == ALL_THERE_IS == len(NEEDS)
    assert {path for (_, path), scopes in NEEDS.items() if scopes == PUBLIC} == HEALTH


@pytest.mark.parametrize(("method", "path"), [each for each in CALLS if each[1] not in HEALTH])
def test_no_call_but_health_without_a_key(app: FastAPI, method: str, path: str) -> None:
    for key in ("", "wrong", keys.new_key(), KEYS["admin"][:-1], KEYS["admin"] + "x"):
        answer = call(app, method, filled(path), key)
        assert "API key" in refused(answer, 401)
        assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(("method", "path"), [each for each in CALLS if each[1] not in HEALTH])
@pytest.mark.parametrize("scope", keys.SCOPES)
def test_a_key_opens_the_calls_of_its_scope_and_no_others(
    app: FastAPI, method: str, path: str, scope: keys.Scope
) -> None:
    answer = call(app, method, filled(path), KEYS[scope])
    if scope in NEEDS[method, path]:
        assert answer.status_code not in (401, 403)
    else:
        assert scope in refused(answer, 403)


@pytest.mark.parametrize(("method", "path"), [each for each in THERE if each[1] not in HEALTH])
def test_no_method_of_any_path_without_a_key(app: FastAPI, method: str, path: str) -> None:
    for key in ("", keys.new_key()):
        assert call(app, method, filled(path), key).status_code == 401


@pytest.mark.parametrize(("method", "path"), [each for each in THERE if each not in CALLS])
def test_a_key_opens_no_method_that_is_not_a_call(app: FastAPI, method: str, path: str) -> None:
    """But the docs, which any key may read."""
    for scope in keys.SCOPES:
        answer = call(app, method, filled(path), KEYS[scope])
        if path in DOCS and method in ("GET", "HEAD"):
            assert answer.status_code == 200
        else:
            assert answer.status_code in (404, 405), f"{scope} gets {answer.status_code}"


def test_everything_there_is_was_listed(app: FastAPI) -> None:
    assert {path for _, path in THERE} == {path for _, path in NEEDS} | DOCS
    assert ANSWERS.keys() == NEEDS.keys()
    assert set(app.openapi()["paths"]) == {path for _, path in NEEDS}


@pytest.mark.parametrize("hidden", [False, True])
def test_a_new_route_without_a_scope_is_refused_to_every_key(hidden: bool) -> None:
    app, new = create_app(settings_of()), APIRouter(prefix="/v1/new", route_class=GuardedRoute)

    @new.post("/{name}", include_in_schema=not hidden)
    async def made(name: str) -> str:
        return name

    app.include_router(new)
    assert ("POST", "/v1/new/{name}") in calls(app)
    refused(call(app, "POST", "/v1/new/x"), 401)
    for key in KEYS.values():
        refused(call(app, "POST", "/v1/new/x", key), 403)


def test_a_new_route_that_nothing_guards_is_refused_to_every_key() -> None:
    """Whoever forgets the route class, or mounts another application, forgets no key."""
    app = create_app(settings_of())
    app.add_api_route("/v1/loose", lambda: "open")
    app.mount("/mounted", FastAPI(openapi_url=None))
    app.add_route("/plain", lambda _: Response("open"))
    for path in ("/v1/loose", "/mounted/", "/mounted/anything", "/plain"):
        refused(call(app, "GET", path), 401)
        for key in KEYS.values():
            refused(call(app, "GET", path, key), 403)


def test_health_needs_no_key(app: FastAPI) -> None:
    assert call(app, "GET", "/healthz").status_code == 200
    assert call(app, "GET", "/readyz").status_code not in (401, 403)


@pytest.mark.parametrize(
    "path", ["/nowhere", "/v1", "/healthz/", "//healthz", "/docs", "/openapi.json", "/metrics"]
)
def test_what_is_not_there_says_so_to_keys_only(app: FastAPI, path: str) -> None:
    refused(call(app, "GET", path), 401)


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", "Basic {}", "{}", "bearer\t{}", "Bearer é", "Bearer \0"]
)
def test_a_key_comes_as_a_bearer(app: FastAPI, header: str) -> None:
    async def asked() -> int:
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        raw = header.format(KEYS["admin"]).encode()
        scope = {
            "type": "http",
            "method": "GET",
            "path": "/v1/models",
            "raw_path": b"/v1/models",
            "query_string": b"",
        }
        await app(scope | {"headers": [(b"authorization", raw)]}, receive, send)
        return int(sent[0]["status"])

    assert asyncio.run(asked()) == 401


def test_another_method_is_not_there_for_any_key(app: FastAPI) -> None:
    answer = call(app, "DELETE", "/v1/labels", KEYS["ingest"])
    refused(answer, 405)
    assert answer.headers["allow"] == "POST"


def test_without_keys_who_reaches_it_may_call_it() -> None:
    assert call(create_app(settings_of(keys=())), "GET", "/openapi.json").status_code == 200


def test_the_docs_say_which_key_and_may_be_open() -> None:
    app = create_app(settings_of(docs_need_key=False))
    described = call(app, "GET", "/openapi.json").json()
    assert (
        "Scope of the key: review or score."
        in described["paths"]["/v1/decisions/{transaction_id}"]["get"]["description"]
    )
    secured = [
        (m.upper(), path) for path, item in described["paths"].items() for m in item if "security" in item[m]
    ]
    assert sorted(secured) == [each for each in CALLS if each[1] not in HEALTH]
    page = call(app, "GET", "/docs")
    (script,) = re.findall(r"<script>(.*?)</script>", page.text, re.DOTALL)
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"'sha256-{allowed}'" in page.headers["content-security-policy"]


@pytest.mark.parametrize(
    ("path", "status"), [("/healthz", 200), ("/v1/models", 401), ("/docs", 401), ("/readyz", 500)]
)
def test_every_answer_is_safe_to_show(app: FastAPI, path: str, status: int) -> None:
    answer = call(app, "GET", path)
    assert answer.status_code == status
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-frame-options"] == "DENY"
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert "server" not in answer.headers


def test_an_error_of_ours_tells_nothing_of_us(app: FastAPI) -> None:
    answer = call(app, "GET", "/readyz")  # nobody has started the application
    assert "error of ours" in refused(answer, 500)
    assert not re.search(r"services|attribute|traceback|\.py|line", answer.text, re.IGNORECASE)


def test_a_neighbour_that_is_away_is_named_without_its_address() -> None:
    app = create_app(settings_of())
    app.state.services = SimpleNamespace(catalogue=Catalogue(AsyncConnection("redis://127.0.0.1:1/0")))
    answer = call(app, "GET", "/v1/products", KEYS["score"])
    assert "feature store" in refused(answer, 503)
    assert "127.0.0.1" not in answer.text
    assert answer.headers["retry-after"] == "1"


def test_a_key_is_limited_and_the_others_are_not() -> None:
    app = create_app(settings_of(requests_per_s=0.1, burst=3))
    for _ in range(3):
        refused(call(app, "GET", "/v1/models", KEYS["score"]), 403)
    answer = call(app, "GET", "/v1/models", KEYS["score"])
    assert "'score'" in refused(answer, 429)
    assert 1 <= int(answer.headers["retry-after"]) <= 10
    refused(call(app, "GET", "/v1/models", KEYS["ingest"]), 403)
    assert call(app, "GET", "/healthz").status_code == 200


def test_a_bucket_fills_up_to_its_burst() -> None:
    bucket = Bucket(rate=10.0, burst=2)
    assert [bucket.wait_s(1e6) for _ in range(3)] == [0.0, 0.0, pytest.approx(0.1)]
    assert [bucket.wait_s(2e6) for _ in range(3)] == [0.0, 0.0, pytest.approx(0.1)]
    assert bucket.wait_s(2e6 + 0.05) == pytest.approx(0.05)
    assert bucket.wait_s(2e6 + 0.1) == 0.0


@pytest.mark.parametrize(
    ("path", "scope"),
    [("/v1/fraud/score", "score"), ("/v1/labels", "ingest"), ("/v1/models/fraud/promote", "admin")],
)
@pytest.mark.parametrize("told", [True, False])
def test_a_large_body_is_refused_before_it_is_there(path: str, scope: keys.Scope, told: bool) -> None:
    app, sent = create_app(settings_of(max_body_bytes=10_000)), 0
    app.state.services = None  # not asked before the body is there

    async def body() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(100):
            sent += 1_000
            yield b" " * 1_000

    content: Any = b" " * 100_000 if told else body()
    assert "10000 bytes" in refused(call(app, "POST", path, KEYS[scope], content=content), 413)
    assert sent <= 11_000


def test_a_body_of_the_limit_is_read(app: FastAPI) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b" " * 1_000
        yield b" " * 1_000

    answer = call(app, "POST", "/v1/fraud/score", KEYS["score"], content=body())
    assert answer.status_code not in (401, 403, 413)


def test_beyond_this_machine_it_wants_keys_and_secrets() -> None:
    nobody, known = settings_of(keys=()), settings_of()
    refuse_open(nobody, "127.0.0.1")
    with pytest.raises(UserError, match="expected API keys where the API listens on"):
        refuse_open(nobody, "0.0.0.0")
    with pytest.raises(UserError, match="control_group_salt: expected a secret, came a placeholder"):
        refuse_open(known, "0.0.0.0")
    fraud = known.fraud.model_copy(update={"control_group_salt": settings.SecretStr(keys.new_key())})
    refuse_open(known.model_copy(update={"fraud": fraud}), "0.0.0.0")
