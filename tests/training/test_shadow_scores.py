"""What challengers in shadow said, by the files that say it: each decision once, whatever died in between."""

import threading
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from features.fraud import FRAUD
from infra.settings import Settings
from ingestion.history import History
from ingestion.tables import DAY_US, DECISIONS, SCORES
from tests.training.live import LEARNED_DAYS, Live, decisions, live, write
from tests.training.made import MIDNIGHT_US
from training import fraud_shadow, runs
from training.dataset import Dataset
from training.models import Scorer
from training.runs import Desk
from training.shadow import Candidate, ScoreLog, Shadow, Trial, newest_vectors
from training.tasks import Incumbent, Task, task
from training.tracking import DIRECT, IN_SHADOW, Version
from training.traffic import vectors


class Sum:
    """Says the sum of two features, so that everyone can."""

    def __init__(self, payments: Live) -> None:
        self.card = payments.model(rows=np.arange(len(payments.fraud)) < 500).card

    def predict(self, matrix: np.ndarray) -> np.ndarray:
        return matrix[:, 0] + matrix[:, 1]


@pytest.fixture(scope="module")
def payments() -> Live:
    return live()


@pytest.fixture
def trial(payments: Live) -> Trial:
    model: Scorer = Sum(payments)  # type: ignore[assignment]
    version = Version("fraud", "2", "r")
    return Trial(task("fraud"), fraud_shadow.TRAFFIC, version, Candidate("2", model), Candidate("1", model))


def append(folder: Path, payments: Live, *cuts: int) -> None:
    history = History(folder)
    for start, end in pairwise(cuts):
        history.append(DECISIONS, decisions(payments, slice(start, end)))


def test_each_decision_is_scored_once_from_what_the_models_learned_on(
    payments: Live, trial: Trial, tmp_path: Path
) -> None:
    first = int(payments.learned.sum())
    cuts = [first - 900, first - 500, first + 300, first + 301, first + 2_100, first + 2_200]
    for reached in range(2, len(cuts) + 1):
        append(tmp_path / "history", payments, *cuts[reached - 2 : reached])
        ScoreLog(tmp_path / "shadow").extend(trial, History(tmp_path / "history"))  # a new process each time
        found = History(tmp_path / "shadow").read(SCORES)
        ids = found["id"].to_pylist()
        assert sorted(ids) == sorted(f"t-{i}" for i in range(first, cuts[reached - 1]))
    rows = [int(name[2:]) for name in ids]
    assert np.array_equal(found["score"].to_numpy(), payments.matrix[rows, :2].sum(axis=1))
    assert set(found["champion_version"].to_pylist()) == set(found["decided_by"].to_pylist()) == {"1"}


def test_a_late_decision_of_a_day_that_was_scored_is_scored_too(
    payments: Live, trial: Trial, tmp_path: Path
) -> None:
    end, log = len(payments.fraud), ScoreLog(tmp_path / "shadow")
    append(tmp_path / "history", payments, end - 2_000, end - 10)
    log.extend(trial, History(tmp_path / "history"))
    late = replace(payments, time_us=payments.time_us - 3 * DAY_US)
    History(tmp_path / "history").append(DECISIONS, decisions(late, slice(end - 10, end)))
    log.extend(trial, History(tmp_path / "history"))
    assert len(log.scores(0)) == 2_000


def test_what_was_decided_by_other_features_is_left_out(payments: Live, trial: Trial, tmp_path: Path) -> None:
    rows = decisions(payments, slice(len(payments.fraud) - 100, None))
    names = rows["feature_names"].to_pylist()
    names[:40] = [list(reversed(each)) for each in names[:40]]
    place = rows.column_names.index("feature_names")
    history = History(tmp_path / "history")
    history.append(DECISIONS, rows.set_column(place, "feature_names", [names]))
    log = ScoreLog(tmp_path / "shadow")
    log.extend(trial, history)
    assert len(log.scores(0)) == len(newest_vectors(history, trial.traffic)) == 60


def test_only_matured_labels_of_what_was_decided_count(payments: Live, chosen: Settings) -> None:
    write(History(chosen.history), payments, until_day=25)
    start = MIDNIGHT_US + LEARNED_DAYS * DAY_US
    cutoff = MIDNIGHT_US + 25 * DAY_US - 1
    rows = fraud_shadow.matured(chosen, start, cutoff)
    time_us = payments.time_us
    expected = (time_us >= start) & (time_us <= cutoff - 7 * DAY_US)
    assert len(rows) == expected.sum()
    assert np.array_equal(rows.matrix, payments.matrix[expected])
    assert np.array_equal(rows.target > 0, payments.fraud[expected])
    assert set(rows.columns["channel"]) == {"online", "in_store"}


def test_many_small_files_become_one_and_nothing_is_scored_again(
    payments: Live, trial: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.shadow.MOST_FILES", 8)
    end, history, log = len(payments.fraud), History(tmp_path / "history"), ScoreLog(tmp_path / "shadow")
    for start in range(end - 180, end, 20):
        history.append(DECISIONS, decisions(payments, slice(start, start + 20)))
        log.extend(trial, history)
    files = list((tmp_path / "shadow").rglob("*.parquet"))
    assert len(files) < 8 + 4
    assert any(file.name.startswith("compact-") for file in files)
    ScoreLog(tmp_path / "shadow").extend(trial, history)
    assert History(tmp_path / "shadow").read(SCORES).num_rows == 180


def test_a_winner_goes_through_the_shadow_only_where_it_could_show_something(
    payments: Live, trial: Trial, chosen: Settings
) -> None:
    incumbent = Incumbent("1", trial.champion.model)
    data = Dataset(FRAUD.names, FRAUD.hash, *[np.empty(0)] * 4, {}, 0)  # type: ignore[arg-type]
    trusting = chosen.model_copy(update={"gate": chosen.gate.model_copy(update={"shadow_labels": 0})})
    assert runs.way_of("fraud", data, incumbent, chosen) == IN_SHADOW
    assert runs.way_of("fraud", data, None, chosen) == DIRECT
    assert runs.way_of("fraud", data, incumbent, trusting) == DIRECT
    assert runs.way_of("fraud", replace(data, feature_hash="other"), incumbent, chosen) == DIRECT
    assert runs.way_of("unheard of", data, incumbent, chosen) == DIRECT


class Broken(Shadow):
    """Fails at every look."""

    error: Exception

    def look(self, task: Task) -> None:
        raise self.error


def test_a_full_disk_is_looked_past_and_a_bug_stops_the_process(chosen: Settings) -> None:
    stop = threading.Event()
    shadow = Broken(chosen, [task("fraud")], Desk.of(chosen), clock=lambda: 0.0)
    shadow.error = OSError("no space left on device")
    shadow.turn()
    shadow.error = ValueError("a bug")
    with pytest.raises(ValueError, match="a bug"):
        shadow.run(stop)
    assert stop.is_set(), "nobody would be promoted any more, and nobody would know"


def test_what_is_not_known_is_nan_in_a_vector() -> None:
    values: list[float | None] = [float(i) for i in range(len(FRAUD.names))]
    values[3] = None
    table = pa.table({"feature_names": [list(FRAUD.names), None], "features": [values, None]})
    rows, matrix = vectors(table, FRAUD)
    assert (rows.num_rows, matrix.shape) == (1, (1, len(FRAUD.names)))
    assert np.flatnonzero(np.isnan(matrix[0])).tolist() == [3]
