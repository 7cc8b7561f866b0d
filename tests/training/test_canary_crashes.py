"""Processes that die while a canary begins or ends: at no step two truths, and the next one goes on."""

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from infra.errors import UserError
from tests.training.killed import DiedError
from tests.training.test_tracking import plain, record
from training.canary import Canary
from training.champions import Champions, Promotion
from training.promotion import follow, promote, resume, return_canary, rollback, start_canary
from training.runs import Desk
from training.tracking import CANARY, IN_SHADOW, REFUSED, SHADOW, Registry, RegistryError

pytestmark = [pytest.mark.servers, pytest.mark.slow]

TWO = Canary("2", 0.1, 17)
MOST_STEPS = 20


@dataclass
class Fate:
    """So many changes are left, on disk and in the registry together."""

    left: int

    def change(self) -> None:
        """Count one, or die before it."""
        if not self.left:
            raise DiedError
        self.left -= 1


class Mortal(Registry):
    """Dies before a change in the registry."""

    def __init__(self, url: str, fate: Fate) -> None:
        super().__init__(url)
        self._fate = fate

    def _send(self, method: str, path: str, **rest: Any) -> httpx.Response:
        if method != "GET":
            self._fate.change()
        return super()._send(method, path, **rest)


class MortalChampions(Champions):
    """Dies before a change on disk."""

    def __init__(self, home: Path, fate: Fate) -> None:
        super().__init__(home)
        self._fate = fate

    def begin(self, promotion: Promotion) -> None:
        self._fate.change()
        super().begin(promotion)

    def set_current(self, task: str, version: str, previous: str | None = None) -> None:
        self._fate.change()
        super().set_current(task, version, previous)

    def set_canary(self, task: str, canary: Canary | None) -> None:
        self._fate.change()
        super().set_canary(task, canary)

    def record(self, promotion: Promotion) -> None:
        self._fate.change()
        super().record(promotion)

    def ended(self, task: str) -> None:
        self._fate.change()
        super().ended(task)


def registered(desk: Desk, task: str) -> tuple[str, str, str]:
    """Three new versions: to be the one before, the champion, and a challenger."""
    before, champion, challenger = (
        str(desk.tracking.log(record(task), plain(task), True, IN_SHADOW).version) for _ in range(3)
    )
    return before, champion, challenger


def begun(desk: Desk, task: str, versions: tuple[str, str, str], canary: bool = True) -> None:
    """The first two are promoted, one after the other, and the third is a canary or not."""
    before, champion, challenger = versions
    for version in (before, champion):
        promote(desk.registry, desk.champions, task, version, "me", "first")
    if canary:
        terms = Canary(challenger, TWO.share, TWO.since_us)
        start_canary(desk.registry, desk.champions, task, terms, "me", "try")


def acted(action: str, registry: Registry, champions: Champions, task: str, challenger: str) -> None:
    """Do it to these versions."""
    if action == "canary":
        terms = Canary(challenger, TWO.share, TWO.since_us)
        start_canary(registry, champions, task, terms, "me", "try")
    elif action == "return":
        return_canary(registry, champions, task, "me", "bad")
    elif action == "promote":
        promote(registry, champions, task, challenger, "me", "good")
    else:
        rollback(registry, champions, task, "me", "odd")


@pytest.mark.parametrize("action", ["canary", "return", "promote", "rollback"])
def test_what_died_at_any_step_is_completed(desk: Desk, mlflow: str, tmp_path: Path, action: str) -> None:
    task, deaths = f"canary-{action}", 0
    versions = before, champion, challenger = registered(desk, task)
    for step in range(MOST_STEPS):
        begun(desk, task, versions, canary=action != "canary")
        lines, fate = len(desk.champions.history(task)), Fate(step)
        with closing(Mortal(mlflow, fate)) as registry:
            try:
                acted(action, registry, MortalChampions(tmp_path / "home", fate), task, challenger)
                died = False
            except DiedError:
                died = True
        under_way = desk.champions.begun(task) is not None
        assert_nothing_odd(desk, Champions(tmp_path / "other"), task, versions)
        resume(desk.registry, desk.champions, task)
        if under_way or not died:
            expected = {
                "canary": (champion, challenger, "canary", challenger),
                "return": (champion, challenger, f"{REFUSED}: bad", None),
                "promote": (challenger, challenger, "promoted", None),
                "rollback": (before, before, f"{REFUSED}: the rollback of version", None),
            }[action]
            assert_now(desk, task, challenger, expected)
            (line,) = desk.champions.history(task)[lines:]
            assert (line.action, line.previous) == (action, champion)
        else:
            assert len(desk.champions.history(task)) == lines, "died before it had begun: nothing happened"
        deaths += died
        if not died:
            break
    assert not died, "more steps than were tried"
    assert deaths >= 6


