from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from infra.errors import UserError
from infra.settings import Settings
from ingestion.history import History
from ingestion.tables import DAY_US, LABELS, TRANSACTIONS
from tests.training.made import past_events
from training import baselines, booster, findings, models, runs, tasks
from training.card import Card, Trained
from training.champions import Champions
from training.dataset import Dataset
from training.findings import Findings
from training.freshness import Freshness
from training.gate import Comparison
from training.models import Scorer
from training.promotion import follow, in_shadow, leave_shadow, promote, rollback
from training.retrainer import Due, Retrainer
from training.runs import Desk, Reason
from training.tasks import Task, Trial
from training.tracking import IN_SHADOW, REFUSED, Logged, Record, Registry, RegistryError, Tracking

DRAW = np.random.default_rng(7)
MATRIX = DRAW.normal(size=(1_000, 2))
TARGET = (MATRIX[:, 0] > 1).astype(float)
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def card(task: str) -> Card:
    return Card(task, "", ("a", "b"), "f00", Trained(1, 2, 3, 1_000))


def boosted(task: str) -> Scorer:
    return booster.train(MATRIX, TARGET, card(task), booster.CLASSIFIER)


def plain(task: str) -> Scorer:
    return baselines.train(MATRIX, TARGET, card(task))


def record(task: str) -> Record:
    return Record(
        task=task,
        name="a run",
        parameters={"leaves": 31, "long": "x" * 1_000},
        metrics={"average_precision": 0.7, "channel:store/brier": 0.1, "unknown": float("nan")},
        tags={"git_commit": "abc"},
        headline={"average_precision": 0.7},
        documents={"features.json": ["a", "b"]},
        figures={"cost.png": b"\x89PNG"},
    )


@pytest.fixture
def desk(mlflow: str, tmp_path: Path) -> Iterator[Desk]:
    registry = Registry(mlflow)
    yield Desk(Champions(tmp_path / "home"), registry, Tracking(mlflow))
    registry.close()


def log(desk: Desk, model: Scorer) -> Logged:
    return desk.tracking.log(record(model.card.task), model, register=True)


@pytest.mark.servers
def test_a_registered_model_comes_back_bit_for_bit(desk: Desk, tmp_path: Path) -> None:
    for make in (boosted, plain):
        model = make("bits")
        logged = log(desk, model)
        version = desk.registry.aliased("bits", "challenger")
        assert version is not None
        assert (version.version, version.run_id) == (logged.version, logged.run_id)
        assert version.tags["git_commit"] == "abc"
        desk.registry.download(version, tmp_path / logged.run_id)
        again = models.load(tmp_path / logged.run_id)
        assert again.card.run_id == logged.run_id
        assert np.array_equal(again.predict(MATRIX), model.predict(MATRIX))


@pytest.mark.servers
def test_what_lies_beside_a_model_goes_with_it_and_is_checked(desk: Desk) -> None:
    model = boosted("beside")
    watched = replace(record("beside"), beside={"reference.json": b"{}"})
    logged = desk.tracking.log(watched, model, register=True)
    promote(desk.registry, desk.champions, "beside", "1", "me", "try")
    champion = desk.champions.current("beside")
    assert champion is not None
    assert (champion.folder / "reference.json").read_bytes() == b"{}"
    assert np.array_equal(models.load(champion.folder).predict(MATRIX), model.predict(MATRIX))
    (champion.folder / "reference.json").write_bytes(b"{ }")
    with pytest.raises(UserError, match=r"reference\.json: expected SHA-256"):
        models.load(champion.folder)
    for page in (b"<html>", b"<html></html>"):
        desk.tracking.attach(logged.run_id, "watching", {"fraud.html": page, "performance.png": b"PNG"})
    assert artefact(desk, logged.run_id, "watching/fraud.html") == b"<html></html>"
    with pytest.raises(RegistryError, match="artefacts of run nobody"):
        desk.tracking.attach("nobody", "watching", {"fraud.html": b""})


def artefact(desk: Desk, run_id: str, path: str) -> bytes:
    """As a browser would get it."""
    asked = {"run_id": run_id, "path": path}
    return desk.registry._send("GET", "/get-artifact", params=asked).content


@pytest.mark.servers
def test_a_run_that_is_not_registered_is_no_version(desk: Desk) -> None:
    logged = desk.tracking.log(record("refused"), plain("refused"), register=False)
    assert logged.version is None
    assert desk.registry.versions("refused") == []
    assert desk.registry.champion("refused") is None


