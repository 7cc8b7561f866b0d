"""One definition of every feature: request, stream, replay and Feast give the same matrix, bit for bit.

A stream of events goes through Kafka to the worker at full speed. Its decisions carry the features that the
worker used. From the history of that run we replay, with and without Feast. Then the same events go through
HTTP in the order that the log of the first run recorded for each customer and each terminal, so the features
of the answers must be those of the worker; and those of a replay of their own history, too.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import httpx
import numpy as np
import orjson
import pytest

from features.connection import Connection
from features.domains import DOMAINS
from features.fraud import FRAUD
from features.index import KnownTransaction, known_entry, known_transaction_key
from features.online import Codec
from features.replay import Replayed, matrix_of, refresh, spine
from features.state import MICROSECONDS, Floats
from features.store import FeatureStore
from ingestion.history import History
from ingestion.topics import LABELS, TRANSACTIONS
from tests.api import serving
from tests.payments import Stream, nasty, real_payments, same_bits, shuffled_bursts
from tests.servers import Servers

pytestmark = [pytest.mark.servers, pytest.mark.timeout(400)]

STREAMS = {
    "handbook": lambda: real_payments(30_000, label_delay=timedelta(days=7)),
    "handbook-labels-in-6-hours": lambda: real_payments(12_000, label_delay=timedelta(hours=6)),
    "nasty": lambda: nasty(seed=20_260_301, n=600, customers=80, terminals=50),
}
MOST_AT_ONCE = 1_000

type_of_rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Matrix:
    """Features of transactions, one row each."""

    ids: Sequence[str]
    values: Floats

    def of(self, ids: Sequence[str]) -> Floats:
        """The rows of these transactions, each of which must be there exactly once."""
        row = {name: i for i, name in enumerate(self.ids)}
        assert len(row) == len(self.ids) == len(ids)
        return self.values[[row[name] for name in ids]]


def test_the_same_matrix_on_every_path(
    servers: Servers, stream: Stream, tmp_path_factory: pytest.TempPathFactory
) -> None:
    ids = stream.transaction_ids

    for burst in bursts(stream):
        for topic in (LABELS, TRANSACTIONS):
            servers.send(topic, burst.of(topic))
    with servers.working():
        servers.settle(120)
    by_stream = decided(servers)
    history = servers.written_history()
    assert_all_equal(ids, {"stream": by_stream, **replays(servers, history)})
    order = waves(history)

    servers.clear()
    requested = Servers(servers.stack, tmp_path_factory.mktemp("requested"))
    with requested.working(), serving(requested.settings) as client:
        by_request = request(requested, client, order, stream)
    history = requested.written_history()
    again = {"request": by_request, "forwarded": decided(requested), **replays(requested, history)}
    requested.close()
    assert_all_equal(ids, {"stream": by_stream, **again})


@pytest.fixture(params=STREAMS)
def stream(request: pytest.FixtureRequest) -> Stream:
    found: Stream = STREAMS[request.param]()
    return found


def bursts(stream: Stream) -> list[Stream]:
    return shuffled_bursts(stream, seed=1, bursts=20)


def assert_all_equal(ids: Sequence[str], matrices: Mapping[str, Matrix]) -> None:
    (first, expected), *others = [(name, matrix.of(ids)) for name, matrix in matrices.items()]
    for name, found in ((name, matrix) for name, matrix in others):
        assert same_bits(found, expected), difference(ids, first, expected, name, found)


def difference(ids: Sequence[str], first: str, expected: Floats, second: str, found: Floats) -> str:
    """The first few cells that differ, by transaction and feature."""
    apart = np.argwhere(~((expected == found) | (np.isnan(expected) & np.isnan(found))))
    lines = [
        f"{ids[i]} {FRAUD.names[j]}: {first} {expected[i, j]!r}, {second} {found[i, j]!r}"
        for i, j in apart[:10]
    ]
    rows = len(set(apart[:, 0].tolist()))
    return "\n".join([f"{first} and {second} differ in {rows} rows of {len(ids)}", *lines])


def matrix_from(decisions: Sequence[Mapping[str, Any]]) -> Matrix:
    """What decisions say that they used; null is NaN."""
    values = [[decision["features"][name] for name in FRAUD.names] for decision in decisions]
    return Matrix([each["transaction_id"] for each in decisions], np.array(values, np.float64))


def decided(servers: Servers) -> Matrix:
    """(a) or (b): from the topic, where every transaction must be exactly once."""
    decisions = servers.decisions()
    assert {len(each) for each in decisions.values()} == {1}
    return matrix_from([each[0] for each in decisions.values()])


def replays(servers: Servers, history: History) -> dict[str, Matrix]:
    """(c) and (d), and the final states against those that the worker left in Valkey."""
    in_memory = matrix_of(FRAUD, history.read(TRANSACTIONS), history.read(LABELS))
    replayed = refresh(servers.home, history, "fraud")
    assert_states_equal(servers.store(), replayed)
    plain = Matrix(in_memory.ids.to_pylist(), in_memory.values)
    return {"replay": plain, "Feast": by_feast(servers)}


def by_feast(servers: Servers) -> Matrix:
    store = FeatureStore(servers.home, servers.redis.removeprefix("redis://").removesuffix("/0"))
    store.apply([domain.features for domain in DOMAINS.values()])
    rows = spine(servers.home, "fraud")
    states = {
        entity.name: store.states_at(
            entity, rows[entity.key].to_pylist(), rows[f"{entity.name}_stamp_us"].to_numpy()
        )
        for entity in FRAUD.entities
    }
    asked = {name: rows[name].to_numpy() for name in FRAUD.request}
    values = FRAUD.matrix(states, asked, rows["event_time_us"].to_numpy() / MICROSECONDS)
    return Matrix(rows["transaction_id"].to_pylist(), values)


def assert_states_equal(store: Connection, replayed: Replayed) -> None:
    for entity in FRAUD.entities:
        ids, expected = replayed.states[entity.name]
        codec = Codec(entity)
        online = codec.decode(store.execute([codec.read(each) for each in ids]))
        assert same_bits(online.columns, expected.columns)
        assert online.stamp_us.tolist() == expected.stamp_us.tolist()
        assert online.position.tolist() == expected.position.tolist()


def waves(history: History) -> list[type_of_rows]:
    """The recorded events in groups without a common customer or terminal, each entity's order kept.

    An event's group follows those of the events that came right before it at its customer and its terminal.
    """
    rows = [*history.read(TRANSACTIONS).to_pylist(), *history.read(LABELS).to_pylist()]
    lanes = [lane(rows, "customer"), lane(rows, "terminal")]
    after: dict[int, list[int]] = defaultdict(list)
    missing = [0] * len(rows)
    for each in lanes:
        for before, behind in each:
            after[before].append(behind)
            missing[behind] += 1
    groups, ready = [], [i for i, count in enumerate(missing) if not count]
    while ready:
        groups.append([rows[i] for i in ready])
        ready = list(freed(ready, after, missing))
    assert sum(map(len, groups)) == len(rows)
    return groups


def lane(rows: type_of_rows, entity: str) -> Iterator[tuple[int, int]]:
    """Pairs of rows that follow one another at the same entity, in the order of its stream."""
    order = sorted(range(len(rows)), key=lambda i: rows[i][f"{entity}_position"])
    last: dict[str, int] = {}
    for i in order:
        key = rows[i][f"{entity}_id"]
        if key in last:
            yield last[key], i
        last[key] = i


def freed(ready: Sequence[int], after: Mapping[int, list[int]], missing: list[int]) -> Iterator[int]:
    for done in ready:
        for behind in after.get(done, ()):
            missing[behind] -= 1
            if not missing[behind]:
                yield behind


def request(servers: Servers, client: httpx.Client, groups: Sequence[type_of_rows], stream: Stream) -> Matrix:
    """(a): every payment is scored by a request, after all before it at its customer and terminal."""
    events = {each["transaction_id"]: each for each in reversed(stream.of(TRANSACTIONS))}
    counted = {key(each): each for each in reversed(stream.of(LABELS))}
    announce_early_labels(servers.store(), groups)
    answers: type_of_rows = []
    for group in groups:
        paid = [events[each["transaction_id"]] for each in group if "label" not in each]
        told = [counted[key(each)] for each in group if "label" in each]
        answers += [answer for some in pieces(paid) for answer in score(client, some)]
        for some in pieces(told):
            assert client.post("/v1/labels", content=orjson.dumps(some)).status_code == 202
        servers.settle()
    once_more = list(events.values())[:: len(events) // 50]
    assert {each["transaction_id"]: each for each in score(client, once_more)}.items() <= {
        each["transaction_id"]: each for each in answers
    }.items()
    servers.settle()
    return matrix_from(answers)


def announce_early_labels(store: Connection, groups: Sequence[type_of_rows]) -> None:
    """Let labels that were folded before their own payments be so again.

    The stream's router had seen both; over HTTP the payment comes later, and its label would wait for it.
    """
    group_of = {
        each["transaction_id"]: n for n, group in enumerate(groups) for each in group if "label" not in each
    }
    early = [
        each for n, group in enumerate(groups) for each in group
        if "label" in each and n <= group_of[each["transaction_id"]]
    ]  # fmt: skip
    names = ("customer_id", "terminal_id", "paid_at_us", "amount")
    store.execute(
        [
            (
                "SET",
                known_transaction_key(each["transaction_id"]),
                known_entry(KnownTransaction(*(each[n] for n in names))),
            )
            for each in early
        ]
    )


def pieces(events: Sequence[Any]) -> list[Sequence[Any]]:
    """As many at once as a call takes."""
    return [events[at : at + MOST_AT_ONCE] for at in range(0, len(events), MOST_AT_ONCE)]


def key(told: Mapping[str, Any]) -> tuple[str, str, str]:
    """Of a label, which counts once."""
    return told["transaction_id"], told["source"], told["label"]


def score(client: httpx.Client, payments: Sequence[Mapping[str, Any]]) -> type_of_rows:
    answer = client.post("/v1/fraud/score/batch", content=orjson.dumps(payments))
    assert answer.status_code == 200, answer.text
    found: type_of_rows = orjson.loads(answer.content)
    return found
