"""The analysts' queue and their verdicts: real HTTP, real Kafka, a real worker, and crashes of both."""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import orjson
import pytest

from features.connection import AsyncConnection
from features.pause import PAUSE
from infra.settings import Settings
from ingestion.broker import BrokerError, Producer
from ingestion.events import microseconds
from ingestion.tables import LABELS as LABEL_TABLE
from ingestion.topics import LABELS, TRANSACTIONS
from serving.processes import build_worker
from serving.review_queue import DONE, PENDING
from serving.reviews import Reviews, Verdict
from serving.router import DECISION_HEADER
from serving.stage import Outgoing, Work
from serving.worker import Timings, Watcher
from tests.api import serving
from tests.payments import START, label, payment, wire_time
from tests.servers import Servers
from training.labels import truth

pytestmark = pytest.mark.servers

SOURCES = ("chargeback", "customer", "settlement", "analyst")
type_of_item = dict[str, Any]


@pytest.fixture(scope="module")
def servers(stack_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Emptied once: each test has payments of its own, and begins with an empty queue."""
    empty = Servers(stack_settings, tmp_path_factory.mktemp("reviews"))
    empty.clear()
    yield empty
    empty.close()


class Counts(Watcher):
    """What became of events."""

    def __init__(self) -> None:
        self.of: Counter[str] = Counter()

    def turned(self, work: Sequence[Work], timings: Timings, now_s: float) -> None:
        for each in work:
            self.of.update(each.counts)


@pytest.fixture(scope="module")
def counts() -> Counts:
    return Counts()


@pytest.fixture(scope="module")
def client(servers: Servers, counts: Counts) -> Iterator[httpx.Client]:
    worker = build_worker(servers.settings, servers.decider(), counts)
    with serving(servers.settings) as client, servers.working(worker):
        yield client


@pytest.fixture
def desk(servers: Servers, client: httpx.Client) -> "Desk":
    servers.store().execute([("DEL", PENDING, DONE)])
    return Desk(servers, client)


class Desk:
    """What an analyst does by HTTP, and what the system knows of it."""

    def __init__(self, servers: Servers, client: httpx.Client) -> None:
        self.servers = servers
        self.client = client

    def pay(self, amounts: Mapping[str, float]) -> None:
        """Payments; the rules want those over 1,000 reviewed."""
        paid = [payment(name, START, f"c-{name}", f"m-{name}", amount) for name, amount in amounts.items()]
        self.servers.send(TRANSACTIONS, paid)
        self.servers.settle()

    def tell(self, name: str, fraud: bool, source: str) -> None:
        self.servers.send(LABELS, [label(name, START + timedelta(days=1), fraud, source)])
        self.servers.settle()

    def queue(self, status: str = "pending") -> list[type_of_item]:
        items: list[type_of_item] = self.client.get(f"/v1/reviews?status={status}").json()
        return items

    def names(self, status: str = "pending") -> list[str]:
        return [each["transaction_id"] for each in self.queue(status)]

    def kept(self) -> list[str]:
        """The queue as it is in Redis, whoever looks."""
        (names,) = self.servers.store().execute([("ZREVRANGE", PENDING, 0, -1)])
        return [name.decode() for name in names]

    def judge(self, name: str, word: str, **more: Any) -> httpx.Response:
        return self.client.post(f"/v1/reviews/{name}/verdict", json={"label": word, **more})

    def decision(self, name: str) -> type_of_item:
        found: type_of_item = self.client.get(f"/v1/decisions/{name}").json()
        return found

    def published(self, name: str) -> list[str]:
        """Words of the analysts' labels of a transaction on the topic."""
        told = [orjson.loads(record.value or b"") for record in self.servers.records(LABELS)]
        return [
            each["label"] for each in told if each["transaction_id"] == name and each["source"] == "analyst"
        ]


def test_the_dearest_is_first_whoever_decided(desk: Desk) -> None:
    desk.pay({"o-1": 1_100.0, "o-2": 5_000.0, "o-3": 2_000.0, "o-4": 50.0, "o-5": 2_000.0})
    send_decided(desk, payment("o-6", START, "c-6", "m-6", 10.0), approve=2_100.0)
    queue = desk.queue()
    assert [each["transaction_id"] for each in queue] == ["o-2", "o-6", "o-5", "o-3", "o-1"]
    assert [each["expected_loss"] for each in queue] == [2_507.5, 2_100.0, 1_007.5, 1_007.5, 557.5]
    assert all(each["expected_loss"] == each["expected_cost"]["approve"] for each in queue)
    assert (queue[0]["model"]["name"], queue[1]["degraded"]) == ("baseline", True)
    assert queue[0]["labels"] == queue[0]["verdicts"] == []


def send_decided(desk: Desk, paid: Mapping[str, Any], approve: float) -> None:
    """A payment with a decision that HTTP made without its features."""
    decision = desk.client.post("/v1/fraud/score?dry_run=true", json=paid).json()
    costs = decision["expected_cost"] | {"approve": approve}
    decision |= {"decision": "review", "degraded": True, "expected_cost": costs}
    with closing(Producer(desk.servers.kafka)) as producer:
        header = [(DECISION_HEADER, orjson.dumps(decision))]
        producer.send(TRANSACTIONS, orjson.dumps(paid), b"c", header)
        producer.flush()
    desk.servers.settle()


def test_pages_neither_repeat_nor_skip_while_the_queue_changes(desk: Desk) -> None:
    """Most have the same loss; meanwhile some are judged, on pages read and unread, and others come."""
    amounts = {f"p-{i:02}": 1_500.0 if i % 3 else 1_500.0 + i for i in range(30)}
    desk.pay(amounts)
    whole = desk.names()
    seen: list[str] = []
    address: str | None = "/v1/reviews?limit=4"
    while address:
        answer = desk.client.get(address)
        seen += [each["transaction_id"] for each in answer.json()]
        address = answer.links["next"]["url"] if "next" in answer.links else None
        if len(seen) == 8:
            desk.judge(seen[7], "fraud")
            desk.judge(seen[2], "fraud")
            desk.judge(whole[15], "legitimate")
            desk.pay({"p-dear": 9_000.0, "p-same": 1_500.0, "p-cheap": 1_001.0})
    assert len(set(seen)) == len(seen)
    assert [name for name in seen if name in amounts] == [name for name in whole if name != whole[15]]
    assert "p-cheap" in seen
    assert "p-dear" not in seen
    assert desk.names()[0] == "p-dear"


def test_a_place_that_is_none_is_refused(desk: Desk) -> None:
    for after in ("", "1.0", "1.0,", "nan,t", "inf,t", "x,t"):
        answer = desk.client.get("/v1/reviews", params={"after": after})
        assert answer.status_code == 422
        assert "after" in answer.json()["detail"]
    assert desk.client.get("/v1/reviews?status=lost").status_code == 422


@pytest.mark.parametrize("source", SOURCES)
def test_a_label_that_comes_another_way_settles_a_payment(desk: Desk, source: str) -> None:
    desk.pay({f"s-{source}": 1_500.0, f"s-{source}-other": 1_400.0})
    desk.tell(f"s-{source}", fraud=True, source=source)
    assert desk.kept() == [f"s-{source}-other"], "the worker takes it out, before anybody looks"
    (told,) = desk.decision(f"s-{source}")["labels"]
    since = wire_time(START + timedelta(days=1))
    assert told == {"label": "fraud", "source": source, "label_time": since}


def test_a_label_that_is_folded_before_its_payment_settles_it_too(desk: Desk) -> None:
    """One that counts from before its payment goes before it in the stream."""
    with paused_router(desk.servers):
        desk.servers.send(LABELS, [label("b-1", START - timedelta(hours=1), True)])
        desk.servers.send(TRANSACTIONS, [payment("b-1", START, "c-b", "m-b", 1_500.0)])
    desk.servers.settle()
    assert desk.names() == []
    assert desk.kept() == []


@contextmanager
def paused_router(servers: Servers) -> Iterator[None]:
    """What is sent inside comes to the worker at once."""
    store = servers.store()
    store.execute([("SET", PAUSE, "test", "EX", 30)])
    try:
        yield
    finally:
        store.execute([("DEL", PAUSE)])


def test_what_has_expired_leaves_though_nobody_looks_so_far_down(desk: Desk) -> None:
    desk.pay({"e-1": 1_500.0, "e-2": 1_400.0, "e-3": 1_300.0})
    desk.servers.store().execute([("DEL", "decision:e-1", "decision:e-3")])
    answer = desk.client.get("/v1/reviews?limit=1")
    assert [each["transaction_id"] for each in answer.json()] == ["e-2"]
    assert desk.kept() == ["e-2", "e-3"]
    assert desk.client.get("/v1/decisions/e-1").status_code == 404
    sweep(desk.servers)
    assert desk.kept() == ["e-2"]


def sweep(servers: Servers) -> None:
    asyncio.run(at_desk(servers, Unreachable(), lambda reviews: reviews.sweep()))


class Unreachable:
    """A broker that takes nothing."""

    async def publish(self, records: Sequence[Outgoing]) -> None:
        raise BrokerError("nobody there")


async def at_desk(
    servers: Servers, broker: Unreachable, work: Callable[[Reviews], Coroutine[Any, Any, None]]
) -> None:
    with closing(AsyncConnection(servers.redis)) as store:
        await work(Reviews(store, broker, keep_s=60))


def test_a_verdict_becomes_a_label_and_is_shown(desk: Desk) -> None:
    desk.pay({"v-1": 1_500.0, "v-2": 1_400.0})
    before = datetime.now(UTC)
    answer = desk.judge("v-1", "fraud", note="the card was stolen", analyst="ada")
    assert (answer.status_code, answer.json()["accepted"]) == (202, 1)
    desk.servers.settle()
    given = answer.json()["verdict"]
    assert before <= datetime.fromisoformat(given["at"]) <= datetime.now(UTC)
    assert given == {
        "label": "fraud",
        "note": "the card was stolen",
        "analyst": "ada",
        "at": given["at"],
    }
    assert desk.names() == ["v-2"]
    (done,) = desk.queue("done")
    decision = desk.decision("v-1")
    assert done == decision
    assert (done["transaction_id"], done["verdicts"]) == ("v-1", [given])
    assert done["labels"] == [{"label": "fraud", "source": "analyst", "label_time": given["at"]}]
    (kept,) = rows_of(desk, "v-1")
    assert (kept["source"], kept["event_time_us"]) == (
        "analyst",
        microseconds(datetime.fromisoformat(given["at"])),
    )


def rows_of(desk: Desk, name: str) -> list[type_of_item]:
    """The history's labels of a transaction."""
    rows = desk.servers.written_history().read(LABEL_TABLE).to_pylist()
    return [row for row in rows if row["transaction_id"] == name]


def test_done_has_the_latest_verdict_first_and_pages(desk: Desk) -> None:
    desk.pay({f"d-{i}": 1_500.0 for i in range(5)})
    for i in (3, 0, 4, 1):
        desk.judge(f"d-{i}", "legitimate")
    answer = desk.client.get("/v1/reviews?status=done&limit=3")
    assert [each["transaction_id"] for each in answer.json()] == ["d-1", "d-4", "d-0"]
    rest = desk.client.get(answer.links["next"]["url"])
    assert [each["transaction_id"] for each in rest.json()] == ["d-3"]
    assert "next" not in rest.links


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"note": "no label"}',
        b'{"label": "perhaps"}',
        b'{"label": "fraud", "note": 7}',
        b'{"label": "fraud", "analyst": ""}',
        b'{"label": "fraud", "reviser": true}',
        b'{"label": "fraud", "revise": "yes"}',
        b'{"label": "fraud", "label_time": "yesterday"}',
        orjson.dumps({"label": "fraud", "note": "x" * 2_001}),
    ],
)
def test_what_is_no_verdict_is_refused(desk: Desk, body: bytes) -> None:
    desk.pay({"r-1": 1_500.0})
    answer = desk.client.post("/v1/reviews/r-1/verdict", content=body)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert desk.published("r-1") == []


