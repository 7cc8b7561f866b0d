"""No card number and, with a key, no identifier gets behind the edge: HTTP, Kafka and files alike."""

import logging
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

import orjson
import pytest

from features import commands
from features.fraud import CUSTOMER
from features.online import entity_key
from infra.settings import Settings
from ingestion.broker import Consumer, Producer, Record
from ingestion.historian import Historian, Progress
from ingestion.history import History
from ingestion.processes import Loop
from ingestion.pseudonyms import PERSONAL, Pseudonyms
from ingestion.tables import DECISIONS as DECISIONS_TABLE
from ingestion.tables import LABELS as LABELS_TABLE
from ingestion.tables import TRANSACTIONS as TRANSACTIONS_TABLE
from ingestion.topics import DECISIONS, LABELS, OUTCOMES, QUOTES, TRANSACTIONS, all_topics, dead_letters
from serving.router import DECISION_HEADER
from tests.api import serving
from tests.payments import START, label, payment, wire_time
from tests.servers import HISTORY_TOPICS, Keyed, Servers, until

pytestmark = pytest.mark.servers

KEY = "k" * 43
CARD = b"4111111111111111"
TRACES = (CARD, b"4111 1111", b"1111111", b"0031111")


@pytest.fixture
def servers(stack_settings: Settings, tmp_path: Any) -> Iterator[Keyed]:
    empty = Keyed(stack_settings, tmp_path / "home", keys=[KEY], attributes=["email"])
    empty.clear()
    yield empty
    empty.close()


def bodies() -> dict[str, Mapping[str, Any]]:
    """A card number in an event of each kind, by the call that takes it."""
    card = CARD.decode()
    paid = payment("t-1", START, card, "m-1", 10.0)
    quote = {"quote_id": "q-1", "event_time": wire_time(START), "product_id": "p-1"}
    return {
        "/v1/transactions": paid,
        "/v1/fraud/score": payment(
            "t-1", START, "c-1", "m-1", 10.0, attributes={"pan": "4111 1111 1111 1111"}
        ),
        "/v1/fraud/score/batch": payment("t-1", START, "c-1", "m-1", 10.0, attributes={card: "x"}),
        "/v1/labels": label(card, START, fraud=True),
        "/v1/prices/quote": {**quote, "context": {"card": int(card)}},
        "/v1/prices/outcomes": {"quote_id": card, "event_time": wire_time(START), "units": 1},
        "/v1/reviews/t-1/verdict": {"label": "fraud", "note": f"card {card}", "analyst": "ada"},
        f"/v1/reviews/{card}/verdict": {"label": "fraud", "note": "", "analyst": "ada"},
    }


def everything(servers: Servers) -> list[Record]:
    """All records of all topics."""
    return [record for topic in all_topics() for record in servers.records(topic)]


def ours(record: logging.LogRecord) -> bool:
    """Whether a process of ours would write it: the clients of others are quiet below warnings."""
    return record.levelno >= logging.WARNING or not record.name.startswith(("httpx", "httpcore", "kafka"))


def held(records: list[Record]) -> bytes:
    """All bytes of records."""
    return repr([(each.key, each.value, each.headers) for each in records]).encode()


def test_http_refuses_a_card_number_and_does_not_repeat_it(
    servers: Keyed, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG), serving(servers.settings) as client:
        for call, body in bodies().items():
            answer = client.post(call, content=orjson.dumps(body))
            assert answer.status_code in (404, 422), (call, answer.text)
            assert not any(trace in answer.content for trace in TRACES), call
        unknown = client.get(f"/v1/decisions/{CARD.decode()}")
        assert unknown.status_code == 404
        assert CARD not in unknown.content
    assert not any(CARD.decode() in each.getMessage() for each in caplog.records if ours(each))
    assert everything(servers) == []


