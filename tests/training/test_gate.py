import math

import pytest

from training.gate import Comparison, Evidence, judge


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
