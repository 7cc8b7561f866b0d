"""Challengers in shadow: they score what was decided live, until they have proven themselves or are refused.

Every decision in the history carries the vector that it used, so a challenger needs no part in answering:
what it would have said is computed from the same numbers, when they land. It begins with the decisions after
the newest event that it learned from, whose truth it cannot know (docs/decisions/0014).

What it says is appended to `<home>/shadow/<task>/<version>/`, each decision once by its place in the log;
what became of it is told by the version's tags in the registry. There is nothing else to remember, so a
process that dies is followed by one that goes on.

Where the settings want it (`gate.canary_share`), who has proven itself decides for some customers first, as a
canary, and is taken back or promoted by what becomes of it (docs/decisions/0015).
"""

import fcntl
import json
import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from features.state import Floats
from infra.errors import UserError
from infra.settings import Settings
from ingestion.history import History
from ingestion.tables import DAY_US, FROM_THE_START, PLACES, SCORES, day_start_us
from training import inspection, models
from training.behaviour import misbehaviour
from training.canary import Canary
from training.dataset import Dataset
from training.freshness import present
from training.models import Scorer
from training.paired import Draws, groups_of
from training.promotion import (
    fetch,
    follow,
    in_shadow,
    leave_shadow,
    promote,
    resume,
    return_canary,
    start_canary,
)
from training.runs import Desk, finite
from training.shadow_gate import (
    Matured,
    Outlook,
    Stopped,
    evidence,
    judge_canary,
    judge_shadow,
    lacking,
    stops_needed,
    tail,
)
from training.tasks import Task, traffic_of
from training.tracking import EVIDENCE, REFUSED, Version
from training.traffic import NEEDED, Pair, Scored, Traffic, vectors

log = logging.getLogger(__name__)

WHO = "shadow"
SAMPLE = 200
"""So many of the newest live decisions a model is inspected by."""
MOST_FILES = 64
"""Files of a day before they are made one."""
MOST_REASONS, MOST_LETTERS = 10, 250
"""The registry keeps no long texts: what is cut off in the middle is JSON no more."""
IDLE = 20.0
"""After a look that took a second a task is left alone for so many, if that is more than the cadence."""


@dataclass(frozen=True)
class Candidate:
    """A model that may decide, and its version."""

    version: str
    model: Scorer


@dataclass(frozen=True)
class Trial:
    """A challenger beside the champion, on the decisions that neither has learned from."""

    task: Task
    traffic: Traffic
    version: Version
    challenger: Candidate
    champion: Candidate

    @property
    def start_us(self) -> int:
        """Time of the first decision that counts."""
        learned = (each.model.card.trained.end_us for each in (self.challenger, self.champion))
        return max(learned) + 1

    @property
    def told(self) -> dict[str, Any]:
        """What the registry knows of the evidence so far."""
        found: dict[str, Any] = json.loads(self.version.tags.get(EVIDENCE, "{}"))
        return found