def test_a_verdict_from_after_tomorrow_is_refused(desk: Desk) -> None:
    desk.pay({"r-2": 1_500.0})
    answer = desk.judge("r-2", "fraud", label_time=wire_time(datetime.now(UTC) + timedelta(days=2)))
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    assert desk.published("r-2") == []


def test_a_verdict_on_the_unknown_is_a_404(desk: Desk) -> None:
    answer = desk.judge("nobody", "fraud")
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
    assert desk.published("nobody") == []


def test_any_id_can_be_judged(desk: Desk) -> None:
    desk.pay({"2024/03/01 é": 1_500.0})
    name = "2024%2F03%2F01%20%C3%A9"
    assert desk.judge(name, "fraud").status_code == 202
    assert desk.decision(name)["verdicts"][0]["label"] == "fraud"


def test_what_was_not_to_be_reviewed_can_be_judged_too(desk: Desk) -> None:
    desk.pay({"a-1": 20.0})
    assert desk.judge("a-1", "fraud").status_code == 202
    assert desk.names("done") == ["a-1"]


def test_the_same_verdict_twice_is_one_label(desk: Desk) -> None:
    desk.pay({"i-1": 1_500.0})
    first, again = (desk.judge("i-1", "fraud", note="stolen", analyst="ada") for _ in range(2))
    assert (again.status_code, again.json()) == (202, first.json())
    noted = desk.judge("i-1", "fraud", note="called the customer", analyst="bob")
    assert noted.status_code == 202
    assert [each["analyst"] for each in desk.decision("i-1")["verdicts"]] == ["ada", "bob"]
    assert desk.published("i-1") == ["fraud"]