def test_the_stream_puts_it_aside_without_its_digits(
    servers: Keyed, caplog: pytest.LogCaptureFixture
) -> None:
    card = CARD.decode()
    good = payment("t-1", START, "c-1", "m-1", 10.0)
    raw = {
        TRANSACTIONS: [
            (orjson.dumps({**good, "customer_id": card}), CARD),
            (orjson.dumps({**good, "attributes": {"note": "4111 1111 1111 1111"}}), b"c-1"),
            (orjson.dumps({**good, "surprise": card}), b"c-1"),
            (orjson.dumps({**good, "amount": "much"}), CARD),
            (
                orjson.dumps({**good, "customer_id": "X"}).replace(b"X", b"4\\u00311111111111111\\u0031"),
                b"c-1",
            ),
            (b"no JSON " + CARD, None),
        ],
        LABELS: [(orjson.dumps(label(card, START, fraud=True)), CARD)],
        OUTCOMES: [(orjson.dumps({"quote_id": card, "event_time": wire_time(START), "units": 1}), b"q")],
        QUOTES: [(orjson.dumps({"quote_id": card}), b"q")],
    }
    for topic, records in raw.items():
        servers.send_raw(topic, records)
    servers.send(TRANSACTIONS, [good])
    with caplog.at_level(logging.DEBUG), servers.working():
        servers.settle()
    letters = {topic: servers.records(dead_letters(topic)) for topic in raw}
    assert {topic: len(found) for topic, found in letters.items()} == {k: len(v) for k, v in raw.items()}
    for letter in (each for found in letters.values() for each in found):
        headers = dict(letter.headers)
        assert headers["error"]
        assert headers["masked"] == b"card number"
        assert b"****" in (letter.value or b"") + (letter.key or b"")
    behind = [each for each in everything(servers) if each.topic not in raw]
    assert not any(trace in held(behind) for trace in TRACES)
    assert not any(CARD.decode() in each.getMessage() for each in caplog.records if ours(each))
    assert list(servers.decisions()) == ["t-1"]


def test_the_history_puts_such_a_decision_aside_too(servers: Keyed) -> None:
    servers.send_raw(DECISIONS, [(orjson.dumps({"transaction_id": CARD.decode()}), CARD)])
    producer = Producer(servers.kafka)
    loop = Loop(Historian(History(servers.home)), Progress(servers.home), producer, lambda: 0.0)
    consumer = Consumer(servers.kafka, [DECISIONS], "history", loop)
    loop._consumer = consumer
    until(lambda: loop.turn() or loop._historian.rejected)
    loop.finish()
    consumer.close()
    producer.close()
    (letter,) = servers.records(dead_letters(DECISIONS))
    assert CARD not in held([letter])
    assert dict(letter.headers)["masked"] == b"card number"


def test_identifiers_stay_outside(servers: Keyed) -> None:
    """What came by Kafka and what came over HTTP is one person's, and nobody's by name."""
    named = {"device_id": "device-of-ada", "ip": "203.0.113.77", "attributes": {"email": "ada@example.org"}}
    secrets = (b"customer-ada", b"device-of-ada", b"203.0.113.77", b"ada@example.org")
    first = payment("t-1", START, "customer-ada", "m-1", 5_000.0, **named)
    second = payment("t-2", START + timedelta(hours=1), "customer-ada", "m-1", 20.0, **named)
    third = payment("t-3", START + timedelta(hours=2), "customer-ada", "m-1", 5_000.0, **named)
    with servers.working(), serving(servers.settings) as client:
        servers.send(TRANSACTIONS, [first])
        until(lambda: client.get("/v1/decisions/t-1").status_code == 200)
        answer = client.post("/v1/fraud/score", json=second).json()
        decided = {**answer, "transaction_id": "t-3", "decision": "review", "customer_id": "customer-ada"}
        producer = Producer(servers.kafka)  # as an API that had no key yet
        producer.send(TRANSACTIONS, orjson.dumps(third), b"x", [(DECISION_HEADER, orjson.dumps(decided))])
        producer.flush()
        producer.close()
        until(lambda: client.get("/v1/decisions/t-3").status_code == 200)
        until(lambda: client.get("/v1/decisions/t-2").status_code == 200)
        again = client.post("/v1/fraud/score", json=second).json()
        shown = [
            client.get(path).content for path in ("/v1/reviews", "/v1/decisions/t-1", "/v1/decisions/t-3")
        ]
        quote = {"quote_id": "q-1", "event_time": wire_time(START), "product_id": "p-1"}
        asked = client.post("/v1/prices/quote", json={**quote, "context": {"email": "ada@example.org"}})
        assert asked.status_code == 200
        servers.send(LABELS, [label("t-1", START + timedelta(days=1), fraud=True)])
        servers.settle()
    assert answer["transaction_id"] == "t-2"
    assert again == answer
    assert answer["features"]["customer_payment_count_30d"] > 0.9  # that of the stream is known over HTTP
    pseudonyms = Pseudonyms.by(servers.settings.privacy)
    name = pseudonyms.of("customer_id", "customer-ada")
    assert answer["customer_id"] == name
    history = servers.written_history()
    for table in (TRANSACTIONS_TABLE, LABELS_TABLE, DECISIONS_TABLE):
        assert set(history.read(table)["customer_id"].to_pylist()) == {name}
    rows = history.read(TRANSACTIONS_TABLE)
    for field in PERSONAL:
        assert set(rows[field].to_pylist()) == {pseudonyms.of(field, first[field])}
    assert servers.store().execute([("EXISTS", entity_key(CUSTOMER, name))]) == [1]

    sent_by_others = {b"t-1", b"t-3"}
    behind = [
        each
        for each in everything(servers)
        if each.topic != TRANSACTIONS or not any(name in (each.value or b"") for name in sent_by_others)
    ]
    kept = [file.read_bytes() for file in servers.home.rglob("*") if file.is_file()]
    kept += [
        repr(history.read(table).to_pylist()).encode() for table in (TRANSACTIONS_TABLE, DECISIONS_TABLE)
    ]
    for secret in secrets:
        assert secret not in held(behind)
        assert not any(secret in text for text in (*kept, *shown, asked.content))
        assert not redis_holds(servers, secret)


