"""The real API gives one context one price, however many ask for it at the same moment."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import httpx
import orjson
import pytest

from ingestion.topics import QUOTES
from tests.api import serving
from tests.payments import START, wire_time
from tests.servers import Servers

pytestmark = pytest.mark.servers

WINDOW_S = 60
AT_ONCE = 24


@pytest.fixture
def client(servers: Servers) -> Iterator[httpx.Client]:
    """An API that draws each price by lot and holds it for a minute."""
    drawn = {"exploration_share": 1.0, "same_price_s": float(WINDOW_S), "personal": ("age",)}
    settings = servers.settings
    rules = settings.pricing.model_copy(update=drawn)
    with serving(settings.model_copy(update={"pricing": rules})) as api:
        yield api


def quoted(client: httpx.Client, name: str, after_s: float = 0, **context: float) -> dict[str, Any]:
    at = wire_time(START + timedelta(seconds=after_s))
    body = {"quote_id": name, "event_time": at, "product_id": "p-1", "context": context}
    reply = client.post("/v1/prices/quote", json=body)
    assert reply.status_code == 200, reply.text
    answer: dict[str, Any] = reply.json()
    return answer


def test_of_many_at_once_all_have_the_price_of_the_first(client: httpx.Client, servers: Servers) -> None:
    for lot in range(5):
        with ThreadPoolExecutor(AT_ONCE) as threads:
            asking = [threads.submit(quoted, client, f"q-{lot}-{i}", inventory=lot) for i in range(AT_ONCE)]
            answers = [each.result() for each in asking]
        assert len({answer["price"] for answer in answers}) == 1
        assert [answer["held"] for answer in answers].count(False) == 1
        assert len({(answer["propensity"], answer["exploration"]) for answer in answers}) == 1
    published = [orjson.loads(record.value or b"") for record in servers.records(QUOTES)]
    assert len(published) == 5 * AT_ONCE
    assert sum(not each["held"] for each in published) == 5


def test_the_window_ends_and_another_context_has_its_own_price(client: httpx.Client) -> None:
    prices = {quoted(client, f"other-{i}", inventory=i)["price"] for i in range(20)}
    assert len(prices) > 5
    first = quoted(client, "first", inventory=1, age=30)
    again = quoted(client, "again", WINDOW_S - 1, inventory=1, age=50)
    assert (again["price"], again["held"]) == (first["price"], True)
    later = [quoted(client, f"later-{i}", (i + 1) * WINDOW_S, inventory=1) for i in range(10)]
    assert not any(answer["held"] for answer in later)
    assert len({answer["price"] for answer in later}) > 3


def test_a_floor_that_rose_counts_at_once(client: httpx.Client) -> None:
    product = next(each for each in client.get("/v1/products").json() if each["product_id"] == "p-1")
    quoted(client, "before")
    terms = {name: value for name, value in product.items() if name != "product_id"}
    assert client.put("/v1/products/p-1", json=terms | {"floor": 49.0, "list_price": 60.0}).status_code == 200
    floors = [quoted(client, f"after-{i}")["price"] for i in range(5)]
    assert min(floors) >= 49.0
    assert len(set(floors)) == 1
