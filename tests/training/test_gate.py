import math
from dataclasses import replace

import pytest

from training.gate import Comparison, Evidence, Limit, decisive, judge


def compared(challenger: float, rival: float, higher: bool = True) -> Comparison:
    return Comparison("average_precision", challenger, rival, "champion", higher)


@pytest.mark.parametrize(
    ("comparison", "min_gain", "passed"),
    [
        (compared(0.51, 0.50), 0.0, True),
        (compared(0.50, 0.50), 0.0, False),
        (compared(0.51, 0.50), 0.05, False),
        (compared(math.nan, 0.50), 0.0, False),
        (compared(0.51, math.nan), 0.0, False),
        (compared(90.0, 100.0, higher=False), 0.1, True),
        (compared(100.0, 90.0, higher=False), 0.0, False),
        (compared(0.1, 0.0), 0.5, True),
        (compared(-90.0, -100.0), 0.05, True),
    ],
)
def test_a_challenger_must_be_better_by_the_margin(
    comparison: Comparison, min_gain: float, passed: bool
) -> None:
    assert judge([comparison], [], min_gain).passed is passed


def test_one_lost_figure_is_enough_to_refuse_and_is_named() -> None:
    verdict = judge([compared(0.9, 0.5), compared(120.0, 100.0, higher=False)], [], 0.0)
    assert not verdict.passed
    assert verdict.reasons == ("average precision 120 against 100 of champion (-20.0 %)",)


def test_little_evidence_proves_nothing() -> None:
    verdict = judge([compared(0.9, 0.5)], [Evidence("matured frauds", 3, 20)], 0.0)
    assert verdict == judge([compared(0.9, 0.5)], [Evidence("matured frauds", 3, 20)], 0.0)
    assert verdict.reasons == ("3 matured frauds prove nothing, expected at least 20",)


def test_a_figure_beyond_its_limit_refuses_whatever_the_gain() -> None:
    won = [compared(0.9, 0.5)]
    held = Limit("recall of country:FR against all", 0.8, low=0.25)
    assert judge(won, [], 0.0, [held]).passed
    verdict = judge(won, [], 0.0, [held, replace(held, value=0.2)])
    assert not verdict.passed
    assert verdict.reasons == ("recall of country:FR against all is 0.2, expected at least 0.25",)
    above = Limit("false declines of channel:online against all", 5.0, high=4.0)
    assert judge(won, [], 0.0, [above]).reasons == (
        "false declines of channel:online against all is 5, expected at most 4",
    )


def test_an_estimate_refuses_only_if_its_whole_interval_is_beyond() -> None:
    won = [compared(0.9, 0.5)]
    perhaps = Limit("false declines of country:ES against all", 4.02, high=4.0, chance=(2.9, 5.4))
    assert judge(won, [], 0.0, [perhaps]).passed
    surely = replace(perhaps, chance=(4.01, 5.4))
    assert judge(won, [], 0.0, [surely]).reasons == (
        "false declines of country:ES against all is 4.02 (4.01 to 5.4), expected at most 4",
    )
    low = Limit("recall of country:ES against all", 0.2, low=0.25, chance=(0.1, 0.3))
    assert judge(won, [], 0.0, [low]).passed
    assert not judge(won, [], 0.0, [replace(low, chance=(0.1, 0.24))]).passed


def test_a_limit_on_what_is_not_known_says_nothing() -> None:
    assert judge([compared(0.9, 0.5)], [], 0.0, [Limit("recall", math.nan, low=0.25)]).passed


def test_who_goes_into_shadow_meets_the_champion_there() -> None:
    simple = Comparison("average_precision", 0.6, 0.5, "rules")
    both = (compared(0.6, 0.7), simple)
    assert decisive(both, shadowed=False) == both[:1]
    assert decisive(both, shadowed=True) == both[1:]
    assert decisive((simple,), shadowed=False) == (simple,), "before there is a champion"
