"""Logged features against a replay: nothing differs in a healthy history, one falsified value is found."""

from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from features import replay
from features.fraud import FRAUD
from features.state import Floats
from ingestion.history import History
from ingestion.tables import DECISIONS, LABELS, TRANSACTIONS, completed
from tests.payments import real_payments
from tests.servers import Servers
from tests.training.made import MIDNIGHT_US, past_events
from training import skew

EVERYTHING = 10**9


def decisions(ids: list[str], time_us: np.ndarray, values: Floats, names: tuple[str, ...]) -> pa.Table:
    """As the historian writes them, one a second."""
    n = len(ids)
    rows = {
        "transaction_id": ids,
        "event_time_us": time_us,
        "decision": ["approve"] * n,
        "feature_names": [list(names)] * n,
        "features": [[None if np.isnan(each) else each for each in row] for row in values.tolist()],
        "appended_ms": np.arange(n) * 1_000,
        "decision_partition": np.zeros(n, np.int64),
        "decision_position": np.arange(n),
    }
    return completed(DECISIONS, pa.table(rows))


@pytest.fixture(scope="module")
def past() -> tuple[pa.Table, pa.Table, Floats]:
    transactions, labels = past_events(n=2_000, days=8)
    return transactions, labels, replay.matrix_of(FRAUD, transactions, labels).values


def written(folder: Path, past: tuple[pa.Table, pa.Table, Floats], values: Floats) -> History:
    transactions, labels, _ = past
    history = History(folder)
    history.backfill({TRANSACTIONS: transactions, LABELS: labels})
    ids = transactions["transaction_id"].to_pylist()
    times = transactions["event_time_us"].to_numpy()
    history.append(DECISIONS, decisions(ids, times, values, FRAUD.names))
    return history


def test_nothing_differs_in_a_healthy_history_and_the_newest_wait(
    tmp_path: Path, past: tuple[pa.Table, pa.Table, Floats]
) -> None:
    history = written(tmp_path, past, past[2])
    found = skew.compare(FRAUD, history, None, MIDNIGHT_US, EVERYTHING)
    waiting = skew.SETTLING_MS // 1_000
    assert (found.compared, found.different, found.unknown) == (2_000 - waiting, 0, 0)
    assert found.mismatches == {}
    assert np.isnan(past[2]).any(), "what is not known is compared, too"
    again = skew.compare(FRAUD, history, found.until_ms, MIDNIGHT_US, EVERYTHING)
    assert (again.compared, again.until_ms) == (0, found.until_ms), "each is compared once"
    assert skew.compare(FRAUD, history, None, MIDNIGHT_US, 50).compared == 50


def test_falsified_values_are_found_by_feature(
    tmp_path: Path, past: tuple[pa.Table, pa.Table, Floats]
) -> None:
    values = past[2].copy()
    amount, fraud_rate = FRAUD.names.index("amount"), FRAUD.names.index("terminal_fraud_rate_7d")
    values[7, amount] = np.nextafter(values[7, amount], np.inf)
    values[[7, 9, 11], fraud_rate] = np.where(np.isnan(values[[7, 9, 11], fraud_rate]), 0.0, np.nan)
    found = skew.compare(FRAUD, written(tmp_path, past, values), None, MIDNIGHT_US, EVERYTHING)
    assert found.mismatches == {"amount": 1, "terminal_fraud_rate_7d": 3}
    assert found.different == 3


def test_decisions_by_other_features_and_on_unknown_payments_are_no_mismatch(tmp_path: Path) -> None:
    transactions, labels = past_events(n=300, days=4)
    history = History(tmp_path)
    history.backfill({TRANSACTIONS: transactions, LABELS: labels})
    values = replay.matrix_of(FRAUD, transactions, labels).values
    times = transactions["event_time_us"].to_numpy()
    strange = decisions([f"x-{i}" for i in range(300)], times, values, FRAUD.names)
    history.append(DECISIONS, strange)
    older = decisions(transactions["transaction_id"].to_pylist(), times, values, FRAUD.names[::-1])
    partition = older.column_names.index("decision_partition")
    history.append(DECISIONS, older.set_column(partition, "decision_partition", pa.array(np.ones(300, int))))
    found = skew.compare(FRAUD, history, None, MIDNIGHT_US, EVERYTHING)
    assert (found.compared, found.different) == (0, 0)
    assert found.unknown == 240


def test_no_decisions_at_all(tmp_path: Path) -> None:
    assert skew.compare(FRAUD, History(tmp_path), None, 0, EVERYTHING) == skew.Skew()


@pytest.mark.servers
def test_the_worker_logs_what_the_history_gives(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real payments through Kafka and the worker, which the recomputation knows nothing of."""
    monkeypatch.setattr(skew, "SETTLING_MS", 0)
    stream = real_payments(1_500, label_delay=timedelta(hours=2))
    for topic, event in stream.sent:
        servers.send(topic, [event])
    with servers.working():
        servers.settle(60)
    history = servers.written_history()
    found = skew.compare(FRAUD, history, None, 0, EVERYTHING)
    assert found.compared == len(stream.transaction_ids)
    assert (found.different, found.unknown) == (0, 0)
