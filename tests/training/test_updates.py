"""Ways to keep a model up to date are walked forward in time, and none knows what had not come by then."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from infra import cli
from infra.errors import UserError
from infra.settings import Settings
from ingestion.tables import DAY_US
from tests.training.made import past_events, payments_file
from training import booster, updates
from training.card import Card, Trained

pytestmark = pytest.mark.slow

EVENTS = past_events(n=5_000, days=49)


def walk(chosen: Settings, events: tuple[pa.Table, pa.Table] = EVENTS, weeks: int = 3) -> updates.Compared:
    return updates.compare(chosen, events, weeks, 28.0, lambda _: None)


@pytest.fixture(scope="module")
def found() -> updates.Compared:
    from infra.settings import load

    return walk(load())


def test_every_way_decides_every_week(found: updates.Compared) -> None:
    summary = found.summary()
    assert list(summary) == ["scratch", "continued", "refit"]
    for way in summary:
        assert len(found.of(way)) == 2
        assert summary[way]["average_precision"] > 0.8
        assert summary[way]["cost"] == sum(week.cost for week in found.of(way))
    assert summary["scratch"]["cost_above_scratch"] == 0.0


def test_the_first_week_is_the_same_for_those_that_go_on(found: updates.Compared) -> None:
    first = {week.way: week for week in found.weeks[:3]}
    assert first["continued"].cost == first["refit"].cost
    assert [week.trees for week in found.of("continued")] == [140, 160]
    assert {week.trees for week in found.of("refit")} == {120}
    assert all(week.rows < found.of("scratch")[0].rows for week in found.of("refit"))


def test_a_label_that_comes_later_changes_nothing_before(chosen: Settings, found: updates.Compared) -> None:
    """All labels that arrive after the second week's beginning say the opposite: nothing learns it before."""
    transactions, labels = EVENTS
    at_us = found.of("scratch")[0].start_us
    late = labels["event_time_us"].to_numpy() > at_us
    said = labels["label"].to_numpy()
    turned = np.where(late, np.where(said == "fraud", "legitimate", "fraud"), said)
    place = labels.column_names.index("label")
    past = updates._Past(chosen, transactions, labels.set_column(place, "label", pa.array(turned)))
    honest = updates._Past(chosen, transactions, labels)
    one, other = (each.known(at_us, at_us - 28 * DAY_US) for each in (past, honest))
    assert one.version == other.version
    assert one.time_us.max() <= at_us - 7 * DAY_US
    assert past.week(at_us).target.mean() > 0.5


def test_the_last_week_is_whole(chosen: Settings) -> None:
    """Labels that come long after the last payment add no week without payments."""
    transactions, labels = EVENTS
    later = labels.set_column(
        labels.column_names.index("event_time_us"),
        "event_time_us",
        pa.array(labels["event_time_us"].to_numpy() + 14 * DAY_US),
    )
    ends = [
        updates._Past(chosen, transactions, each).starts(2)[-1] + updates.WEEK_US for each in (labels, later)
    ]
    assert ends[0] <= ends[1] == transactions["event_time_us"].to_numpy().max()


def test_too_few_weeks_are_told(chosen: Settings) -> None:
    with pytest.raises(UserError, match="expected 9 weeks of payments"):
        walk(chosen, weeks=9)


def rows(seed: int) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    matrix = draw.normal(size=(2_000, 3))
    return matrix, (matrix[:, 0] + 0.5 * draw.normal(size=2_000) > 0).astype(float)


def test_a_continued_model_has_the_old_trees_and_a_refitted_one_their_splits() -> None:
    card = Card("fraud", "", ("a", "b", "c"), "f00", Trained(1, 2, 3, 2_000))
    matrix, target = rows(1)
    few = {**booster.CLASSIFIER, "num_iterations": 10}
    first = booster.train(matrix, target, card, few)
    more = booster.train(*rows(2), card, {**few, "num_iterations": 5}, onto=first)
    assert (first.trees, more.trees) == (10, 15)
    assert np.array_equal(more.predict_by(matrix, 10), first.predict(matrix))
    moved = booster.refit(first, *rows(3), 0.5)
    assert moved.trees == 10
    assert not np.array_equal(moved.predict(matrix), first.predict(matrix))
    splits = [
        [(node["threshold"]) for node in [each.native.dump_model()["tree_info"][0]["tree_structure"]]]
        for each in (first, moved)
    ]
    assert splits[0] == splits[1]
    assert booster.refit(first, *rows(3), 0.5).text == moved.text


@pytest.mark.slow
def test_the_command_says_the_figures_and_draws_them(
    chosen: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["compare-updates", "--data", str(tmp_path / "none.parquet")]) == 1
    assert "expected --mapping FILE beside --data" in capsys.readouterr().err
    n = np.arange(24 * 60)
    fraud = np.random.default_rng(5).random(len(n)) < 0.1
    file = payments_file(tmp_path, 60, 97, np.where(fraud, 90.0, 50.0) + n % 47, fraud)
    out = tmp_path / "weeks.png"
    assert (
        cli.run(["compare-updates", *file, "--weeks", "3", "--days", "21", "--out", str(out), "--json"]) == 0
    )
    ways = json.loads(capsys.readouterr().out)["ways"]
    assert set(ways) == {"scratch", "continued", "refit"}
    assert out.read_bytes().startswith(b"\x89PNG")
