"""Alerts over real HTTP: each change once, Alertmanager again in time, and nobody waits for who is away."""

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from training.alerts import (
    FIRST_REST_S,
    LONGEST_REST_S,
    MOST_WAITING,
    Alert,
    Alertmanager,
    Alerts,
    Webhook,
)

SLOW = Alert("drift", "warning", "fraud", "it moved", "look", 0.4, 0.25, "2026-03-01T00:00:00Z")
BAD = Alert("missed_fraud", "critical", "fraud", "it misses", "train", 9.0, 7.6, "2026-03-01T00:00:00Z")


class Receiver(ThreadingHTTPServer):
    """Keeps what is posted to it, or refuses it."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.got: list[tuple[str, Any]] = []
        self.status = 200

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def bodies(self) -> list[Any]:
        """What came since the last time."""
        bodies = [body for _, body in self.got]
        self.got.clear()
        return bodies


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.server.status == 200:
            self.server.got.append((self.path, body))
        self.send_response(self.server.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


class Clock:
    """Seconds that a test moves."""

    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_the_webhook_hears_of_begin_severity_and_end_once_each(
    receiver: Receiver, tmp_path: Path, clock: Clock
) -> None:
    alerts = Alerts(tmp_path / "alerts.json", [Webhook(receiver.url + "/hook")], clock)
    alerts.found("fraud", [SLOW])
    alerts.found("fraud", [replace(SLOW, value=0.5, summary="it moved more")])
    (began,) = receiver.bodies()
    assert (began["status"], began["name"], began["action"]) == ("firing", "drift", "look")
    assert began["fingerprint"] == SLOW.fingerprint
    alerts.found("fraud", [replace(SLOW, severity="critical"), BAD])
    assert [(each["name"], each["severity"]) for each in receiver.bodies()] == [
        ("drift", "critical"),
        ("missed_fraud", "critical"),
    ]
    alerts.found("pricing", [])
    assert receiver.bodies() == [], "another task's look ends nothing of this one"
    alerts.found("fraud", [BAD])
    assert [(each["status"], each["name"]) for each in receiver.bodies()] == [("resolved", "drift")]
    assert alerts.active == [BAD]


def test_an_alert_is_known_after_a_restart_and_keeps_its_beginning(
    receiver: Receiver, tmp_path: Path, clock: Clock
) -> None:
    Alerts(tmp_path / "alerts.json", [], clock).found("fraud", [BAD])
    again = Alerts(tmp_path / "alerts.json", [Webhook(receiver.url)], clock)
    again.found("fraud", [replace(BAD, starts_at="2026-03-09T00:00:00Z", value=12.0)])
    assert receiver.bodies() == []
    assert again.active[0].starts_at == BAD.starts_at
    again.found("fraud", [])
    assert [each["status"] for each in receiver.bodies()] == ["resolved"]
    assert json.loads((tmp_path / "alerts.json").read_text()) == []


def test_alertmanager_is_told_in_its_own_form_and_again_in_time(
    receiver: Receiver, tmp_path: Path, clock: Clock
) -> None:
    alerts = Alerts(tmp_path / "alerts.json", [Alertmanager(receiver.url, 60.0)], clock)
    alerts.again()
    assert receiver.bodies() == [], "nothing is wrong, nothing is said"
    alerts.found("fraud", [BAD])
    assert receiver.got[0][0] == "/api/v2/alerts"
    ((told,),) = receiver.bodies()
    assert told["labels"] == {
        "alertname": "tollgate_missed_fraud",
        "task": "fraud",
        "severity": "critical",
        "service": "tollgate",
    }
    assert told["startsAt"] == "1970-01-12T13:46:40Z"
    assert "endsAt" not in told
    assert told["annotations"]["action"] == "train"
    assert all(isinstance(value, str) for value in told["annotations"].values())
    for seconds, expected in ((30.0, 0), (31.0, 1), (30.0, 0)):
        clock.now += seconds
        alerts.again()
        assert len(receiver.bodies()) == expected
    alerts.found("fraud", [])
    ((over,),) = receiver.bodies()
    assert over["endsAt"] == "1970-01-12T13:48:11Z"
    clock.now += 600.0
    alerts.again()
    assert receiver.bodies() == []


def test_another_severity_ends_the_alert_with_the_old_one(
    receiver: Receiver, tmp_path: Path, clock: Clock
) -> None:
    alerts = Alerts(tmp_path / "alerts.json", [Alertmanager(receiver.url, 60.0)], clock)
    alerts.found("fraud", [SLOW])
    receiver.bodies()
    alerts.found("fraud", [replace(SLOW, severity="critical")])
    (body,) = receiver.bodies()
    assert {(each["labels"]["severity"], "endsAt" in each) for each in body} == {
        ("critical", False),
        ("warning", True),
    }


@pytest.mark.parametrize("away", ["refuses", "is gone"])
def test_who_is_away_hears_of_everything_in_order_once_back(
    receiver: Receiver, tmp_path: Path, clock: Clock, away: str
) -> None:
    hook = Webhook(receiver.url if away == "refuses" else "http://127.0.0.1:9")
    manager = Alertmanager(hook.url, 60.0)
    alerts = Alerts(tmp_path / "alerts.json", [hook, manager], clock)
    receiver.status = 503
    alerts.found("fraud", [SLOW])
    alerts.found("fraud", [])
    alerts.found("fraud", [BAD])
    assert receiver.bodies() == []
    receiver.status, hook.url, manager.url = 200, receiver.url, receiver.url
    alerts.again()
    assert receiver.bodies() == [], "not before it has rested"
    clock.now += FIRST_REST_S
    alerts.again()
    single = [body for body in receiver.bodies() if isinstance(body, dict)]
    assert [(each["status"], each["name"]) for each in single] == [
        ("firing", "drift"),
        ("resolved", "drift"),
        ("firing", "missed_fraud"),
    ]


def test_who_stays_away_is_asked_ever_more_seldom_and_costs_little_memory(
    tmp_path: Path, clock: Clock
) -> None:
    hook = Webhook("http://127.0.0.1:9")
    alerts, rests, last = Alerts(tmp_path / "alerts.json", [hook], clock), [], 0.0
    for second in range(1_100):
        clock.now += 1.0
        alerts.found("fraud", [replace(SLOW, severity="critical" if second % 2 else "warning")])
        if hook._patience.not_before_s != last:
            last = hook._patience.not_before_s
            rests.append(last - clock.now)
    assert rests[:3] == [1.0, 2.0, 4.0]
    assert max(rests) == LONGEST_REST_S
    assert len(rests) < 20
    assert len(hook._waiting) == MOST_WAITING


@pytest.mark.parametrize("address", ["not an address", "http://[", "ftp://x", "http://127.0.0.1:9/hook"])
def test_a_wrong_address_stops_nobody(tmp_path: Path, address: str) -> None:
    alerts = Alerts.of(tmp_path / "alerts.json", address, address, 60.0)
    alerts.found("fraud", [replace(SLOW, value=float("nan"))])
    assert [each.name for each in alerts.active] == ["drift"]