class Shadow:
    """Looks, scores and judges.

    Args:
        tasks: in the order they are looked at.
        desk: where champions and challengers are.
        clock: seconds that only ever rise.
    """

    def __init__(
        self, settings: Settings, tasks: list[Task], desk: Desk, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings
        self._tasks = tasks
        self._desk = desk
        self._clock = clock
        self._history = History(settings.history)
        self._scores: dict[tuple[str, str], ScoreLog] = {}
        self._models: dict[tuple[str, str], Scorer] = {}
        self._faults: dict[tuple[str, str, str], list[str]] = {}
        self._not_before: dict[str, float] = {}
        self._complaints: dict[str, str] = {}

    def run(self, stop: threading.Event) -> None:
        """Look every `shadow_poll_s` until stopped. What fails is logged and looked at again.

        A shadow that fails by a bug stops its process too: without it nobody would be promoted any more.
        """
        try:
            while not stop.is_set():
                self.turn()
                stop.wait(self._settings.retraining.shadow_poll_s)
        finally:
            stop.set()

    def turn(self) -> None:
        """Look once at every task whose last look did not take too long just now."""
        for task in self._tasks:
            began = self._clock()
            if began >= self._not_before.get(task.name, 0.0):
                self._guarded(task.name, lambda task=task: self.look(task))  # type: ignore[misc]
                self._not_before[task.name] = self._clock() + IDLE * (self._clock() - began)

    def look(self, task: Task) -> None:
        """Complete what was left undone, score what is new, judge a canary and who waits, the oldest first.

        Raises:
            UserError: MLflow is down; the canary was judged all the same.
        """
        resume(self._desk.registry, self._desk.champions, task.name)
        traffic = traffic_of(task.name)
        if traffic is None:
            return
        with alone(self._settings.home, task.name) as mine:
            canary = self._desk.champions.canary(task.name)
            if canary is not None and mine:
                what = f"{task.name} {canary.version}"
                self._guarded(what, lambda: self._advance_canary(task, traffic, canary))
            waiting = in_shadow(self._desk.registry, task.name)
            versions = self._at_work(task.name, waiting)
            self._forget(task.name, versions)
            if mine:
                self._tidy(task.name, versions)
            for version in reversed(waiting) if mine else ():
                self._guarded(
                    f"{task.name} {version.version}",
                    lambda version=version: self._advance(task, traffic, version),  # type: ignore[misc]
                )

    def _at_work(self, task: str, waiting: list[Version]) -> set[str | None]:
        """Who is in shadow, canary or champion."""
        canary = self._desk.champions.canary(task)
        deciding = {self._desk.champions.pair(task)[0], canary.version if canary else None}
        return {each.version for each in waiting} | deciding

    def _forget(self, task: str, versions: set[str | None]) -> None:
        """Keep nothing in memory of others."""
        self._models = {key: each for key, each in self._models.items() if _stays(key, task, versions)}
        self._scores = {key: each for key, each in self._scores.items() if _stays(key, task, versions)}
        self._faults = {key: each for key, each in self._faults.items() if _stays(key, task, versions)}
        self._complaints = {
            what: each
            for what, each in self._complaints.items()
            if what == task or _stays(tuple(what.split()), task, versions)
        }

    def _tidy(self, task: str, versions: set[str | None]) -> None:
        """Remove the scores of others: the logged vectors and their model can say them again."""
        everybody = folder_of(self._settings.home, task, "")
        for folder in everybody.iterdir() if everybody.exists() else ():
            if folder.name not in versions:
                shutil.rmtree(folder, ignore_errors=True)

    def _advance(self, task: Task, traffic: Traffic, version: Version) -> None:
        fetch(self._desk.registry, self._desk.champions, version)
        challenger = self._loaded(task.name, version.version)
        try:
            challenger.model.card.expect(traffic.features.names, traffic.features.hash)
        except UserError as error:
            self._refuse(version, [str(error)])
            return
        champion = self._champion(task.name)
        if champion is None or champion.model.card.feature_hash != traffic.features.hash:
            self._promote(version, "there is no champion that knows these features", {})
            return
        trial = Trial(task, traffic, version, challenger, champion)
        self._log_of(trial).extend(trial, self._history)
        if self._desk.champions.canary(task.name) is None:  # who comes after it meets the champion of then
            self._judge(trial)

    def _advance_canary(self, task: Task, traffic: Traffic, canary: Canary) -> None:
        """By what is on disk: an outage of MLflow neither ends the watch over it nor keeps it from ending."""
        registry, champions = self._desk.registry, self._desk.champions
        with suppress(UserError):
            follow(registry, champions, task.name)
        newest, champion = present(self._history, task), champions.current(task.name)
        if newest is None or champion is None or champions.canary(task.name) != canary:
            return
        trial = Trial(
            task=task,
            traffic=traffic,
            version=Version(task.name, canary.version, ""),
            challenger=self._loaded(task.name, canary.version),
            champion=self._loaded(task.name, champion.version),
        )
        try:
            for each in (trial.challenger, trial.champion):
                each.model.card.expect(traffic.features.names, traffic.features.hash)
        except UserError as error:
            self._take_back(trial, str(error), {})
            return
        self._log_of(trial).extend(trial, self._history)
        self._judge_canary(trial, canary, newest)

    def _judge_canary(self, trial: Trial, canary: Canary, newest: int) -> None:
        outlook, told = self._canary_outlook(trial, canary, newest)
        self._desk.champions.tell_canary(trial.task.name, canary, finite(told))
        if self._desk.champions.canary(trial.task.name) != canary:
            return  # a person was quicker
        if outlook.state == "passed":
            self._promote(trial.version, "; ".join(outlook.reasons), told)
        elif outlook.state == "refused":
            self._take_back(trial, "; ".join(outlook.reasons), told)

    def _canary_outlook(self, trial: Trial, canary: Canary, newest: int) -> tuple[Outlook, dict[str, Any]]:
        """What is to become of a canary, by the decisions whose truth the shadow did not know yet."""
        before = self._desk.champions.canary_evidence(trial.task.name, canary)
        looks, stop_looks = (int(before.get(name, 0)) for name in ("looks", "stop_looks"))
        unseen_us = canary.since_us - round(self._settings.labels.maturity_days * DAY_US) + 1
        counts, _, found = self._matured(trial, max(trial.start_us, unseen_us), newest, looks)
        stopped = self._stopped(trial, canary, stop_looks)
        age_days, looks = (newest - canary.since_us) / DAY_US, looks + (found is not None)
        outlook = judge_canary(found, stopped, self._settings.gate, age_days, looks)
        told = counts | {
            "against": trial.champion.version,
            "days": round(age_days, 3),
            "looks": looks,
            "stop_looks": stop_looks + (not np.isnan(stopped.excess)),
            "stopped": asdict(stopped),
            **_said(outlook),
            **_shown(found, before),
        }
        return outlook, told

    def _stopped(self, trial: Trial, canary: Canary, looks: int) -> Stopped:
        """Beside what the champion would have stopped of the canary's payments, at the look after so many."""
        how, gate = trial.traffic.canaried, self._settings.gate
        assert how is not None
        rows, pair = self._paired(trial, how.made(self._settings, canary.version, canary.since_us))
        own, rival = (
            how.stopped(self._settings, rows, each).astype(np.float64)
            for each in (pair.challenger, pair.champion)
        )
        excess = np.nan
        if own.sum() >= stops_needed(looks):
            draws = Draws(groups_of(rows.columns[how.asker].tolist()), np.ones(len(rows)), tail(gate, looks))
            excess = draws.excess(own, rival, gate.canary_max_ratio)
        return Stopped(len(rows), int(own.sum()), int(rival.sum()), excess)

    def _judge(self, trial: Trial) -> None:
        faults = self._inspected(trial)
        if faults:
            self._refuse(trial.version, faults)
            return
        newest = present(self._history, trial.task)
        if newest is None:
            return
        outlook, told = self._outlook(trial, newest)
        self._tell(trial.version, told)
        if outlook.state == "passed":
            reason = trial.version.tags.get("reason", "")
            self._passed(trial, newest, "; ".join(filter(None, (reason, *outlook.reasons))), told)
        elif outlook.state == "refused":
            self._refuse(trial.version, list(outlook.reasons))

    def _outlook(self, trial: Trial, newest: int) -> tuple[Outlook, dict[str, Any]]:
        """What is to become of a challenger, and what is to be told of it."""
        gate, looks = self._settings.gate, int(trial.told.get("looks", 0))
        counts, missing, found = self._matured(trial, trial.start_us, newest, looks)
        age = (newest - trial.challenger.model.card.trained.label_cutoff_us) / DAY_US
        outlook = judge_shadow(missing, found, gate, age)
        told = counts | {
            "against": trial.champion.version,
            "looks": looks + (outlook.state == "unproven"),
            **_said(outlook),
            **_shown(found, trial.told),
        }
        return outlook, told

    def _matured(
        self, trial: Trial, start_us: int, newest: int, looks: int
    ) -> tuple[dict[str, Any], tuple[str, ...], Matured | None]:
        """How much is known of decisions from a time on, what is missing, and if nothing, what it shows."""
        gate, traffic = self._settings.gate, trial.traffic
        rows, pair = self._paired(trial, traffic.matured(self._settings, start_us, newest))
        counts = len(rows), int((rows.target > 0).sum())
        missing = lacking(evidence(gate, looks, traffic.what, counts))
        found = None if missing else traffic.compared(self._settings, rows, pair, looks)
        return dict(zip(traffic.what, counts, strict=True)), missing, found

    def _paired(self, trial: Trial, rows: Dataset) -> tuple[Dataset, Pair]:
        """Matured decisions that were scored, with both models' scores; the champion may have changed."""
        said = self._log_of(trial).scores(trial.start_us).reindex(rows.ids)
        there = said["score"].notna().to_numpy()
        rows, said = rows.rows(there), said[there]
        champion = said["champion_score"].to_numpy(np.float64, copy=True)
        other = (said["champion_version"] != trial.champion.version).to_numpy(bool)
        if other.any():
            champion[other] = trial.champion.model.predict(rows.matrix[other])
        own = said["score"].to_numpy(np.float64)
        return rows, Pair(Scored(trial.challenger.model, own), Scored(trial.champion.model, champion))

    def _inspected(self, trial: Trial) -> list[str]:
        """What is wrong with a challenger whatever the evidence; nothing while nothing was decided live."""
        key = trial.task.name, trial.challenger.version, trial.champion.version
        if key not in self._faults:
            sample = newest_vectors(self._history, trial.traffic)
            if not len(sample):
                return []
            self._faults[key] = self._faults_of(trial, sample)
        return self._faults[key]

    def _faults_of(self, trial: Trial, sample: Floats) -> list[str]:
        gate, both = self._settings.gate, (trial.challenger.model, trial.champion.model)
        own, champion = inspection.latencies(both, sample)
        size = inspection.size_mb(self._desk.champions.folder(trial.task.name, trial.challenger.version))
        budget = inspection.over_budget(own, champion, size, gate)
        return [*budget, *misbehaviour(trial.task.name, trial.challenger.model, sample, gate)]

    def _tell(self, version: Version, told: Mapping[str, Any]) -> None:
        text = json.dumps(finite(dict(told)))
        if version.tags.get(EVIDENCE) != text:
            self._desk.registry.tag(version.task, version.version, EVIDENCE, text)

    def _refuse(self, version: Version, reasons: list[str]) -> None:
        log.info("challenger %s %s is refused: %s", version.task, version.version, "; ".join(reasons))
        leave_shadow(self._desk.registry, version, f"{REFUSED}: {'; '.join(reasons)}")

    def _passed(self, trial: Trial, newest: int, why: str, told: Mapping[str, Any]) -> None:
        """It decides for some customers first, if the settings want it and the task knows who is asking."""
        version, share = trial.version, self._settings.gate.canary_share
        if not share or trial.traffic.canaried is None:
            self._promote(version, why, told)
            return
        registry, champions = self._desk.registry, self._desk.champions
        canary = Canary(version.version, share, newest)
        start_canary(registry, champions, version.task, canary, WHO, why, evidence=finite(dict(told)))
        log.info("challenger %s %s decides for %g of the customers", version.task, version.version, share)

    def _take_back(self, trial: Trial, why: str, told: Mapping[str, Any]) -> None:
        log.info("canary %s %s is taken back: %s", trial.task.name, trial.version.version, why)
        found = finite(dict(told))
        return_canary(self._desk.registry, self._desk.champions, trial.task.name, WHO, why, evidence=found)

    def _promote(self, version: Version, why: str, told: Mapping[str, Any]) -> None:
        done = promote(
            self._desk.registry,
            self._desk.champions,
            version.task,
            version.version,
            WHO,
            why,
            evidence=finite(dict(told)),
        )
        log.info("challenger %s %s is the champion, was %s", done.task, done.version, done.previous)

    def _champion(self, task: str) -> Candidate | None:
        found = follow(self._desk.registry, self._desk.champions, task)
        return self._loaded(task, found.version) if found else None

    def _loaded(self, task: str, version: str) -> Candidate:
        key = task, version
        if key not in self._models:
            self._models[key] = models.load(self._desk.champions.folder(task, version))
        return Candidate(version, self._models[key])

    def _log_of(self, trial: Trial) -> "ScoreLog":
        key = trial.task.name, trial.challenger.version
        if key not in self._scores:
            self._scores[key] = ScoreLog(folder_of(self._settings.home, *key))
        return self._scores[key]

    def _guarded(self, what: str, act: Callable[[], None]) -> None:
        """Tell a complaint once, not at every look."""
        try:
            act()
            self._complaints.pop(what, None)
        except (UserError, OSError) as error:
            if self._complaints.get(what) != str(error):
                log.warning("shadow of %s: %s", what, error)
            self._complaints[what] = str(error)


def _stays(key: tuple[str, ...], task: str, versions: set[str | None]) -> bool:
    """Whether a key of a task and versions of it is of another task, or of these versions only."""
    return key[0] != task or versions.issuperset(key[1:])


class ScoreLog:
    """What one challenger said of live decisions, appended day by day; one process writes it."""

    def __init__(self, folder: Path) -> None:
        self._table = History(folder)
        self._seen: dict[str, Mapping[int, int]] = {}

    def extend(self, trial: Trial, history: History) -> None:
        """Score all decisions from the trial's start on that were not scored yet."""
        for day in history.days(trial.traffic.table, trial.start_us):
            there = history.reached(trial.traffic.table, day)
            if self._seen.get(day) != there:
                self._extend(day, trial, history)
                self._seen[day] = there
        self._table.compact(SCORES, at_least=MOST_FILES)

    def _extend(self, day: str, trial: Trial, history: History) -> None:
        traffic, start_us = trial.traffic, day_start_us(day)
        partition, position = PLACES[traffic.table]
        columns = (traffic.key, "event_time_us", "model_version", partition, position, *NEEDED)
        rows = history.read(traffic.table, max(start_us, trial.start_us), start_us + DAY_US, columns)
        rows = _beyond(rows, (partition, position), self._table.reached(SCORES, day))
        live, matrix = vectors(
            rows.sort_by([(partition, "ascending"), (position, "ascending")]), traffic.features
        )
        if live.num_rows:
            self._table.append(SCORES, _scored(live, matrix, trial))

    def scores(self, start_us: int) -> Any:
        """Of each decision from a time on, by its id: `SCORES`' columns as a frame."""
        found = self._table.read(
            SCORES, start_us, None, ["id", "score", "champion_score", "champion_version"]
        )
        return found.to_pandas().drop_duplicates("id").set_index("id")


def _beyond(rows: pa.Table, place: tuple[str, str], reached: Mapping[int, int]) -> pa.Table:
    """Rows that came by the log, not by a backfill, and were not reached yet."""
    partition, position = (rows[name].to_numpy() for name in place)
    until = np.array([reached.get(each, FROM_THE_START) for each in partition.tolist()], np.int64)
    return rows.filter(pa.array((partition >= 0) & (position > until)))


def _scored(live: pa.Table, matrix: Floats, trial: Trial) -> pa.Table:
    partition, position = PLACES[trial.traffic.table]
    return pa.table(
        {
            "id": live[trial.traffic.key],
            "event_time_us": live["event_time_us"],
            "score": trial.challenger.model.predict(matrix),
            "champion_score": trial.champion.model.predict(matrix),
            "champion_version": pa.array([trial.champion.version] * live.num_rows, pa.string()),
            "decided_by": live["model_version"],
            "partition": live[partition],
            "position": live[position],
        }
    )


def newest_vectors(history: History, traffic: Traffic) -> Floats:
    """Vectors of the newest live decisions, at most `SAMPLE`, shape (n, features)."""
    for day in reversed(history.days(traffic.table)):
        start_us = day_start_us(day)
        rows = history.read(traffic.table, start_us, start_us + DAY_US, ["event_time_us", *NEEDED])
        _, matrix = vectors(rows.sort_by("event_time_us"), traffic.features)
        if len(matrix):
            return matrix[-SAMPLE:]
    return np.empty((0, len(traffic.features.names)))


def _said(outlook: Outlook) -> dict[str, Any]:
    """What is told of an outlook; the registry keeps no long texts."""
    reasons = [each[:MOST_LETTERS] for each in outlook.reasons[:MOST_REASONS]]
    return {"state": outlook.state, "reasons": reasons}


def _shown(found: Matured | None, before: Mapping[str, Any]) -> dict[str, Any]:
    """Gains and figures of this look, or of the last one that could tell."""
    if found is None:
        return {name: before[name] for name in ("gains", "figures") if name in before}
    return {"gains": [asdict(each) for each in found.gains], "figures": dict(found.figures)}


def folder_of(home: Path, task: str, version: str) -> Path:
    """Where a challenger's scores lie."""
    return home / "shadow" / task / version


@contextmanager
def alone(home: Path, task: str) -> Iterator[bool]:
    """Whether nobody else shadows this task on this home now; the lock goes with the process that held it."""
    path = home / "shadow" / f"{task}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
