"""A registry that hangs is named, soon, and not called an error of who asks."""

import socket
import time

import httpx
import pytest
from fastapi import FastAPI

from serving import problems
from training.tracking import Registry


@pytest.fixture
def app() -> FastAPI:
    """An application whose one call asks the registry."""
    app = FastAPI()
    problems.install(app)
    return app


@pytest.mark.anyio
async def test_a_registry_that_hangs_is_a_503(app: FastAPI) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        registry = Registry(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.2)
        app.add_api_route("/", lambda: registry.versions("fraud"))
        start = time.perf_counter()
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            reply = await client.get("/")
        registry.close()
    assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")
    assert "model registry" in reply.json()["detail"]
    assert "127.0.0.1" not in reply.text
    assert time.perf_counter() - start < 2


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