def test_a_contrary_verdict_must_say_that_it_revises(desk: Desk) -> None:
    desk.pay({"c-1": 1_500.0})
    first = desk.judge("c-1", "fraud", analyst="ada").json()["verdict"]
    refused = desk.judge("c-1", "legitimate", analyst="bob")
    assert (refused.status_code, refused.headers["content-type"]) == (409, "application/problem+json")
    assert refused.json()["verdict"] == first
    too_early = desk.judge("c-1", "legitimate", revise=True, label_time=wire_time(START))
    assert too_early.status_code == 422
    assert desk.judge("c-1", "legitimate", analyst="bob", revise=True).status_code == 202
    assert desk.judge("c-1", "fraud").status_code == 409
    assert desk.judge("c-1", "fraud", note="no, it was", revise=True).status_code == 202
    desk.servers.settle()
    words = ["fraud", "legitimate", "fraud"]
    assert desk.published("c-1") == words
    assert [each["label"] for each in desk.decision("c-1")["verdicts"]] == words
    assert len(rows_of(desk, "c-1")) == 3, "the history keeps all"
    labels = desk.servers.written_history().read(LABEL_TABLE)
    assert truth(labels, 2**62)["c-1"] == 1.0, "her last word is believed"


def test_a_label_of_an_analyst_that_came_as_an_event_is_a_verdict_too(desk: Desk) -> None:
    desk.pay({"l-1": 1_500.0})
    desk.tell("l-1", fraud=True, source="analyst")
    assert desk.judge("l-1", "legitimate").status_code == 409
    assert desk.judge("l-1", "fraud", note="as I said").status_code == 202
    assert desk.published("l-1") == ["fraud"]


