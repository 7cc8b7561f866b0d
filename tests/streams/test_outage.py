"""Neighbours that hang, die and come back under load: the API answers, nothing is lost or counted twice."""

import errno
import signal
import socketserver
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import orjson
import psutil
import pytest

from infra.settings import Neighbours, Settings, load
from infra.stack.local import Stack
from ingestion import tables
from ingestion.broker import HEARTBEAT_S, Consumer, Producer
from ingestion.topics import TRANSACTIONS
from serving.outbox import File
from tests.api import serving
from tests.payments import START, payment, wire_time
from tests.servers import Servers, until
from tests.stacks import running

pytestmark = [pytest.mark.servers, pytest.mark.slow]

LOOSE_S = 2.0
"""Each answer comes within this; how fast they are is for the benches."""
BACK_S = 20.0
CALM = Neighbours(store_ms=400.0, acknowledge_ms=600.0)
"""Longer than a machine that is busy with other tests keeps its servers from answering."""
CALLERS = 3


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Servers of our own: nobody else's shall be stopped."""
    with running(tmp_path_factory.mktemp("outage") / "home", ["kafka", "valkey"]) as own:
        yield own


@pytest.fixture
def servers(stack: Stack, tmp_path: Path) -> Iterator[Servers]:
    empty = Servers(settings_of(stack), tmp_path / "home")
    empty.clear()
    yield empty
    empty.close()


def settings_of(stack: Stack) -> Settings:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("TOLLGATE_HOME", str(stack.folder.home))
        return load().model_copy(update={"neighbours": CALM})


def process(stack: Stack, part: str) -> psutil.Process:
    """The part's own process; a starter that waits for it is not meant."""
    found = next(each for each in stack.status() if each.name == part).process
    assert found
    return psutil.Process(found.pid)


@contextmanager
def stopped(stack: Stack, part: str) -> Iterator[None]:
    """It hangs: connections stay open and say nothing."""
    it = process(stack, part)
    it.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        it.send_signal(signal.SIGCONT)


def kill(stack: Stack, part: str) -> None:
    """Signal 9; the supervisor starts it anew, which is waited for."""
    before = process(stack, part)
    before.send_signal(signal.SIGKILL)
    healthy = lambda: any(  # noqa: E731
        each.state == "healthy" and each.process and each.process.pid != before.pid
        for each in stack.status()
        if each.name == part
    )
    until(healthy, limit_s=60)


@dataclass
class Answer:
    name: str
    status: int
    seconds: float
    degraded: bool
    body: bytes


@dataclass
class Load:
    """Callers that ask for one score after the other until told to stop."""

    client: httpx.Client
    prefix: str
    answers: list[Answer] = field(default_factory=list)

    def __enter__(self) -> "Load":
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(i,)) for i in range(CALLERS)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _call(self, caller: int) -> None:
        n = 0
        while not self._stop.is_set():
            self.answers.append(score(self.client, f"{self.prefix}-{caller}-{n}", n))
            n += 1
            time.sleep(0.01)

    def since(self, n: int) -> list[Answer]:
        return self.answers[n:]

    def reach(self, true: Callable[[Answer], bool], limit_s: float = BACK_S) -> None:
        """Wait for answers that are so, from now on."""
        n = len(self.answers)
        until(lambda: any(map(true, self.answers[n:])), limit_s)


def event(name: str, n: int = 0) -> dict[str, Any]:
    at = START + timedelta(seconds=n)
    return dict(payment(name, at, f"c-{n % 7}", f"m-{n % 5}", 10.0 + n % 90))


def score(client: httpx.Client, name: str, n: int = 0) -> Answer:
    start = time.perf_counter()
    reply = client.post("/v1/fraud/score", json=event(name, n))
    seconds = time.perf_counter() - start
    degraded = reply.status_code == 200 and reply.json()["degraded"]
    return Answer(name, reply.status_code, seconds, degraded, reply.content)


def quote(client: httpx.Client, name: str, product: str = "p-1") -> httpx.Response:
    body = {"quote_id": name, "event_time": wire_time(START), "product_id": product, "context": {}}
    return client.post("/v1/prices/quote", json=body)


def assert_well(answers: Sequence[Answer]) -> None:
    assert Counter(each.status for each in answers) == {200: len(answers)}
    assert max(each.seconds for each in answers) < LOOSE_S, sorted(each.seconds for each in answers)[-5:]


def assert_each_once(servers: Servers, names: Sequence[str]) -> None:
    """Every payment was decided once, is in the history once, and the decision is the one that was told."""
    with servers.working():
        until(lambda: servers.decisions().keys() >= set(names), 60, pause_s=0.5)
        servers.settle()
    decided = servers.decisions()
    assert {name: len(each) for name, each in decided.items()} == dict.fromkeys(names, 1)
    rows = servers.written_history().read(tables.TRANSACTIONS)["transaction_id"].to_pylist()
    assert Counter(rows) == dict.fromkeys(names, 1)


