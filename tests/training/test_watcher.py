"""Watching a simulated history: alarms soon after a new fraud pattern, none where labels misbehave."""

import json
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from features import replay
from features.fraud import FRAUD
from features.state import Flags
from infra import settings
from infra.settings import Settings
from ingestion.history import History
from ingestion.tables import DAY_US, DECISIONS, LABELS, TRANSACTIONS, completed
from tests.training.test_skew import decisions
from tests.training.watched import DAYS, PAST_DAYS, RING_DAY, World, kept, outage, world, written
from training import findings, fraud, models, watch_report
from training.alerts import Alerts
from training.champions import Champions
from training.findings import Findings
from training.fraud_watching import decide
from training.retrainer import Retrainer
from training.runs import Desk
from training.watch_measures import WatchMeasures
from training.watcher import Looker, Watcher

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made() -> World:
    return world(settings.load())


@pytest.fixture(scope="module")
def home(made: World, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A champion, and the whole simulated history."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("TOLLGATE_HOME", str(tmp_path_factory.mktemp("watched") / "home"))
        chosen = settings.load()
    kept(chosen, made.trial)
    past = made.events.between(None, made.us(DAYS))
    written(chosen, past.decided, past.settled)
    return chosen


def seen(chosen: Settings, made: World, day: float) -> Findings:
    found = Looker(chosen).look(fraud.TASK, made.us(day), skew=False)
    assert found is not None
    return found


def test_the_first_200_labels_of_a_new_pattern_raise_the_alarm(home: Settings, made: World) -> None:
    before = [seen(home, made, day) for day in (PAST_DAYS + 8, RING_DAY)]
    assert [each.alerts for each in before] == [(), ()]
    after = seen(home, made, min(made.arrived(ring=True, at=200) + 1.0, DAYS))
    assert "missed_fraud" in [each.name for each in after.alerts]
    assert any("frauds among approved payments" in why for why in after.due)
    assert after.declines is not None
    found = after.declines["missed_fraud"]
    assert found.since_day is not None
    assert found.since_day - made.start_us // DAY_US >= RING_DAY
    assert after.matured is not None
    assert before[1].matured is not None
    assert after.matured["average_precision"] < before[1].matured["average_precision"]
    assert after.matured["recall"] < before[1].matured["recall"]
    picture, page = watch_report.plot(after), watch_report.page(after)
    assert picture.startswith(b"\x89PNG")
    assert b"missed_fraud" in page
    assert b"http" not in page, "it needs nothing from elsewhere"


def test_an_outage_of_labels_is_told_and_is_no_decline(made: World, chosen: Settings) -> None:
    """20 days without labels, before the ring; then all of them within a moment."""
    kept(chosen, made.trial)
    start, end = made.us(PAST_DAYS), made.us(PAST_DAYS + 14)
    quiet = made.events.decided.filter(
        pa.array(made.events.decided["event_time_us"].to_numpy() < made.us(RING_DAY))
    )
    written(chosen, quiet, outage(made.events.settled, start - 6 * DAY_US, end))
    during = seen(chosen, made, PAST_DAYS + 13.9)
    assert [each.name for each in during.alerts] == ["no_labels"]
    assert "20 days" in during.alerts[0].summary
    assert during.due == ()
    flooded = seen(chosen, made, PAST_DAYS + 14.5)
    assert {each.name for each in flooded.alerts} <= {"drift"}, "fraud rates that were stale have moved"
    assert flooded.matured is not None
    assert during.matured is not None
    assert flooded.matured["rows"] > during.matured["rows"]


def test_clocks_that_jump_move_nothing_but_their_own_alert(made: World, chosen: Settings) -> None:
    kept(chosen, made.trial)
    until = made.us(RING_DAY)
    early = [rows.filter(pa.array(rows["event_time_us"].to_numpy() < until)) for rows in
             (made.events.decided, made.events.settled)]  # fmt: skip
    plain = replace_times(early[0], [])
    written(chosen, plain, early[1])
    assert (found := Looker(chosen).look(fraud.TASK, skew=False)) is not None
    jumped = chosen.model_copy(update={"home": chosen.home.with_name("jumped")})
    kept(jumped, made.trial)
    ahead = replace_times(early[0], [(-5, 400 * DAY_US), (-900, 9_000 * DAY_US)])
    written(jumped, ahead, early[1])
    assert (other := Looker(jumped).look(fraud.TASK, skew=False)) is not None
    assert found.alerts == ()
    assert [each.name for each in other.alerts] == ["clock_ahead"]
    assert other.at_us == found.at_us
    assert other.due == ()


def test_payments_that_come_three_days_late_are_told_and_are_no_decline(
    made: World, chosen: Settings
) -> None:
    """A fifth of the payments of the last days is written to the log three days after its time."""
    until, live = made.us(RING_DAY), made.us(RING_DAY - 5)
    paid, labels = (
        rows.filter(pa.array(rows["event_time_us"].to_numpy() < until))
        for rows in (made.events.decided, made.events.settled)
    )
    past = pa.array(paid["event_time_us"].to_numpy() < live)
    newest = paid.filter(pc.invert(past))
    found = []
    for name, late in (("in_time", 0), ("late", np.arange(len(newest)) % 5 == 0)):
        mine = chosen.model_copy(update={"home": chosen.home.with_name(name)})
        kept(mine, made.trial)
        history = written(mine, paid.filter(past), labels)
        history.append(TRANSACTIONS, by_the_log(newest, np.asarray(late)))
        found.append(seen(mine, made, RING_DAY))
    assert [[each.name for each in one.alerts] for one in found] == [[], ["late_events"]]
    assert found[1].freshness.late_share == pytest.approx(0.2, abs=0.1)
    assert found[1].due == ()


def by_the_log(rows: pa.Table, late: Flags) -> pa.Table:
    """Rows in one partition, in the order in which they came: some three days after their time."""
    came = rows["event_time_us"].to_numpy() + np.where(late, 3 * DAY_US, 0)
    rows = rows.take(pa.array(np.argsort(came, kind="stable")))
    columns = {name: rows[name] for name in rows.column_names}
    for name in ("customer", "terminal"):
        columns[f"{name}_partition"] = pa.array(np.zeros(len(rows), np.int32))
        columns[f"{name}_position"] = pa.array(np.arange(len(rows)))
    return completed(TRANSACTIONS, pa.table(columns))


def replace_times(rows: pa.Table, moved: list[tuple[int, int]]) -> pa.Table:
    times = rows["event_time_us"].to_numpy().copy()
    for at, by_us in moved:
        times[at] += by_us
    return rows.set_column(rows.column_names.index("event_time_us"), "event_time_us", pa.array(times))


def logged(chosen: Settings, made: World, day: float) -> pa.Table:
    """What the champion decides of all payments from its label cut-off on."""
    end = made.us(day)
    history = History(chosen.history)
    paid, labels = (history.read(table, None, end) for table in (TRANSACTIONS, LABELS))
    values = replay.matrix_of(FRAUD, paid, labels).values
    model = models.load(Champions(chosen.home).folder("fraud", "1"))
    new = paid["event_time_us"].to_numpy() > model.card.trained.end_us
    rows = decisions(
        paid.filter(pa.array(new))["transaction_id"].to_pylist(),
        paid["event_time_us"].to_numpy()[new],
        values[new],
        FRAUD.names,
    )
    score, amount = model.predict(values[new]), paid["amount"].to_numpy()[new]
    codes = decide(chosen, model, values[new], score, amount)
    words = pa.array(np.array(["approve", "review", "decline"])[codes])
    for name, column in {
        "decision": words,
        "policy_decision": words,
        "score": pa.array(score),
        "model_version": pa.array(["1"] * len(score)),
    }.items():
        rows = rows.set_column(rows.column_names.index(name), name, column)
    return rows


def test_the_same_is_seen_by_logged_decisions_as_by_a_replay(made: World, chosen: Settings) -> None:
    """But for what was declined, whose labels nobody would have."""
    day = PAST_DAYS + 10.0
    kept(chosen, made.trial)
    past = made.events.between(None, made.us(day))
    history = written(chosen, past.decided, past.settled)
    again = seen(chosen, made, day)
    history.append(DECISIONS, logged(chosen, made, day))
    live = Looker(chosen).look(fraud.TASK, made.us(day))
    assert live is not None
    assert live.rows == again.rows
    assert live.estimated == pytest.approx(again.estimated)
    assert live.declines == again.declines
    assert live.matured is not None
    assert again.matured is not None
    assert live.matured["rows"] < again.matured["rows"]
    assert live.skew is not None
    assert live.skew.compared > 1_000
    assert live.skew.different == 0


def test_the_watcher_keeps_tells_and_asks_for_a_training(home: Settings, made: World, tmp_path: Path) -> None:
    registry = CollectorRegistry()
    alerts = Alerts(tmp_path / "alerts.json", [])
    watching = Watcher(Looker(home), [fraud.TASK], alerts, WatchMeasures(registry))
    stop = threading.Event()
    thread = threading.Thread(target=watching.run, args=(stop,))
    thread.start()
    while not findings.file_of(home.findings, "fraud").exists():
        thread.join(0.1)
    stop.set()
    thread.join()
    told = json.loads(findings.file_of(home.findings, "fraud").read_text())
    names = [each["name"] for each in told["alerts"]]
    assert "missed_fraud" in names
    assert {each.name for each in alerts.active} == set(names)
    text = generate_latest(registry).decode()
    assert 'tollgate_alert{alert="missed_fraud",severity="critical",task="fraud"} 1.0' in text
    assert 'tollgate_drift_psi{feature="score",task="fraud"}' in text
    assert "tollgate_skew_mismatches_total" in text
    written_at = findings.file_of(home.findings, "fraud").stat().st_mtime_ns
    watching.turn()
    assert findings.file_of(home.findings, "fraud").stat().st_mtime_ns == written_at, "nothing is new"
    assert (why := asked_of(home, made)) is not None
    assert "frauds among approved payments" in why
    tried = home.home / "models" / "fraud" / "tried.json"
    tried.write_text(json.dumps({"cutoff_us": made.us(DAYS + 30)}))
    assert asked_of(home, made) is None, "what was found has been learned from"
    tried.unlink()


def asked_of(home: Settings, made: World) -> str | None:
    """What the retrainer makes of the findings, with nothing else due."""
    patient = home.retraining.model_copy(update={"min_new_labels": 10**9, "max_age_days": 1e6})

    class Offline(Retrainer):
        """The champion on disk is the registry's."""

        def _learned_until(self, task: object) -> int | None:
            model = models.load(Champions(home.home).folder("fraud", "1"))
            tried = home.home / "models" / "fraud" / "tried.json"
            known = model.card.trained.label_cutoff_us
            return max(known, json.loads(tried.read_text())["cutoff_us"]) if tried.exists() else known

    chosen = home.model_copy(update={"retraining": patient})
    due = Offline(chosen, [fraud.TASK], Desk.of(chosen)).look(fraud.TASK)
    return due.why if due else None


def test_a_model_without_a_reference_and_a_task_without_a_champion_are_no_error(
    made: World, chosen: Settings
) -> None:
    kept(chosen, replace(made.trial, beside={}))
    written(chosen, made.events.decided, made.events.settled)
    found = seen(chosen, made, RING_DAY)
    assert found.drift == ()
    assert found.standard is None
    assert found.alerts == ()
    (Champions(chosen.home).folder("fraud", "1").parent / "current.json").unlink()
    nobody = seen(chosen, made, RING_DAY)
    assert (nobody.version, nobody.rows) == ("", 0)
    assert nobody.freshness.settled_days < 1.0
