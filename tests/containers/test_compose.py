"""`docker compose up -d --wait` on the very file, then what a client does first, then `down -v`."""

import itertools
import json
import os
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from tests.containers.composed import (
    PORTS,
    ROOT,
    SETTINGS,
    Running,
    composed,
    services,
    told_by_docker,
)
from tests.servers import until

PUBLIC_IMAGES = {"apache/kafka:4.1.0", "redis:8.0", "postgres:17", "prom/prometheus:v2.53.3"}
OURS = {"mlflow", "api", "worker", "history", "retrainer", "secrets", "simulator"}
ENDS = "secrets"
"""The one service that has done its work when the others start."""
PRODUCT, TERMINAL = "p-3", "m-4"
MEBIBYTES_IN_ALL = 4096
WORKERS = 3
WEDNESDAY = 2
LABELS = 9_500
"""So many labels come of the days that are simulated, and a few more."""
LEARNING = f"""
[retraining]
min_new_labels = {LABELS}
min_new_outcomes = 10000000
poll_s = 2.0

[gate]
min_gain = -100.0
simple_margin = 1.0
min_frauds = 1
fair_slices = []
shadow_labels = 0
max_calibration_ratio = 1000.0
max_latency_ms = 10000.0
max_latency_ratio = 1000.0
max_slice_loss = 1.0
max_price_loss = 1.0
max_risk_fall = 1.0
"""
"""A gate that is open, as this is about the way through it: the simple model, which need only beat the rules,
stays unless the trees are twice as good. Prices are learned when they are asked to be.
"""
RULE = """
[fraud]
rules = [{name = "very_dear", when = "amount > 77777", outcome = "decline"}]
"""

in_containers = pytest.mark.containers
patient = pytest.mark.timeout(1500)