def assert_as_told(servers: Servers, answers: Sequence[Answer]) -> None:
    told = {each.name: orjson.loads(each.body) for each in answers}
    assert {name: each[0] for name, each in servers.decisions().items()} == told


def outbox(client: httpx.Client) -> int:
    lines = client.get("/metrics").text.splitlines()
    (value,) = (line.split()[1] for line in lines if line.startswith("tollgate_outbox_records "))
    return int(float(value))


def test_redis_that_hangs_and_goes_on(servers: Servers, stack: Stack) -> None:
    with serving(servers.settings) as client, Load(client, "hang") as load:
        load.reach(lambda each: not each.degraded)
        with stopped(stack, "valkey"):
            load.reach(lambda each: each.degraded)
            n = len(load.answers)
            time.sleep(2)
            assert all(each.degraded for each in load.since(n))
            assert len(load.since(n)) > 50, "whoever waited for Redis each time made fewer"
            ready = client.get("/readyz")
            assert (ready.status_code, ready.json()["feature_store"], ready.json()["broker"]) == (
                503,
                False,
                True,
            )
            assert 'tollgate_neighbour_away{neighbour="store"} 1.0' in client.get("/metrics").text
        load.reach(lambda each: not each.degraded, limit_s=2.5)
        assert client.get("/readyz").status_code == 200
    assert_well(load.answers)
    assert_each_once(servers, [each.name for each in load.answers])
    assert_as_told(servers, load.answers)


def test_what_else_asks_redis_while_it_hangs(servers: Servers, stack: Stack) -> None:
    """Where no answer is possible there is a clear one, soon."""
    with serving(servers.settings) as client:
        product = {"list_price": 20.0, "unit_cost": 9.0, "currency": "EUR", "floor": 11.0, "ceiling": 30.0}
        terms = product | {"max_step": 3.0, "category": "books"}
        assert client.put("/v1/products/new", json=terms).status_code == 200
        assert score(client, "t-1").status == 200
        verdict = {"label": "fraud", "note": ""}
        outcome = {"quote_id": "q-1", "event_time": wire_time(START), "units": 1}
        with stopped(stack, "valkey"):
            for method, path, body in (
                ("GET", "/v1/decisions/t-1", None),
                ("GET", "/v1/reviews", None),
                ("POST", "/v1/reviews/t-1/verdict", verdict),
                ("GET", "/v1/products", None),
                ("PUT", "/v1/products/newer", terms),
                ("POST", "/v1/prices/outcomes", outcome),
                ("GET", "/v1/models", None),
                ("POST", "/v1/transactions", event("t-2")),
            ):
                start = time.perf_counter()
                reply = client.request(method, path, json=body)
                assert time.perf_counter() - start < LOOSE_S, path
                if path in ("/v1/models", "/v1/transactions"):
                    assert reply.status_code < 300
                    continue
                assert reply.status_code == 503, f"{path}: {reply.text}"
                assert reply.headers["retry-after"] == "1"
                assert "feature store" in reply.json()["detail"]
            price = quote(client, "q-2", "new").json()
            assert (price["price"], price["degraded"]) == (20.0, True)
            unknown = quote(client, "q-3", "never seen")
            assert (unknown.status_code, "retry-after" in unknown.headers) == (503, True)
        until(lambda: client.get("/v1/products").status_code == 200, 3)
        assert quote(client, "q-4", "never seen").status_code == 404


def test_kafka_that_hangs_and_goes_on(servers: Servers, stack: Stack) -> None:
    with serving(servers.settings) as client, Load(client, "still") as load:
        load.reach(lambda each: not each.degraded)
        with stopped(stack, "kafka"):
            load.reach(lambda each: each.degraded)
            n = len(load.answers)
            time.sleep(1.5)
            assert all(each.degraded for each in load.since(n))
            assert len(load.since(n)) > 50, "whoever waited for Kafka each time made fewer"
            assert client.get("/readyz").json() == client.get("/readyz").json() | {"broker": False}
            for path, body in (("/v1/transactions", event("t")), ("/v1/labels", LABEL)):
                start = time.perf_counter()
                reply = client.post(path, json=body)
                assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")
                assert time.perf_counter() - start < 1
            again = load.answers[-1]
            assert client.post(
                "/v1/fraud/score", json=event(again.name, int(again.name.split("-")[-1]))
            ).content == (again.body), "what waits in the outbox is told again"
            price = quote(client, "q-1")
            assert (price.status_code, price.json()["degraded"]) == (200, True)
            assert quote(client, "q-1").content == price.content
            assert outbox(client) > 50
        load.reach(lambda each: not each.degraded, limit_s=3)
        until(lambda: outbox(client) == 0, 5)
        assert client.get("/readyz").status_code == 200
    assert_well(load.answers)
    assert not list((servers.home / "outbox").iterdir())
    assert_each_once(servers, [each.name for each in load.answers])
    assert_as_told(servers, load.answers)


