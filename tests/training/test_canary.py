"""Whom a canary decides for, and what becomes of it by what it showed."""

import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from infra.errors import UserError
from infra.settings import Gate, Settings, load
from ingestion.history import History
from ingestion.tables import DAY_US, DECISIONS
from tests.training.live import Live, decisions, live
from tests.training.made import MIDNIGHT_US
from training import fraud_shadow
from training.booster import Model
from training.canary import Canary
from training.champions import Champions
from training.fraud_policy import APPROVE
from training.fraud_watching import decide
from training.gate import Limit
from training.paired import Draws, Gain
from training.shadow_gate import Matured, Stopped, judge_canary
from training.traffic import Scored

IDS = [f"c-{i}" for i in range(100_000)]
BETTER = Gain("expected_cost", 80.0, 100.0, 0.2, low=0.1, high=0.3)
CHANCE = replace(BETTER, low=-0.1)
WORSE = Gain("average_precision", 0.5, 0.6, -0.16, low=-0.3, high=-0.01)
QUIET = Stopped(decisions=900, own=31, champion=30, excess=-20.0)
SEVEN = Canary("7", 0.1, 0)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9])
def test_it_takes_its_share_of_the_customers(share: float) -> None:
    """Within four standard deviations of a binomial count."""
    taken = Canary("7", share, 0).takes(IDS).sum()
    assert taken == pytest.approx(share * len(IDS), abs=4 * math.sqrt(len(IDS) * share * (1 - share)))


def test_another_version_draws_other_customers() -> None:
    """Both take as many as two lots that know nothing of each other."""
    seven, eight = SEVEN.takes(IDS), replace(SEVEN, version="8").takes(IDS)
    assert (seven & eight).sum() == pytest.approx(0.01 * len(IDS), abs=4 * math.sqrt(len(IDS) * 0.01 * 0.99))


def test_a_larger_share_keeps_whom_it_had() -> None:
    assert not (SEVEN.takes(IDS) & ~replace(SEVEN, share=0.2).takes(IDS)).any()


def test_a_customer_is_on_the_same_side_alone_and_in_every_process() -> None:
    here = SEVEN.takes(IDS[:500]).tolist()
    assert [bool(SEVEN.takes([each])[0]) for each in IDS[:500]] == here
    program = (
        "from training.canary import Canary;"
        "print(Canary('7', 0.1, 0).takes([f'c-{i}' for i in range(500)]).tolist())"
    )
    other = {**os.environ, "PYTHONHASHSEED": str(int(os.environ.get("PYTHONHASHSEED", "0") == "1") + 1)}
    told = subprocess.run(
        [sys.executable, "-c", program], env=other, capture_output=True, text=True, check=True
    )
    assert told.stdout.strip() == str(here)


@pytest.fixture
def gate() -> Gate:
    return load().gate.model_copy(
        update={"canary_days": 7.0, "canary_max_ratio": 1.5, "shadow_labels": 500, "shadow_min_gain": 0.0}
    )


def found(*gains: Gain, limits: tuple[Limit, ...] = ()) -> Matured:
    return Matured(gains, limits, {})


def test_it_goes_on_until_its_days_are_over_and_is_promoted_then(gate: Gate) -> None:
    assert judge_canary(found(BETTER), QUIET, gate, 6.9, 1).state == "waiting"
    outlook = judge_canary(found(BETTER, CHANCE), QUIET, gate, 7.0, 1)
    assert outlook.state == "passed"
    assert "31 of 900 payments declined or reviewed, 30 of the same by the champion" in outlook.reasons[0]
    assert judge_canary(None, QUIET, gate, 7.0, 1).state == "passed", "nothing new since the look before"


def test_days_without_enough_decisions_are_not_enough(gate: Gate) -> None:
    outlook = judge_canary(found(BETTER), replace(QUIET, decisions=499), gate, 70.0, 1)
    assert (outlook.state, outlook.reasons) == ("waiting", ("499 decisions so far, expected at least 500",))


def test_days_without_labels_are_not_enough(gate: Gate) -> None:
    assert judge_canary(None, QUIET, gate, 70.0, 0).reasons == ("too few matured labels so far",)


@pytest.mark.parametrize("age_days", [0.1, 7.0])
def test_it_is_taken_back_as_soon_as_it_is_surely_worse(gate: Gate, age_days: float) -> None:
    worse = judge_canary(found(BETTER, WORSE), QUIET, gate, age_days, 1)
    assert worse.state == "refused"
    assert "-30.0 and -1.0" in worse.reasons[0]
    broken = Limit("cost of channel:online against the champion's", 2.0, high=1.25)
    beyond = judge_canary(found(BETTER, limits=(broken,)), QUIET, gate, age_days, 1)
    assert beyond.state == "refused"
    assert "is 2, expected at most 1.25" in beyond.reasons[0]