@pytest.mark.servers
def test_promotions_and_rollbacks_move_the_aliases_and_are_remembered(desk: Desk) -> None:
    registry, champions = desk.registry, desk.champions
    for _ in range(2):
        log(desk, plain("fraud"))
    for version in "12":
        promote(registry, champions, "fraud", version, "me", "try", lambda: NOW)
    aliases = {each.version: each.aliases for each in registry.versions("fraud")}
    assert aliases == {"2": ("champion",), "1": ("previous",)}
    rolled = rollback(registry, champions, "fraud", "you", "worse", lambda: NOW)
    assert (rolled.version, rolled.previous) == ("1", "2")
    current, previous = champions.current("fraud"), champions.previous("fraud")
    assert current is not None
    assert previous is not None
    assert (current.version, previous.version) == ("1", "2")
    history = champions.history("fraud")
    assert [(each.action, each.version, each.who) for each in history] == [
        ("promote", "1", "me"),
        ("promote", "2", "me"),
        ("rollback", "1", "you"),
    ]
    assert history[0].metrics == {"average_precision": 0.7}
    champion = registry.champion("fraud")
    assert champion is not None
    assert "rollback 2026-03-01T12:00:00Z by you: worse" in champion.tags.values()


@pytest.mark.servers
def test_whoever_follows_gets_the_champion_on_disk(desk: Desk, tmp_path: Path) -> None:
    log(desk, boosted("followed"))
    other = Champions(tmp_path / "other")
    assert follow(desk.registry, other, "followed") is None
    promote(desk.registry, desk.champions, "followed", "1", "me", "try")
    champion = follow(desk.registry, other, "followed")
    assert champion is not None
    assert models.load(champion.folder).card.version == "1"


@pytest.mark.servers
def test_what_is_not_there_is_refused_with_what_is(desk: Desk) -> None:
    log(desk, plain("asked"))
    with pytest.raises(UserError, match="there is no version 9 of asked; registered are: 1"):
        promote(desk.registry, desk.champions, "asked", "9", "me", "try")
    with pytest.raises(UserError, match="expected a champion of asked before the current one"):
        rollback(desk.registry, desk.champions, "asked", "me", "try")
    assert desk.champions.history("asked") == []


def fake_task(data: Dataset, challenger: float) -> Task:
    """A task that always measures the same."""

    def learn(rows: Dataset, _: Any, __: Any) -> Trial:
        model = baselines.train(rows.matrix, rows.target, replace(card("fake"), trained=rows.trained))
        return Trial(
            model=model,
            parameters={},
            metrics={"gain": challenger},
            rivals={"rules": {"gain": 0.5}},
            headline=("gain",),
            comparisons=(Comparison("gain", challenger, 0.5, "rules"),),
            evidence=(),
            test_start_us=0,
            rows_train=1,
            rows_test=1,
        )

    def nothing(*_: Any) -> Any:
        raise AssertionError

    return Task(
        name="fake",
        tables=(TRANSACTIONS, LABELS),
        settled=LABELS,
        least_settled=lambda settings: settings.retraining.min_new_labels,
        from_history=lambda _, window: replace(data, cutoff_us=window.cutoff_us),
        from_file=nothing,
        learn=learn,
        evaluate=nothing,
    )


def rows() -> Dataset:
    ids = np.array([f"t-{n}" for n in range(1_000)], object)
    return Dataset(("a", "b"), "f00", ids, np.arange(1_000), MATRIX, TARGET, {}, 0)


@pytest.mark.servers
def test_the_retrainer_trains_once_for_what_arrived(desk: Desk, chosen: Settings) -> None:
    transactions, labels = past_events()
    history = History(chosen.history)
    history.append(TRANSACTIONS, transactions)
    history.append(LABELS, labels)
    better = Retrainer(chosen, [], desk)
    task = fake_task(rows(), challenger=0.6)
    found = better.look(task)
    assert found is not None
    assert found.why == "8,000 new labels or outcomes"
    report = better.train(task, found)
    assert report.promoted
    current = desk.champions.current("fake")
    assert current is not None
    assert models.load(current.folder).card.trained.label_cutoff_us == found.window.cutoff_us
    assert desk.champions.history("fake")[-1].who == "retrainer"
    assert better.look(task) is None
    _, news = past_events(seed=2, n=3_000)
    later = pc.add(news["event_time_us"], 60 * DAY_US)
    history.append(LABELS, news.set_column(1, "event_time_us", later))
    again = better.look(task)
    assert again is not None
    worse = better.train(fake_task(rows(), challenger=0.4), again)
    assert (worse.version, worse.promoted) == (None, False)
    assert desk.champions.current("fake") == current
    assert better.look(task) is None


