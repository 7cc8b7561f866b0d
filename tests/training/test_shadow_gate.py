from dataclasses import replace

import pytest

from infra.settings import Gate, load
from training.gate import Limit
from training.paired import Gain
from training.shadow_gate import Matured, evidence, judge_shadow, lacking, needed, tail

BETTER = Gain("expected_cost", 80.0, 100.0, 0.2, low=0.1, high=0.3)
CHANCE = replace(BETTER, low=-0.1)
WORSE = Gain("average_precision", 0.5, 0.6, -0.16, low=-0.3, high=-0.01)


@pytest.fixture
def gate() -> Gate:
    values = {"shadow_labels": 500, "shadow_frauds": 20, "shadow_days": 14.0, "shadow_confidence": 0.9}
    return load().gate.model_copy(update=values)


def found(*gains: Gain, limits: tuple[Limit, ...] = ()) -> Matured:
    return Matured(gains, limits, {})


def test_what_lacks_evidence_waits_but_not_for_ever(gate: Gate) -> None:
    missing = lacking(evidence(gate, 0, ("matured labels", "matured frauds"), (700, 3)))
    assert missing == ("3 matured frauds so far, expected at least 20",)
    assert judge_shadow(missing, None, gate, 13.9).state == "waiting"
    outlook = judge_shadow(missing, None, gate, 14.0)
    assert (outlook.state, outlook.reasons[0]) == ("refused", "not proven within 14 days")


def test_every_gain_must_be_beyond_chance(gate: Gate) -> None:
    assert judge_shadow([], found(BETTER, BETTER), gate, 1.0).state == "passed"
    unsure = judge_shadow([], found(BETTER, CHANCE), gate, 1.0)
    assert unsure.state == "unproven"
    assert "between -10.0 and +30.0" in unsure.reasons[0]
    assert judge_shadow([], found(BETTER, CHANCE), gate, 20.0).state == "refused"


def test_the_margin_is_what_the_low_end_must_reach(gate: Gate) -> None:
    demanding = gate.model_copy(update={"shadow_min_gain": 0.15})
    assert judge_shadow([], found(BETTER), demanding, 1.0).state == "unproven"
    assert (
        judge_shadow([], found(BETTER), gate.model_copy(update={"shadow_min_gain": 0.05}), 1.0).state
        == "passed"
    )


def test_what_is_worse_beyond_chance_or_a_limit_is_refused_with_every_reason(gate: Gate) -> None:
    slices = Limit("cost of channel:online against the champion's", 2.0, high=1.25)
    unknown = Limit("predicted frauds for each that came", float("nan"), low=0.5, high=2.0)
    outlook = judge_shadow([], found(BETTER, WORSE, limits=(slices, unknown)), gate, 1.0)
    assert outlook.state == "refused"
    assert len(outlook.reasons) == 3
    assert outlook.reasons[1] == "cost of channel:online against the champion's is 2, expected at most 1.25"
    assert "nan" in outlook.reasons[2]
    assert judge_shadow([], found(BETTER, limits=(slices,)), gate, 1.0).state == "refused"


def test_gains_that_are_not_known_prove_nothing(gate: Gate) -> None:
    nothing = Gain("average_precision", *[float("nan")] * 5)
    assert judge_shadow([], found(BETTER, nothing), gate, 1.0).state != "passed"


def test_all_looks_together_leave_as_much_to_chance_as_one_interval(gate: Gate) -> None:
    assert sum(tail(gate, looks) for looks in range(50)) == pytest.approx((1 - 0.9) / 2)
    assert [needed(gate, looks) for looks in range(3)] == [(500, 20), (750, 30), (1_125, 45)]
