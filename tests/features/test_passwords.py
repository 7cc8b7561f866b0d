"""A Redis that wants a password: our two connections and Feast sign in, strangers are told why not."""

import asyncio
from collections.abc import Callable, Iterator

import pytest

from features.connection import AsyncConnection, Connection, StoreError
from features.pricing import PRICING
from features.store import FeatureStore, feast_address
from infra.settings import with_password
from tests.servers import Servers

pytestmark = pytest.mark.servers

Ask = Callable[[str], list[object]]
PASSWORD = "p@ss/w:rd?+%# and more than 32 characters"


@pytest.fixture
def locked(servers: Servers) -> Iterator[str]:
    """Address with the password that the store wants from now on."""
    key = servers.store()
    key.execute([("CONFIG", "SET", "requirepass", PASSWORD)])
    yield with_password(servers.redis, PASSWORD)
    key.execute([("CONFIG", "SET", "requirepass", "")])


def asked(address: str) -> list[object]:
    """What a waiting connection is told."""
    connection = Connection(address)
    try:
        return connection.execute([("PING",)])
    finally:
        connection.close()


def asked_aside(address: str) -> list[object]:
    """What a connection of an event loop is told."""

    async def told() -> list[object]:
        connection = AsyncConnection(address)
        try:
            return await connection.execute([("PING",)])
        finally:
            connection.close()

    return asyncio.run(told())


both = pytest.mark.parametrize("ask", [asked, asked_aside])


@both
def test_who_has_the_password_is_let_in(locked: str, ask: Ask) -> None:
    assert ask(locked) in ([b"PONG"], ["PONG"])


@both
def test_who_has_none_or_another_is_not(servers: Servers, locked: str, ask: Ask) -> None:
    with pytest.raises(StoreError, match=r"NOAUTH|Authentication required"):
        ask(servers.redis)
    with pytest.raises(StoreError, match=r"WRONGPASS|invalid username-password"):
        ask(with_password(servers.redis, "another"))


def test_feast_signs_in(servers: Servers, locked: str) -> None:
    ours = FeatureStore(servers.home, feast_address(locked))
    ours.apply([PRICING])
    (entity,) = PRICING.entities
    field = f"{entity.view}:{entity.columns[0]}"
    found = ours.open().get_online_features(features=[field], entity_rows=[{entity.key: "nobody"}])
    assert found.to_dict()[entity.columns[0]] == [None]
