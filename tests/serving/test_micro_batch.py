"""Questions of the same moment are answered together, and each gets its own answer."""

import asyncio
from collections.abc import Sequence

import httpx
import pytest
from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import Response

from serving.direct_route import DirectRoute
from serving.micro_batch import MicroBatch


class Doubles:
    """Doubles numbers, and keeps what it was asked together."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []

    async def __call__(self, numbers: Sequence[int]) -> list[int]:
        self.asked.append(list(numbers))
        await asyncio.sleep(0)
        if 13 in numbers:
            raise ValueError("unlucky")
        return [2 * each for each in numbers]


def test_what_comes_in_one_turn_is_answered_in_one_call() -> None:
    doubles = Doubles()

    async def ask() -> list[int]:
        batch = MicroBatch(doubles, most=4)
        return await asyncio.gather(*(batch.ask(n) for n in range(6)))

    assert asyncio.run(ask()) == [0, 2, 4, 6, 8, 10]
    assert doubles.asked == [[0, 1, 2, 3], [4, 5]]


def test_a_lone_question_waits_for_nobody() -> None:
    doubles = Doubles()

    async def ask() -> None:
        batch = MicroBatch(doubles)
        assert await batch.ask(1) == 2
        assert await batch.ask(2) == 4

    asyncio.run(ask())
    assert doubles.asked == [[1], [2]]


def test_an_error_goes_to_all_who_asked_together_and_to_nobody_after() -> None:
    async def ask() -> list[int | BaseException]:
        batch = MicroBatch(Doubles())
        first = await asyncio.gather(batch.ask(12), batch.ask(13), return_exceptions=True)
        return [*first, await batch.ask(14)]

    one, other, after = asyncio.run(ask())
    assert isinstance(one, ValueError)
    assert isinstance(other, ValueError)
    assert after == 28


def test_who_has_gone_does_not_harm_the_others() -> None:
    async def ask() -> int:
        batch = MicroBatch(Doubles())
        gone = asyncio.ensure_future(batch.ask(1))
        stays = asyncio.ensure_future(batch.ask(2))
        await asyncio.sleep(0)
        gone.cancel()
        return await stays

    assert asyncio.run(ask()) == 4


@pytest.fixture
def app() -> FastAPI:
    async def shout(request: Request) -> Response:
        """Give the body back in capitals."""
        return Response((await request.body()).upper())

    router = APIRouter(prefix="/v1")
    router.add_api_route("/shout", shout, methods=["POST"], route_class_override=DirectRoute)
    app = FastAPI()
    app.include_router(router)
    return app


def call(app: FastAPI, method: str, path: str) -> httpx.Response:
    async def called() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            return await client.request(method, path, content=b"abc")

    return asyncio.run(called())


def test_a_direct_route_answers_and_is_described_like_any_other(app: FastAPI) -> None:
    assert call(app, "POST", "/v1/shout").content == b"ABC"
    assert call(app, "GET", "/v1/shout").status_code == 405
    assert app.openapi()["paths"]["/v1/shout"]["post"]["summary"] == "Shout"
