"""Measurements on the running stack when nothing else goes on: freshness and the time of a score."""

import time
from datetime import UTC, datetime
from typing import Any

import httpx
import orjson

from infra.settings import Settings

FRESH_SAMPLES = 20
SCORES = 200
PATIENCE_S = 10.0


async def freshness_ms(chosen: Settings) -> list[float]:
    """For some new customers: milliseconds from the 202 for their first payment until a score has it."""
    run = time.time_ns()
    async with client(chosen) as http:
        return [await _until_counted(http, f"freshness-{run}-{i}") for i in range(FRESH_SAMPLES)]


async def score_ms(chosen: Settings) -> list[float]:
    """Milliseconds of scores that are decided and published, one at a time."""
    run = time.time_ns()
    async with client(chosen) as http:
        return [await _scored(http, f"calm-{run}-{i}") for i in range(SCORES)]


def client(chosen: Settings) -> httpx.AsyncClient:
    """To the API of the settings, with our own key."""
    return httpx.AsyncClient(base_url=chosen.addresses.api, headers=chosen.api.headers, timeout=30)


async def _scored(http: httpx.AsyncClient, name: str) -> float:
    start = time.perf_counter()
    (await http.post("/v1/fraud/score", content=orjson.dumps(_payment(name)))).raise_for_status()
    return (time.perf_counter() - start) * 1e3


async def _until_counted(http: httpx.AsyncClient, customer: str) -> float:
    payment = _payment(customer)
    (await http.post("/v1/transactions", content=orjson.dumps(payment))).raise_for_status()
    accepted = time.perf_counter()
    asked = orjson.dumps(payment | {"transaction_id": f"{customer}-asked"})
    while time.perf_counter() - accepted < PATIENCE_S:
        answer = await http.post("/v1/fraud/score?dry_run=true", content=asked)
        if orjson.loads(answer.content)["features"]["customer_payment_count_30d"] > 0:
            break
    return (time.perf_counter() - accepted) * 1e3


def _payment(customer: str) -> dict[str, Any]:
    return {
        "transaction_id": customer,
        "event_time": datetime.now(UTC).isoformat(),
        "customer_id": customer,
        "terminal_id": "probe",
        "amount": 1.0,
        "currency": "EUR",
    }
