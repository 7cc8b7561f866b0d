"""What is not an event: refused over HTTP, a dead letter in the stream, and everything else goes on."""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import orjson
import pytest
from kafka import KafkaProducer

from infra.settings import Settings
from ingestion.broker import Consumer, Record
from ingestion.topics import DECISIONS, LABELS, OUTCOMES, TRANSACTIONS, dead_letters
from tests.api import serving
from tests.payments import START, label, payment, wire_time
from tests.servers import Servers, until

pytestmark = pytest.mark.servers


def nested(levels: int) -> Any:
    content: Any = "x"
    for _ in range(levels):
        content = {"a": content}
    return content


GOOD = payment("t-bad", START, "c-1", "m-1", 12.5)
CHANGES: Mapping[str, Mapping[str, Any]] = {
    "negative amount": {"amount": -1.0},
    "amount beyond every currency": {"amount": 1e300},
    "no amount": {"amount": None},
    "amount in words": {"amount": "ten"},
    "amounts": {"amount": [1.0]},
    "customer is a number": {"customer_id": 7},
    "year 1970": {"event_time": wire_time(datetime(1970, 1, 1, tzinfo=UTC))},
    "year 2150": {"event_time": wire_time(datetime(2150, 1, 1, tzinfo=UTC))},
    "two days ahead": {"event_time": wire_time(datetime.now(UTC) + timedelta(days=2))},
    "after the last UTC time": {"event_time": "9999-12-31T23:59:59-10:00"},
    "before the first UTC time": {"event_time": "0001-01-01T00:00:00+10:00"},
    "no time": {"event_time": "yesterday"},
    "1 MB customer": {"customer_id": "x" * 2**20},
    "1 MB currency": {"currency": "E" * 2**20},
    "unknown field": {"is_fraud": True},
    "empty transaction_id": {"transaction_id": ""},
    "empty customer_id": {"customer_id": ""},
    "empty terminal_id": {"terminal_id": ""},
    "control characters": {"terminal_id": "m\x1f1"},
    "nested attributes": {"attributes": nested(2)},
    "attributes 230 deep": {"attributes": nested(230)},
    "attributes 500 deep": {"attributes": nested(500)},
}
"""JSON, but no transaction."""
NO_JSON: Mapping[str, bytes] = {
    "NaN": json.dumps({**GOOD, "amount": math.nan}).encode(),
    "Infinity": json.dumps({**GOOD, "amount": -math.inf}).encode(),
    "cut short": json.dumps(GOOD).encode()[:-1],
    "empty": b"",
    "not UTF-8": json.dumps(GOOD).encode().replace(b"c-1", b"c-\xff\xfe"),
    "half a surrogate pair": json.dumps({**GOOD, "customer_id": "\ud800"}).encode(),
    "100,000 brackets": b"[" * 100_000,
    "zero bytes": b"\0" * 100,
    "not JSON at all": b"<transaction/>",
}
NO_OBJECT = {"number": b"17", "text": b'"t-1"', "null": b"null"}
SINGLE = {
    **{name: json.dumps({**GOOD, **changes}).encode() for name, changes in CHANGES.items()},
    **NO_JSON,
    **NO_OBJECT,
}
"""Bodies and values that should be one transaction."""
BAD_LABEL = {**label("t-1", START, fraud=True), "label": "maybe"}
BAD_OUTCOME = {"quote_id": "q-1", "event_time": wire_time(START), "units": -1}