def test_a_chargeback_does_not_forbid_a_verdict(desk: Desk) -> None:
    desk.pay({"g-1": 1_500.0})
    desk.tell("g-1", fraud=True, source="chargeback")
    assert desk.judge("g-1", "legitimate", note="her own payment").status_code == 202
    desk.servers.settle()
    told = [(each["source"], each["label"]) for each in desk.decision("g-1")["labels"]]
    assert told == [("chargeback", "fraud"), ("analyst", "legitimate")]


def test_of_two_analysts_at_once_one_is_heard(desk: Desk) -> None:
    desk.pay({f"w-{i}": 1_500.0 for i in range(20)})

    def both(name: str) -> list[int]:
        with ThreadPoolExecutor(2) as two:
            answers = two.map(lambda word: desk.judge(name, word), ("fraud", "legitimate"))
            return sorted(answer.status_code for answer in answers)

    assert [both(f"w-{i}") for i in range(20)] == [[202, 409]] * 20
    assert [len(desk.published(f"w-{i}")) for i in range(20)] == [1] * 20


def test_a_verdict_whose_label_is_not_acknowledged_leaves_the_payment_in_the_queue(desk: Desk) -> None:
    desk.pay({"k-1": 1_500.0})

    async def judge(reviews: Reviews) -> None:
        case = await reviews.case("k-1")
        assert case
        await reviews.judge(case, Verdict(label="fraud"), datetime.now(UTC))

    with pytest.raises(BrokerError):
        asyncio.run(at_desk(desk.servers, Unreachable(), judge))
    assert desk.names() == ["k-1"]
    assert desk.names("done") == []
    assert desk.judge("k-1", "fraud").status_code == 202, "it can be tried again"


def test_a_verdict_that_died_after_its_label_can_be_given_again(desk: Desk) -> None:
    """The label is acknowledged; the payment is still in the queue, whether the worker has it or not."""
    desk.pay({"x-1": 1_500.0})
    at = wire_time(datetime.now(UTC))
    desk.servers.send(LABELS, [{**label("x-1", START, True, "analyst"), "label_time": at}])
    assert desk.judge("x-1", "fraud").status_code == 202
    desk.servers.settle()
    assert desk.kept() == []
    assert desk.names("done") == ["x-1"]
    assert len(rows_of(desk, "x-1")) == 1


def test_labels_that_contradict_are_counted_as_they_arrive(desk: Desk, counts: Counts) -> None:
    desk.pay({"n-1": 1_500.0, "n-2": 1_500.0})
    before = counts.of["labels_contradicting"]
    desk.tell("n-1", fraud=False, source="settlement")
    desk.tell("n-2", fraud=True, source="settlement")
    assert counts.of["labels_contradicting"] == before
    desk.tell("n-1", fraud=True, source="chargeback")
    desk.tell("n-2", fraud=True, source="chargeback")
    assert counts.of["labels_contradicting"] == before + 1
