"""A backtest on the history hits what the stream would have hit: the same features, value for value."""

import json
from datetime import timedelta

import numpy as np
import pytest

from features.fraud import FRAUD
from infra import cli
from ingestion.topics import LABELS, TRANSACTIONS
from tests.payments import real_payments
from tests.servers import Servers
from training.conditions import compiled

pytestmark = pytest.mark.servers

RULE = "customer_payment_count_1d > 0.5 AND amount > 40 OR terminal_fraud_rate_1d IS NOT NULL AND amount > 90"


def test_history_and_stream_agree(
    servers: Servers, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    past = real_payments(4_000, label_delay=timedelta(hours=1))
    servers.send(LABELS, past.of(LABELS))
    servers.send(TRANSACTIONS, past.of(TRANSACTIONS))
    with servers.working():
        servers.settle(120)
    servers.written_history()
    servers.tell(monkeypatch)
    monkeypatch.setenv("TOLLGATE_LABELS__MATURITY_DAYS", "0")

    assert cli.run(["backtest", "--rule", RULE, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)

    frauds = {each["transaction_id"] for each in past.of(LABELS) if each["label"] == "fraud"}
    hit = hit_by_stream(servers)
    assert found["payments"] == 4_000
    assert found["frauds"] == len(frauds)
    assert 0 < found["hits"] == len(hit) < 4_000
    assert found["frauds_hit"] == len(hit & frauds)


def hit_by_stream(servers: Servers) -> set[str]:
    """Payments whose decisions carry features that the rule hits."""
    decisions = [each for (each,) in servers.decisions().values()]
    rows = [[each["features"][name] for name in FRAUD.names] for each in decisions]
    hits = compiled(RULE, FRAUD.names)(np.array(rows, np.float64))
    return {each["transaction_id"] for each, hit in zip(decisions, hits, strict=True) if hit}