@pytest.fixture(scope="module")
def running(engine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The whole system under a name and on ports of its own, built from the code that is here."""
    with composed(tmp_path_factory.mktemp("compose"), LEARNING) as system:
        yield system


@pytest.fixture
def api(running: Running) -> Iterator[httpx.Client]:
    """The API as this machine sees it, called with our own programs' key."""
    asked = "from infra.settings import load; print(load().api.headers['Authorization'])"
    key = running.python("api", asked)
    with running.client("API_PORT") as client:
        client.headers["Authorization"] = key
        yield client


@in_containers
@patient
def test_every_service_is_healthy(running: Running) -> None:
    there = {each.Service: each for each in running.compose.get_containers(include_all=True)}
    assert there.keys() == services().keys(), "profiles are for who asks for them"
    made = there.pop(ENDS)
    assert (made.State, made.ExitCode) == ("exited", 0)
    found = {name: each.Health for name, each in there.items()}
    assert found == dict.fromkeys(services().keys() - {ENDS}, "healthy")


@in_containers
@patient
def test_a_stranger_sees_nothing_but_health(running: Running) -> None:
    with running.client("API_PORT") as stranger:
        for path in ("/v1/products", "/v1/models", "/v1/decisions/t-1", "/metrics", "/docs", "/openapi.json"):
            assert stranger.get(path).status_code == 401, path
        assert stranger.get("/readyz").status_code == 200


@in_containers
@patient
def test_secrets_are_for_their_owner_only(running: Running) -> None:
    asked = "import os; from infra.settings import load; print(oct(os.stat(load().secrets).st_mode & 0o777))"
    assert running.compose.exec_in_container(["python", "-c", asked], "worker")[0].strip() == "0o600"


@in_containers
@patient
def test_the_first_hour_of_a_client(api: httpx.Client) -> None:
    accepted = api.post("/v1/transactions", json=payment("t-1"))
    assert (accepted.status_code, accepted.json()) == (202, {"accepted": 1})
    until(lambda: api.get("/v1/decisions/t-1").status_code == 200)

    score = api.post("/v1/fraud/score", json=payment("t-2"))
    assert score.status_code == 200, score.text
    assert score.json()["decision"] in ("approve", "review", "decline")
    assert score.json()["model"]["name"] == "baseline"
    assert not score.json()["degraded"]
    assert counted(score.json(), "terminal_payment_count_30d") == pytest.approx(1, rel=1e-3)
    until(lambda: api.get("/v1/decisions/t-2").status_code == 200)
    assert api.get("/v1/decisions/t-2").json()["features"] == score.json()["features"]

    fraud = {"transaction_id": "t-1", "label": "fraud", "label_time": now(), "source": "analyst"}
    assert api.post("/v1/labels", json=fraud).status_code == 202
    until(lambda: counted(dry_run(api), "terminal_fraud_rate_30d") > 0.9)


@in_containers
@patient
def test_a_quote_and_its_outcome(api: httpx.Client) -> None:
    asked = {"quote_id": "q-1", "event_time": now(), "product_id": PRODUCT, "segment": "web"}
    quote = api.post("/v1/prices/quote", json=asked)
    assert quote.status_code == 200, quote.text
    assert quote.json()["price"] == pytest.approx(product(api)["list_price"], rel=0.5)
    bought = {"quote_id": "q-1", "event_time": now(), "units": 1}
    assert api.post("/v1/prices/outcomes", json=bought).status_code == 202


@in_containers
@patient
def test_a_wrong_event_is_refused(api: httpx.Client) -> None:
    refused = api.post("/v1/transactions", json=[payment("t-3"), payment("t-4") | {"amount": -1}])
    assert refused.status_code == 422
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.json()["errors"][0]["position"] == 1


@in_containers
@patient
def test_mlflow_answers_outside_and_inside_and_no_stranger(running: Running) -> None:
    with running.client("MLFLOW_PORT") as mlflow:
        assert mlflow.get("/").status_code == 200
        assert mlflow.get("/", headers={"Host": "stranger.example"}).status_code == 403
    call = "from urllib.request import urlopen; print(urlopen('http://mlflow:5001/version').status)"
    assert running.compose.exec_in_container(["python", "-c", call], "api")[0].strip() == "200"


@in_containers
@patient
def test_ours_run_as_nobody_in_particular_on_a_disk_they_cannot_write(running: Running) -> None:
    tried = "import os; print(os.getuid(), os.access('/opt/tollgate', os.W_OK), os.access('/', os.W_OK))"
    for service in sorted(OURS & services().keys() - {ENDS}):
        assert running.python(service, tried).split() == ["10001", "False", "False"], service


@in_containers
@patient
def test_redis_wants_a_password(running: Running) -> None:
    with socket.create_connection(("127.0.0.1", running.ports["REDIS_PORT"]), 10) as stranger:
        stranger.sendall(b"GET catalogue\r\n")
        assert stranger.recv(100).startswith(b"-NOAUTH")
        stranger.sendall(b"AUTH tollgate\r\n")
        assert stranger.recv(100).startswith(b"-WRONGPASS")


@in_containers
@patient
@pytest.mark.parametrize("password", ["", "tollgate"])
def test_postgres_wants_a_password(running: Running, password: str) -> None:
    tried = (
        "import psycopg2\n"
        f"try: psycopg2.connect(host='postgres', user='tollgate', dbname='mlflow', password={password!r})\n"
        "except psycopg2.OperationalError as refusal: print('refused:', refusal)"
    )
    told = running.python("worker", tried)
    assert told.startswith("refused:")
    assert "password" in told


@in_containers
@patient
def test_no_password_shows(running: Running) -> None:
    words = [
        running.inside(name, ["cat", f"/run/tollgate/{name}/password"]) for name in ("redis", "postgres")
    ]
    assert len({word for word in words if len(word) >= 40}) == 2
    told = told_by_docker(running.project)
    assert "redis.conf" in told
    assert "uvicorn" in told
    assert not [word for word in words if word in told]
    for service in services().keys() - {ENDS, "redis", "postgres", "mlflow"}:
        assert running.inside(service, ["sh", "-c", "cat /run/tollgate/*/* 2>&- || true"]) == "", service


@in_containers
@patient
def test_feast_keeps_its_registry_in_postgres(running: Running) -> None:
    asked = (
        "from infra.settings import load; from features.store import FeatureStore; "
        "from features.domains import DOMAINS; store = FeatureStore.of(load()); "
        "store.apply([each.features for each in DOMAINS.values()]); "
        "print([each.name for each in store.open().list_feature_services()])"
    )
    assert "'fraud'" in running.python("retrainer", asked).splitlines()[-1]
    rows = "select count(*) from feature_services"
    psql = ["psql", "-U", "tollgate", "-d", "feast", "-tAc", rows]
    assert running.inside("postgres", psql) == "2"


@in_containers
@patient
def test_a_dead_process_of_the_api_is_replaced(running: Running, api: httpx.Client) -> None:
    workers = tomllib.loads(SETTINGS.read_text("utf-8"))["api"]["workers"]
    assert len(api_processes(running)) == workers > 1
    victim = api_processes(running)[0]
    running.python("api", f"import os; os.kill({victim}, 9)")
    until(lambda: victim not in (there := api_processes(running)) and len(there) == workers)
    with running.client("API_PORT") as stranger:
        until(lambda: stranger.get("/readyz").status_code == 200)
    assert dry_run(api)["decision"] in ("approve", "review", "decline")


def api_processes(running: Running) -> list[int]:
    """Ids of those that answer."""
    pattern = "multiprocessing.spawn import spawn_mai[n]"  # so the question does not find itself
    listed = running.inside("api", ["sh", "-c", f"grep -ls '{pattern}' /proc/[0-9]*/cmdline || true"])
    return sorted(int(path.split("/")[2]) for path in listed.splitlines())


@in_containers
@patient
def test_a_changed_rule_counts_in_every_process(running: Running, api: httpx.Client) -> None:
    dear = payment("t-dear") | {"amount": 80_000.0}
    before = running.settings.read_text("utf-8")
    running.settings.write_text(before + RULE, "utf-8")

    def declined() -> bool:
        told = [
            httpx.post(api.base_url.join("/v1/fraud/score?dry_run=true"), json=dear, headers=api.headers)
            for _ in range(20)
        ]
        return {each.json()["decision"] for each in told} == {"decline"}

    until(declined, pause_s=0.5)
    running.settings.write_text(before, "utf-8")
    until(lambda: dry_run(api, amount=80_000.0)["decision"] != "decline", pause_s=0.5)


@in_containers
@patient
def test_three_workers_share_the_stream(running: Running, api: httpx.Client) -> None:
    running.does("up", "-d", "--wait", "--no-recreate", "--no-deps", "--scale", f"worker={WORKERS}", "worker")

    numbers = itertools.count()

    def all_work() -> bool:
        many = [payment(f"t-{next(numbers)}-shared") | {"customer_id": f"c-{n}"} for n in range(60)]
        assert api.post("/v1/transactions", json=many).status_code == 202
        return all(handled(running, number) > 0 for number in range(2, WORKERS + 1))

    until(all_work, limit_s=120, pause_s=1)
    last = payment("t-last") | {"customer_id": "c-last"}
    assert api.post("/v1/transactions", json=last).status_code == 202
    until(lambda: api.get("/v1/decisions/t-last").status_code == 200)


def handled(running: Running, number: int) -> float:
    """Events that one of the workers has handled, by its own metrics."""
    asked = (
        "from urllib.request import urlopen; print(urlopen('http://127.0.0.1:9100/metrics').read().decode())"
    )
    lines = running.python("worker", asked, number).splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("tollgate_events_total{"))


