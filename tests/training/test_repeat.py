"""Past runs are made again byte for byte, whatever came to the history since."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.fraud import FRAUD
from infra import cli
from infra.errors import UserError
from infra.progress import Silent
from infra.settings import Settings, load
from ingestion.file_source import placed
from ingestion.history import History
from ingestion.simulated import past_prices
from ingestion.simulators.market import Market, MarketProcess
from ingestion.tables import LABELS, OUTCOMES, QUOTES, TRANSACTIONS
from tests.training.made import MAPPING, past_events
from training import run_record, runs
from training.dataset import Span
from training.repeat import Repeated, repeat
from training.runs import Desk, Reason, Report
from training.tasks import EventFile, task

pytestmark = [pytest.mark.servers, pytest.mark.slow]
ME = Reason("me", "try")


@pytest.fixture
def here(mlflow_home: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("TOLLGATE_HOME", str(mlflow_home))
    monkeypatch.setenv("TOLLGATE_LABELS__MATURITY_DAYS", "7")
    return load()


def trained(name: str, here: Settings, days: float | None = None) -> Report:
    return runs.train_newest(task(name), here, Span(days=days), ME, True, Silent())


def again(name: str, report: Report, here: Settings, file: EventFile | None = None) -> Repeated:
    assert report.run_id is not None
    return repeat(task(name), report.run_id, here, file, None, Silent())


def events(seed: int, n: int, days: int = 40) -> tuple[pa.Table, pa.Table]:
    """Payments whose amounts of a band are fraud, which no straight line tells: the trees win."""
    payments, labels = past_events(seed, n, days)
    amount = labels["amount"].to_numpy()
    fraud = (amount > 40) & (amount < 50)
    words = {"label": ("fraud", "legitimate"), "source": ("chargeback", "settlement")}
    for name, (bad, good) in words.items():
        labels = labels.set_column(
            labels.column_names.index(name), name, pa.array(np.where(fraud, bad, good))
        )
    return payments, labels


def live(table: str, rows: pa.Table, first: int) -> pa.Table:
    """Rows as they come by the stream: partition 0, from a position on."""
    for name in rows.column_names:
        if name.endswith("_partition"):
            rows = rows.set_column(rows.column_names.index(name), name, pa.array([0] * rows.num_rows))
        if name.endswith("_position"):
            places = pa.array(range(first, first + rows.num_rows))
            rows = rows.set_column(rows.column_names.index(name), name, places)
    return rows


def renamed(rows: pa.Table, letter: str) -> pa.Table:
    ids = pa.array([letter + each for each in rows["transaction_id"].to_pylist()])
    return rows.set_column(0, "transaction_id", ids)


def test_three_runs_are_made_again_after_the_history_has_grown(here: Settings) -> None:
    """Late events lie in the middle of the past, for the same customers, terminals and products."""
    history = History(here.history)
    payments, labels = events(1, 4_000)
    history.backfill({TRANSACTIONS: payments, LABELS: labels})
    first = trained("fraud", here)
    late = [renamed(each, "late-") for each in events(9, 1_000, 35)]
    for table, rows, start in ((TRANSACTIONS, late[0], 1_000), (LABELS, late[1], 50_000)):
        history.append(table, live(table, rows, start))
    second = trained("fraud", here, 30)
    market = Market(MarketProcess(3))
    quoted = placed(past_prices(market, market.simulate(12)), ("product",), 0)
    history.backfill(
        {QUOTES: quoted.decided.drop_columns(["row"]), OUTCOMES: quoted.settled.drop_columns(["row"])}
    )
    priced = trained("pricing", here)
    news = [renamed(each, "new-") for each in events(10, 1_000, 39)]
    for table, rows, start in ((TRANSACTIONS, news[0], 9_000_000), (LABELS, news[1], 9_500_000)):
        history.append(table, live(table, rows, start))
    more = placed(past_prices(market, market.simulate(3, first_day=12)), ("product",), 0)
    for table, rows in ((QUOTES, more.decided), (OUTCOMES, more.settled)):
        history.append(table, live(table, rows.drop_columns(["row"]), 5_000_000))
    history.compact(TRANSACTIONS, at_least=2)
    runs_made = [("fraud", first), ("fraud", second), ("pricing", priced)]
    for name, report in runs_made:
        done = again(name, report, here)
        assert done.same, done
        assert done.differences == ()
        assert {"model.txt", "reference.json"} <= done.files.keys(), "trees, and what they are watched by"
        assert done.data_version == report.data_version
    assert len({report.data_version for _, report in runs_made}) == 3
    fourth = trained("fraud", here)
    assert fourth.data_version not in {first.data_version, second.data_version}
    assert not list(here.home.glob(".repeat-*")), "the scratch folder is gone"
    _purged(here, history, first)


def _purged(here: Settings, history: History, first: Report) -> None:
    """What is gone from the history is told, with the table and the day."""
    folder = sorted((here.history / LABELS).glob("day=*"))[3]
    for file in folder.glob("*.parquet"):
        file.unlink()
    with pytest.raises(UserError, match=rf"labels {folder.name.removeprefix('day=')}: 0 of \d+ rows"):
        again("fraud", first, here)


def written(folder: Path, amount: float = 0.0) -> EventFile:
    """A file of payments with labels."""
    rows, labels = events(4, 3_000)
    table = pa.table(
        {
            "id": rows["transaction_id"],
            "at": rows["event_time_us"].cast(pa.timestamp("us")),
            "customer": rows["customer_id"],
            "terminal": rows["terminal_id"],
            "amount": pa.array(rows["amount"].to_numpy() + amount),
            "fraud": pa.array((labels["label"].to_numpy() == "fraud").astype(int)),
        }
    )
    folder.mkdir(exist_ok=True)
    pq.write_table(table, folder / "past.parquet")
    (folder / "mapping.toml").write_text(MAPPING)
    return EventFile(folder / "past.parquet", folder / "mapping.toml")


def test_a_run_of_a_file_is_made_again_from_the_same_file(
    here: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path / "a")
    options = ["--data", str(file.data), "--mapping", str(file.mapping), "--days", "25"]
    assert cli.run(["train", "fraud", *options, "--record", "--json"]) == 0
    run_id = json.loads(capsys.readouterr().out)["run_id"]
    moved = tmp_path / "b"
    (tmp_path / "a").rename(moved)
    assert cli.run(["train", "fraud", "--like", run_id]) == 1
    assert "expected the file that run" in capsys.readouterr().err
    options = ["--data", str(moved / "past.parquet"), "--mapping", str(moved / "mapping.toml")]
    out = tmp_path / "model"
    assert cli.run(["train", "fraud", "--like", run_id, *options, "--out", str(out)]) == 0
    assert "the same, byte for byte" in capsys.readouterr().out
    assert (out / "model.json").exists()
    written(moved, amount=0.01)
    assert cli.run(["train", "fraud", "--like", run_id, *options]) == 1
    assert "came" in capsys.readouterr().err


def test_what_differs_is_told(here: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = task("fraud")
    data = found.from_file(here, written(tmp_path), Span())
    with Desk.opened(here) as desk:
        report = runs.train(found, data, here, desk, ME, promoting=False)
    monkeypatch.setattr(run_record, "code", lambda: "0123456789ab")
    monkeypatch.setattr("training.booster.CLASSIFIER", {"objective": "binary", "num_iterations": 3})
    done = again("fraud", report, here)
    assert not done.same
    said = "; ".join(done.differences)
    assert "other code: sources" in said
    assert "parameter num_iterations: 120 then, 3 now" in said
    assert "SHA-256 of" in said
    with pytest.raises(UserError, match="trained fraud, not pricing"):
        again("pricing", report, here)
    with pytest.raises(UserError, match="no run 'nothing'"):
        again("fraud", replace(report, run_id="nothing"), here)
    monkeypatch.setitem(vars(FRAUD), "hash", "f00")
    with pytest.raises(UserError, match=r"feature definitions .*, these are f00; check out commit"):
        again("fraud", report, here)