@pytest.fixture(scope="module")
def servers(stack_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Emptied once: what one case leaves behind shall not disturb the next."""
    empty = Servers(stack_settings, tmp_path_factory.mktemp("bad_input"))
    empty.clear()
    yield empty
    empty.close()


@pytest.fixture(scope="module")
def client(servers: Servers) -> Iterator[httpx.Client]:
    with serving(servers.settings) as client:
        yield client


@pytest.fixture(scope="module")
def reader(servers: Servers) -> Iterator[Consumer]:
    consumer = Consumer(servers.kafka, [TRANSACTIONS, LABELS, OUTCOMES], group=None)
    yield consumer
    consumer.close()


@pytest.fixture
def nothing_taken(reader: Consumer) -> Iterator[None]:
    """In the end no event has come to a topic."""
    before = reader.ends(reader.assignment())
    yield
    assert reader.ends(reader.assignment()) == before


def test_what_is_asked_for_twice_at_once_is_decided_and_published_once(
    client: httpx.Client, reader: Consumer
) -> None:
    before = sum(reader.ends(reader.assignment()).values())
    one = payment("twice", START, "c-1", "m-1", 10.0)
    answers = client.post("/v1/fraud/score/batch", content=orjson.dumps([one, {**one, "amount": 99.0}, one]))
    assert answers.status_code == 200
    assert [each["amount"] for each in answers.json()] == [10.0] * 3
    assert sum(reader.ends(reader.assignment()).values()) == before + 1


@pytest.mark.parametrize("flag", ["dry_run", "explain"])
def test_whether_to_publish_and_to_explain_is_true_or_false(
    client: httpx.Client, nothing_taken: None, flag: str
) -> None:
    answer = client.post(f"/v1/fraud/score?{flag}=maybe", json=payment("t-1", START, "c-1", "m-1", 10.0))
    assert flag in refused(answer)["detail"]


@pytest.mark.parametrize("call", ["/v1/transactions", "/v1/fraud/score", "/v1/fraud/score/batch"])
@pytest.mark.parametrize("case", SINGLE)
def test_one_event_is_refused(client: httpx.Client, nothing_taken: None, call: str, case: str) -> None:
    assert refused(client.post(call, content=SINGLE[case]))["detail"]


@pytest.mark.parametrize("call", ["/v1/transactions", "/v1/fraud/score/batch"])
@pytest.mark.parametrize("case", CHANGES)
def test_a_list_is_refused_for_one_bad_event(
    client: httpx.Client, nothing_taken: None, call: str, case: str
) -> None:
    before, after = {**GOOD, "transaction_id": "t-before"}, {**GOOD, "transaction_id": "t-after"}
    body = json.dumps([before, {**GOOD, **CHANGES[case]}, after]).encode()
    (error,) = refused(client.post(call, content=body))["errors"]
    assert error["position"] == 1
    assert error["reason"]


@pytest.mark.parametrize(
    ("call", "good", "bad"),
    [
        ("/v1/labels", label("t-1", START, fraud=True), BAD_LABEL),
        ("/v1/prices/outcomes", {**BAD_OUTCOME, "units": 1}, BAD_OUTCOME),
    ],
)
def test_labels_and_outcomes_are_refused_so_too(
    client: httpx.Client, nothing_taken: None, call: str, good: Mapping[str, Any], bad: Mapping[str, Any]
) -> None:
    (error,) = refused(client.post(call, json=[good, good, bad]))["errors"]
    assert error["position"] == 2
    assert error["reason"]


@pytest.mark.parametrize("n", [0, 1_001])
@pytest.mark.parametrize("call", ["/v1/transactions", "/v1/fraud/score/batch", "/v1/labels"])
def test_a_list_has_1_to_1000_events(client: httpx.Client, nothing_taken: None, call: str, n: int) -> None:
    good = label("t-1", START, fraud=True) if call == "/v1/labels" else GOOD
    assert str(n) in refused(client.post(call, json=[good] * n))["detail"]


def refused(answer: httpx.Response) -> dict[str, Any]:
    """The problem document."""
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert problem["status"] == 422
    return problem


class Tail:
    """Reads decisions and dead letters as they come."""

    def __init__(self, servers: Servers) -> None:
        topics = [DECISIONS, *map(dead_letters, (TRANSACTIONS, LABELS, OUTCOMES))]
        self._consumer = Consumer(servers.kafka, topics, group=None)
        self._found: list[Record] = []

    def one(self, wanted: Callable[[Record], bool]) -> Record:
        """The only record that is wanted, as soon as it is there."""
        until(lambda: self._more() or any(map(wanted, self._found)), limit_s=30, pause_s=0)
        (record,) = filter(wanted, self._found)
        return record

    def _more(self) -> None:
        self._found += self._consumer.poll(wait_ms=20)

    def close(self) -> None:
        self._consumer.close()


class Stream:
    """A worker at work, and what it makes of what is sent to it."""

    def __init__(self, producer: KafkaProducer, tail: Tail) -> None:
        self._producer, self._tail = producer, tail

    def send(self, topic: str, value: bytes | None, key: bytes | None) -> Any:
        """Gives the place in the topic."""
        return self._producer.send(topic, value=value, key=key).get(timeout=10)

    def dead_letter(self, topic: str, value: bytes | None, key: bytes | None) -> dict[str, bytes]:
        """Headers of the dead letter of a record that is sent now."""
        sent = self.send(topic, value, key)
        place = {"topic": topic.encode(), "partition": b"%d" % sent.partition, "offset": b"%d" % sent.offset}
        letter = self._tail.one(
            lambda record: (
                record.topic == dead_letters(topic) and place.items() <= dict(record.headers).items()
            )
        )
        assert (letter.value or None, letter.key) == (value or None, key)
        return dict(letter.headers)

    def assert_decides(self, paid: Mapping[str, Any], key: bytes | None) -> None:
        self.send(TRANSACTIONS, orjson.dumps(paid), key)
        mark = orjson.dumps(paid["transaction_id"])
        self._tail.one(lambda record: record.topic == DECISIONS and mark in (record.value or b""))


@pytest.fixture(scope="module")
def stream(servers: Servers, client: httpx.Client) -> Iterator[Stream]:
    producer, tail = KafkaProducer(bootstrap_servers=servers.kafka, max_request_size=2**23), Tail(servers)
    with servers.working():
        yield Stream(producer, tail)
    producer.close()
    tail.close()


STREAMED: Mapping[str, tuple[str, bytes | None, bytes | None]] = {
    **{name: (TRANSACTIONS, value, b"c-1") for name, value in SINGLE.items()},
    "list": (TRANSACTIONS, orjson.dumps([GOOD]), b"c-1"),
    "no value": (TRANSACTIONS, None, b"c-1"),
    "empty value without a key": (TRANSACTIONS, b"", None),
    "no key": (TRANSACTIONS, b"{}", None),
    "key not UTF-8": (TRANSACTIONS, b"{}", b"\xff"),
    "label": (LABELS, orjson.dumps(BAD_LABEL), b"t-1"),
    "label without a value": (LABELS, None, b"t-1"),
    "outcome": (OUTCOMES, orjson.dumps(BAD_OUTCOME), b"q-1"),
    "outcome without a value": (OUTCOMES, None, b"q-1"),
}


@pytest.mark.parametrize("case", STREAMED)
def test_the_stream_puts_it_aside_and_goes_on(stream: Stream, case: str) -> None:
    headers = stream.dead_letter(*STREAMED[case])
    assert headers["error"].decode()
    assert headers.keys() == {"error", "topic", "partition", "offset"}
    stream.assert_decides(payment(f"t after {case}", START, "c-1", "m-1", 10.0), b"c-1")


def test_a_payment_needs_no_key(stream: Stream) -> None:
    stream.assert_decides(payment("t without a key", START, "c-1", "m-1", 10.0), None)
