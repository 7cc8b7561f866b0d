"""Processes that die while they train or promote: no half model, no two champions; the next one goes on."""

import random
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import pytest

from tests.training import killed
from tests.training.killed import DiedError
from tests.training.test_tracking import plain, record
from training import models
from training.champions import Champions
from training.promotion import complete, fetch, follow, promote, rollback
from training.runs import Desk
from training.tracking import DIRECT, SHADOW, Registry, Version

pytestmark = [pytest.mark.servers, pytest.mark.slow]

KILLS = 10


class Mortal(Registry):
    """Changes so many things, then dies."""

    def __init__(self, url: str, changes: int) -> None:
        super().__init__(url)
        self._left = changes

    def _tell(self, method: str, call: str, values: object) -> None:
        if not self._left:
            raise DiedError
        self._left -= 1
        super()._tell(method, call, values)  # type: ignore[arg-type]


class MortalChampions(Champions):
    """Dies before or after it writes down that a promotion happened."""

    def __init__(self, home: Path, after: bool) -> None:
        super().__init__(home)
        self._after = after

    def record(self, promotion: object) -> None:
        if self._after:
            super().record(promotion)  # type: ignore[arg-type]
        raise DiedError


@pytest.mark.parametrize("action", ["promote", "rollback"])
def test_a_promotion_that_died_at_any_step_is_completed(
    desk: Desk, tmp_path: Path, mlflow: str, action: str
) -> None:
    task = f"steps-{action}"
    for _ in range(3):
        desk.tracking.log(record(task), plain(task), register=True)
    for version in "12":
        promote(desk.registry, desk.champions, task, version, "me", "try")
    deaths = 0
    for step in range(7):
        registry = Mortal(mlflow, step) if step < 5 else desk.registry
        champions = desk.champions if step < 5 else MortalChampions(tmp_path / "home", after=step == 6)
        before = desk.registry.champion(task)
        assert before is not None
        lines = len(desk.champions.history(task))
        wanted = "3" if before.version != "3" else "2"
        try:
            if action == "promote":
                promote(registry, champions, task, wanted, "me", "again")
            else:
                rollback(registry, champions, task, "me", "again")
        except DiedError:
            deaths += 1
        finally:
            if registry is not desk.registry:
                registry.close()
        complete(desk.registry, desk.champions, task)
        assert_one_champion(desk, task)
        done = desk.champions.history(task)[lines:]
        assert len(done) == 1
        assert (done[0].action, done[0].previous) == (action, before.version)
        now, previous = desk.registry.champion(task), desk.registry.aliased(task, "previous")
        assert now is not None
        assert previous is not None
        assert (now.version, previous.version) == (done[0].version, before.version)
        assert complete(desk.registry, desk.champions, task) is None
    assert deaths >= 4


def test_a_training_that_died_between_registering_and_promoting_is_completed(desk: Desk) -> None:
    desk.tracking.log(record("orphan"), plain("orphan"), True, DIRECT)
    done = complete(desk.registry, desk.champions, "orphan")
    assert done is not None
    assert (done.version, done.action) == ("1", "promote")
    assert_one_champion(desk, "orphan")
    desk.tracking.log(record("orphan"), plain("orphan"), True, DIRECT)
    desk.tracking.log(record("orphan"), plain("orphan"), True)
    promote(desk.registry, desk.champions, "orphan", "3", "me", "by hand")
    assert complete(desk.registry, desk.champions, "orphan") is None, "an old one stays where it is"


def test_a_history_whose_last_line_was_cut_off_goes_on(desk: Desk, tmp_path: Path) -> None:
    for _ in range(2):
        desk.tracking.log(record("cut"), plain("cut"), register=True)
    promote(desk.registry, desk.champions, "cut", "1", "me", "try")
    with (tmp_path / "home/models/cut/promotions.jsonl").open("a") as out:
        out.write('{"at": "2026')
    promote(desk.registry, desk.champions, "cut", "2", "me", "try")
    assert [each.version for each in desk.champions.history("cut")] == ["1", "2"]


class Slow(Registry):
    """Answers what was true when it was asked; meanwhile somebody else promotes."""

    def __init__(self, url: str, meanwhile: Callable[[], object]) -> None:
        super().__init__(url)
        self._meanwhile = meanwhile

    def champion(self, task: str) -> Version | None:
        found = super().champion(task)
        self._meanwhile()
        return found


def test_an_answer_that_was_overtaken_by_a_promotion_changes_nothing(desk: Desk, mlflow: str) -> None:
    for _ in range(2):
        desk.tracking.log(record("overtaken"), plain("overtaken"), register=True)
    promote(desk.registry, desk.champions, "overtaken", "1", "me", "try")
    late = partial(promote, desk.registry, desk.champions, "overtaken", "2", "me", "meanwhile")
    with closing(Slow(mlflow, late)) as slow:
        follow(slow, desk.champions, "overtaken")
    assert desk.champions.pair("overtaken") == ("2", "1")


def test_a_retrainer_killed_at_ten_random_moments_leaves_nothing_half_done(
    desk: Desk, mlflow: str, tmp_path: Path
) -> None:
    home, chance = tmp_path / "home", random.Random(11)
    context = get_context("forkserver")
    context.set_forkserver_preload(list(killed.IMPORTED))
    run(context, home, mlflow, None)  # the first one waits for the imports
    whole_s = run(context, home, mlflow, None)
    cut, seen = 0, len(desk.registry.versions(killed.TASK_NAME))
    for _ in range(KILLS):
        run(context, home, mlflow, chance.uniform(0.0, whole_s))
        versions = assert_all_whole(desk, killed.TASK_NAME, tmp_path)
        cut += versions == seen
        seen = versions
    run(context, home, mlflow, None)
    assert_all_whole(desk, killed.TASK_NAME, tmp_path)
    assert_one_champion(desk, killed.TASK_NAME)
    newest = desk.registry.versions(killed.TASK_NAME)[0]
    assert "champion" in newest.aliases
    assert newest.tags[SHADOW] == "promoted"
    assert 0 < cut < KILLS or cut >= KILLS // 2, "no kill met a training; is a moment wrong?"


def run(context, home: Path, url: str, killed_after_s: float | None) -> float:  # noqa: ANN001
    """A training in a process of its own, killed by signal 9 at its moment; gives how long it lived."""
    process = context.Process(target=killed.train, args=(home, url))
    began = time.monotonic()
    process.start()
    process.join(killed_after_s)
    if killed_after_s is not None:
        process.kill()
        process.join()
    else:
        assert process.exitcode == 0
    return time.monotonic() - began


def assert_all_whole(desk: Desk, task: str, space: Path) -> int:
    """Every version that the registry knows can be fetched and loaded; gives how many there are."""
    versions = desk.registry.versions(task)
    elsewhere = Champions(space / "fetched")
    for version in versions:
        fetch(desk.registry, elsewhere, version)
        assert models.load(elsewhere.folder(task, version.version)).card.run_id == version.run_id
    assert sum("champion" in each.aliases for each in versions) <= 1
    return len(versions)


def assert_one_champion(desk: Desk, task: str) -> None:
    """Registry, disk and history agree, and nothing is under way."""
    champion = desk.registry.champion(task)
    assert champion is not None
    on_disk = follow(desk.registry, desk.champions, task)
    assert on_disk is not None
    assert on_disk.version == champion.version == desk.champions.history(task)[-1].version
    assert models.load(on_disk.folder).card.version == champion.version
    assert desk.champions.begun(task) is None
