"""Our prepared commands and Feast's own client read and write the same bytes, both ways, for every entity."""

import math
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.connection import Connection
from features.domains import DOMAINS
from features.online import Codec, decode_stamp, encode_stamp, entity_key
from features.state import MICROSECONDS, NEVER_FOLDED, Entity, Floats, States
from features.store import POSITION, STAMP, FeatureStore
from tests.servers import Servers

ENTITIES = {each.name: each for one in DOMAINS.values() for each in one.features.entities}
every_entity = pytest.mark.parametrize("entity", ENTITIES.values(), ids=ENTITIES)

IDS = ["a", "id with spaces", "größe-\U0001f4b6", "x" * 128, "1", "a\u2028b"]
NAN = b"\x29" + struct.pack("<d", math.nan)
VALUES = [0.0, -0.0, 1.5, math.pi, 1e-300, 1e300, 5e-324, math.inf, -math.inf, math.nan]


def states_of(entity: Entity, m: int, seed: int) -> States:
    """States with the numbers that formats stumble over, NaN where a cold state has it."""
    rng = np.random.default_rng(seed)
    columns = rng.choice(VALUES, (m, len(entity.columns)))
    columns[np.isnan(columns) & ~np.isnan(entity.cold(m))] = 0.25
    stamp_us = rng.choice([1, 999_999, 1_000_000, 1_700_000_000_000_001, 4_102_444_799_999_999], m)
    return States(columns, stamp_us, rng.choice([NEVER_FOLDED, 0, 1, 127, 128, 2**31, 2**62], m))


def bits(values: Floats) -> list[list[int]]:
    found: list[list[int]] = np.ascontiguousarray(values, np.float64).view(np.int64).tolist()
    return found


@pytest.fixture
def store(servers: Servers) -> Connection:
    return servers.store()


@pytest.fixture
def feast(servers: Servers) -> Iterator[Any]:
    """Feast's own client of the generated definitions."""
    ours = FeatureStore(servers.home, servers.redis.removeprefix("redis://").removesuffix("/0"))
    ours.apply([each.features for each in DOMAINS.values()])
    return ours.open()


def written_by_us(store: Connection, entity: Entity, ids: Sequence[str], states: States) -> None:
    store.execute(Codec(entity).write(ids, states))


def written_by_feast(feast: Any, entity: Entity, ids: Sequence[str], states: States) -> None:
    rows = pd.DataFrame(dict(zip(entity.columns, states.columns.T, strict=True)))
    rows[entity.key], rows[POSITION] = list(ids), states.position
    rows[STAMP] = pd.to_datetime(states.stamp_us, unit="us", utc=True)
    feast.write_to_online_store(entity.view, rows)


@pytest.mark.servers
@every_entity
def test_feast_reads_what_we_write(feast: Any, store: Connection, entity: Entity) -> None:
    states = states_of(entity, len(IDS), seed=1)
    written_by_us(store, entity, IDS, states)
    names = [*entity.columns, POSITION]
    found = feast.get_online_features(
        features=[f"{entity.view}:{name}" for name in names],
        entity_rows=[{entity.key: each} for each in [*IDS, "nobody"]],
    ).to_dict()
    columns = np.array([found[name][:-1] for name in entity.columns], np.float64).T
    assert bits(columns) == bits(states.columns)
    assert found[POSITION][:-1] == states.position.tolist()
    assert {found[name][-1] for name in names} == {None}


@pytest.mark.servers
@every_entity
def test_we_read_what_feast_writes(feast: Any, store: Connection, entity: Entity) -> None:
    states = states_of(entity, len(IDS), seed=2)
    written_by_feast(feast, entity, IDS, states)
    codec = Codec(entity)
    found = codec.decode(store.execute([codec.read(each) for each in IDS]))
    assert bits(found.columns) == bits(states.columns)
    assert found.stamp_us.tolist() == states.stamp_us.tolist()
    assert found.position.tolist() == states.position.tolist()


@pytest.mark.servers
@every_entity
def test_the_stored_bytes_are_the_same(feast: Any, store: Connection, entity: Entity) -> None:
    """But for NaN: Feast's writer leaves such a value empty, and we read that as a cold state's."""
    states = states_of(entity, len(IDS), seed=3)
    written_by_us(store, entity, IDS, states)
    ours = {key: {f: b"" if v == NAN else v for f, v in row.items()} for key, row in stored(store).items()}
    store.execute([("FLUSHDB",)])
    written_by_feast(feast, entity, IDS, states)
    assert ours == stored(store)


def stored(store: Connection) -> dict[bytes, dict[bytes, bytes]]:
    (names,) = store.execute([("KEYS", "*")])
    replies = store.execute([("HGETALL", name) for name in names])
    return {
        name: dict(zip(reply[::2], reply[1::2], strict=True))
        for name, reply in zip(names, replies, strict=True)
    }


@pytest.mark.servers
@every_entity
def test_what_is_not_stored_is_cold(store: Connection, entity: Entity) -> None:
    codec = Codec(entity)
    found = codec.decode(store.execute([codec.read("nobody")]))
    cold = States.cold(entity, 1)
    assert bits(found.columns) == bits(cold.columns)
    assert (found.stamp_us.tolist(), found.position.tolist()) == (
        cold.stamp_us.tolist(),
        cold.position.tolist(),
    )


@pytest.mark.servers
@every_entity
def test_a_column_that_was_defined_later_is_cold(store: Connection, entity: Entity) -> None:
    states = states_of(entity, 1, seed=4)
    written_by_us(store, entity, ["a"], states)
    codec = Codec(entity)
    for column, cold in enumerate(entity.cold(1)[0]):
        written_by_us(store, entity, ["a"], states)
        store.execute([("HDEL", entity_key(entity, "a"), codec.fields[column])])
        expected = states.columns.copy()
        expected[0, column] = cold
        found = codec.decode(store.execute([codec.read("a")]))
        assert bits(found.columns) == bits(expected)
        assert found.position.tolist() == states.position.tolist()


@pytest.mark.servers
@every_entity
def test_many_are_written_and_read_as_each_alone(store: Connection, entity: Entity) -> None:
    ids, codec = [f"{i:04}" for i in range(1_000)], Codec(entity)
    states = states_of(entity, len(ids), seed=5)
    written_by_us(store, entity, ids, states)
    found = codec.decode(store.execute([codec.read(each) for each in reversed(ids)]))
    assert bits(found.columns[::-1]) == bits(states.columns)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 253_402_300_799 * MICROSECONDS))
def test_stamps_are_protobuf_timestamps(stamp_us: int) -> None:
    from google.protobuf.timestamp_pb2 import Timestamp

    seconds, micro = divmod(stamp_us, MICROSECONDS)
    expected = Timestamp(seconds=seconds, nanos=micro * 1_000).SerializeToString()
    assert encode_stamp(stamp_us) == expected
    assert decode_stamp(expected) == stamp_us


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(st.text(min_size=1, max_size=128).filter(lambda each: each.isprintable()))
def test_keys_are_feasts_own(name: str) -> None:
    from feast.infra.key_encoding_utils import serialize_entity_key
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    for entity in ENTITIES.values():
        key = EntityKey(join_keys=[entity.key], entity_values=[Value(string_val=name)])
        expected = serialize_entity_key(key, entity_key_serialization_version=3)
        assert entity_key(entity, name).startswith(expected)