@pytest.mark.parametrize("age_days", [0.1, 7.0])
def test_it_is_taken_back_without_labels_when_it_surely_stops_too_many(gate: Gate, age_days: float) -> None:
    outlook = judge_canary(None, replace(QUIET, own=90, excess=0.5), gate, age_days, 1)
    assert outlook.state == "refused"
    assert "90 of 900" in outlook.reasons[0]
    assert "surely more than 1.5 times as many" in outlook.reasons[0]
    unknown = replace(QUIET, own=90, excess=math.nan)
    assert judge_canary(None, unknown, gate, 0.1, 1).state == "waiting", "what proves nothing is no reason"


def excess(own: list[int], rival: list[int], customers: list[int], times: float = 1.5) -> float:
    draws = Draws(np.array(customers), np.ones(len(own)), 0.025)
    return draws.excess(np.array(own, float), np.array(rival, float), times)


def test_an_excess_is_sure_only_where_many_customers_show_it() -> None:
    each, n = list(range(600)), 600
    stops = lambda every: [int(i % every == 0) for i in range(n)]  # noqa: E731
    assert excess(stops(5), stops(10), each) > 0.0, "twice as many"
    assert excess(stops(5), stops(6), each) < 0.0
    assert excess(stops(5), [0] * n, each) > 0.0, "where the champion stops nobody, too"
    assert excess(stops(5), [0] * n, [0] * n) > 0.0
    assert excess([1] * 60 + [0] * 540, [0] * n, [0] * 60 + each[60:]) == 0.0, "one customer is no proof"
    assert math.isnan(excess([], [], []))


@pytest.fixture(scope="module")
def payments() -> Live:
    return live()


@pytest.fixture(scope="module")
def model(payments: Live) -> Model:
    return payments.model(rows=np.arange(len(payments.fraud)) < 3_000)


def test_what_a_canary_made_is_told_from_what_the_champion_made(payments: Live, chosen: Settings) -> None:
    history, n = History(chosen.history), len(payments.fraud)
    ends = [n - 3_000, n - 2_000, n - 1_000, n]
    for start, end, version in zip(ends, ends[1:], "122", strict=False):
        history.append(DECISIONS, decisions(payments, slice(start, end), version))
    since_us = MIDNIGHT_US + 27 * DAY_US
    rows = fraud_shadow.made(chosen, "2", since_us)
    wanted = [f"t-{i}" for i in range(n - 2_000, n) if payments.time_us[i] >= since_us]
    assert sorted(rows.ids) == sorted(wanted)
    places = [int(each[2:]) for each in rows.ids]
    assert np.array_equal(rows.matrix, payments.matrix[places])
    assert rows.columns["customer_id"].tolist() == [f"c-{i % 900}" for i in places]


def test_stopped_is_what_the_policy_would_not_let_pass(
    payments: Live, chosen: Settings, model: Model
) -> None:
    History(chosen.history).append(DECISIONS, decisions(payments, slice(20_000, 21_000), "2"))
    rows = fraud_shadow.made(chosen, "2", 0)
    score = model.predict(rows.matrix)
    amount = rows.matrix[:, fraud_shadow._AMOUNT]
    codes = decide(chosen, model, rows.matrix, score, amount)
    stopped = fraud_shadow.stopped(chosen, rows, Scored(model, score))
    assert np.array_equal(stopped, codes != APPROVE)
    assert 0 < stopped.sum() < len(rows)
    assert not fraud_shadow.stopped(chosen, rows, Scored(model, np.zeros(len(rows))))[amount <= 1_000].any()


@pytest.fixture
def champions(tmp_path: Path, model: Model) -> Champions:
    kept = Champions(tmp_path / "home")
    model.save(tmp_path / "made")
    for version in "12":
        kept.keep("fraud", version, tmp_path / "made")
    return kept


def test_the_disk_knows_the_canary_until_another_champion_decides(champions: Champions) -> None:
    two = Canary("2", 0.1, 17)
    with pytest.raises(UserError, match="expected a champion of fraud beside a canary"):
        champions.set_canary("fraud", two)
    champions.set_current("fraud", "1")
    champions.set_canary("fraud", two)
    champions.set_current("fraud", "1", previous="0")
    assert champions.canary("fraud") == two
    assert champions.pair("fraud") == ("1", "0")
    champions.set_current("fraud", "2")
    assert champions.canary("fraud") is None
    assert champions.pair("fraud") == ("2", "1")
    with pytest.raises(UserError):
        champions.set_canary("fraud", Canary("9", 0.1, 17))


def test_evidence_is_of_one_canary_only(champions: Champions) -> None:
    champions.tell_canary("fraud", SEVEN, {"looks": 3})
    assert champions.canary_evidence("fraud", SEVEN) == {"looks": 3}
    assert champions.canary_evidence("fraud", replace(SEVEN, since_us=1)) == {}
    assert champions.canary_evidence("pricing", SEVEN) == {}
