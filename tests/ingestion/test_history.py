"""The history holds every row once, whatever is killed when."""

import os
import resource
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ingestion import history_files, history_upkeep, tables
from ingestion.broker import Partition
from ingestion.historian import Historian, Progress
from ingestion.history import History
from ingestion.processes import Loop, retire
from ingestion.streams import SCORED_EVENT, batch_of, encode, position
from ingestion.tables import BACKFILLED, DAY_US, DECISIONS, LABELS, TRANSACTIONS, completed
from ingestion.topics import DECISIONS as DECISIONS_TOPIC
from ingestion.topics import TERMINAL_STREAM


def payments(places: Sequence[int], day: int = 0, partition: int = 0) -> pa.Table:
    rows = pa.table(
        {
            "transaction_id": [f"t{partition}-{day}-{place}" for place in places],
            "event_time_us": [day * DAY_US + place for place in places],
            "customer_partition": [0] * len(places),
            "customer_position": list(places),
            "terminal_partition": [partition] * len(places),
            "terminal_position": list(places),
        }
    )
    return completed(TRANSACTIONS, rows)


def ids(history: History, table: str = TRANSACTIONS) -> list[str]:
    return sorted(history.read(table, columns=["transaction_id"])["transaction_id"].to_pylist())


def files(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}


def test_reads_from_start_inclusive_to_end_exclusive(tmp_path: Path) -> None:
    history = History(tmp_path)
    history.append(TRANSACTIONS, pa.concat_tables([payments([1, 2, 3]), payments([4, 5], day=1)]))
    assert history.days(TRANSACTIONS) == ["1970-01-01", "1970-01-02"]
    rows = history.read(TRANSACTIONS, 2, DAY_US + 5, ["event_time_us"])
    assert sorted(rows["event_time_us"].to_pylist()) == [2, 3, DAY_US + 4]
    assert rows.column_names == ["event_time_us"]


def test_an_empty_history_has_all_columns_and_no_rows(tmp_path: Path) -> None:
    for table, schema in tables.SCHEMAS.items():
        assert History(tmp_path).read(table).schema == schema


def test_files_from_before_a_column_read_as_null_also_compacted(tmp_path: Path) -> None:
    newer = ["policy_decision", "propensity", "control_group"]
    old = pa.table({"transaction_id": ["t"], "event_time_us": [1], "decision": ["decline"]})
    old = completed(DECISIONS, old.append_column("decision_partition", pa.array([0])))
    old = old.set_column(old.column_names.index("decision_position"), "decision_position", pa.array([1]))
    history = History(tmp_path)
    history.append(DECISIONS, old)
    [file] = tmp_path.rglob("*.parquet")
    table = pq.ParquetFile(file).read()
    pq.write_table(table.drop_columns(newer), file)
    for _ in range(2):
        [row] = history.read(DECISIONS, columns=["decision", *newer]).to_pylist()
        assert row == {
            "decision": "decline",
            "policy_decision": None,
            "propensity": None,
            "control_group": None,
        }
        history.compact(DECISIONS, at_least=1)


def test_rows_that_come_again_are_known(tmp_path: Path) -> None:
    history = History(tmp_path)
    assert history.append(TRANSACTIONS, payments([1, 2, 3])) == 3
    assert history.append(TRANSACTIONS, payments([2, 3, 4])) == 1
    assert History(tmp_path).append(TRANSACTIONS, payments([1, 2, 3, 4, 5])) == 1
    assert history.append(TRANSACTIONS, payments([1], partition=1)) == 1
    assert ids(history) == ["t0-0-1", "t0-0-2", "t0-0-3", "t0-0-4", "t0-0-5", "t1-0-1"]


def test_killed_between_the_files_of_two_days(tmp_path: Path) -> None:
    """Rows of both days lie mixed in the log; only the later day's file was renamed before the kill."""
    mixed = pa.concat_tables(
        [payments([1]), payments([2], day=1), payments([3]), payments([4], day=1), payments([5])]
    )
    History(tmp_path).append(TRANSACTIONS, payments([2, 4], day=1))
    assert History(tmp_path).append(TRANSACTIONS, mixed) == 3
    assert len(ids(History(tmp_path))) == 5


