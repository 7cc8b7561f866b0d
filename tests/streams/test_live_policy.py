"""The real API and the real worker take a changed policy within five seconds; a wrong one changes nothing."""

import time
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from prometheus_client import CollectorRegistry

from infra import settings
from ingestion.topics import TRANSACTIONS
from serving.fraud import FraudDecider
from serving.measures import PolicyMeasures
from serving.policy_watch import PolicyWatch
from serving.processes import build_worker
from tests.api import serving
from tests.payments import START, payment
from tests.servers import NoChampion, Servers, until

pytestmark = pytest.mark.servers

WITHIN_S = 5.0
RULE = '[[fraud.rules]]\nname = "dear"\nwhen = "{}"\noutcome = "{}"\n'


def paid(i: int) -> dict[str, object]:
    return dict(payment(f"t-{i}", START + timedelta(seconds=i), "c-1", "m-1", 600.0))


def by_request(client: httpx.Client) -> tuple[str, str]:
    """Decision and policy version that the API gives now."""
    answer = client.post("/v1/fraud/score?dry_run=true", json=paid(0)).json()
    return answer["decision"], answer["policy_version"]


def by_stream(servers: Servers, i: int) -> tuple[str, str]:
    """The same of the worker, for a new payment."""
    servers.send(TRANSACTIONS, [paid(i)])
    servers.settle()
    (decision,) = servers.decisions()[f"t-{i}"]
    return decision["decision"], decision["policy_version"]


def test_a_rule_counts_without_a_restart(
    servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(RULE.format("amount > 1000", "review"))
    monkeypatch.setenv("TOLLGATE_CONFIG", str(file))
    chosen = servers.settings.model_copy(update={"fraud": settings.load().fraud})
    policies = PolicyWatch(chosen.fraud, PolicyMeasures(CollectorRegistry()))
    worker = build_worker(chosen, FraudDecider(NoChampion(), policies.current))
    with ExitStack() as running:
        running.callback(policies.stop)
        policies.start()
        client = running.enter_context(serving(chosen))
        running.enter_context(servers.working(worker))
        before = by_request(client)
        assert before == by_stream(servers, 1) == ("approve", settings.policy_version(chosen.fraud))

        file.write_text(
            RULE.format("amount > 500 AND NOT customer_idle_s IS NULL OR amount > 599", "decline")
        )
        written = time.monotonic()
        until(lambda: by_request(client)[0] == "decline" and policies.current().version != before[1])
        assert time.monotonic() - written < WITHIN_S
        after = by_request(client)
        assert after == by_stream(servers, 2) == ("decline", settings.policy_version(settings.load().fraud))

        file.write_text(RULE.format("amount > 500 AND", "allow"))
        until(lambda: 'refusals_total{task="fraud"} 1.0' in client.get("/metrics").text, limit_s=WITHIN_S)
        assert by_request(client) == after == by_stream(servers, 3)
