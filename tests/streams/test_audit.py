"""`tollgate audit`: true of a system that ran well, and it finds each planted fault."""

import json
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.fraud import CUSTOMER
from features.online import Codec, entity_key, field_name
from infra import cli, progress
from infra.errors import UserError
from ingestion.broker import Producer
from ingestion.historian import TOPICS, Progress
from ingestion.history import History
from ingestion.streams import COUNTED_PRODUCT_EVENT, decode
from ingestion.tables import LABELS as LABELS_TABLE
from ingestion.tables import TRANSACTIONS as TRANSACTIONS_TABLE
from ingestion.topics import DECISIONS, LABELS, OUTCOMES, PLACE, PRODUCT_COUNTED, QUOTES, TRANSACTIONS
from serving import audit_command
from serving.audit_command import Audited
from tests.api import serving
from tests.payments import START, label, payment
from tests.servers import Breaking, DiedError, Servers, until

pytestmark = [pytest.mark.servers, pytest.mark.slow]

PAYMENTS = 60
QUOTE = {
    "event_time": "2024-03-01T12:00:00Z", "product_id": "p-1", "segment": "web", "price": 49.0,
    "list_price": 49.0, "unit_cost": 28.0,
    "currency": "EUR", "objective": "margin", "exploration": False, "propensity": 1.0, "model": {},
}  # fmt: skip


def test_a_healthy_system(servers: Servers, tmp_path: Path) -> None:
    lived(servers)
    accepted = tmp_path / "accepted.jsonl"
    accepted.write_text(
        "\n".join(json.dumps({"topic": TRANSACTIONS, "id": f"t-{i}"}) for i in range(PAYMENTS)), "utf-8"
    )
    found = audited(servers, audit_command._listed(accepted))
    assert found.differences == {}, found.first
    assert found.sent == {TRANSACTIONS: PAYMENTS, LABELS: 22, QUOTES: 3, OUTCOMES: 3}
    assert found.sent_again == {TRANSACTIONS: 2, LABELS: 1, QUOTES: 2, OUTCOMES: 1}
    assert found.rejected == {TRANSACTIONS: 1, LABELS: 0, QUOTES: 0, OUTCOMES: 0}
    assert (found.waiting[LABELS], found.waiting[OUTCOMES]) == (1, 1)
    assert (found.decided, found.accepted) == (PAYMENTS, PAYMENTS)
    assert found.states == {"customer": 5, "terminal": 3, "product": 1}


