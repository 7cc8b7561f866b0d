"""The online store is Feast's own: what we write any Feast client reads, and the other way round."""

import asyncio
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from features.connection import AsyncConnection
from features.fraud import CUSTOMER, FRAUD, TERMINAL
from features.online import Codec
from features.pricing import PRICING, PRODUCT
from features.state import Entity, States
from features.store import POSITION, STAMP, FeatureStore, feast_address
from tests.servers import Servers

if TYPE_CHECKING:
    from feast import FeatureStore as Feast

pytestmark = pytest.mark.containers

ENTITIES = pytest.mark.parametrize("entity", [CUSTOMER, TERMINAL, PRODUCT], ids=lambda each: each.name)
IDS = ["c-1", "ü-2", "3 and more"]


@pytest.fixture
def feast(servers: Servers, tmp_path: Path) -> "Feast":
    """Feast over an empty store, with our views registered."""
    store = FeatureStore(tmp_path, feast_address(servers.redis))
    store.apply([FRAUD, PRICING])
    return store.open()


@ENTITIES
def test_feast_reads_what_we_write(servers: Servers, feast: "Feast", entity: Entity) -> None:
    states = some_states(entity)
    servers.store().execute(Codec(entity).write(IDS, states))
    fields = [f"{entity.view}:{name}" for name in (*entity.columns, POSITION)]
    rows = [{entity.key: each} for each in [*IDS, "unknown"]]
    read = feast.get_online_features(features=fields, entity_rows=rows).to_df()
    assert read[list(entity.columns)].to_numpy(np.float64)[:-1].tobytes() == states.columns.tobytes()
    assert read[POSITION].tolist()[:-1] == states.position.tolist()
    assert read.iloc[-1][list(entity.columns)].isna().all()


@ENTITIES
def test_we_read_what_feast_writes(servers: Servers, feast: "Feast", entity: Entity) -> None:
    states = some_states(entity)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Feast's own
        feast.write_to_online_store(entity.view, _rows(entity, states))
    codec = Codec(entity)
    assert_equal(codec.decode(servers.store().execute([codec.read(each) for each in IDS])), states)


@ENTITIES
def test_concurrent_requests_on_one_socket_get_their_own_answers(servers: Servers, entity: Entity) -> None:
    states, codec = some_states(entity), Codec(entity)

    async def asked() -> list[list[object]]:
        connection = AsyncConnection(servers.redis)
        await connection.execute(codec.write(IDS, states))
        replies = await asyncio.gather(*(connection.execute([codec.read(each)]) for each in IDS * 50))
        connection.close()
        return [reply for (reply,) in replies]

    replies = asyncio.run(asked())
    for start in range(0, len(replies), len(IDS)):
        assert_equal(codec.decode(replies[start : start + len(IDS)]), states)


def some_states(entity: Entity) -> States:
    """States of every kind of number there is, NaN included."""
    states = States.cold(entity, len(IDS))
    numbers = np.random.default_rng(7)
    states.columns[:] = numbers.normal(0, 1e6, states.columns.shape)
    states.columns[1, :4] = [np.nan, -0.0, 5e-324, 1.7976931348623157e308]
    states.position[:] = [0, 2**40, -1]
    states.stamp_us[:] = [1_760_000_000_000_001, 1_760_000_000_000_000, 1_600_000_000_999_999]
    return states


def assert_equal(read: States, states: States) -> None:
    assert read.columns.tobytes() == states.columns.tobytes()
    assert read.position.tolist() == states.position.tolist()
    assert read.stamp_us.tolist() == states.stamp_us.tolist()


def _rows(entity: Entity, states: States) -> pd.DataFrame:
    columns = dict(zip(entity.columns, states.columns.T, strict=True))
    stamps = pd.to_datetime(states.stamp_us, unit="us", utc=True)
    return pd.DataFrame({entity.key: IDS, STAMP: stamps, **columns, POSITION: states.position})
