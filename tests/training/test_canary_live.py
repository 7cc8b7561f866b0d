"""From the shadow to a canary on a real registry: it returns by itself, or it decides for all in the end."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import orjson
import pytest

from features.fraud import FRAUD
from infra.settings import Settings
from ingestion.history import History
from ingestion.tables import DAY_US
from serving.champions_watch import ChampionsWatch
from serving.routes_models import describe
from tests.training.live import Live, live, write
from tests.training.made import MIDNIGHT_US
from tests.training.test_tracking import record
from training.booster import Model
from training.champions import Champions
from training.promotion import promote
from training.runs import Desk
from training.shadow import Shadow
from training.tasks import task
from training.tracking import CANARY, IN_SHADOW, SHADOW, Registry, Tracking

pytestmark = [pytest.mark.servers, pytest.mark.slow]

SHADOWED = 26
"""Day on which the shadow has its evidence, of the decisions up to day 19."""
SHARE, DAYS = 0.5, 3.0


@pytest.fixture
def desk(mlflow: str, tmp_path: Path) -> Iterator[Desk]:
    registry = Registry(mlflow)
    yield Desk(Champions(tmp_path / "desk"), registry, Tracking(mlflow))
    registry.close()


@pytest.fixture
def settings(chosen: Settings) -> Settings:
    values = {"canary_share": SHARE, "canary_days": DAYS, "shadow_labels": 500, "shadow_confidence": 0.5}
    return chosen.model_copy(update={"gate": chosen.gate.model_copy(update=values)})


@pytest.fixture(scope="module")
def payments() -> Live:
    return live()


class World:
    """A champion, a challenger that has passed the shadow, and time that goes on."""

    def __init__(self, desk: Desk, settings: Settings, payments: Live, champion: Model) -> None:
        self.desk, self.settings, self.payments = desk, settings, payments
        self.champion = str(desk.tracking.log(record("fraud"), champion, True).version)
        promote(desk.registry, desk.champions, "fraud", self.champion, "me", "the first")
        self.challenger = str(desk.tracking.log(record("fraud"), payments.model(), True, IN_SHADOW).version)
        self.watch = ChampionsWatch(desk.champions, desk.registry, {"fraud": FRAUD})
        self.shadow = Shadow(settings, [task("fraud")], desk)
        self._day = 0.0

    def until(self, day: float, payments: Live | None = None) -> None:
        """Days pass, in which whoever is in force decides, and then the retrainer's process looks."""
        history = History(self.settings.history)
        write(history, payments or self.payments, self._deciders(), until_day=day, from_day=self._day)
        self._day = day
        self.shadow.look(task("fraud"))
        self.watch.refresh()

    def _deciders(self) -> Callable[[Sequence[str]], Sequence[str]]:
        champion, deputy = self.watch.current("fraud"), self.watch.canary("fraud")
        name = champion.card.version if champion else self.champion
        if deputy is None:
            return lambda customers: [name] * len(customers)
        return lambda customers: [deputy.canary.version if it else name for it in deputy.takes(customers)]

    @property
    def described(self) -> Any:
        """What `GET /v1/models` says."""
        services: Any = SimpleNamespace(
            models=self.watch, registry=self.desk.registry, champions=self.desk.champions
        )
        return orjson.loads(orjson.dumps(describe(services, "fraud")))

    @property
    def told(self) -> str:
        """What became of the challenger."""
        found = self.desk.registry.version("fraud", self.challenger)
        assert found
        return found.tags[SHADOW]

    def assert_canary(self) -> None:
        """It decides for its share of the customers, and everybody can see so."""
        deputy, champion = self.watch.canary("fraud"), self.watch.current("fraud")
        assert deputy is not None
        assert champion is not None
        assert (deputy.canary.version, champion.card.version) == (self.challenger, self.champion)
        named = self.desk.registry.aliased("fraud", CANARY)
        assert named is not None
        assert (named.version, self.told) == (self.challenger, "canary")
        said = self.described
        assert (said["canary"]["version"], said["canary"]["share"]) == (self.challenger, SHARE)
        assert said["canary"]["since"].startswith("20")
        assert said["deciding"] == self.champion
        assert self.challenger not in {each["version"] for each in said["challengers"]}

    def assert_returned(self) -> str:
        """The champion decides for everybody again; gives why."""
        assert self.watch.canary("fraud") is None
        assert self.desk.registry.aliased("fraud", CANARY) is None
        said = self.described
        assert (said["canary"], said["deciding"]) == (None, self.champion)
        line = said["history"][-1]
        assert (line["action"], line["version"], line["previous"]) == (
            "return",
            self.challenger,
            self.champion,
        )
        assert self.told == f"refused: {line['why']}"
        self.shadow.look(task("fraud"))
        assert [each["action"] for each in self.described["history"]] == ["promote", "canary", "return"]
        return str(line["why"])


def one_that_knows_little(payments: Live) -> Model:
    """Learned from few rows, stops about as many payments as one that learned from all."""
    return payments.model(rows=np.arange(len(payments.fraud)) < 2_000)


def test_a_good_canary_decides_for_all_in_the_end(desk: Desk, settings: Settings, payments: Live) -> None:
    world = World(desk, settings, payments, one_that_knows_little(payments))
    world.until(SHADOWED)
    world.assert_canary()
    world.until(28)
    world.assert_canary()
    shown = world.described["canary"]["evidence"]
    assert (shown["state"], shown["against"]) == ("waiting", world.champion)
    mine = shown["stopped"]["decisions"]
    assert mine == pytest.approx(2 * 800 * SHARE, rel=0.2)
    world.until(30)
    assert world.described["deciding"] == world.challenger
    assert (world.told, world.described["canary"]) == ("promoted", None)
    assert desk.registry.aliased("fraud", CANARY) is None
    line = desk.champions.history("fraud")[-1]
    assert (line.action, line.who, line.previous) == ("promote", "shadow", world.champion)
    assert line.why.startswith("canary for 4.0 days: ")
    assert line.evidence["stopped"]["decisions"] > mine
    assert 3 * 700 < line.evidence["matured labels"] < 5 * 800, (
        "of the days since the shadow's last look only"
    )
    assert [each.action for each in desk.champions.history("fraud")] == ["promote", "canary", "promote"]


def test_a_canary_whose_labels_turn_against_it_returns(
    desk: Desk, settings: Settings, payments: Live
) -> None:
    """From the shadow's last look on, only what the champion suspects more is fraud."""
    champion = one_that_knows_little(payments)
    world = World(desk, settings, payments, champion)
    world.until(SHADOWED)
    world.assert_canary()
    theirs, own = (each.predict(payments.matrix) for each in (champion, payments.model()))
    turned = (theirs > 0.02) & (theirs > 1.5 * own)
    later = payments.time_us >= MIDNIGHT_US + 19 * DAY_US
    world.until(29, replace(payments, fraud=np.where(later, turned, payments.fraud)))
    assert "average precision" in world.assert_returned()


def test_a_canary_that_stops_many_more_returns_before_there_are_labels(
    desk: Desk, settings: Settings, payments: Live
) -> None:
    """Its champion knows fraud online only, and stops a quarter as many."""
    world = World(desk, settings, payments, payments.model(fraud=payments.fraud & payments.online))
    world.until(SHADOWED)
    world.assert_canary()
    world.until(26.6)
    why = world.assert_returned()
    assert "surely more than 2 times as many" in why
    assert "average precision" not in why
    evidence = desk.champions.history("fraud")[-1].evidence
    assert evidence["matured labels"] < settings.gate.shadow_labels, "it was not the labels"