def test_each_planted_fault_is_found(
    servers: Servers, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    history = lived(servers)
    with changed_bit(servers):
        assert differences(servers) == {"customer states": 1}
    with without_a_file(servers, TRANSACTIONS_TABLE) as rows:
        lost = differences(servers)
        assert lost["transactions lost"] == rows
        assert lost["customer states"]
        assert lost["terminal states"]
    with a_row_twice(servers, history, LABELS_TABLE):
        assert differences(servers)["labels doubled"] == 1
    with without_a_file(servers, "decisions") as rows:
        assert differences(servers) == {"decisions in the history lost": rows}
    with without_orphans(servers):
        assert differences(servers) == {"labels lost": 1}
    with a_strange_customer(servers):
        assert differences(servers) == {"customer states": 1}
    assert differences(servers, [(TRANSACTIONS, "t-never")], patience_s=0) == {
        "accepted transactions lost": 1
    }
    servers.tell(monkeypatch)
    with changed_bit(servers):
        assert cli.run(["audit"]) == 1
    shown = capsys.readouterr()
    assert "customer states: c-1: expected" in shown.out
    assert "1 customer states" in shown.err
    assert cli.run(["audit", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["differences"] == {}


def test_what_a_dying_worker_sent_twice_counts_once(servers: Servers) -> None:
    """Redis takes any first part of its writes, after the streams have all: so they get more again."""
    lived(servers)
    servers.send(QUOTES, [QUOTE | {"quote_id": f"r-{i}"} for i in range(200)])
    for writes in (0, 5, 100, 30):
        worker = servers.worker()
        worker._store = Breaking(servers.redis, writes)
        limit = time.monotonic() + 60
        with pytest.raises(DiedError):
            worker.run(lambda limit=limit: time.monotonic() > limit, wait_ms=20)  # type: ignore[misc]
    with servers.working():
        servers.settle()
    history = write_history(servers)
    assert history.read(QUOTES).num_rows == 203 < rows_sent(servers)
    found = audited(servers)
    assert found.differences == {}, found.first


def test_rebuild_brings_back_what_waited_for_a_transaction_in_an_emptied_redis(
    servers: Servers, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lived(servers)
    servers.store().execute([("FLUSHALL",)])
    servers.send(LABELS, [label("t-40", START + timedelta(days=4), fraud=True)])
    servers.send(OUTCOMES, outcomes(2))
    with servers.working():
        servers.settle()
    write_history(servers)
    assert {"labels lost", "outcomes lost"} < differences(servers).keys()
    servers.tell(monkeypatch)
    assert cli.run(["rebuild", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sent_again"] == 2
    with servers.working():
        servers.settle()
    write_history(servers)
    assert differences(servers) == {
        "labels lost": 1,
        "outcomes lost": 1,
    }  # of what has not come, and was flushed


def test_the_settings_products_come_back_to_an_emptied_redis(servers: Servers) -> None:
    with serving(servers.settings) as client:
        until(lambda: client.get("/v1/products").json())
        before = client.get("/v1/products").json()
        servers.store().execute([("FLUSHALL",)])
        asked = {"quote_id": "q-1", "event_time": QUOTE["event_time"], "product_id": "p-1", "context": {}}
        assert client.post("/v1/prices/quote", json=asked).status_code == 200, "it is known by heart"
        until(lambda: client.get("/v1/products").json() == before, limit_s=20)


def test_a_decision_said_again_is_counted_and_another_one_is_found(servers: Servers) -> None:
    lived(servers)
    decision = servers.records(DECISIONS)[0]
    producer = Producer(servers.kafka)
    producer.send(DECISIONS, decision.value, decision.key, decision.headers)
    producer.flush()
    with pytest.raises(UserError, match="the history lacks 1 messages"):
        audited(servers, patience_s=0)
    write_history(servers)
    found = audited(servers)
    assert (found.differences, found.decisions_repeated) == ({}, 1)
    producer.send(DECISIONS, decision.value, decision.key, [(PLACE, b"0:999")])
    producer.flush()
    producer.close()
    write_history(servers)
    assert differences(servers) == {"transactions decided again": 1}
    servers.send(TRANSACTIONS, [payment("t-new", START, "c-1", "m-1", 1.0)])
    with pytest.raises(UserError, match="the workers have 1 records to do in transactions"):
        audited(servers, patience_s=0)


def test_it_ends_though_events_never_stop(servers: Servers) -> None:
    """What is in the way is done, but while the log is read another payment comes."""
    lived(servers)

    class Restless(progress.Silent):
        sent = 0

        def say(self, note: str) -> None:
            if note == "read the log":
                self.sent += 1
                servers.send(TRANSACTIONS, [payment(f"t-late-{self.sent}", START, "c-1", "m-1", 1.0)])
                servers.settle()
                write_history(servers)

    began, restless = time.monotonic(), Restless()
    with servers.working(), pytest.raises(UserError, match="events still came after 3 s"):
        audit_command.run(servers.settings, restless, patience_s=3)
    assert restless.sent > 1, "it did not try again while it had patience"
    assert time.monotonic() - began < 30


def quotes(n: int) -> list[dict[str, Any]]:
    return [QUOTE | {"quote_id": f"q-{i}"} for i in range(n)]


def outcomes(*of: int) -> list[dict[str, Any]]:
    """The same quote may be told of twice: its first outcome counts."""
    sold = {"event_time": "2024-03-01T13:00:00Z"}
    return [sold | {"quote_id": f"q-{i}", "units": number} for number, i in enumerate(of)]


def lived(servers: Servers) -> History:
    """A system with payments (two twice, one bad), labels, quotes and outcomes (one of each too early)."""
    paid = [
        payment(f"t-{i}", START + timedelta(minutes=i), f"c-{i % 5}", f"m-{i % 3}", 10.0 + i)
        for i in range(PAYMENTS)
    ]
    told = [label(f"t-{i}", START + timedelta(days=1, minutes=i), fraud=i % 2 == 0) for i in range(20)]
    again = (
        label("t-1", START + timedelta(days=2), fraud=True),
        label("t-1", START + timedelta(days=3), fraud=False),
    )
    early = label("t-not-yet", START + timedelta(days=1), fraud=True)
    servers.send(TRANSACTIONS, [*paid, *paid[:2], dict(paid[0]) | {"transaction_id": "t-bad", "amount": -1}])
    servers.send(LABELS, [*told, *again, early])
    servers.send(QUOTES, [*quotes(3), *quotes(2)])
    servers.send(OUTCOMES, outcomes(0, 1, 7, 1))
    with servers.working():
        servers.settle()
    return write_history(servers)


def rows_sent(servers: Servers) -> int:
    """Quotes and outcomes on their way to the history, those that come again too."""
    return sum(
        decode(record.value or b"", COUNTED_PRODUCT_EVENT).num_rows
        for record in servers.records(PRODUCT_COUNTED)
    )


def write_history(servers: Servers) -> History:
    """What the history process does with all there is."""
    history = servers.written_history()
    reader = audit_command._reader(servers.settings, TOPICS)
    Progress(servers.settings.history).reached(reader.ends(reader.assignment()))
    reader.close()
    return history


def audited(
    servers: Servers, accepted: list[tuple[str, str]] | None = None, patience_s: float = 20
) -> Audited:
    return audit_command.run(servers.settings, progress.Silent().task(""), accepted or [], patience_s)


def differences(
    servers: Servers, accepted: list[tuple[str, str]] | None = None, patience_s: float = 20
) -> Mapping[str, int]:
    return audited(servers, accepted, patience_s).differences


@contextmanager
def changed_bit(servers: Servers) -> Iterator[None]:
    """The last bit of one number of one customer is another."""
    store, key = servers.store(), entity_key(CUSTOMER, "c-1")
    name = field_name(CUSTOMER.view, CUSTOMER.columns[3])
    (value,) = store.execute([("HGET", key, name)])
    store.execute([("HSET", key, name, value[:1] + bytes([value[1] ^ 1]) + value[2:])])
    yield
    store.execute([("HSET", key, name, value)])


@contextmanager
def a_strange_customer(servers: Servers) -> Iterator[None]:
    store, codec = servers.store(), Codec(CUSTOMER)
    states = codec.decode(store.execute([codec.read("c-1")]))
    store.execute(codec.write(["c-nobody"], replace(states)))
    yield
    store.execute([("DEL", entity_key(CUSTOMER, "c-nobody"))])


@contextmanager
def without_orphans(servers: Servers) -> Iterator[None]:
    """The label that waits for its payment waits no more."""
    store = servers.store()
    store.execute([("RENAME", "orphans:t:t-not-yet", "aside")])
    yield
    store.execute([("RENAME", "aside", "orphans:t:t-not-yet")])


@contextmanager
def without_a_file(servers: Servers, table: str) -> Iterator[int]:
    """One file of a table is away; gives how many rows it had."""
    file = sorted((servers.home / "history" / table).glob("*/*.parquet"))[0]
    aside = file.with_suffix(".aside")
    rows = pq.ParquetFile(file).metadata.num_rows
    shutil.move(file, aside)
    yield rows
    shutil.move(aside, file)


@contextmanager
def a_row_twice(servers: Servers, history: History, table: str) -> Iterator[None]:
    """One row comes once more, under another name than its place."""
    rows = history.read(table).slice(0, 1)
    elsewhere = rows.set_column(
        rows.schema.get_field_index("terminal_partition"), "terminal_partition", pa.array([77], pa.int32())
    )
    assert History(servers.settings.history).append(table, elsewhere) == 1
    (file,) = (servers.home / "history" / table).glob("*/p77-*.parquet")
    yield
    file.unlink()
