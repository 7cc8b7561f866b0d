"""`tollgate forget`: one person is nowhere any more, everybody else is as before, bit for bit."""

import json
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis

from features import replay
from features.connection import Connection
from features.domains import DOMAINS
from features.fraud import CUSTOMER
from features.online import entity_key
from features.pause import PAUSE
from infra import cli, progress
from infra.errors import UserError
from infra.settings import Settings
from ingestion import history_files, tables
from ingestion.commands import without_forgotten
from ingestion.file_source import PastEvents
from ingestion.forgotten import Forgotten
from ingestion.historian import Historian, Progress
from ingestion.history import History
from ingestion.tables import DECISIONS, LABELS, SCORES, TRANSACTIONS, completed
from ingestion.topics import CUSTOMER_STREAM, TERMINAL_STREAM
from ingestion.topics import LABELS as LABELS_TOPIC
from ingestion.topics import TRANSACTIONS as TRANSACTIONS_TOPIC
from serving import forget_command, forgetting
from serving.forget_command import Done
from serving.ownership import heartbeat_key
from tests.api import serving
from tests.payments import START, label, payment
from tests.servers import HISTORY_TOPICS, Keyed, until

pytestmark = [pytest.mark.servers, pytest.mark.slow]

KEY = "k" * 43
WHO = "customer-to-forget"
DEAR = 5_000.0
"""So dear that the settings' first rule wants a review."""

type_of_image = Mapping[str, Any]


@pytest.fixture(params=[[KEY], []], ids=["keyed", "plain"])
def servers(request: pytest.FixtureRequest, stack_settings: Settings, tmp_path: Path) -> Iterator[Keyed]:
    empty = Keyed(stack_settings, tmp_path / "home", keys=request.param)
    empty.clear()
    yield empty
    empty.close()


def events() -> list[tuple[str, Mapping[str, Any]]]:
    """Payments of three people at two terminals on three days, some of them dear; labels a day later."""
    sent: list[tuple[str, Mapping[str, Any]]] = []
    for i in range(60):
        at = START + timedelta(hours=i)
        person, name = (WHO, "c-1", "c-12")[i % 3], f"t-{i}"
        paid = payment(
            name, at, person, f"m-{i % 2}", DEAR if i % 10 == 0 else 10.0 + i, device_id=f"d-{person}"
        )
        sent.append((TRANSACTIONS_TOPIC, {**paid, "ip": f"203.0.113.{i % 3}"}))
        if i % 4 == 0 and i % 10:
            sent.append((LABELS_TOPIC, label(name, at + timedelta(days=1), fraud=i % 8 == 0)))
    return sent


def lived(servers: Keyed) -> History:
    """A system in which three people paid, by the stream and over HTTP, with files made of its history."""
    for topic, event in events():
        servers.send(topic, [event])
    with servers.working(), serving(servers.settings) as client:
        servers.settle()
        paid = payment("t-http", START + timedelta(days=4), WHO, "m-0", DEAR)
        assert client.post("/v1/fraud/score", json=paid).status_code == 200
        until(lambda: client.get("/v1/decisions/t-http").status_code == 200)
        verdict = {"label": "fraud", "note": "talked to them", "analyst": "ada"}
        for name in ("t-http", "t-10"):  # the second is another's
            assert client.post(f"/v1/reviews/{name}/verdict", json=verdict).status_code == 202
        servers.settle()
    written = History(servers.settings.history)
    historian = Historian(written, Forgotten(servers.settings.forgotten))
    write_history(servers, historian)
    for name in DOMAINS:
        replay.refresh(servers.home, written, name)
    shadow_scores(servers.home, written)
    rejects = servers.home / "rejects" / "file.csv"
    rejects.parent.mkdir()
    rejects.write_text(f"row,reason\n1,customer_id: expected another, came {WHO}\n2,customer_id: came c-1\n")
    return written


def write_history(servers: Keyed, historian: Historian) -> None:
    """What the history process does of everything there is, and how far it says that it came."""
    historian.take(list(servers._read(HISTORY_TOPICS)))
    assert not historian.rejected
    Progress(servers.settings.history).reached(historian.flush())


def shadow_scores(home: Path, history: History) -> None:
    ids = history.read(DECISIONS)["transaction_id"]
    rows = pa.table(
        {
            "id": ids,
            "event_time_us": history.read(DECISIONS)["event_time_us"],
            "score": pa.array([0.5] * len(ids)),
            "partition": pa.array([0] * len(ids)),
            "position": pa.array(range(len(ids))),
        }
    )
    History(home / "shadow" / "fraud" / "3").append(SCORES, completed(SCORES, rows))


def run(servers: Keyed) -> Done:
    return forget_command.run(servers.settings, WHO, progress.Silent())


def image_of_redis(url: str) -> dict[bytes, Any]:
    """Everything in Redis, without the times when it expires."""
    store = redis.Redis.from_url(url)
    reads = {b"string": store.get, b"hash": store.hgetall, b"list": lambda key: store.lrange(key, 0, -1)}
    reads[b"zset"] = lambda key: store.zrange(key, 0, -1, withscores=True)
    found = {key: reads[store.type(key)](key) for key in store.scan_iter()}
    store.close()
    return {key: each for key, each in found.items() if not key.startswith(b"tollgate:")}


