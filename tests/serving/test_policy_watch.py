"""The policy in force follows its file; a wrong file is refused once and changes nothing."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from features.fraud import FRAUD
from infra import settings
from infra.errors import UserError
from serving.fraud import FraudDecider
from serving.measures import PolicyMeasures
from serving.policy_watch import PolicyWatch
from tests.servers import NoChampion, until

RULE = '[[fraud.rules]]\nname = "dear"\nwhen = "{}"\noutcome = "{}"\n'
OTHER = RULE.replace("dear", "odd")
PAYMENT = {
    "transaction_id": "t-1",
    "event_time_us": 0,
    "customer_id": "c-1",
    "terminal_id": "m-1",
    "amount": 600.0,
    "currency": "EUR",
}


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A policy with one rule, that reviews over 1,000."""
    path = tmp_path / "policy.toml"
    path.write_text(RULE.format("amount > 1000", "review"))
    monkeypatch.setenv("TOLLGATE_CONFIG", str(path))
    return path


@pytest.fixture
def metrics() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def watch(file: Path, metrics: CollectorRegistry) -> PolicyWatch:
    return PolicyWatch(settings.load().fraud, PolicyMeasures(metrics))


def decided(watch: PolicyWatch) -> tuple[str, list[dict[str, str]], str]:
    """Decision, rules and policy version of a payment of 600."""
    matrix = np.full((1, len(FRAUD.names)), np.nan)
    matrix[:, FRAUD.names.index("amount")] = 600.0
    (decision,) = FraudDecider(NoChampion(), watch.current).decide([PAYMENT], matrix)
    return decision["decision"], decision["rules"], decision["policy_version"]


def test_a_changed_file_decides_the_next_batch(file: Path, watch: PolicyWatch) -> None:
    name, rules, before = decided(watch)
    assert (name, rules) == ("approve", [{"name": "dear", "outcome": "no_hit"}])
    file.write_text(RULE.format("amount > 500", "decline") + OTHER.format("amount IS NULL", "allow"))
    assert decided(watch)[2] == before
    watch.refresh()
    name, rules, after = decided(watch)
    assert (name, [rule["outcome"] for rule in rules]) == ("decline", ["hit", "no_hit"])
    assert after == settings.policy_version(settings.load().fraud) != before


def test_costs_are_taken_over_too(file: Path, watch: PolicyWatch) -> None:
    file.write_text("[fraud]\nreview_cost = 0.5\n")
    watch.refresh()
    assert watch.current().policy.review_cost == 0.5


def test_the_environment_still_wins(file: Path, watch: PolicyWatch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOLLGATE_FRAUD__REVIEW_COST", "7")
    file.write_text("[fraud]\nreview_cost = 0.5\nchargeback_fee = 20.0\n")
    watch.refresh()
    assert (watch.current().policy.review_cost, watch.current().policy.chargeback_fee) == (7, 20)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            RULE.format("amuont > 1", "review"),
            ":3: fraud.rules.0.when: there is no feature 'amuont', did you",
        ),
        (RULE.format("amount >", "review"), ":3: fraud.rules.0.when: expected a condition"),
        (RULE.format("amount > 1", "perhaps"), ":4: fraud.rules.0.outcome: expected"),
        ("[fraud", "expected TOML"),
        ('currency = "Euro"', ":1: currency: "),
        (None, "no such file"),
    ],
)
def test_a_wrong_file_is_refused_once_and_changes_nothing(
    file: Path,
    watch: PolicyWatch,
    metrics: CollectorRegistry,
    caplog: pytest.LogCaptureFixture,
    text: str | None,
    reason: str,
) -> None:
    before = decided(watch)
    file.unlink() if text is None else file.write_text(text)
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            watch.refresh()
    (record,) = caplog.records
    assert f"{file}" in record.getMessage()
    assert reason in record.getMessage()
    assert decided(watch) == before
    assert 'tollgate_policy_refusals_total{task="fraud"} 1.0' in generate_latest(metrics).decode()
    file.write_text(RULE.format("amount > 500", "review"))
    watch.refresh()
    assert decided(watch)[0] == "review"


def test_a_wrong_rule_is_refused_at_the_start(file: Path) -> None:
    file.write_text(RULE.format("amount > 1", "review") + OTHER.format("amount % 2 = 1", "review"))
    with pytest.raises(UserError, match=rf"{file}:7: fraud.rules.1.when: expected only .*came `%`"):
        PolicyWatch(settings.load().fraud, PolicyMeasures(CollectorRegistry()))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("process", "processes"), [("api", "1"), ("api", "2"), ("worker", "1"), ("retrainer", "1")]
)
def test_no_process_starts_with_a_wrong_rule(
    file: Path, process: str, processes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOLLGATE_API__WORKERS", processes)
    file.write_text(RULE.format("amount >", "review"))
    command = [sys.executable, "-c", "from infra.cli import main; main()", "run", process]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.startswith(f"tollgate: {file}:3: fraud.rules.0.when: expected a condition")
    assert done.stderr.count("\n") == 1


def test_the_same_policy_in_another_file_is_no_swap(
    file: Path, watch: PolicyWatch, caplog: pytest.LogCaptureFixture
) -> None:
    book = watch.current()
    file.write_text("# a remark\n" + file.read_text())
    watch.refresh()
    os.utime(file, (0, 0))
    watch.refresh()
    assert watch.current() is book
    assert not caplog.records


def test_the_thread_looks_by_itself(file: Path, watch: PolicyWatch, metrics: CollectorRegistry) -> None:
    before = watch.current().version
    watch.start(poll_s=0.02)
    try:
        assert _shown(metrics, before) == 1
        file.write_text(RULE.format("amount > 500", "review"))
        until(lambda: watch.current().version != before, limit_s=5)
        until(lambda: _shown(metrics, watch.current().version) == 1, limit_s=5)
        assert _shown(metrics, before) == 0
    finally:
        watch.stop()


def _shown(metrics: CollectorRegistry, version: str) -> float | None:
    return metrics.get_sample_value("tollgate_policy_info", {"task": "fraud", "version": version})