@in_containers
@patient
def test_from_events_to_a_champion_that_decides(running: Running, api: httpx.Client) -> None:
    running.does("stop", "retrainer")  # of half the events it would learn another model, and wait for more
    sent = simulated(running, "payments", 24, "--customers", "300", "--seed", "12")
    assert sent["labels"] > LABELS
    tables = ("transactions", "labels")
    all_there = lambda: all(rows_in_history(running, each) >= sent[each] for each in tables)  # noqa: E731
    until(all_there, limit_s=300, pause_s=1)
    running.does("start", "retrainer")
    with running.explained_by("worker", "history", "retrainer"):
        until(lambda: deciding(api, "fraud") != "baseline", limit_s=600, pause_s=2)
    decision = api.post("/v1/fraud/score", json=payment("t-judged")).json()
    assert decision["model"] == {"name": "fraud", "version": deciding(api, "fraud"), "alias": "champion"}
    assert not decision["degraded"]
    (promotion,) = api.get("/v1/models").json()["fraud"]["history"]
    assert promotion["who"] == "retrainer"
    assert_shown_outside(running, promotion["run_id"])


@in_containers
@patient
def test_a_price_is_learned_when_asked(running: Running, api: httpx.Client) -> None:
    sent = simulated(running, "prices", 30)
    until(lambda: rows_in_history(running, "outcomes") >= sent["outcomes"], limit_s=120, pause_s=1)
    report = json.loads(
        running.inside("retrainer", ["tollgate", "train", "pricing", "--json"]).splitlines()[-1]
    )
    assert report["promoted"], report
    until(lambda: deciding(api, "pricing") == str(report["version"]))
    asked = {"quote_id": "q-2", "event_time": now(), "product_id": PRODUCT, "segment": "web"}
    quote = api.post("/v1/prices/quote", json=asked).json()
    assert quote["model"]["version"] == str(report["version"])
    assert product(api)["floor"] <= quote["price"] <= product(api)["ceiling"]
    assert_shown_outside(running, report["run_id"])


