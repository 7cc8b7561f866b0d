from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from features.fraud import CUSTOMER, FRAUD, TERMINAL, at_amounts, request_columns
from features.pricing import PRICING
from features.state import Events, Floats, States, fold
from infra.settings import Gate, load
from tests.payments import same_bits
from tests.training.live import COLUMN, Live, live
from training.behaviour import misbehaviour
from training.card import Card, Trained
from training.inspection import Latency, latencies, over_budget, size_mb
from training.models import Scorer

DRAW = np.random.default_rng(4)


@pytest.fixture(scope="module")
def payments() -> Live:
    return live()


@pytest.fixture(scope="module")
def sample(payments: Live) -> Floats:
    return payments.matrix[-200:]


@pytest.fixture(scope="module")
def gate() -> Gate:
    return load().gate


class Says:
    """A model that is one line."""

    card = Card("fraud", "", FRAUD.names, FRAUD.hash, Trained(0, 0, 0, 0))

    def __init__(self, says) -> None:  # noqa: ANN001
        self.predict = says


def says(line) -> Scorer:  # noqa: ANN001
    return Says(line)  # type: ignore[return-value]


def test_a_sound_model_behaves(payments: Live, sample: Floats, gate: Gate) -> None:
    assert misbehaviour("fraud", payments.model(), sample, gate) == []


def test_risk_that_falls_when_the_amount_of_an_odd_payment_rises_is_found(
    payments: Live, sample: Floats, gate: Gate
) -> None:
    upside_down = payments.matrix.copy()
    upside_down[:, COLUMN["amount"]] *= -1.0
    places = [
        place for name, place in COLUMN.items() if name.startswith(("customer_amount_z", "customer_amount_r"))
    ]
    upside_down[:, places] *= -1.0
    (found,) = misbehaviour("fraud", payments.model(matrix=upside_down), sample, gate)
    assert found.startswith("odd payments of ")


def test_scores_that_are_no_probabilities_are_found(sample: Floats, gate: Gate) -> None:
    found = misbehaviour("fraud", says(lambda rows: rows.sum(axis=1)), sample, gate)
    assert found[0].startswith("a live decision gets the score")
    assert found[1] == "a decision of which nothing is known gets the score nan, expected one in [0, 1]"
    assert found[2] == "an unknown category gets the score nan, expected one in [0, 1]"


def test_demand_that_rises_with_the_price_is_found(gate: Gate) -> None:
    quotes = np.abs(DRAW.normal(1.0, 0.3, (50, len(PRICING.names))))
    price = PRICING.names.index("price_to_list")
    falling = says(lambda rows: 1.0 / (1.0 + np.exp(np.nan_to_num(rows[:, price]))))
    rising = says(lambda rows: 1.0 / (1.0 + np.exp(-np.nan_to_num(rows[:, price]))))
    assert misbehaviour("pricing", falling, quotes, gate) == []
    assert misbehaviour("pricing", rising, quotes, gate) == [
        "demand rises with the price in 50 of 50 live quotes"
    ]


def test_raised_amounts_are_those_that_the_features_would_have() -> None:
    n = 200
    states = {each.name: _folded(each, n) for each in (CUSTOMER, TERMINAL)}
    amount = DRAW.gamma(2.0, 40.0, n)
    channel, codes = ["online"] * n, {name: np.full(n, 7.0) for name in FRAUD.request[2:]}
    at_s = np.full(n, 1.8e9)
    now, raised = (
        FRAUD.matrix(states, request_columns(each, channel, codes), at_s) for each in (amount, 5.0 * amount)
    )
    assert np.allclose(at_amounts(now, 5.0), raised, rtol=1e-9, equal_nan=True)
    assert not same_bits(now, raised)


def _folded(entity, n: int) -> Floats:  # noqa: ANN001
    """States after five payments of each, but of the first, which is cold."""
    states = States.cold(entity, n)
    code = np.repeat(np.arange(1, n), 5)
    values = np.abs(DRAW.normal(50.0, 20.0, (len(code), len(entity.values))))
    time_us = np.int64(1.79e15) + np.arange(len(code)) * 1_000_000
    fold(entity, states, Events(np.zeros_like(code), time_us, code, np.arange(len(code)), values))
    return states.columns


@pytest.mark.slow
def test_a_model_of_more_trees_takes_longer(payments: Live, sample: Floats, gate: Gate) -> None:
    small = payments.model()
    some = np.arange(len(payments.fraud)) % 80 == 0
    many = {
        "objective": "binary",
        "num_iterations": 15_000,
        "num_leaves": 6,
        "learning_rate": 1e-3,
        "max_bin": 15,
    }
    large = payments.model(rows=some, parameters=many)
    own, champion = latencies((large, small), sample)
    (fault,) = over_budget(own, champion, 0.1, gate)
    assert fault.startswith("a prediction takes")
    assert over_budget(*latencies((small, small), sample), 0.1, gate) == []


def test_every_budget_has_its_sentence(gate: Gate, tmp_path: Path) -> None:
    (tmp_path / "model.txt").write_bytes(b"x" * 3_000_000)
    assert size_mb(tmp_path) == 3.0
    tight = gate.model_copy(update={"max_latency_ms": 1.0, "max_latency_ratio": 3.0, "max_model_mb": 2.0})
    assert over_budget(Latency(0.4, 1.5), Latency(0.1, 0.2), size_mb(tmp_path), tight) == [
        "99 of 100 predictions take 1.5 ms, expected 1",
        "a prediction takes 0.4 ms against the champion's 0.1 ms, expected at most 3 times as long",
        "its files have 3 MB, expected at most 2",
    ]
    assert over_budget(replace(Latency(0.3, 1.0)), Latency(0.1, 0.2), 2.0, tight) == []
