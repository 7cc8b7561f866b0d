"""Hostile records in the real topics, a real worker and historian behind them: taken, or dead letters.

`TOLLGATE_EVENTS` says how many; without it, few. Half of what is drawn for a topic fits its events.
"""

import json
import os
from collections import Counter
from collections.abc import Iterator

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from ingestion.broker import Consumer, Producer
from ingestion.historian import DecisionRecord
from ingestion.topics import DECISIONS, EVENT_TYPES, dead_letters
from tests.fuzz.conftest import SEED, System
from tests.hostile import bodies
from tests.payments import START, payment
from tests.servers import Servers, until

pytestmark = [pytest.mark.servers, pytest.mark.slow]
EVENTS = int(os.environ.get("TOLLGATE_EVENTS", "3000"))
AT_ONCE = 20
TYPES = {**EVENT_TYPES, DECISIONS: DecisionRecord}
HEADERS = ("decision", "place", "", "error", "masked")


@pytest.fixture
def producer(system: System) -> Iterator[Producer]:
    opened = Producer(system.settings.addresses.kafka, linger_ms=20)
    yield opened
    opened.close()


def ends(system: System, topics: list[str]) -> Counter[str]:
    """Records that each topic has taken."""
    consumer = Consumer(system.settings.addresses.kafka, topics, group=None)
    until(lambda: consumer.poll(50) or consumer.assignment())
    found: Counter[str] = Counter()
    for partition, end in consumer.ends(consumer.assignment()).items():
        found[partition.topic] += end
    consumer.close()
    return found


def answered(system: System, path: str) -> int:
    """Status of a call."""
    key = {"Authorization": f"Bearer {system.key}"}
    return httpx.get(system.address + path, headers=key, timeout=30).status_code


def test_whatever_lies_in_the_topics_nobody_dies(system: System, producer: Producer) -> None:
    sent: Counter[str] = Counter()
    headers = st.lists(st.tuples(st.sampled_from(HEADERS), st.binary(max_size=30)), max_size=2)
    for topic, model in TYPES.items():
        schema = TypeAdapter(model).json_schema()
        values = bodies(schema, schema.get("$defs", {}))

        @seed(SEED)
        @settings(
            max_examples=max(1, EVENTS // len(TYPES) // AT_ONCE),
            phases=[Phase.generate],
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(
            st.lists(values, min_size=AT_ONCE, max_size=AT_ONCE), st.none() | st.binary(max_size=9), headers
        )
        def tried(some: list[bytes], key: bytes | None, with_headers: list[tuple[str, bytes]]) -> None:
            for value in some:
                producer.send(topic, value, key, with_headers)  # noqa: B023
                sent[topic] += 1  # noqa: B023

        tried()
        producer.flush()
    good = payment("t-good", START, "c-good", "m-good", 12.5)
    producer.send("transactions", json.dumps(good).encode(), b"c-good")
    producer.flush()
    servers = Servers(system.settings, system.settings.home)
    try:
        servers.settle(limit_s=600)
        until(lambda: answered(system, "/v1/decisions/t-good") == 200, limit_s=120)
    finally:
        servers.close()
    letters = ends(system, [dead_letters(topic) for topic in TYPES])
    for topic in TYPES:
        print(f"{topic:14} seed {SEED} sent {sent[topic]:7} dead letters {letters[dead_letters(topic)]:7}")  # noqa: T201
        until(lambda: 0 < ends(system, [dead_letters(topic)])[dead_letters(topic)] < sent[topic], 60)  # noqa: B023
    assert sum(sent.values()) >= EVENTS // len(TYPES) // AT_ONCE * AT_ONCE * len(TYPES)
    system.unharmed()