def assert_shown_outside(running: Running, run_id: str) -> None:
    """A browser on this machine sees the run and can load a file of it."""
    with running.client("MLFLOW_PORT") as mlflow:
        mlflow.headers["Host"] = f"localhost:{running.ports['MLFLOW_PORT']}"
        run = mlflow.get("/ajax-api/2.0/mlflow/runs/get", params={"run_id": run_id}).json()["run"]
        assert run["info"]["status"] == "FINISHED"
        assert run["data"]["metrics"]
        asked = {"run_id": run_id}
        files = mlflow.get("/ajax-api/2.0/mlflow/artifacts/list", params=asked).json()["files"]
        folder = next(each["path"] for each in files if each.get("is_dir"))
        inner = mlflow.get("/ajax-api/2.0/mlflow/artifacts/list", params={**asked, "path": folder}).json()
        file = next(each for each in inner["files"] if not each.get("is_dir"))
        loaded = mlflow.get("/get-artifact", params={"run_uuid": run_id, "path": file["path"]})
        assert (loaded.status_code, len(loaded.content)) == (200, int(file["file_size"]))


def simulated(running: Running, what: str, days: int, *words: str) -> dict[str, int]:
    """Events of some days up to now, sent by Kafka from this machine; how many, by topic.

    Day 0 is always a Wednesday: what the simulator draws depends on the day of the week, and with few frauds
    it is chance whether a model beats every simpler one, which the gate asks for whatever its limits.
    """
    long_ago = datetime.now(UTC) - timedelta(days=days)
    start = long_ago - timedelta(days=(long_ago.weekday() - WEDNESDAY) % 7)
    environment = {
        **os.environ,
        "TOLLGATE_HOME": str(running.settings.parent / "home"),
        "TOLLGATE_ADDRESSES__KAFKA": f"127.0.0.1:{running.ports['KAFKA_PORT']}",
    }
    command = [sys.executable, "-m", "infra.cli", "simulate", what, f"--days={days}"]
    command += [f"--start={start:%Y-%m-%d}", *words, "--json"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    sent: dict[str, int] = json.loads(done.stdout.splitlines()[-1])["sent"]
    return sent


def deciding(api: httpx.Client, task: str) -> str:
    """The version that decides now."""
    return str(api.get("/v1/models").json()[task]["deciding"])


def rows_in_history(running: Running, table: str) -> int:
    """Counted in a container of its own: what a reader takes is not in the writer's memory limit."""
    asked = (
        "from infra.settings import load; from ingestion.history import History; "
        f"print(History(load().history).read({table!r}, columns=['event_time_us']).num_rows)"
    )
    told = running.does("run", "--rm", "--no-deps", "-T", "retrainer", "python", "-c", asked)
    return int(told.splitlines()[-1])


@in_containers
@patient
def test_who_asks_gets_prometheus_and_a_stream_of_payments(running: Running) -> None:
    running.does("up", "-d", "--wait", "--no-recreate", "--no-deps", "prometheus", "simulator")
    before = handled(running, 1)
    with running.client("PROMETHEUS_PORT") as prometheus:

        def up() -> dict[str, int]:
            found = prometheus.get("/api/v1/query", params={"query": "sum by (job) (up)"}).json()
            return {each["metric"]["job"]: int(each["value"][1]) for each in found["data"]["result"]}

        until(lambda: up() == {"api": 1, "worker": WORKERS, "retrainer": 1, "prometheus": 1}, pause_s=1)
        groups = prometheus.get("/api/v1/rules").json()["data"]["groups"]
    health = {rule["name"]: rule["health"] for group in groups for rule in group["rules"]}
    assert len(health) > 5
    assert set(health.values()) <= {"ok", "unknown"}, health
    until(lambda: handled(running, 1) > before + 20, pause_s=1)


def test_images_are_pinned_and_few() -> None:
    images = {name: service["image"] for name, service in services(profiles=True).items()}
    assert {image for name, image in images.items() if name not in OURS} <= PUBLIC_IMAGES
    assert {images[name] for name in OURS} == {"tollgate:${TOLLGATE_TAG:-local}"}


def test_memory_is_limited_and_four_gigabytes_in_all() -> None:
    assert all("mem_limit" in service for service in services(profiles=True).values())
    limits = {name: service["mem_limit"] for name, service in services().items()}
    assert sum(int(limit.removesuffix("m")) for limit in limits.values()) <= MEBIBYTES_IN_ALL


def test_nothing_is_open_beyond_this_machine() -> None:
    ports = [port for service in services(profiles=True).values() for port in service.get("ports", ())]
    assert len(ports) == len(PORTS)
    assert all(port.startswith("127.0.0.1:") for port in ports)


def now() -> str:
    """This moment as it is written on the wire."""
    return datetime.now(UTC).isoformat()


def payment(transaction_id: str) -> dict[str, Any]:
    return {
        "transaction_id": transaction_id,
        "event_time": now(),
        "customer_id": "c-17",
        "terminal_id": TERMINAL,
        "amount": 129.9,
        "currency": "EUR",
    }


def dry_run(api: httpx.Client, amount: float = 129.9) -> dict[str, Any]:
    """What a payment would be told now."""
    asked = payment("t-9") | {"amount": amount}
    told: dict[str, Any] = api.post("/v1/fraud/score?dry_run=true", json=asked).json()
    return told


def counted(decision: Mapping[str, Any], feature: str) -> float:
    """0 for what is not known yet."""
    return float(decision["features"][feature] or 0.0)


def product(api: httpx.Client) -> dict[str, Any]:
    """The catalogue's entry of our product."""
    (found,) = [each for each in api.get("/v1/products").json() if each["product_id"] == PRODUCT]
    return dict(found)