def image_of_files(home: Path) -> dict[str, pa.Table]:
    """Every Parquet file, decoded, with what it says about itself."""
    return {str(file.relative_to(home)): pq.read_table(file) for file in sorted(home.rglob("*.parquet"))}


def others(rows: pa.Table, names: set[str], ids: set[str]) -> pa.Table:
    for column, gone in (("customer_id", names), ("transaction_id", ids), ("id", ids)):
        if column in rows.column_names:
            rows = rows.filter(pa.array([each not in gone for each in rows[column].to_pylist()], pa.bool_()))
    return rows


def same(one: pa.Table, other: pa.Table) -> bool:
    """Bit for bit: NaN is NaN."""
    return one.schema.equals(other.schema, check_metadata=True) and [
        repr(each) for each in one.to_pylist()
    ] == [repr(each) for each in other.to_pylist()]


def their_ids() -> set[str]:
    return {
        event["transaction_id"]
        for topic, event in events()
        if topic == TRANSACTIONS_TOPIC and event["customer_id"] == WHO
    } | {"t-http"}


def their_names(servers: Keyed) -> set[str]:
    return set(forget_command.Pseudonyms.by(servers.settings.privacy).chain("customer_id", WHO))


def assert_forgotten(servers: Keyed, before: tuple[dict[bytes, Any], dict[str, pa.Table]]) -> None:
    """They are nowhere, and what was there of others before is there now."""
    names, ids = their_names(servers), their_ids()
    redis_now, files_now = image_of_redis(servers.redis), image_of_files(servers.home)
    for key, value in redis_now.items():
        assert not any(name.encode() in key or name.encode() in repr(value).encode() for name in names), key
    for name, rows in files_now.items():
        assert same(rows, others(before[1][name], names, ids)), name
        assert same(rows, others(rows, names, ids)), name
    assert files_now.keys() == before[1].keys()
    for file in servers.home.rglob("*"):
        assert not file.is_file() or not any(name.encode() in file.read_bytes() for name in names), file

    lost = {key for key in before[0] if key not in redis_now}
    tagged = {each.encode() for each in ids}
    state_keys = {entity_key(CUSTOMER, name) for name in names}
    assert [key for key in lost if key not in state_keys and not set(key.split(b":")) & tagged] == []
    for key, value in redis_now.items():
        was = before[0][key]
        if key.startswith(b"reviews:"):
            was = [entry for entry in was if entry[0] not in tagged]
        assert value == was, key


