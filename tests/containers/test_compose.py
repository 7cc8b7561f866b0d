"""`docker compose up -d --wait` on the very file, then what a client does first, then `down -v`."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import yaml

from tests.containers.conftest import free_ports
from tests.servers import until

if TYPE_CHECKING:
    from testcontainers.compose import DockerCompose

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docker-compose.yml"
PORTS = ("API_PORT", "KAFKA_PORT", "REDIS_PORT", "POSTGRES_PORT", "MLFLOW_PORT")
PUBLIC_IMAGES = {"apache/kafka:4.1.0", "redis:8.0", "postgres:17", "prom/prometheus:v2.53.3"}
OURS = {"mlflow", "api", "worker", "history", "retrainer"}
PRODUCT, TERMINAL = "p-3", "m-4"
MEBIBYTES_IN_ALL = 4096

in_containers = pytest.mark.containers
patient = pytest.mark.timeout(1500)


@dataclass(frozen=True)
class Running:
    """The system as `up --wait` left it; `ports` are this machine's, by the name of their variable."""

    project: str
    compose: "DockerCompose"
    ports: Mapping[str, int]

    def client(self, port: str) -> httpx.Client:
        """HTTP to one of its servers."""
        return httpx.Client(base_url=f"http://127.0.0.1:{self.ports[port]}", timeout=20)


@pytest.fixture(scope="module")
def running(engine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The whole system under a name and on ports of its own, built from the code that is here."""
    from testcontainers.compose import DockerCompose

    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    project = f"tollgate-test-{os.getpid()}"
    chosen = tmp_path_factory.mktemp("compose") / "chosen.env"
    lines = [f"COMPOSE_PROJECT_NAME={project}", *(f"{name}={port}" for name, port in ports.items())]
    chosen.write_text("\n".join(lines), "utf-8")
    compose = DockerCompose(ROOT, build=True, wait=True, env_file=str(chosen))
    try:
        _started(compose)
        yield Running(project, compose, ports)
    finally:
        compose.stop()
    assert left_over(project) == []


def _started(compose: "DockerCompose") -> None:
    """Start it; what the services wrote is shown if it does not get healthy."""
    try:
        compose.start()
    except subprocess.CalledProcessError:
        written, _ = compose.get_logs()
        sys.stdout.write(written[-20_000:])
        raise


@pytest.fixture
def api(running: Running) -> Iterator[httpx.Client]:
    """The API as this machine sees it."""
    with running.client("API_PORT") as client:
        yield client


@in_containers
@patient
def test_every_service_is_healthy(running: Running) -> None:
    found = {each.Service: each.Health for each in running.compose.get_containers(include_all=True)}
    assert found == dict.fromkeys(services(), "healthy")


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
    for service in sorted(OURS):
        told, _, _ = running.compose.exec_in_container(["python", "-c", tried], service)
        assert told.split() == ["10001", "False", "False"], service


def test_images_are_pinned_and_few() -> None:
    images = {name: service["image"] for name, service in services().items()}
    assert {image for name, image in images.items() if name not in OURS} <= PUBLIC_IMAGES
    assert {images[name] for name in OURS} == {"tollgate:local"}


def test_memory_is_limited_and_four_gigabytes_in_all() -> None:
    limits = {name: service["mem_limit"] for name, service in services().items()}
    assert sum(int(limit.removesuffix("m")) for limit in limits.values()) <= MEBIBYTES_IN_ALL


def test_nothing_is_open_beyond_this_machine() -> None:
    ports = [port for service in services().values() for port in service.get("ports", ())]
    assert len(ports) == len(PORTS)
    assert all(port.startswith("127.0.0.1:") for port in ports)


def services() -> dict[str, Any]:
    """The services that start without a profile."""
    found: dict[str, Any] = yaml.safe_load(FILE.read_text("utf-8"))["services"]
    return {name: service for name, service in found.items() if "profiles" not in service}


def left_over(project: str) -> list[str]:
    """Names of what a project has left in the engine."""
    import docker

    client = docker.from_env()
    mine = {"label": f"com.docker.compose.project={project}"}
    kinds: list[Callable[..., list[Any]]] = [client.volumes.list, client.networks.list]
    found = [each.name for kind in kinds for each in kind(filters=mine)]
    found += [each.name for each in client.containers.list(all=True, filters=mine)]
    client.close()
    return found


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


def dry_run(api: httpx.Client) -> dict[str, Any]:
    """What a payment would be told now."""
    told: dict[str, Any] = api.post("/v1/fraud/score?dry_run=true", json=payment("t-9")).json()
    return told


def counted(decision: Mapping[str, Any], feature: str) -> float:
    """0 for what is not known yet."""
    return float(decision["features"][feature] or 0.0)


def product(api: httpx.Client) -> dict[str, Any]:
    """The catalogue's entry of our product."""
    (found,) = [each for each in api.get("/v1/products").json() if each["product_id"] == PRODUCT]
    return dict(found)
