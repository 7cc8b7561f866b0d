"""Rates: how much of poisoned labels the data tests find, how much clean data they refuse, over twenty seeds.

What they do not find (frauds hidden at a few terminals, a tenth of a source's labels) must be harmless.
"""

from collections import Counter
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from infra.settings import DataTests, Settings, load
from ingestion.file_source import PastEvents, placed
from ingestion.simulated import past_payments
from ingestion.simulators.payments import Payments, simulate
from ingestion.simulators.population import Population
from ingestion.simulators.scenarios import Fraud
from training import fraud, fraud_data_tests, fraud_model, metrics
from training.data_tests import days_of
from training.dataset import Dataset, Span
from training.quarantine import held_by

pytestmark = pytest.mark.slow

SEEDS = 20
CAUGHT = {
    "settlements flip for 3 days": 19,
    "a tenth of them": 19,
    "chargebacks flip for 10 days": 17,
    "a country flips for 7 days": 19,
}
"""Least seeds in which each attack is caught; found were 20, 20, 18 and 20."""
FOUND = 0.8
"""Share of the poisoned rows that must be left out to call it caught."""


@cache
def events(seed: int) -> PastEvents:
    """Sixty days of 600 payments; of every other seed a new gang is at work from day 30 on."""
    gang = Fraud(ring_first_day=30 if seed % 2 else None)
    process = Payments(seed, population=Population(customers=300, terminals=150), fraud=gang)
    return placed(past_payments(simulate(process, 60)), ("customer", "terminal"), 0)


@cache
def data(seed: int) -> Dataset:
    past = events(seed)
    found = fraud.from_tables(_settings(), past.decided, past.settled, Span())
    day = found.time_us // 86_400_000_000
    arrival = found.columns["arrived_us"] // 86_400_000_000
    return replace(found, columns={**found.columns, "at": day - day.min(), "came": arrival - day.min()})


def _settings() -> Settings:
    return load()


def held(found: Dataset) -> Any:
    """Rows that are left out."""
    parts = list(fraud_data_tests.parts(found, DataTests()))
    return held_by(parts, found.ids, days_of(found))


def flipped(found: Dataset, bad: Any) -> Dataset:
    return replace(found, target=np.where(bad, 1.0 - found.target, found.target))


def between(found: Dataset, name: str, first: int, days: int) -> Any:
    return (found.columns[name] >= first) & (found.columns[name] < first + days)


def poisoned(found: Dataset, first: int) -> dict[str, tuple[Dataset, Any]]:
    """Each attack's labels and the rows that it touched."""
    source, country = found.columns["source"], found.columns["country"]
    settled = (source == "settlement") & between(found, "came", first, 3)
    charged = (source == "chargeback") & between(found, "came", first, 10)
    french = (country == "FR") & between(found, "at", first, 7)
    tenth = settled & (np.random.default_rng(first).random(len(found)) < 0.1)
    return {
        "settlements flip for 3 days": (flipped(found, settled), settled),
        "a tenth of them": (flipped(found, tenth), tenth),
        "chargebacks flip for 10 days": (flipped(found, charged), charged),
        "a country flips for 7 days": (flipped(found, french), french),
    }


def test_flipped_labels_are_caught_and_clean_days_are_kept() -> None:
    """Of clean data less than 1 % is refused, whether a new gang is at work or not (found: 0.1 %)."""
    caught, kept, clean = Counter[str](), list[float](), list[float]()
    for seed in range(SEEDS):
        first = int(np.random.default_rng(seed).integers(12, 40))
        clean.append(float(held(data(seed)).mean()))
        for name, (found, bad) in poisoned(data(seed), first).items():
            out = held(found)
            caught[name] += bool(out[bad].mean() >= FOUND)
            kept.append(float(out[~bad].mean()))
    said = f"caught {dict(caught)} of {SEEDS}; clean {np.mean(clean):.4f}, beside attacks {np.mean(kept):.4f}"
    assert all(caught[name] >= least for name, least in CAUGHT.items()), said
    assert np.mean(clean) < 0.01, said
    assert max(clean) < 0.06, said
    assert np.mean(kept) < 0.06, said


def test_what_is_not_caught_is_harmless() -> None:
    """Frauds hidden at a twentieth of the terminals cost little, whether they are found or not."""
    lost = []
    for seed in range(4):
        past, honest = events(seed), data(seed)
        names = np.unique(past.settled["terminal_id"].to_numpy())
        chosen = np.random.default_rng(seed).choice(names, len(names) // 20, replace=False)
        hidden = np.isin(past.settled["terminal_id"].to_numpy(), chosen)
        word = np.where(hidden, "legitimate", past.settled["label"].to_numpy())
        settled = past.settled.set_column(past.settled.column_names.index("label"), "label", [word])
        wrong = fraud.from_tables(_settings(), past.decided, settled, Span())
        wrong = wrong.rows(~held(wrong))
        at = int(honest.time_us.min()) + 42 * 86_400_000_000
        test = honest.split(at)[1]
        scores = [fraud_model.trees(each.split(at)[0]).predict(test.matrix) for each in (honest, wrong)]
        precise = [metrics.average_precision(test.target, score, None) for score in scores]
        lost.append(precise[0] - precise[1])
    assert np.mean(lost) < 0.03, lost
    assert max(lost) < 0.08, lost