@pytest.mark.servers
def test_the_watcher_is_answered_by_one_challenger_and_crowds_train_no_more(
    desk: Desk, chosen: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is wrong stays wrong while a challenger waits for its evidence, and labels go on coming."""
    monkeypatch.setitem(tasks.TRAFFICS, "fake", "training.fraud_shadow:TRAFFIC")
    history, task = History(chosen.history), fake_task(rows(), challenger=0.6)
    transactions, labels = past_events()
    history.append(TRANSACTIONS, transactions)
    history.append(LABELS, labels)
    logged = desk.tracking.log(record("fake"), plain("fake"), True)
    promote(desk.registry, desk.champions, "fake", str(logged.version), "me", "try")
    retrainer = Retrainer(chosen, [task], desk)
    first = retrainer.look(task)
    assert first is not None
    assert retrainer.train(task, first).in_shadow, "by what arrived, not for the watcher"

    def later(days: int, n: int) -> Due | None:
        _, news = past_events(seed=days, n=n)
        last_us = int(pc.max(labels["event_time_us"]).as_py()) + days * DAY_US
        moved = pa.array(last_us + np.arange(n))
        history.append(LABELS, news.set_column(1, "event_time_us", moved))
        at_us = last_us + n - 1
        found = Findings("fake", str(logged.version), at_us, "labels", Freshness(at_us, 0, 0, 0, 0.0))
        findings.write(chosen.findings, replace(found, due=("drift of all",)))
        return retrainer.look(task)

    asked = later(1, 300)
    assert asked is not None
    assert asked.why == "drift of all"
    answer = retrainer.train(task, asked)
    assert answer.in_shadow
    assert later(2, 300) is None, "the same again, which the challenger was trained for"
    again = later(3, 2_500)
    assert again is not None
    assert again.why == "2,800 new labels or outcomes"
    other = retrainer.train(task, again)
    assert later(4, 300) is None
    known = len(desk.registry.versions("fake"))
    monkeypatch.setattr("training.retrainer.MOST_IN_SHADOW", 3)
    later(5, 2_500)
    retrainer.turn()
    assert len(desk.registry.versions("fake")) == known, "three wait, nobody else is trained"
    for version in (answer, other):
        waiting = desk.registry.version("fake", str(version.version))
        assert waiting is not None
        leave_shadow(desk.registry, waiting, REFUSED)
    asked = later(6, 300)
    assert asked is not None
    assert asked.why == "drift of all"
    retrainer.turn()
    assert len(desk.registry.versions("fake")) == known + 1


@pytest.mark.servers
@pytest.mark.slow
def test_who_is_in_shadow_is_found_however_many_came_after(desk: Desk) -> None:
    run = desk.tracking.log(record("old"), plain("old"), True, IN_SHADOW)
    for _ in range(105):
        values = {"name": "old", "source": f"runs:/{run.run_id}/tollgate", "run_id": run.run_id}
        desk.registry._tell("POST", "model-versions/create", values)
    assert len(desk.registry.versions("old")) == 100
    assert [each.version for each in in_shadow(desk.registry, "old")] == ["1"]


def test_only_one_training_at_a_time(chosen: Settings) -> None:
    first, second = runs.alone(chosen.home, "fraud"), runs.alone(chosen.home, "fraud", waiting=False)
    with first, pytest.raises(UserError, match="one is running"), second:
        raise AssertionError
    with runs.alone(chosen.home, "fraud", waiting=False):
        pass


def test_a_registry_that_is_down_is_told_at_once() -> None:
    with pytest.raises(RegistryError, match=r"expected MLflow at http://127\.0\.0\.1:9"):
        Registry("http://127.0.0.1:9").champion("fraud")
    with pytest.raises(UserError):
        runs.train(fake_task(rows(), 0.6), rows(), _settings(), _down(), Reason("me", "try"))


def _settings() -> Settings:
    from infra.settings import load

    return load()


def _down() -> Desk:
    url = "http://127.0.0.1:9"
    return Desk(Champions(Path("nowhere")), Registry(url), Tracking(url))