def assert_nothing_odd(desk: Desk, other: Champions, task: str, versions: tuple[str, str, str]) -> None:
    """Whoever follows now, here or on another home, sees a champion, and a canary beside its own only."""
    for home in (desk.champions, other):
        found = follow(desk.registry, home, task)
        assert found is not None
        canary = home.canary(task)
        assert canary in (None, Canary(versions[2], TWO.share, TWO.since_us))
        assert canary is None or found.version == versions[1]


def assert_now(desk: Desk, task: str, challenger: str, expected: tuple[str, str, str, str | None]) -> None:
    """Disk, registry and history agree, and following changes nothing."""
    champion, version, state, canary = expected
    for _ in range(2):
        assert desk.champions.pair(task)[0] == champion
        found = desk.champions.canary(task)
        assert (found.version if found else None) == canary
        now, named = desk.registry.champion(task), desk.registry.aliased(task, CANARY)
        assert now is not None
        assert (now.version, named.version if named else None) == (champion, canary)
        follow(desk.registry, desk.champions, task)
    told = desk.registry.version(task, challenger)
    assert told is not None
    assert told.tags[SHADOW].startswith(state)
    assert desk.champions.begun(task) is None
    assert desk.champions.history(task)[-1].version == version


def test_there_is_one_canary_of_a_task_and_a_champion_beside_it(desk: Desk) -> None:
    desk.tracking.log(record("one"), plain("one"), True, IN_SHADOW)
    with pytest.raises(UserError, match="expected a champion of one beside a canary"):
        start_canary(desk.registry, desk.champions, "one", Canary("1", 0.1, 0), "me", "try")
    begun(desk, "one", registered(desk, "one"))
    with pytest.raises(UserError, match="expected no canary of one, version 4 is one"):
        start_canary(desk.registry, desk.champions, "one", TWO, "me", "try")


def test_promoting_the_champion_again_ends_the_canary_and_nothing_else(desk: Desk) -> None:
    versions = before, champion, challenger = registered(desk, "again")
    begun(desk, "again", versions)
    promote(desk.registry, desk.champions, "again", champion, "me", "no more of it")
    assert desk.champions.canary("again") is None
    assert desk.champions.pair("again") == (champion, before)
    told = desk.registry.version("again", challenger)
    assert told is not None
    assert told.tags[SHADOW] == f"refused: the promote of version {champion} by me ended its canary"


def test_a_canary_is_taken_back_while_the_registry_is_away(desk: Desk) -> None:
    """On disk and in the history at once, in the registry when it answers again."""
    versions = _, champion, challenger = registered(desk, "outage")
    begun(desk, "outage", versions)
    with closing(Registry("http://127.0.0.1:1")) as nobody, pytest.raises(RegistryError):
        return_canary(nobody, desk.champions, "outage", "shadow", "worse")
    assert desk.champions.canary("outage") is None
    assert desk.champions.history("outage")[-1].action == "return"
    follow(desk.registry, desk.champions, "outage")  # the alias is still there
    assert desk.champions.canary("outage") is None
    resume(desk.registry, desk.champions, "outage")
    assert_now(desk, "outage", challenger, (champion, challenger, f"{REFUSED}: worse", None))


def test_another_home_follows_the_canary_by_the_registry(desk: Desk, tmp_path: Path) -> None:
    versions = _, _, challenger = registered(desk, "homes")
    begun(desk, "homes", versions)
    other = Champions(tmp_path / "elsewhere")
    follow(desk.registry, other, "homes")
    assert other.canary("homes") == desk.champions.canary("homes") == Canary(challenger, 0.1, 17)
    assert other.kept("homes", challenger)
    return_canary(desk.registry, desk.champions, "homes", "shadow", "worse")
    follow(desk.registry, other, "homes")
    assert other.canary("homes") is None
