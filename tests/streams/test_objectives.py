"""Objectives over the real API: what is asked, told, published, kept, and refused."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pytest

from features.fraud import FRAUD
from ingestion.history import History
from ingestion.tables import QUOTES as QUOTES_TABLE
from ingestion.topics import QUOTES
from tests.api import serving
from tests.payments import START, wire_time
from tests.servers import Servers
from training import baselines
from training.card import Card, Trained
from training.champions import Champions
from training.fraud_policy import PASSED

pytestmark = pytest.mark.servers

MIX = "0.7 margin + 0.3 revenue"


@pytest.fixture
def champion(servers: Servers, tmp_path: Path) -> None:
    """A fraud model on disk that expects a fraud in twenty of the payments that pass."""
    rng = np.random.default_rng(1)
    matrix = rng.random((200, len(FRAUD.names)))
    card = Card(FRAUD.domain, "", FRAUD.names, FRAUD.hash, Trained(0, 0, 0, 200), extra={PASSED: 0.05})
    baselines.train(matrix, (matrix[:, 0] > 0.8) * 1.0, card).save(tmp_path / "model")
    champions = Champions(servers.settings.home)
    champions.keep(FRAUD.domain, "1", tmp_path / "model")
    champions.set_current(FRAUD.domain, "1")


def test_without_a_word_of_the_shopper_any_sale_may_be_the_fraud(
    champion: None, client: httpx.Client
) -> None:
    assert ask(client, "q-1").json()["fraud_probability"] == 0.05
    assert ask(client, "q-2", fraud_probability=0.2).json()["fraud_probability"] == 0.2


@pytest.fixture
def client(servers: Servers) -> Iterator[httpx.Client]:
    """An API whose margins are less the loss to fraud, as far as the shopper's risk is told."""
    asks = {"fraud_loss": True, "fraud_probability_personal": False, "same_price_s": 60.0}
    settings = servers.settings
    rules = settings.pricing.model_copy(update=asks)
    with serving(settings.model_copy(update={"pricing": rules})) as api:
        yield api


def ask(client: httpx.Client, name: str, objective: Any = None, **context: Any) -> httpx.Response:
    body = {"quote_id": name, "event_time": wire_time(START), "product_id": "p-1", "context": context}
    return client.post("/v1/prices/quote", json=body | {"objective": objective})


def put(client: httpx.Client, objective: Any) -> httpx.Response:
    product = next(each for each in client.get("/v1/products").json() if each["product_id"] == "p-1")
    terms = {name: value for name, value in product.items() if name not in ("product_id", "objective")}
    return client.put("/v1/products/p-1", json=terms | {"objective": objective})


def test_the_request_goes_before_the_product_and_the_product_before_the_policy(
    client: httpx.Client, servers: Servers
) -> None:
    assert ask(client, "q-1").json()["objective"] == "margin"
    assert "objective" not in put(client, None).json()
    assert put(client, {"revenue": 3, "margin": 7}).json()["objective"] == MIX
    own = ask(client, "q-2", fraud_probability=0.2).json()
    assert (own["objective"], own["fraud_probability"]) == (MIX, 0.2)
    assert "fraud_loss" in own["expected"]
    again = ask(client, "q-3", MIX, fraud_probability=0.2).json()
    assert again["held"], "the product's objective, in the same words"
    assert not ask(client, "q-4", MIX, fraud_probability=0.1).json()["held"]
    named = ask(client, "q-5", "revenue").json()
    assert (named["objective"], named["fraud_probability"]) == ("revenue", None)

    published = [orjson.loads(record.value or b"") for record in servers.records(QUOTES)]
    assert [each["objective"] for each in published] == ["margin", MIX, MIX, MIX, "revenue"]
    text = client.get("/metrics").text
    assert 'tollgate_quotes_total{exploration="false",objective="mix"}' in text
    assert MIX not in text
    with servers.working():
        servers.settle(60)
    servers.written_history()
    kept = History(servers.home / "history").read(QUOTES_TABLE).to_pylist()
    assert {each["quote_id"]: (each["objective"], each["fraud_probability"]) for each in kept} == {
        "q-1": ("margin", None),
        "q-2": (MIX, 0.2),
        "q-3": (MIX, 0.2),
        "q-4": (MIX, 0.1),
        "q-5": ("revenue", None),
    }


@pytest.mark.parametrize("wrong", ["glory", {"margin": -1, "growth": 2}, {"glory": 1}, {"margin": 0}, {}, 7])
def test_what_is_no_objective_is_a_problem(client: httpx.Client, wrong: Any) -> None:
    for reply in (ask(client, "q-1", wrong), put(client, wrong)):
        assert reply.status_code == 422, reply.text
        assert reply.headers["content-type"] == "application/problem+json"
        assert "objective" in reply.json()["detail"]
        assert "expected " in reply.json()["detail"]
    told = ask(client, "q-1", fraud_probability=2).json()
    assert (told["status"], "expected fraud_probability from 0 to 1" in told["detail"]) == (422, True)
    assert "objective" not in client.get("/v1/products").json()[0]
