"""The replay is the fold, event by event, in the log's own order."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features import backfill, replay
from features.backfill import add_to_history
from features.commands import file_matrix, write_matrix
from features.domains import domain
from features.fraud import CODES, CUSTOMER, FRAUD, TERMINAL, codes_of_payments, event_values, request_columns
from features.index import read_place, read_transaction
from features.pricing import PRICING
from features.replay import matrix_of, refresh, spine
from features.state import Entity, Events, States, fold
from features.store import offline_folder
from ingestion.file_source import placed
from ingestion.history import History
from ingestion.simulated import past_payments, past_prices
from ingestion.simulators.market import Market, MarketProcess
from ingestion.simulators.payments import Payments, simulate
from ingestion.simulators.population import Population
from ingestion.tables import DAY_US, LABELS, TRANSACTIONS, completed


@dataclass(frozen=True)
class Event:
    name: str
    label: str | None
    time_us: int
    customer: str
    terminal: str
    amount: float
    places: dict[str, tuple[int, int]]
    """Partition and position in each entity's stream."""


def nasty(n: int = 400, seed: int = 5) -> list[Event]:
    """A backfill, then a stream whose positions begin anew; ties, late events, labels before payments."""
    rng = np.random.default_rng(seed)
    events = []
    for i in range(n):
        live = i >= n // 2
        customer, terminal = f"c{rng.integers(12)}", f"m{rng.integers(5)}"
        late = int(rng.integers(0, 3) == 0) * int(rng.integers(0, 3 * DAY_US))
        second = int(rng.integers(0, 4)) * 1_000_000
        kind = rng.integers(0, 3)
        events.append(
            Event(
                name=f"t{i}",
                label=None if kind else ("fraud", "legitimate")[rng.integers(2)],
                time_us=1_700_000_000_000_000 + i // 7 * 3_600_000_000 + second - late,
                customer=customer,
                terminal=terminal,
                amount=float(np.round(rng.gamma(2.0, 30.0) + 0.01, 2)),
                places={
                    "customer": (int(customer[1:]) % 3, (i - n // 2) << 4) if live else (-1, i),
                    "terminal": (int(terminal[1:]) % 2, (i - n // 2) << 5) if live else (-1, i),
                },
            )
        )
    return events


def texts(event: Event) -> dict[str, str | None]:
    """Text fields of a payment: some of each value, and some not given."""
    number = int(event.amount * 100)
    return {
        "terminal_id": event.terminal,
        "device_id": f"d{number % 5}" if number % 3 else None,
        "ip": (f"10.0.{number % 4}.{number % 250}", f"2001:db8:{number % 4}::{number % 9}", None)[number % 3],
        "merchant_category": str(5_000 + number % 6),
        "country": None,
    }


def paid_at_us(event: Event) -> int:
    """Of the payment that a label tells of."""
    return event.time_us - 7 * DAY_US


def rows(events: list[Event], table: str) -> pa.Table:
    mine = [each for each in events if (each.label is None) == (table == TRANSACTIONS)]
    columns = {
        "transaction_id": [each.name for each in mine],
        "event_time_us": [each.time_us for each in mine],
        "customer_id": [each.customer for each in mine],
        "terminal_id": [each.terminal for each in mine],
        "amount": [each.amount for each in mine],
        "label": [each.label for each in mine],
        "channel": ["online" if each.amount > 50 else None for each in mine],
    }
    if table == LABELS:
        columns["paid_at_us"] = [paid_at_us(each) for each in mine]
    else:
        columns |= {name: [texts(each)[name] for each in mine] for name in CODES.values()}
    for entity in ("customer", "terminal"):
        columns[f"{entity}_partition"] = [each.places[entity][0] for each in mine]
        columns[f"{entity}_position"] = [each.places[entity][1] for each in mine]
    return completed(table, pa.table(columns))


def stored(folder: Path, events: list[Event]) -> History:
    """Rows in a history, in no particular order of files."""
    history = History(folder)
    for table in (TRANSACTIONS, LABELS):
        held = rows(events, table)
        live = held["customer_partition"].to_numpy() >= 0
        history.backfill({table: held.filter(pa.array(~live))})
        in_order = held.filter(pa.array(live)).sort_by([("terminal_position", "ascending")])
        history.append(table, in_order)
    return history


@dataclass
class RowByRow:
    """What the stream would have done: every entity's state alone, one event at a time."""

    before: dict[tuple[str, str], np.ndarray]
    stamps: dict[tuple[str, str], int]
    final: dict[tuple[str, str], np.ndarray]


def row_by_row(events: list[Event]) -> RowByRow:
    done = RowByRow({}, {}, {})
    for entity in (CUSTOMER, TERMINAL):
        states: dict[str, States] = {}
        for each in sorted(events, key=lambda event: event.places[entity.name]):
            one(done, entity, states, each)
        done.final |= {(entity.name, key): state.columns[0].copy() for key, state in states.items()}
    return done


def one(done: RowByRow, entity: Entity, states: dict[str, States], event: Event) -> None:
    key = event.customer if entity is CUSTOMER else event.terminal
    state = states.setdefault(key, States.cold(entity, 1))
    kind = np.array([int(event.label is not None)])
    values = event_values(
        kind,
        np.array([event.amount]),
        [event.label],
        np.array([event.time_us]),
        np.array([float(paid_at_us(event))]),
        codes_of_payments([texts(event)]),
    )
    zero = np.array([0])
    state.position[0] = -1
    folded = fold(entity, state, Events(kind, np.array([event.time_us]), zero, zero, values))
    done.before[entity.name, event.name] = folded.seen[0]
    done.stamps[entity.name, event.name] = int(folded.stamp_us[0])


@pytest.fixture(params=[7, 100_000])
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(replay, "CHUNK", request.param)
    return int(request.param)


def same(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape == other.shape and one.tobytes() == other.tobytes()


@pytest.mark.usefixtures("chunk")
def test_final_states_are_those_of_the_fold(tmp_path: Path) -> None:
    events = nasty()
    done = refresh(tmp_path, stored(tmp_path / "history", events), "fraud")
    expected = row_by_row(events).final
    assert done.events == len(events)
    for entity in (CUSTOMER, TERMINAL):
        ids, states = done.states[entity.name]
        assert len(ids) == len({key for name, key in expected if name == entity.name})
        for key, columns in zip(ids, states.columns, strict=True):
            assert same(columns, expected[entity.name, key])
        live = [each.places[entity.name][1] for each in events if each.places[entity.name][0] >= 0]
        assert states.position.max() == max(live)


@pytest.mark.usefixtures("chunk")
def test_the_state_before_a_stamp_is_what_the_event_saw(tmp_path: Path) -> None:
    events = nasty()
    refresh(tmp_path, stored(tmp_path / "history", events), "fraud")
    expected = row_by_row(events)
    asked = spine(tmp_path, "fraud").to_pylist()
    assert len(asked) == sum(each.label is None for each in events)
    for entity in (CUSTOMER, TERMINAL):
        written = pq.read_table(offline_folder(tmp_path, entity)).to_pandas()
        written["stamp_us"] = (
            written["stamp"].astype("int64") // 1_000
            if written["stamp"].dtype.unit == "ns"
            else (written["stamp"].astype("int64"))
        )
        assert len(written) == len(events)
        assert not written.duplicated([entity.key, "stamp_us"]).any()
        for row in asked:
            mine = written[(written[entity.key] == row[entity.key])]
            earlier = mine[mine["stamp_us"] < row[f"{entity.name}_stamp_us"]]
            saw = expected.before[entity.name, row["transaction_id"]]
            if len(earlier):
                last = earlier.sort_values("stamp_us").iloc[-1]
                assert same(last[list(entity.columns)].to_numpy(np.float64), saw)
            else:
                assert same(entity.cold(1)[0], saw)
            assert row[f"{entity.name}_stamp_us"] == expected.stamps[entity.name, row["transaction_id"]]


@pytest.mark.usefixtures("chunk")
def test_the_matrix_is_that_of_one_request_after_another(tmp_path: Path) -> None:
    events = nasty()
    found = matrix_of(FRAUD, rows(events, TRANSACTIONS), rows(events, LABELS))
    expected = row_by_row(events)
    paid = [each for each in events if each.label is None]
    assert found.ids.to_pylist() == [each.name for each in paid]
    for i, each in enumerate(paid):
        states = {name: expected.before[name, each.name][None] for name in ("customer", "terminal")}
        channel, codes = ["online" if each.amount > 50 else None], codes_of_payments([texts(each)])
        request = request_columns(np.array([each.amount]), channel, codes)
        alone = FRAUD.matrix(states, request, np.array([each.time_us / 1e6]))
        assert same(found.values[i : i + 1], alone)


def test_refreshing_again_gives_the_same_and_leaves_nothing_else(tmp_path: Path) -> None:
    history = stored(tmp_path / "history", nasty())
    first = refresh(tmp_path, history, "fraud")
    rows_before = spine(tmp_path, "fraud").to_pandas()
    second = refresh(tmp_path, history, "fraud")
    pd.testing.assert_frame_equal(spine(tmp_path, "fraud").to_pandas(), rows_before)
    for name in first.states:
        assert same(first.states[name][1].columns, second.states[name][1].columns)
    assert sorted(path.name for path in (tmp_path / "offline").iterdir()) == [
        "customer",
        "fraud_events",
        "terminal",
    ]


def test_an_empty_history_can_be_replayed(tmp_path: Path) -> None:
    for name in ("fraud", "pricing"):
        assert refresh(tmp_path, History(tmp_path / "history"), name).events == 0
        assert spine(tmp_path, name).num_rows == 0


def test_the_spine_is_cut_by_event_time(tmp_path: Path) -> None:
    refresh(tmp_path, stored(tmp_path / "history", nasty()), "fraud")
    times = spine(tmp_path, "fraud")["event_time_us"].to_numpy()
    assert np.all(times[1:] >= times[:-1])
    cut = spine(tmp_path, "fraud", int(times[10]), int(times[50]))["event_time_us"].to_numpy()
    assert np.array_equal(cut, times[(times >= times[10]) & (times < times[50])])


SMALL = Payments(seed=3, population=Population(customers=40, terminals=80))


class TestBackfill:
    def test_the_same_events_again_are_none_that_are_new(self, tmp_path: Path) -> None:
        history, events = History(tmp_path / "history"), past_payments(simulate(SMALL, 4))
        assert add_to_history(history, domain("fraud"), events) == len(events)
        before = refresh(tmp_path, history, "fraud")
        assert add_to_history(history, domain("fraud"), events) == 0
        after = refresh(tmp_path, history, "fraud")
        assert before.events == after.events == len(events)
        assert same(before.states["terminal"][1].columns, after.states["terminal"][1].columns)

    def test_a_longer_file_adds_only_what_is_later(self, tmp_path: Path) -> None:
        """Two backfills after each other give the states of one."""
        history, events = History(tmp_path / "two"), past_payments(simulate(SMALL, 4))
        cut = int(np.median(events.decided["event_time_us"].to_numpy()))
        add_to_history(history, domain("fraud"), events.between(None, cut))
        add_to_history(history, domain("fraud"), events)
        at_once = History(tmp_path / "one")
        add_to_history(at_once, domain("fraud"), events)
        two, one = refresh(tmp_path / "2", history, "fraud"), refresh(tmp_path / "1", at_once, "fraud")
        for name in ("customer", "terminal"):
            of_two, of_one = (
                dict(zip(r.states[name][0], r.states[name][1].columns, strict=True)) for r in (two, one)
            )
            assert of_two.keys() == of_one.keys()
            assert all(same(of_two[key], of_one[key]) for key in of_one)

    def test_prices_become_states_of_products(self, tmp_path: Path) -> None:
        market = Market(MarketProcess(seed=3))
        events = past_prices(market, market.simulate(2))
        history = History(tmp_path / "history")
        add_to_history(history, domain("pricing"), events)
        done = refresh(tmp_path, history, "pricing")
        assert set(done.states["product"][0]) == set(events.decided["product_id"].to_pylist())
        found = spine(tmp_path, "pricing")
        assert found.num_rows == events.decided.num_rows
        assert np.isfinite(found["list_price"].to_numpy()).all()
        assert set(PRICING.request) < set(found.column_names)

    def test_keys_are_as_the_worker_leaves_them(self, tmp_path: Path) -> None:
        history = History(tmp_path / "history")
        events = past_payments(simulate(SMALL, 10))
        add_to_history(history, domain("fraud"), events)
        last = history.days(LABELS)[-1]
        batches = list(backfill._keys(history, domain("fraud"), 86_400))
        parts = b"".join(commands for commands, _ in batches).split(b"\r\n")
        names, values = parts[4::11], dict(zip(parts[4::11], parts[6::11], strict=True))
        assert sum(count for _, count in batches) == len(names)
        assert all(int(size[1:]) == len(name) for size, name in zip(parts[3::11], names, strict=True))
        labelled = history.read(LABELS, columns=["transaction_id", "event_time_us"]).to_pylist()
        recent = [each for each in labelled if each["event_time_us"] >= backfill.day_start_us(last)]
        assert recent
        for each in recent:
            assert any(name.startswith(f"seen:l:{each['transaction_id']}:".encode()) for name in names)
        paid = history.read(TRANSACTIONS).to_pylist()[-1]
        known = read_transaction(values[b"known:t:" + paid["transaction_id"].encode()])
        assert known == (paid["customer_id"], paid["terminal_id"], paid["event_time_us"], paid["amount"])
        place = read_place(values[b"seen:t:" + paid["transaction_id"].encode()])
        assert place == (-1, paid["customer_position"])
        assert set(parts[8::11]) == {b"EX"}
        assert set(parts[10::11]) == {b"86400"}


def test_a_file_of_features_is_in_the_order_of_the_file(tmp_path: Path) -> None:
    events = past_payments(simulate(SMALL, 2))
    n = events.decided.num_rows
    shuffled = np.random.default_rng(1).permutation(n)
    column = events.decided.column_names.index("row")
    moved = type(events)(
        events.decided.set_column(column, "row", pa.array(shuffled)), events.settled, events.rejects, 0
    )
    found = file_matrix("fraud", moved)
    write_matrix(found, "transaction_id", tmp_path / "features.parquet")
    written = pq.read_table(tmp_path / "features.parquet")
    assert written.column_names == ["transaction_id", *FRAUD.names]
    by_row = events.decided["transaction_id"].take(pa.array(np.argsort(shuffled))).to_pylist()
    assert written["transaction_id"].to_pylist() == by_row
    ready = placed(events, ["customer", "terminal"], 0)
    plain = matrix_of(FRAUD, ready.decided, ready.settled)
    assert same(np.ascontiguousarray(found.values), plain.values[np.argsort(shuffled)])
    amount = dict(zip(plain.ids.to_pylist(), plain.values[:, FRAUD.names.index("amount")], strict=True))
    assert written["amount"].to_pylist() == [amount[each] for each in by_row]
