"""A seller who begins with nothing learns to earn nearly what one who knows the demand does."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from infra import cli
from infra.settings import Settings
from ingestion.tables import DAY_US
from training.rehearsal import Rehearsed, Scenario, played

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def earned(tmp_path_factory: pytest.TempPathFactory) -> Rehearsed:
    from infra import settings

    return played(Scenario("logit", seed=5, quotes=8_000), settings.load().pricing)


def test_it_learns_to_earn_more_than_the_list_price(earned: Rehearsed) -> None:
    quarters = earned.quarters()
    assert quarters[0] < quarters[-1]
    assert quarters[-1] > 0.93
    last = earned.last_quarter
    assert earned.earned[last].sum() > 1.05 * earned.at_list_price[last].sum()
    assert earned.gain_where_off > 0.1
    assert 0.0 <= earned.exploration_cost < 0.06
    assert earned.trainings == 4


def test_nobody_earns_more_than_who_knows_the_demand(earned: Rehearsed) -> None:
    for mine in (earned.earned, earned.at_list_price, earned.without_exploration):
        assert (mine <= earned.best + 1e-9).all()


def test_recovery_is_the_first_block_that_earns_enough_again(earned: Rehearsed) -> None:
    day = np.repeat(np.arange(4), 100)
    share = np.repeat([0.99, 0.5, 0.8, 0.95], 100)
    made = replace(earned, event_time_us=day * DAY_US, earned=share, best=np.ones(400))
    assert made.recovery(1, block=100, enough=0.94) == 300
    assert made.recovery(1, block=100, enough=0.75) == 200
    assert made.recovery(1, block=100, enough=0.96) is None


def test_the_command_tells_every_family_and_draws(
    chosen: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plot = tmp_path / "earned.png"
    words = ["rehearse", "--family", "linear", "--seeds", "1", "--quotes", "4000", "--shift-day", "4"]
    assert cli.run([*words, "--plot", str(plot), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"linear"}
    assert 0.4 < found["linear"]["last_quarter"] < 1.0
    assert len(found["linear"]["quotes_until_recovered"]) == 1
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_an_unknown_family_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["rehearse", "--family", "cubic"]) == 1
    assert (
        "expected all or one of logit, linear, constant_elasticity; came 'cubic'" in capsys.readouterr().err
    )
