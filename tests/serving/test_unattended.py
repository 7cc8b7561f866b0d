"""Sixty days by themselves: a new fraud and a fall of demand are seen, learned and met without a person."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from infra import settings
from infra.progress import Silent
from infra.settings import Settings
from serving.unattended.account import Account, account
from serving.unattended.command import FOLDER, played
from serving.unattended.run import Day
from serving.unattended.story import Story
from tests.stacks import running
from training import card as cards
from training.champions import Champions
from training.tracking import Registry

pytestmark = [pytest.mark.servers, pytest.mark.slow, pytest.mark.timeout(2_400)]

STORY = Story(seed=1)


@dataclass(frozen=True)
class Lived:
    """A run, and where it was."""

    chosen: Settings
    days: list[Day]
    picture: bytes

    @property
    def figures(self) -> Account:
        """What it came to."""
        return account(STORY, self.days)


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lived]:
    """One run on a real MLflow; the servers are there until the last test."""
    home = tmp_path_factory.mktemp("unattended") / "home"
    with pytest.MonkeyPatch.context() as environment, running(home, ["mlflow"]):
        environment.setenv("TOLLGATE_HOME", str(home))
        days, picture = played(STORY, Silent())
        yield Lived(settings.load(), days, picture)


def test_a_new_fraud_is_seen_learned_and_stopped_by_itself(lived: Lived) -> None:
    found = lived.figures
    assert STORY.ring_day < found.first_labels_day < found.labels_day < math.inf
    assert found.fraud_alarm_day <= found.labels_day + 1.0
    assert found.fraud_promoted_day < math.inf
    assert found.recall_before < 0.3
    assert found.caught_day <= found.labels_day + 8.0
    assert found.recall_after > 0.7


def test_without_retraining_it_passes(lived: Lived) -> None:
    found = lived.figures
    assert found.recall_frozen < 0.4
    assert found.recall_frozen_ever < 0.4
    assert {each.frozen.versions for each in lived.days} == {("1", "1")}


def test_a_fall_of_demand_is_seen_within_a_day_of_200_outcomes_and_learned(lived: Lived) -> None:
    found = lived.figures
    assert found.pricing_alarm_day <= found.outcomes_day + 1.0
    assert any(
        each.promotion.task == "pricing" for day in lived.days[STORY.shift_day :] for each in day.promotions
    )
    assert found.margin_after > found.margin_frozen


def test_nobody_but_the_shadow_promotes_what_the_retrainer_trained(lived: Lived) -> None:
    promotions = [each.promotion for day in lived.days for each in day.promotions]
    assert {each.who for each in promotions} == {"shadow"}
    trained = {(each.task, each.version) for day in lived.days for each in day.trainings if each.passed}
    assert {(each.task, each.version) for each in promotions} <= trained
    for task in ("fraud", "pricing"):
        mine = [each.version for each in promotions if each.task == task]
        deciding = Champions(lived.chosen.home).current(task)
        assert deciding is not None
        assert deciding.version == mine[-1]


def test_days_decide_as_the_stream_does(lived: Lived) -> None:
    """The watcher recomputes what was decided from the history and finds no difference."""
    alarms = {each.name for day in lived.days for each in day.alarms}
    assert not alarms & {"skew", "clock_ahead", "late_events", "no_labels", "no_payments", "no_outcomes"}


def test_the_plot_is_kept_with_the_champion(lived: Lived) -> None:
    assert lived.picture.startswith(b"\x89PNG")
    champion = Champions(lived.chosen.home).current("fraud")
    assert champion is not None
    registry = Registry(lived.chosen.addresses.mlflow)
    kept = registry.document(cards.read(champion.folder).run_id, f"{FOLDER}/unattended.png")
    registry.close()
    assert kept == lived.picture