def test_a_label_waits_for_a_kafka_that_is_only_late(servers: Servers, stack: Stack) -> None:
    patient = CALM.model_copy(update={"acknowledge_ms": 2_000.0})
    with serving(servers.settings.model_copy(update={"neighbours": patient})) as client:
        with stopped(stack, "kafka"):
            assert score(client, "waits").status == 200
            assert score(client, "knows").degraded
            on = threading.Timer(0.3, process(stack, "kafka").send_signal, (signal.SIGCONT,))
            on.start()
            reply = client.post("/v1/labels", json=LABEL)
        on.join()
    assert reply.status_code == 202, reply.text


LABEL = {"transaction_id": "t", "label": "fraud", "label_time": wire_time(START), "source": "chargeback"}


@pytest.mark.parametrize("part", ["valkey", "kafka"])
def test_a_neighbour_that_dies_and_comes_back(servers: Servers, stack: Stack, part: str) -> None:
    with serving(servers.settings) as client, Load(client, part) as load:
        load.reach(lambda each: not each.degraded)
        kill(stack, part)
        load.reach(lambda each: not each.degraded)
        until(lambda: outbox(client) == 0 and client.get("/readyz").status_code == 200, 10)
    assert_well(load.answers)
    assert_each_once(servers, [each.name for each in load.answers])


def test_a_reader_rests_while_kafka_hangs(servers: Servers, stack: Stack) -> None:
    """What it leaves behind at each look is kept until the fetch that is under way ends: half a minute."""
    with closing(Consumer(servers.kafka, [TRANSACTIONS], "resting")) as reader:
        reads = lambda: reader.poll(50) == [] and len(reader.lag()) == servers.stack.topics.partitions  # noqa: E731
        until(reads, pause_s=0)
        with stopped(stack, "kafka"):
            hung_until = time.monotonic() + HEARTBEAT_S + 3.0
            while time.monotonic() < hung_until:
                assert reader.poll(50) == []
            looks = sum(len(each._callbacks or ()) for each in reader._kafka._fetcher._fetch_futures)
        assert 0 < looks < 500
        servers.send_raw(TRANSACTIONS, [(b"{}", b"k")])
        until(lambda: len(reader.poll(50)) == 1, pause_s=0)


