"""One real stack for all tests that ask for it, and a log and a store that are empty for each of them."""

import fcntl
import os
import random
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from infra.cli import NO_TELEMETRY
from infra.settings import Settings, load
from infra.stack.local import Stack
from infra.stack.parts import PARTS

if TYPE_CHECKING:
    from tests.servers import Servers


os.environ.update(NO_TELEMETRY)  # as the command line does, before anything imports MLflow


@pytest.fixture(scope="session")
def stack_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Settings of a stack of Kafka and Valkey on free ports in a folder of its own, gone afterwards."""
    home = tmp_path_factory.mktemp("stack") / "home"
    stack = Stack(home)
    try:
        with _in_turn(tmp_path_factory.getbasetemp().parent), _usual_ports_taken():
            stack.up(only=["kafka", "valkey"])
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("TOLLGATE_HOME", str(home))
            settings = load()
        _first_group(settings.addresses.kafka)
        yield settings
    finally:
        stack.down(purge=True)


@contextmanager
def _in_turn(folder: Path) -> Iterator[None]:
    """Tests run in several processes: one after the other looks for free ports."""
    with (folder / "ports.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _usual_ports_taken() -> Iterator[None]:
    """Keep the servers away from where processes of other stacks, even dead ones, look for their own."""
    spread = random.randrange(40, 160)
    with ExitStack() as held:
        for port in (part.port + i for part in PARTS.values() for i in range(spread)):
            with suppress(OSError):
                held.enter_context(socket.socket()).bind(("127.0.0.1", port))
        yield


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