def redis_holds(servers: Servers, text: bytes) -> bool:
    """Whether any key or value has it."""
    store = servers.store()
    ((_, keys),) = store.execute([("SCAN", b"0", "COUNT", 100_000)])
    dumps = store.execute([("DUMP", key) for key in keys])
    return any(text in each for each in (*keys, *(dump or b"" for dump in dumps)))


@pytest.mark.slow
def test_a_new_key_takes_people_along(servers: Keyed, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a rebuild the history has the new names, states are as they were, and labels still find them."""
    servers.send(TRANSACTIONS, [payment(f"t-{i}", START, f"c-{i % 3}", "m-1", 10.0 + i) for i in range(12)])
    servers.send(LABELS, [label("t-1", START + timedelta(days=1), fraud=True)])
    with servers.working():
        servers.settle()
    history = History(servers.settings.history)
    historian = Historian(history)
    historian.take(list(servers._read(HISTORY_TOPICS)))
    Progress(servers.settings.history).reached(historian.flush())
    old = Pseudonyms([KEY])
    before = states(servers, [old.of("customer_id", f"c-{i}") for i in range(3)])
    assert len(before) == 3

    servers.keys = [KEY, "n" * 43]
    new = Pseudonyms([KEY, "n" * 43])
    servers.tell(monkeypatch)
    commands.rebuild(as_json=True)
    assert states(servers, [new.of("customer_id", f"c-{i}") for i in range(3)]) == before
    assert states(servers, [old.of("customer_id", f"c-{i}") for i in range(3)]) == []
    for table in (TRANSACTIONS_TABLE, LABELS_TABLE, DECISIONS_TABLE):
        found = set(history.read(table)["customer_id"].to_pylist())
        assert found <= {new.of("customer_id", f"c-{i}") for i in range(3)}
    servers.send(TRANSACTIONS, [payment("t-next", START + timedelta(days=2), "c-1", "m-1", 10.0)])
    servers.send(LABELS, [label("t-4", START + timedelta(days=3), fraud=True)])
    with servers.working():
        servers.settle()
    (decision,) = servers.decisions()["t-next"]
    assert decision["customer_id"] == new.of("customer_id", "c-1")
    assert decision["features"]["customer_payment_count_30d"] > 3.5
    assert states(servers, [old.of("customer_id", f"c-{i}") for i in range(3)]) == []


def states(servers: Servers, names: list[str]) -> list[Any]:
    """Values of the customers' states in Redis, without when they were folded by which place."""
    replies = servers.store().execute([("HGETALL", entity_key(CUSTOMER, name)) for name in names])
    return [sorted(zip(each[::2], each[1::2], strict=True)) for each in replies if each]
