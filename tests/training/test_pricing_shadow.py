"""Demand models in shadow: on live quotes with their vectors, as the stream brings them into the history."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import orjson
import pyarrow as pa
import pytest

from features.pricing import PRICING
from features.state import Floats, Ints
from infra.settings import Settings
from ingestion.events import Quote
from ingestion.historian import Historian
from ingestion.history import History
from ingestion.streams import PRODUCT_EVENT, batch_of, counted, encode
from ingestion.tables import DAY_US, OUTCOMES, QUOTES, completed
from ingestion.topics import PRODUCT_COUNTED
from serving.router import quote_row
from tests.payments import same_bits
from tests.training.made import MIDNIGHT_US
from training import pricing_shadow
from training.card import Card, Trained
from training.models import Scorer
from training.shadow_gate import judge_shadow
from training.traffic import Pair, Scored

N = 3_000
PRICE, INVENTORY = PRICING.names.index("price_to_list"), PRICING.names.index("inventory")


def vectors(draw: np.random.Generator) -> Floats:
    found = np.abs(draw.normal(1.0, 0.3, (N, len(PRICING.names))))
    found[:, INVENTORY] = np.nan
    return found


@dataclass(frozen=True)
class Taken:
    """A record of a topic's second partition."""

    topic: str
    offset: int
    value: bytes | None
    partition: int = 1
    timestamp: int = 0
    key: bytes | None = None
    headers: tuple[tuple[str, bytes], ...] = ()


class Demand:
    """A chance of purchase that falls in the price, around some level."""

    def __init__(self, level: float) -> None:
        self.card = Card("pricing", "", PRICING.names, PRICING.hash, Trained(0, 0, 0, 0))
        self._level = level

    def predict(self, matrix: Floats) -> Floats:
        return 1.0 / (1.0 + np.exp(-self._level + 2.0 * matrix[:, PRICE]))


def scored(level: float, matrix: Floats) -> Scored:
    model: Scorer = Demand(level)  # type: ignore[assignment]
    return Scored(model, model.predict(matrix))


def event(number: int, time_us: int, vector: Floats) -> bytes:
    """What the API published of a quote."""
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=time_us)
    answer = {
        "quote_id": f"q-{number}",
        "event_time": at,
        "product_id": f"p-{number % 3}",
        "price": 9.5,
        "currency": "EUR",
        "list_price": 10.0,
        "unit_cost": 4.0,
        "segment": "web",
        "model": {"version": "7"},
        "features": dict(zip(PRICING.names, vector.tolist(), strict=True)),
    }
    return orjson.dumps(answer, option=orjson.OPT_UTC_Z)


def test_a_quotes_vector_comes_through_the_stream_into_the_history(chosen: Settings) -> None:
    matrix = vectors(np.random.default_rng(1))[:50]
    time_us = MIDNIGHT_US + np.arange(50) * 60_000_000
    record = Taken("quotes", 0, b"")
    rows = [
        quote_row(Quote.model_validate_json(event(i, int(time_us[i]), matrix[i])), record) | {"kind": 0}
        for i in range(50)
    ]
    history = History(chosen.history)
    historian = Historian(history)
    folded = counted(pa.Table.from_batches([batch_of(rows, PRODUCT_EVENT)]), 0, list(range(50)))
    historian.take([Taken(PRODUCT_COUNTED, 4, encode(folded))])
    historian.flush()
    found = pricing_shadow.matured(chosen, MIDNIGHT_US, MIDNIGHT_US + 2 * DAY_US)
    assert found.ids.tolist() == [f"q-{i}" for i in range(50)]
    assert same_bits(found.matrix, matrix)
    assert history.read(QUOTES)["model_version"].to_pylist() == ["7"] * 50


@pytest.fixture
def sold(chosen: Settings) -> Floats:
    """Quotes of four days of which some were bought, written into the history; gives their vectors."""
    draw = np.random.default_rng(2)
    matrix = vectors(draw)
    time_us: Ints = MIDNIGHT_US + np.sort(draw.integers(0, 4 * DAY_US, N))
    bought = draw.random(N) < scored(1.0, matrix).score
    ids, n = pa.array([f"q-{i}" for i in range(N)]), np.arange(N)
    products = pa.array([f"p-{i % 3}" for i in n])
    shared = {"quote_id": ids, "product_id": products, "product_partition": pa.array([0] * N, pa.int32())}
    vector = pa.ListArray.from_arrays(np.arange(N + 1, dtype=np.int32) * matrix.shape[1], matrix.ravel())
    names = pa.array([list(PRICING.names)] * N)
    quotes = shared | {"event_time_us": time_us, "product_position": 2 * n, "features": vector}
    outcomes = shared | {
        "event_time_us": time_us + 1_000_000,
        "product_position": 2 * n + 1,
        "units": bought.astype(np.float64),
    }
    history = History(chosen.history)
    history.append(QUOTES, completed(QUOTES, pa.table(quotes | {"feature_names": names})))
    history.append(OUTCOMES, completed(OUTCOMES, pa.table(outcomes).filter(pa.array(bought))))
    return matrix


@pytest.mark.parametrize(
    ("challenger", "champion", "state", "word"),
    [
        (1.0, 2.0, "passed", "log loss"),
        (2.0, 1.0, "refused", "log loss"),
        (1.0, 1.0, "refused", "log loss"),
        (-1.2, -2.4, "refused", "predicted purchases for each that came"),
    ],
)
def test_who_foretells_better_passes(
    sold: Floats, chosen: Settings, challenger: float, champion: float, state: str, word: str
) -> None:
    rows = pricing_shadow.matured(chosen, MIDNIGHT_US, MIDNIGHT_US + 4 * DAY_US - 1)
    assert 0.7 * N < len(rows) < 0.8 * N
    assert same_bits(rows.matrix, sold[: len(rows)])
    pair = Pair(scored(challenger, rows.matrix), scored(champion, rows.matrix))
    outlook = judge_shadow([], pricing_shadow.compared(chosen, rows, pair, 0), chosen.gate, 1.0)
    assert outlook.state == state
    assert any(each.startswith(word) for each in outlook.reasons), outlook.reasons