def test_one_is_gone_and_all_others_are_as_before(servers: Keyed, capsys: pytest.CaptureFixture[str]) -> None:
    lived(servers)
    names = their_names(servers)
    before = image_of_redis(servers.redis), image_of_files(servers.home)
    assert entity_key(CUSTOMER, sorted(names)[-1]) in before[0]
    assert any(name.encode() in repr(before[0]).encode() for name in names)
    done = run(servers)
    assert done.found == []
    assert done.payments == len(their_ids())
    assert done.removed[TRANSACTIONS] == done.removed[DECISIONS] == len(their_ids())
    assert done.removed[LABELS] > 1
    assert done.removed["shadow_scores"] == len(their_ids())
    assert done.removed["states"] > len(their_ids())
    assert done.removed["texts"] == 1
    assert_forgotten(servers, before)

    with pytest.MonkeyPatch.context() as patched:
        servers.tell(patched)
        assert cli.run(["forget", WHO, "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["found"] == []
    assert again["payments"] == sum(again["removed"].values()) == 0
    assert min(again["searched"].values()) > 0
    assert_forgotten(servers, before)


def test_a_name_that_is_left_somewhere_is_told_and_fails(
    servers: Keyed, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it is in: a file that is nobody's, a Parquet file, a key of Redis."""
    servers.tell(monkeypatch)
    name = sorted(their_names(servers))[-1]
    (servers.home / "mine").mkdir(parents=True)
    (servers.home / "mine" / "notes.bin").write_bytes(b"\0\xff " + name.encode() + b"\n")
    pq.write_table(pa.table({"customer_id": [name], "n": [1]}), servers.home / "mine" / "rows.parquet")
    pq.write_table(pa.table({"told": [f"it was {name}."]}), servers.home / "mine" / "words.parquet")
    pq.write_table(pa.table({"told": [f"it was {name}0."]}), servers.home / "mine" / "another.parquet")
    servers.store().execute([("RPUSH", "somewhere", "x", f'{{"who": "{name}"}}'), ("SET", f"of:{name}", 1)])
    servers.store().execute([("HSET", "table", "f", name), ("ZADD", "order", 1, name), ("SADD", "set", name)])
    assert cli.run(["forget", WHO]) == 1
    told = capsys.readouterr()
    assert "found in 8 places" in told.out
    assert "still found" in told.err
    assert "another.parquet" not in told.err


@pytest.mark.parametrize("servers", [[KEY]], indirect=True, ids=["keyed"])
def test_killed_at_any_step_it_is_finished_by_the_next(
    servers: Keyed, monkeypatch: pytest.MonkeyPatch
) -> None:
    lived(servers)
    before = image_of_redis(servers.redis), image_of_files(servers.home)
    for steps in range(1, 40):
        if not killed(servers, steps, monkeypatch):
            break
    assert steps > 10
    assert run(servers).found == []
    assert_forgotten(servers, before)


def test_what_the_log_still_has_of_them_does_not_come_back(servers: Keyed) -> None:
    for topic, event in events()[:40]:
        servers.send(topic, [event])
    with servers.working():
        servers.settle()
    write_history(servers, Historian(History(servers.settings.history)))
    for topic, event in events()[40:]:  # nobody has read these yet
        servers.send(topic, [event])
    assert run(servers).found == []
    forgotten = Forgotten(servers.settings.forgotten)
    for group in ("tollgate-workers", "another-that-begins-with-the-first"):
        with servers.working(servers.worker(group)):
            servers.settle(group=group)
        again = History(servers.home / f"history of {group}")
        write_history(servers, Historian(again, forgotten))
        assert_absent(servers, again)
    assert again.read(TRANSACTIONS).num_rows == 40
    assert len(servers.decisions().keys() - their_ids()) == 40


@pytest.mark.parametrize("stream", [CUSTOMER_STREAM, TERMINAL_STREAM])
def test_what_is_under_way_between_stages_does_not_come_back(servers: Keyed, stream: str) -> None:
    for topic, event in events():
        servers.send(topic, [event])
    worker = servers.worker()
    until(lambda: worker.turn(50) or servers.records(stream), pause_s=0)
    worker._consumer.close()
    servers.store().execute([("DEL", heartbeat_key(worker._name))])
    history = History(servers.settings.history)
    write_history(servers, Historian(history))
    assert run(servers).found == []
    with servers.working():
        servers.settle()
    write_history(servers, Historian(history, Forgotten(servers.settings.forgotten)))
    assert_absent(servers, history)
    assert len(set(servers.decisions()) - their_ids()) == 40


def test_who_comes_later_is_new(servers: Keyed) -> None:
    assert run(servers).found == []
    paid = payment("t-later", START, WHO, "m-0", 10.0)
    with servers.working():
        servers.send(TRANSACTIONS_TOPIC, [paid])
        servers.settle()
    again = History(servers.home / "later")
    write_history(servers, Historian(again, Forgotten(servers.settings.forgotten)))
    assert again.read(TRANSACTIONS)["transaction_id"].to_pylist() == ["t-later"]


def test_a_file_of_the_time_before_does_not_bring_them_back(servers: Keyed) -> None:
    run(servers)
    rows = completed(
        TRANSACTIONS,
        pa.table(
            {
                "transaction_id": ["t-1", "t-2", "t-3"],
                "customer_id": [WHO, "c-1", WHO],
                "event_time_us": [1_700_000_000_000_000, 1_700_000_000_000_001, 4_000_000_000_000_000],
            }
        ),
    )
    past = PastEvents(rows, tables.empty(LABELS), pa.table({}), 0)
    kept = without_forgotten(servers.settings, past).decided
    assert kept["transaction_id"].to_pylist() == ["t-2", "t-3"]
    assert (WHO in kept["customer_id"].to_pylist()) == (not servers.keys)


def test_it_is_refused_while_the_history_lacks_something(
    servers: Keyed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("features.commands.CATCH_UP_S", 0.5)
    servers.send(TRANSACTIONS_TOPIC, [payment("t-1", START, WHO, "m-0", 10.0)])
    with servers.working():
        servers.settle()
    with pytest.raises(UserError, match="the history lacks"):
        run(servers)
    assert not servers.settings.forgotten.exists()


def assert_absent(servers: Keyed, history: History) -> None:
    names, ids = their_names(servers), their_ids()
    for key, value in image_of_redis(servers.redis).items():
        assert not any(name.encode() in repr((key, value)).encode() for name in names), key
    for table in (TRANSACTIONS, LABELS, DECISIONS):
        rows = history.read(table)
        assert same(rows, others(rows, names, ids))


class Killed(BaseException):
    """As by a signal: nothing is caught or cleaned up."""


def killed(servers: Keyed, after: int, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Begin, and die at a write, whichever it is; whether it came so far."""
    left = [after]

    def counted(real: Any) -> Any:
        def step(*arguments: Any, **options: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return real(*arguments, **options)

        return step

    with monkeypatch.context() as patched:
        patched.setattr(history_files, "_write", counted(history_files._write))
        patched.setattr(replay, "_without", counted(replay._without))
        patched.setattr(forgetting, "_starred", counted(forgetting._starred))
        real = Connection.execute

        def execute(self: Connection, commands: Any) -> Any:
            writes = any(isinstance(each, tuple) and each[0] in ("DEL", "ZREM") for each in commands)
            pause = any(isinstance(each, tuple) and each[1:] == (PAUSE,) for each in commands)
            return counted(real)(self, commands) if writes and not pause else real(self, commands)

        patched.setattr(Connection, "execute", execute)
        try:
            run(servers)
        except Killed:
            return True
        return False
