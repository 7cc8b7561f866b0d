"""One real stack for all tests that ask for it, and a log and a store that are empty for each of them."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from infra.cli import NO_TELEMETRY
from infra.settings import Neighbours, Settings, load
from tests.stacks import running

if TYPE_CHECKING:
    from tests.servers import Servers


PATIENT = Neighbours(store_ms=2_000.0, acknowledge_ms=5_000.0, accept_s=10.0)
"""A machine that runs many tests at once may be slow: only the tests of outages want an impatient API."""

os.environ.update(NO_TELEMETRY)  # as the command line does, before anything imports MLflow


@pytest.fixture(scope="session")
def stack_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Settings of a stack of Kafka and Valkey on free ports in a folder of its own, gone afterwards."""
    home = tmp_path_factory.mktemp("stack") / "home"
    with running(home, ["kafka", "valkey"]):
        settings = _settings(home)
        _first_group(settings.addresses.kafka)
        yield settings


@pytest.fixture(scope="module")
def mlflow_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Home of a real MLflow server that knows nothing before the module's first test."""
    home = tmp_path_factory.mktemp("mlflow") / "home"
    with running(home, ["mlflow"]):
        yield home


@pytest.fixture(scope="module")
def mlflow(mlflow_home: Path) -> str:
    """Its address."""
    return _settings(mlflow_home).addresses.mlflow


def _settings(home: Path) -> Settings:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("TOLLGATE_HOME", str(home))
        return load().model_copy(update={"neighbours": PATIENT})


def _first_group(kafka: str) -> None:
    """The broker makes its own topic for groups when the first one asks; nobody shall wait for it later."""
    from ingestion.broker import Consumer, create_topics

    create_topics(kafka, ["first"], partitions=1)
    consumer = Consumer(kafka, ["first"], group="first")
    while not consumer.assignment():
        consumer.poll(wait_ms=100)
    consumer.close()


@pytest.fixture
def servers(stack_settings: Settings, tmp_path: Path) -> Iterator["Servers"]:
    """The servers with nothing in them: new topics, no groups, an empty store, an empty home folder."""
    from tests.servers import Servers  # only who asks for servers waits for Kafka's client to load

    empty = Servers(stack_settings, tmp_path / "home")
    empty.clear()
    yield empty
    empty.close()