def test_killed_before_the_rename_leaves_nothing_to_readers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            History(tmp_path).append(TRANSACTIONS, payments([1, 2]))
    assert ids(History(tmp_path)) == []
    assert History(tmp_path).append(TRANSACTIONS, payments([1, 2])) == 2
    [left] = tmp_path.rglob("*.tmp")
    History(tmp_path).repair()
    assert left.exists()  # perhaps somebody writes it now
    os.utime(left, (0, 0))
    History(tmp_path).repair()
    assert not left.exists()


def test_a_disk_that_is_full_is_not_kept_full(tmp_path: Path) -> None:
    """The kernel refuses a file of more than 100 bytes, as it would on a full disk."""
    history, limits = History(tmp_path), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            history.append(TRANSACTIONS, payments([1, 2]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert files(tmp_path) == set()
    assert history.append(TRANSACTIONS, payments([1, 2])) == 2


class TestBackfill:
    def rows(self) -> pa.Table:
        return pa.concat_tables([payments([0, 1], partition=BACKFILLED), payments([2], 1, BACKFILLED)])

    def test_the_same_again_changes_nothing(self, tmp_path: Path) -> None:
        history = History(tmp_path)
        history.backfill({TRANSACTIONS: self.rows()})
        before = files(tmp_path)
        history.backfill({TRANSACTIONS: self.rows()})
        assert files(tmp_path) == before
        assert len(ids(history)) == 3
        assert history.last_backfilled() == 2

    def test_appended_the_same_again_changes_nothing(self, tmp_path: Path) -> None:
        for _ in range(2):
            History(tmp_path).append(TRANSACTIONS, self.rows())
        assert len(ids(History(tmp_path))) == 3

    def test_killed_while_writing_has_no_effect(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        written = []

        def killed_at_the_second(folder: Path) -> None:
            written.append(folder)
            if len(written) == 2:
                raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(history_files, "synced", killed_at_the_second)
            with pytest.raises(KeyboardInterrupt):
                History(tmp_path).backfill({TRANSACTIONS: self.rows()})
        History(tmp_path).repair()
        assert ids(History(tmp_path)) == []

    def test_killed_while_moving_is_finished_by_the_next(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        moved = []
        rename = Path.rename

        def killed_after_one(self: Path, target: Path) -> Path:
            if ".complete-" in str(self):
                moved.append(target)
                if len(moved) == 2:
                    raise KeyboardInterrupt
            return rename(self, target)

        with monkeypatch.context() as patched:
            patched.setattr(Path, "rename", killed_after_one)
            with pytest.raises(KeyboardInterrupt):
                History(tmp_path).backfill({TRANSACTIONS: self.rows()})
        assert len(ids(History(tmp_path))) == 2
        History(tmp_path).repair()
        assert len(ids(History(tmp_path))) == 3
        assert not list(tmp_path.glob(".complete-*"))


class TestCompaction:
    def filled(self, folder: Path) -> History:
        history = History(folder)
        for place in range(10):
            history.append(TRANSACTIONS, payments([place], partition=place % 2))
        history.append(TRANSACTIONS, payments([20], day=1))
        return history

    def test_keeps_every_row_and_only_touches_earlier_days(self, tmp_path: Path) -> None:
        history = self.filled(tmp_path)
        before = ids(history)
        assert history.compact(TRANSACTIONS, before_day="1970-01-02") == 10
        assert ids(history) == ids(History(tmp_path)) == before
        assert len(list(tmp_path.rglob("*.parquet"))) == 2

    def test_rows_that_come_again_are_still_known(self, tmp_path: Path) -> None:
        self.filled(tmp_path).compact(TRANSACTIONS, "1970-01-02")
        history = History(tmp_path)
        assert history.append(TRANSACTIONS, payments([6, 8])) == 0
        assert history.append(TRANSACTIONS, payments([9, 11], partition=1)) == 1

    def test_killed_before_the_old_files_are_deleted(self, tmp_path: Path) -> None:
        history = self.filled(tmp_path)
        before = ids(history)
        copies = tmp_path / "copies"
        shutil.copytree(tmp_path / TRANSACTIONS / "day=1970-01-01", copies)
        history.compact(TRANSACTIONS, "1970-01-02")
        for file in copies.iterdir():
            file.rename(tmp_path / TRANSACTIONS / "day=1970-01-01" / file.name)
        copies.rmdir()
        assert ids(history) == before
        history.repair()
        assert ids(history) == before
        assert len(list(tmp_path.rglob("*.parquet"))) == 2

    def test_compacts_again_what_came_late(self, tmp_path: Path) -> None:
        history = self.filled(tmp_path)
        history.compact(TRANSACTIONS, "1970-01-02")
        history.append(TRANSACTIONS, payments([30]))
        assert history.compact(TRANSACTIONS, "1970-01-02", at_least=2) == 2
        assert len(ids(history)) == 12
        assert History(tmp_path).append(TRANSACTIONS, payments([8, 30])) == 0

    def test_today_is_compacted_as_well(self, tmp_path: Path) -> None:
        history = self.filled(tmp_path)
        history.append(TRANSACTIONS, payments([21], day=1))
        before = ids(history)
        assert history.compact(TRANSACTIONS, at_least=2) == 12
        assert ids(history) == ids(History(tmp_path)) == before
        assert history.append(TRANSACTIONS, payments([21, 22], day=1)) == 1
        assert history.compact(TRANSACTIONS, at_least=2) == 2

    def test_no_file_gets_too_large(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(history_upkeep, "COMPACTED_ROWS", 6)
        monkeypatch.setattr(history_upkeep, "SMALL_ROWS", 3)
        history = History(tmp_path)
        for first in range(0, 90, 2):
            history.append(TRANSACTIONS, payments([first, first + 1]))
            history.compact(TRANSACTIONS, at_least=5)
        counts = [pq.read_metadata(file).num_rows for file in tmp_path.rglob("*.parquet")]
        assert (sum(counts), max(counts)) == (90, 6)
        assert sum(count < 3 for count in counts) < 5
        assert len(ids(history)) == 90

    def test_what_another_process_writes_meanwhile_stays(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        history, listed, places = self.filled(tmp_path), history_upkeep.listed, iter([40, 41, 42, 43])

        def slowly(folder: Path) -> tuple[list[Path], list[Path]]:
            found = listed(folder)
            with monkeypatch.context() as fast:
                fast.setattr(history_upkeep, "listed", listed)
                History(tmp_path).append(TRANSACTIONS, payments([next(places)], partition=7))
            return found

        with monkeypatch.context() as patched:
            patched.setattr(history_upkeep, "listed", slowly)
            history.repair()
            history.compact(TRANSACTIONS, "1970-01-02")
        assert {"t7-0-40", "t7-0-41", "t7-0-42"} <= set(ids(history))

    def test_a_day_that_did_not_change_is_not_looked_at_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        history = self.filled(tmp_path)
        assert history.compact(TRANSACTIONS) == 10
        assert history.compact(TRANSACTIONS) == 0
        monkeypatch.setattr(
            history_upkeep, "repaired", lambda folder: pytest.fail(f"{folder} did not change")
        )
        assert history.compact(TRANSACTIONS) == 0

    def test_a_reader_finds_files_that_moved_meanwhile(self, tmp_path: Path) -> None:
        history = self.filled(tmp_path)

        class Late(History):
            listed = 0

            def _files(self, table: str, day: str) -> list[Path]:
                found = super()._files(table, day)
                if not self.listed:
                    self.listed = 1
                    history.compact(TRANSACTIONS, "1970-01-02")
                return found

        assert ids(Late(tmp_path)) == ids(history)


@dataclass
class Message:
    topic: str
    offset: int
    value: bytes | None
    partition: int = 0
    timestamp: int = 1
    key: bytes | None = None
    headers: Sequence[tuple[str, bytes]] = ()


def message(offset: int, rows: Sequence[tuple[str, int, int]], partition: int = 0) -> Message:
    """Rows of a terminal stream: id, day, position in the customer stream; an id with `l` is a label."""
    events = [
        {
            "kind": int(name.startswith("l")),
            "transaction_id": name,
            "event_time_us": day * DAY_US + at,
            "customer_id": "c",
            "terminal_id": "m",
            "amount": 1.0,
            "customer_partition": 3,
            "customer_position": at,
            "customer_state": [1.0],
        }
        for name, day, at in rows
    ]
    return Message(TERMINAL_STREAM, offset, encode(batch_of(events, SCORED_EVENT)), partition)


class TestHistorian:
    def test_splits_payments_from_labels_with_their_places(self, tmp_path: Path) -> None:
        historian = Historian(History(tmp_path))
        historian.take([message(7, [("t1", 0, 10), ("l1", 0, 11)])])
        assert historian.waiting == 2
        assert historian.flush() == {Partition(TERMINAL_STREAM, 0): 8}
        [payment] = historian.history.read(TRANSACTIONS).to_pylist()
        [label] = historian.history.read(LABELS).to_pylist()
        assert (payment["transaction_id"], payment["terminal_position"]) == ("t1", position(7, 0))
        assert (label["transaction_id"], label["terminal_position"]) == ("l1", position(7, 1))
        assert (label["customer_partition"], label["customer_position"]) == (3, 11)

    def test_drops_what_a_crashed_worker_sent_twice(self, tmp_path: Path) -> None:
        first = [message(0, [("t1", 0, 1), ("t2", 0, 2)])]
        again = [message(1, [("t1", 0, 1), ("t2", 0, 2), ("t3", 0, 3)])]
        historian = Historian(History(tmp_path))
        historian.take([*first, *again])
        historian.flush()
        assert ids(historian.history) == ["t1", "t2", "t3"]

    @pytest.mark.parametrize("compacted", [False, True])
    def test_knows_after_a_restart_what_was_sent_before(self, tmp_path: Path, compacted: bool) -> None:
        historian = Historian(History(tmp_path))
        for offset in range(3):
            historian.take([message(offset, [(f"t{offset}", 0, offset)])])
            historian.flush()
        if compacted:
            historian.history.compact(TRANSACTIONS, at_least=2)
        restarted = Historian(History(tmp_path))
        restarted.take([message(3, [("t1", 0, 1), ("t2", 0, 2), ("t3", 0, 3)])])
        restarted.flush()
        assert ids(restarted.history) == ["t0", "t1", "t2", "t3"]

    @pytest.mark.parametrize("compacted", [False, True])
    def test_killed_between_two_days_loses_nothing(self, tmp_path: Path, compacted: bool) -> None:
        """The later event's file is there, the earlier's is not: it must not look like a repeat."""
        both = [message(4, [("t1", 0, 2)]), message(5, [("t2", 1, 3)]), message(6, [("t3", 0, 4)])]
        historian = Historian(History(tmp_path))
        historian.take([message(3, [("t0", 0, 0), ("t9", 1, 1)]), *both])
        historian.flush()
        shutil.rmtree(tmp_path / TRANSACTIONS / "day=1970-01-01")
        if compacted:
            historian.history.compact(TRANSACTIONS, at_least=1)
        restarted = Historian(History(tmp_path))
        restarted.take(both)
        restarted.flush()
        assert ids(restarted.history) == ["t1", "t2", "t3", "t9"]

    def test_a_partition_that_comes_back_is_read_afresh(self, tmp_path: Path) -> None:
        ours, theirs = Historian(History(tmp_path)), Historian(History(tmp_path))
        messages = [message(offset, [(f"t{offset}", 0, offset)]) for offset in range(4)]
        ours.take(messages[:1])
        ours.flush()
        ours.revoked([Partition(TERMINAL_STREAM, 0)])
        theirs.take(messages[1:3])
        theirs.flush()
        ours.assigned([Partition(TERMINAL_STREAM, 0)])
        ours.take(messages[2:])
        ours.flush()
        assert ids(ours.history) == ["t0", "t1", "t2", "t3"]

    def test_what_is_not_another_s_now_is_kept(self, tmp_path: Path) -> None:
        """What went is neither written nor committed: its next owner reads it again."""
        ours = Historian(History(tmp_path))
        staying = message(7, [("t7", 0, 1)], partition=1)
        ours.take([message(0, [("t0", 0, 0)]), staying, Message(DECISIONS_TOPIC, 4, b"{")])
        ours.revoked([Partition(TERMINAL_STREAM, 0), Partition(DECISIONS_TOPIC, 0)])
        assert (ours.flush(), ours.rejected) == ({Partition(TERMINAL_STREAM, 1): 8}, [])
        assert ids(ours.history) == ["t7"]

    def test_decisions_keep_their_features_and_a_bad_one_is_told(self, tmp_path: Path) -> None:
        decision = {
            "transaction_id": "t1",
            "event_time": "1970-01-01T00:00:01Z".replace("1970", "2026"),
            "customer_id": "c",
            "terminal_id": "m",
            "decision": "approve",
            "policy_decision": "decline",
            "propensity": 0.01,
            "control_group": True,
            "score": 0.25,
            "model": {"name": "fraud", "version": 7},
            "features": {"amount": 3.5, "customer_idle_s": None},
        }
        historian = Historian(History(tmp_path))
        records = [
            Message(DECISIONS_TOPIC, 0, orjson.dumps(decision)),
            Message(DECISIONS_TOPIC, 1, b"{"),
            Message(DECISIONS_TOPIC, 2, None),
        ]
        historian.take(records)
        assert historian.flush() == {Partition(DECISIONS_TOPIC, 0): 3}
        [row] = historian.history.read(DECISIONS).to_pylist()
        assert (row["model_version"], row["features"]) == ("7", [3.5, None])
        assert (row["policy_decision"], row["propensity"], row["control_group"]) == ("decline", 0.01, True)
        assert row["feature_names"] == ["amount", "customer_idle_s"]
        assert [each.record.offset for each in historian.rejected] == [1, 2]
        assert "JSON" in historian.rejected[0].reason


def test_progress_says_how_many_messages_are_missing(tmp_path: Path) -> None:
    one, two = Partition("stream.terminal", 0), Partition("stream.terminal", 1)
    progress = Progress(tmp_path)
    assert progress.missing({one: 0, two: 3}) == 3
    progress.reached({one: 5, two: 1})
    assert progress.missing({one: 4, two: 3}) == 2


class TestRewriting:
    def filled(self, folder: Path) -> History:
        history = History(folder)
        history.append(TRANSACTIONS, payments([1, 2, 3]))
        history.append(TRANSACTIONS, payments([4, 5]))
        history.append(TRANSACTIONS, payments([6, 7], day=1))
        return history

    def without(self, *gone: str) -> Callable[[pa.Table], pa.Table]:
        def changed(rows: pa.Table) -> pa.Table:
            stay = [each not in gone for each in rows["transaction_id"].to_pylist()]
            return rows if all(stay) else rows.filter(pa.array(stay))

        return changed

    def test_only_files_that_change_are_written_and_all_say_the_same_of_themselves(
        self, tmp_path: Path
    ) -> None:
        history = self.filled(tmp_path)
        before = {file: (file.stat().st_mtime_ns, file.stat().st_ino) for file in tmp_path.rglob("*.parquet")}
        metadata = {file: pq.read_schema(file).metadata for file in before}
        assert history.rewrite(TRANSACTIONS, self.without("t0-0-2", "t0-0-3")) == 2
        after = {file: (file.stat().st_mtime_ns, file.stat().st_ino) for file in tmp_path.rglob("*.parquet")}
        assert len([file for file in before if after[file] != before[file]]) == 1
        assert {file: pq.read_schema(file).metadata for file in after} == metadata
        assert ids(history) == ["t0-0-1", "t0-0-4", "t0-0-5", "t0-1-6", "t0-1-7"]
        assert history.rewrite(TRANSACTIONS, self.without("t0-0-2")) == 0

    @pytest.mark.parametrize("compacted", ["never", "before", "after"])
    def test_what_went_is_still_known_when_it_comes_again(self, tmp_path: Path, compacted: str) -> None:
        history = self.filled(tmp_path)
        if compacted == "before":
            history.compact(TRANSACTIONS, "1970-01-02", at_least=2)
        assert history.rewrite(TRANSACTIONS, self.without("t0-0-4", "t0-0-5")) == 2
        if compacted == "after":
            assert history.compact(TRANSACTIONS, "1970-01-02", at_least=2) == 2
        assert History(tmp_path).append(TRANSACTIONS, payments([1, 2, 3, 4, 5])) == 0
        history.forget_positions()
        assert ids(history) == ["t0-0-1", "t0-0-2", "t0-0-3", "t0-1-6", "t0-1-7"]

    def test_what_a_crash_left_of_a_compaction_is_not_missed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        history = self.filled(tmp_path)
        with monkeypatch.context() as patched:
            patched.setattr(Path, "unlink", lambda *_, **__: None)
            history.compact(TRANSACTIONS, "1970-01-02", at_least=2)
        assert len(list(tmp_path.rglob("*.parquet"))) == 4
        history.rewrite(TRANSACTIONS, self.without("t0-0-4"))
        for file in tmp_path.rglob("*.parquet"):
            assert "t0-0-4" not in pq.read_table(file)["transaction_id"].to_pylist()


class TestRetention:
    def test_days_retire_by_the_newest_day_of_their_table(self, tmp_path: Path) -> None:
        history = History(tmp_path)
        history.append(
            TRANSACTIONS, pa.concat_tables([payments([day + 1], day=day) for day in (0, 10, 29, 40)])
        )
        retire(history, retention_days=0)
        assert len(history.days(TRANSACTIONS)) == 4
        retire(history, retention_days=30)
        assert history.days(TRANSACTIONS) == ["1970-01-11", "1970-01-30", "1970-02-10"]
        retire(history, retention_days=11.5)
        assert history.days(TRANSACTIONS) == ["1970-01-30", "1970-02-10"]
        retire(history, retention_days=0.5)
        assert ids(history) == ["t0-40-41"]
        assert retire(History(tmp_path / "empty"), 1) is None

    def test_an_event_of_a_day_to_come_ages_no_other(self, tmp_path: Path) -> None:
        history, today = History(tmp_path), time.time_ns() // 1_000 // DAY_US
        both = [payments([1], day=today + 9_999), payments([2], day=today)]
        history.append(TRANSACTIONS, pa.concat_tables(both))
        retire(history, retention_days=30)
        assert len(history.days(TRANSACTIONS)) == 2

    def test_the_process_lets_days_retire(self, tmp_path: Path) -> None:
        history, now = History(tmp_path), [0.0]
        history.append(TRANSACTIONS, pa.concat_tables([payments([1]), payments([2], day=9)]))
        loop = Loop(Historian(history), Progress(tmp_path), Nobody(), lambda: now[0], 5.0)  # type: ignore[arg-type]
        loop._consumer = Nobody()  # type: ignore[assignment]
        loop.turn()
        assert len(history.days(TRANSACTIONS)) == 2
        now[0] = 61.0
        loop.turn()
        assert history.days(TRANSACTIONS) == ["1970-01-10"]


def test_the_process_merges_a_table_at_a_time(tmp_path: Path) -> None:
    """While it merges it does not read."""
    history, now, kept = History(tmp_path), [0.0], (TRANSACTIONS, tables.LABELS)
    for table in kept:
        for place in range(10):
            history.append(table, tables.completed(table, payments([place])))
    loop = Loop(Historian(history), Progress(tmp_path), Nobody(), lambda: now[0])  # type: ignore[arg-type]
    loop._consumer = Nobody()  # type: ignore[assignment]
    files = []
    for _ in tables.SCHEMAS:
        now[0] += 10.0
        loop.turn()
        files.append([len(list((tmp_path / table).rglob("*.parquet"))) for table in kept])
    assert files[0] == [1, 10]
    assert files[-1] == [1, 1]


class Nobody:
    """A broker with nothing to say."""

    def poll(self, wait_ms: int) -> list[Message]:
        return []

    def flush(self) -> None: ...
