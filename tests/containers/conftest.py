"""Containers for the tests that ask for them, which run last; without a Docker engine they are skipped."""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator

import pytest

from infra.settings import Settings, load
from infra.stack.probes import kafka_answers, redis_answers

SKIPPED = "skipped: no Docker engine"
REQUIRED = "TOLLGATE_REQUIRE_CONTAINERS"
"""Variable that makes a missing engine a failure: CI sets it where it has started one."""
LOCALHOST = "127.0.0.1"

KAFKA = {
    "KAFKA_HEAP_OPTS": "-Xmx448m",
    "KAFKA_NODE_ID": "1",
    "KAFKA_PROCESS_ROLES": "broker,controller",
    "KAFKA_CONTROLLER_QUORUM_VOTERS": "1@localhost:9093",
    "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
    "KAFKA_LISTENERS": "PLAINTEXT://:9092,CONTROLLER://localhost:9093",
    "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "KAFKA_AUTO_CREATE_TOPICS_ENABLE": "false",
    "KAFKA_MESSAGE_MAX_BYTES": "8388608",
    "KAFKA_REPLICA_FETCH_MAX_BYTES": "8388608",
    "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
    "KAFKA_OFFSETS_TOPIC_NUM_PARTITIONS": "8",
    "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
    "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1",
    "KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
}
"""Settings of the public image; it takes none of its own defaults once one is given."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests in containers come last: they wait longest."""
    items.sort(key=lambda item: item.get_closest_marker("containers") is not None)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say it where it is seen without asking for the reasons of skips."""
    reasons = [report.longrepr for report in terminalreporter.stats.get("skipped", [])]
    if any(isinstance(reason, tuple) and SKIPPED in reason[2] for reason in reasons):
        terminalreporter.write_line(f"tests in containers {SKIPPED}", yellow=True)


@pytest.fixture(scope="session")
def engine() -> None:
    """A Docker engine answers; else the test is skipped, or fails where an engine is required."""
    if trouble := _trouble():
        if os.environ.get(REQUIRED) == "1":
            pytest.fail(f"{REQUIRED}=1, so a Docker engine must answer: {trouble}")
        pytest.skip(SKIPPED)


@pytest.fixture(scope="session")
def stack_settings(engine: None) -> Iterator[Settings]:
    """Settings of Kafka and Redis in containers, for the same fixtures that use the local stack elsewhere."""
    from testcontainers.core.config import testcontainers_config
    from testcontainers.core.container import DockerContainer

    testcontainers_config.ryuk_disabled = True  # it would be one more image to pull; we stop what we start
    kafka_port, redis_port = free_ports(2)
    advertised = {"KAFKA_ADVERTISED_LISTENERS": f"PLAINTEXT://{LOCALHOST}:{kafka_port}"}
    kafka = DockerContainer("apache/kafka:4.1.0", env=KAFKA | advertised, mem_limit="768m")
    redis = DockerContainer("redis:8.0", command="redis-server --appendonly yes", mem_limit="256m")
    kafka.ports["9092"] = (LOCALHOST, kafka_port)
    redis.ports["6379"] = (LOCALHOST, redis_port)
    with kafka, redis:
        from tests.conftest import _first_group as first_group
        from tests.servers import until

        until(lambda: kafka_answers(kafka_port) and redis_answers(redis_port), limit_s=120, pause_s=0.2)
        first_group(f"{LOCALHOST}:{kafka_port}")
        yield _at(f"{LOCALHOST}:{kafka_port}", f"redis://{LOCALHOST}:{redis_port}/0")


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody listens on."""
    taken = [socket.create_server((LOCALHOST, 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in taken]
    for each in taken:
        each.close()
    return ports


def _trouble() -> str:
    """Why no engine answers; empty if one does."""
    if not shutil.which("docker"):
        return "there is no `docker` in PATH"
    asked = ["docker", "version", "--format", "{{.Server.Version}}"]
    told = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=False)
    return told.stderr.strip() if told.returncode else ""


def _at(kafka: str, redis: str) -> Settings:
    settings = load()
    addresses = settings.addresses.model_copy(update={"kafka": kafka, "redis": redis})
    return settings.model_copy(update={"addresses": addresses})
