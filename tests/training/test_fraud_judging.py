"""Which payments belong together, and how far a group may be from all."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from features.fraud import FRAUD
from features.state import Floats
from infra.settings import Settings
from training.card import Card, Trained
from training.dataset import Dataset
from training.fraud_judging import Judged, slices_of


def rows(n: int = 6) -> Dataset:
    """Payments of 10, 20, ... from two countries."""
    columns = {
        "amount": np.arange(1, n + 1) * 10.0,
        "customer_id": np.array([f"c{i}" for i in range(n)], object),
        "channel": np.array([None, "online", "online", "store", None, "store"][:n], object),
        "country": np.array(["FR", "DE"] * (n // 2), object),
        "attributes": np.array(
            ['{"age": "18-25"}', None, '{"age": 7, "x": 1}', "{}", None, None][:n], object
        ),
    }
    return Dataset(
        FRAUD.names, FRAUD.hash, np.array([f"t{i}" for i in range(n)], object), np.arange(n),
        np.zeros((n, len(FRAUD.names))), np.array([1.0, 0.0] * (n // 2)), columns, n,
    )  # fmt: skip


def test_slices_are_those_that_the_policy_names() -> None:
    found = slices_of(rows(), ("channel", "amount", "age"))
    assert found["channel"].tolist() == ["unknown", "online", "online", "store", "unknown", "store"]
    assert found["amount"].tolist()[:2] == ["[0.0, 20.0)", "[20.0, 50.0)"]
    assert found["age"].tolist() == ["18-25", "unknown", "7", "unknown", "unknown", "unknown"]


@pytest.fixture
def judged(chosen: Settings) -> Judged:
    gate = chosen.gate.model_copy(update={"fair_slices": ("country",), "min_frauds": 20})
    return Judged(rows(), chosen.model_copy(update={"gate": gate}))


class Sure:
    """Scores that are given."""

    def __init__(self, *scores: float) -> None:
        self.card = Card("fraud", "linear", FRAUD.names, FRAUD.hash, Trained(0, 0, 0, 6))
        self._scores = np.array(scores)

    def predict(self, matrix: Floats) -> Floats:
        return self._scores


def test_what_passes_has_its_expected_share_of_fraud(judged: Judged) -> None:
    """Of 20 and 50 a likely fraud is declined; the others' mean is what a sale must expect."""
    likely: Any = Sure(0.01, 0.9, 0.02, 0.03, 0.9, 0.04)
    assert judged.passed_share(likely) == pytest.approx(0.025)
    weighted = replace(judged.rows, weight=np.array([2.0, 9.0, 1.0, 1.0, 9.0, 1.0]))
    again = Judged(weighted, judged.settings)
    assert again.passed_share(likely) == pytest.approx((2 * 0.01 + 0.02 + 0.03 + 0.04) / 5)
    surely: Any = Sure(*[0.95] * 6)
    assert judged.passed_share(surely) is None


ALL = {"recall": 0.8, "false_decline_rate": 0.01}
ENOUGH = {"frauds": 50.0, "false_declines": 30.0, "recall": 0.4, "false_decline_rate": 0.05}


def test_a_slice_is_held_against_all(judged: Judged) -> None:
    recall, declines = judged.limits(ALL, {"country:FR": ENOUGH})
    assert (recall.value, recall.low) == (0.5, judged.settings.gate.min_recall_ratio)
    assert (declines.value, declines.high) == (5.0, judged.settings.gate.max_false_decline_ratio)


@pytest.mark.parametrize(("times", "beyond"), [(1, False), (20, True)])
def test_chance_does_not_refuse(judged: Judged, times: int, beyond: bool) -> None:
    """30 of 600 are 5 times the share of all, and may be 3.5; 600 of 12,000 surely are over 4."""
    more = {**ENOUGH, "false_declines": 30.0 * times, "frauds": 50.0 * times}
    _, declines = judged.limits(ALL, {"country:FR": more})
    assert declines.beyond is beyond


def test_a_slice_that_is_hardly_caught_is_beyond(judged: Judged) -> None:
    recall, _ = judged.limits(ALL, {"country:FR": {**ENOUGH, "recall": 0.04}})
    assert recall.beyond
    rare, _ = judged.limits(ALL, {"country:FR": {**ENOUGH, "frauds": 20.0, "recall": 0.15}})
    assert not rare.beyond


@pytest.mark.parametrize(
    ("name", "figures", "limits"),
    [
        ("channel:online", ENOUGH, 0),  # not among the gate's slices
        ("country:FR", {**ENOUGH, "frauds": 19.0}, 0),
        ("country:FR", {**ENOUGH, "false_declines": 19.0}, 1),
    ],
)
def test_too_little_proves_nothing(judged: Judged, name: str, figures: dict[str, float], limits: int) -> None:
    assert len(judged.limits(ALL, {name: figures})) == limits


def test_nothing_declined_anywhere_is_no_ratio(judged: Judged) -> None:
    _, declines = judged.limits({**ALL, "false_decline_rate": 0.0}, {"country:FR": ENOUGH})
    assert np.isnan(declines.value)


def test_without_rows_there_are_no_slices(judged: Judged, chosen: Settings) -> None:
    nothing = replace(judged, rows=rows().rows(np.zeros(6, np.bool_)))
    assert slices_of(nothing.rows, chosen.fraud.slices).keys() == set(chosen.fraud.slices)