def test_a_writer_rests_while_kafka_hangs(
    servers: Servers, stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once its request has not been answered in time, it tries to connect anew."""
    with closing(Producer(servers.kafka, delivery_s=12.0)) as writer:
        writer.learn([TRANSACTIONS])
        looks = turns(writer, monkeypatch)
        with stopped(stack, "kafka"):
            writer.send(TRANSACTIONS, b"{}", b"k")
            time.sleep(8.0)
        late = [each for each in looks if each > looks[-1] - 1.5]
        assert 1 < len(late) < 200
        writer.flush()


def test_a_writer_rests_while_a_partition_has_no_leader(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(Producer(servers.kafka)) as writer:
        writer.learn([TRANSACTIONS])
        looks = turns(writer, monkeypatch)
        with monkeypatch.context() as patched:
            patched.setattr(writer._kafka._metadata, "leader_for_partition", lambda _: -1)
            writer.send(TRANSACTIONS, b"{}", b"k")
            time.sleep(2.0)
            assert 2 < len(looks) < 200
        writer.flush()


def turns(writer: Producer, monkeypatch: pytest.MonkeyPatch) -> Sequence[float]:
    """When kafka-python's sender looked what there is to do, by the monotonic clock."""
    sender, looks = writer._kafka._sender, list[float]()
    turn = sender.run_once
    monkeypatch.setattr(sender, "run_once", lambda: (looks.append(time.monotonic()), turn()))
    return looks


def test_a_writer_rests_while_a_proxy_hangs_up_in_place_of_kafka(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hanging_up() as (port, calls), closing(Producer(servers.kafka)) as writer:
        writer.learn([TRANSACTIONS])
        manager = writer._kafka._sender._client._manager
        (broker,) = manager.cluster.brokers()
        with monkeypatch.context() as patched:
            proxy = SimpleNamespace(node_id=broker.node_id, host="127.0.0.1", port=port, rack=None)
            patched.setattr(manager.cluster, "broker_metadata", lambda _: proxy)
            manager.call_soon(manager.close, broker.node_id)
            writer.send(TRANSACTIONS, b"{}", b"k")
            time.sleep(4.0)
            assert 3 < len(calls) < 15
        writer.flush()


@contextmanager
def hanging_up() -> Iterator[tuple[int, Sequence[object]]]:
    """A port at which whoever calls is answered and cut off, and who called."""
    calls: list[object] = []

    class Call(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            calls.append(self.client_address)

    with socketserver.TCPServer(("127.0.0.1", 0), Call) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server.server_address[1], calls
        server.shutdown()
        thread.join()


def test_an_api_that_starts_without_neighbours(
    servers: Servers, stack: Stack, caplog: pytest.LogCaptureFixture
) -> None:
    """Then it ends, too, and the next one finds what it had answered for."""
    with stopped(stack, "kafka"), stopped(stack, "valkey"), serving(servers.settings) as client:
        assert client.get("/healthz").status_code == 200
        first = score(client, "early")
        assert (first.status, first.degraded) == (200, True)
        assert score(client, "early").body == first.body
        assert quote(client, "early").json()["degraded"]
        assert "Kafka is away" in caplog.text
    assert list((servers.home / "outbox").iterdir())
    with serving(servers.settings) as client:
        until(lambda: outbox(client) == 0 and client.get("/readyz").status_code == 200, 10)
        later = score(client, "later")
        assert (later.status, later.degraded) == (200, False)
    assert_each_once(servers, ["early", "later"])
    assert_as_told(servers, [first, later])


def test_what_went_out_twice_counts_once(servers: Servers) -> None:
    """As when the broker took records but its acknowledgement was late."""
    with serving(servers.settings) as client:
        decided = [score(client, f"t-{n}", n) for n in range(20)]
        prices = [quote(client, f"q-{n}").json() for n in range(20)]
    twice = [record for topic in (TRANSACTIONS, "quotes") for record in servers.records(topic)]
    producer = Producer(servers.kafka)
    for record in twice:
        producer.send(record.topic, record.value, record.key, list(record.headers))
    producer.flush()
    producer.close()
    assert_each_once(servers, [each.name for each in decided])
    assert_as_told(servers, decided)
    (seen,) = servers.store().execute([("KEYS", "seen:q:*")])
    assert len(seen) == len(prices)
    rows = servers.written_history().read(tables.QUOTES)["quote_id"].to_pylist()
    assert Counter(rows) == {each["quote_id"]: 1 for each in prices}


def test_an_outbox_that_is_full_refuses(servers: Servers, stack: Stack) -> None:
    small = CALM.model_copy(update={"outbox_mb": 0.02})
    with serving(servers.settings.model_copy(update={"neighbours": small})) as client:
        with stopped(stack, "kafka"):
            answers = [score(client, f"full-{n}", n) for n in range(40)]
            kept = [each for each in answers if each.status == 200]
            refused = [each for each in answers if each.status == 503]
            assert 3 < len(kept) < 20
            assert len(kept) + len(refused) == len(answers)
            assert sum(f.stat().st_size for f in (servers.home / "outbox").iterdir()) <= 0.02 * 2**20
        until(lambda: outbox(client) == 0, 5)
        assert score(client, "room again").status == 200


def test_a_disk_that_cannot_be_read_for_a_while_loses_nothing(
    servers: Servers, stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, failures = File.read, iter(range(5))

    def failing(self: File, at: int = 0, size: int | None = None) -> bytes:
        if next(failures, None) is not None:
            raise OSError(errno.EIO, "Input/output error")
        return real(self, at, size)

    with serving(servers.settings) as client:
        with stopped(stack, "kafka"):
            answers = [score(client, f"unread-{n}", n) for n in range(20)]
            monkeypatch.setattr(File, "read", failing)
        until(lambda: outbox(client) == 0, 20)
        assert next(failures, None) is None, "the disk was not asked"
        answers.append(score(client, "readable again"))
    assert {each.status for each in answers} == {200}
    assert_each_once(servers, [each.name for each in answers])


def test_the_loop_is_not_held_up_by_a_broker_that_hangs(servers: Servers, stack: Stack) -> None:
    """While some wait for an acknowledgement, others are answered."""
    patient = CALM.model_copy(update={"acknowledge_ms": 1_500.0})
    with serving(servers.settings.model_copy(update={"neighbours": patient})) as client:
        client.post("/v1/transactions", json=event("before")).raise_for_status()
        with stopped(stack, "kafka"):
            waiting = threading.Thread(
                target=client.post, args=("/v1/transactions",), kwargs={"json": event("t")}
            )
            waiting.start()
            for _ in range(20):
                start = time.perf_counter()
                assert client.get("/healthz").status_code == 200
                assert time.perf_counter() - start < 0.5
            assert waiting.is_alive()
            waiting.join()
