"""What is wrong with a training set is left out with its reason; what is only new is kept."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from infra.errors import UserError
from infra.settings import DataTests
from ingestion.tables import DAY_US
from training import data_tests, fraud_data_tests, pricing_data_tests
from training.data_tests import days_of, without
from training.dataset import Dataset
from training.odd_stretches import Limits, odd_stretches
from training.quarantine import Part, held_by

LIMITS = DataTests()
START = 20_000
DAYS = 40
A_DAY = 120


def payments(seed: int = 1) -> Dataset:
    """Forty days of payments of a known clientele; one in twenty is a fraud, told by a chargeback."""
    draw = np.random.default_rng(seed)
    n = DAYS * A_DAY
    time_us = START * DAY_US + np.sort(draw.integers(0, DAYS * DAY_US, n))
    fraud = draw.random(n) < 0.05
    score = np.where(fraud, draw.beta(4, 2, n), draw.beta(2, 4, n))
    columns: dict[str, Any] = {
        "amount": np.round(draw.gamma(2.0, 25.0, n) + 1.0, 2),
        "customer_id": np.array([f"c-{k}" for k in draw.integers(0, 40, n)], object),
        "terminal_id": np.array([f"m-{k}" for k in draw.integers(0, 30, n)], object),
        "channel": np.array(["online", "store"], object)[(draw.random(n) < 0.7).astype(int)],
        "country": np.array(["AT", "DE", "FR", "NL"], object)[draw.integers(0, 4, n)],
        "source": np.where(fraud, "chargeback", "settlement").astype(object),
        "arrived_us": time_us + 7 * DAY_US,
        "agreed": np.full(n, np.nan),
        "champion_score": score,
    }
    ids = np.array([f"t-{k}" for k in range(n)], object)
    cutoff = (START + DAYS + 7) * DAY_US
    return Dataset(("a",), "f00", ids, time_us, np.zeros((n, 1)), fraud.astype(float), columns, cutoff)


def changed(data: Dataset, **columns: Any) -> Dataset:
    return replace(data, columns={**data.columns, **columns})


def flipped(data: Dataset, rows: Any) -> Dataset:
    return replace(data, target=np.where(rows, 1.0 - data.target, data.target))


def left_out(data: Dataset, limits: DataTests = LIMITS) -> tuple[set[str], Sequence[Part]]:
    """Names of the tests that refused something, and the parts."""
    found = [part for part in fraud_data_tests.parts(data, limits) if part.rows]
    return {part.test for part in found}, found


def some(data: Dataset, first: int, last: int) -> Any:
    day = data.time_us // DAY_US - START
    return (day >= first) & (day <= last)


@pytest.mark.parametrize("seed", range(5))
def test_nothing_of_usual_data_is_left_out(seed: int) -> None:
    assert left_out(payments(seed)) == (set(), [])


def test_single_rows_that_can_not_be() -> None:
    data = payments()
    data.columns["amount"][3] = -1.0
    data.columns["customer_id"][4] = None
    data.columns["arrived_us"][5] = data.time_us[5] - 1
    data.columns["arrived_us"][6] = data.cutoff_us + 1
    data.matrix[7] = np.inf
    data.ids[9] = data.ids[8]
    data.columns["source"][10] = "rumour"
    _, found = left_out(data)
    wrong = {(part.test, row) for part in found for row in part.ids or ()}
    assert wrong == {
        ("range", "t-3"), ("schema", "t-4"), ("time_travel", "t-5"), ("time_travel", "t-6"), ("range", "t-7"),
        ("duplicate", "t-8"), ("schema", "t-10"),
    }  # fmt: skip
    assert all(part.reason for part in found)
    assert len(without(data, found)) == len(data) - 8


def test_a_burst_of_identical_records_counts_once() -> None:
    data = payments()
    burst = np.flatnonzero(some(data, 10, 10))[:30]
    for name, value in (("customer_id", "c-1"), ("terminal_id", "m-1"), ("channel", "x"), ("country", "AT")):
        data.columns[name][burst] = value
    data.columns["amount"][burst] = 9.99
    _, [part] = left_out(data)
    assert (part.test, part.rows) == ("burst", 29)
    assert str(data.ids[burst[0]]) not in (part.ids or ())
    data.columns["amount"][burst[:25]] += np.arange(25)
    assert left_out(data) == (set(), [])


def test_a_day_of_far_too_many_rows() -> None:
    data = payments()
    many = np.concatenate([np.arange(len(data)), np.repeat(np.flatnonzero(some(data, 20, 20)), 5)])
    more = data.rows(many)
    more = replace(more, ids=np.array([f"x-{k}" for k in range(len(many))], object))
    found = [part for part in left_out(more)[1] if part.test == "volume"]
    assert [part.days for part in found] == [(START + 20, START + 20)]
    assert "on 2024-10-24" in found[0].reason


def test_a_business_that_shrinks_for_good_has_no_odd_days() -> None:
    data = payments()
    fewer = data.rows(~some(data, 20, 39) | (np.arange(len(data)) % 6 == 0))
    assert left_out(fewer, DataTests(min_day_rows=10)) == (set(), [])


def test_a_source_whose_labels_flip_on_the_days_they_came() -> None:
    data = payments()
    settled = data.columns["source"] == "settlement"
    bad = settled & some(data, 12, 14)
    tests, found = left_out(flipped(data, bad))
    assert tests == {"flipped_source"}
    held = held_by(found, data.ids, days_of(data))
    assert held[bad].all()
    assert not held[~bad].any()
    assert all(part.where == {"source": "settlement"} and part.by == "arrival_day" for part in found)


def test_an_analyst_who_answers_the_opposite_is_known_by_the_scores() -> None:
    """Half of these labels are fraud, before and after: no rate tells it."""
    data = payments()
    draw = np.random.default_rng(3)
    asked = draw.random(len(data)) < 0.4
    fraud = np.where(asked, draw.random(len(data)) < 0.5, data.target > 0)
    score = np.where(fraud, draw.beta(4, 2, len(data)), draw.beta(2, 4, len(data)))
    source = np.where(asked, "analyst", data.columns["source"]).astype(object)
    data = changed(replace(data, target=fraud.astype(float)), source=source, champion_score=score)
    assert left_out(data) == (set(), [])
    bad = asked & some(data, 20, 25)
    wrong = flipped(data, bad)
    tests, found = left_out(wrong)
    assert tests == {"disagreeing_source"}
    assert held_by(found, data.ids, days_of(data))[bad].mean() > 0.9
    assert "agreement with the champion's scores of source analyst" in found[0].reason
    other = np.where(asked, np.where(some(data, 20, 25), 0.0, 1.0), np.nan)
    tests, found = left_out(changed(wrong, champion_score=np.full(len(data), np.nan), agreed=other))
    assert "agreement with other sources of source analyst" in found[0].reason


def test_a_country_whose_labels_flip_is_left_out_alone() -> None:
    data = payments()
    bad = (data.columns["country"] == "FR") & some(data, 15, 20)
    tests, found = left_out(flipped(data, bad))
    held = held_by(found, data.ids, days_of(data))
    assert "slice" in tests
    assert held[bad].all()
    assert held[~bad].mean() < 0.02


def test_new_fraud_is_no_reason_to_look_away() -> None:
    """A gang triples the share of fraud for ten days; its payments are what must be learned."""
    data = payments()
    gang = some(data, 28, 37) & (np.random.default_rng(4).random(len(data)) < 0.1)
    source = np.where(gang, "chargeback", data.columns["source"]).astype(object)
    attacked = changed(replace(data, target=np.where(gang, 1.0, data.target)), source=source)
    assert left_out(attacked) == (set(), [])


def test_planted_look_alikes_of_new_customers() -> None:
    data = payments()
    planted = np.flatnonzero(some(data, 25, 26) & (data.target == 0))[:60]
    data.columns["customer_id"][planted] = [f"new-{k}" for k in range(60)]
    assert "look_alikes" not in left_out(data)[0], "new customers are welcome"
    data.columns["amount"][planted] = 2.0 + 0.001 * np.arange(60)
    data.columns["channel"][planted] = "online"
    data.columns["country"][planted] = "NL"
    tests, found = left_out(data)
    assert tests == {"look_alikes"}
    assert held_by(found, data.ids, days_of(data))[planted].all()
    as_fraud = replace(data, target=np.where(np.isin(np.arange(len(data)), planted), 1.0, data.target))
    assert "look_alikes" not in left_out(as_fraud)[0], "a gang's tests are fraud, and to be learned"


def test_lost_outcomes_are_not_taken_for_quotes_that_did_not_sell() -> None:
    data = payments()
    draw = np.random.default_rng(5)
    bought = (draw.random(len(data)) < np.where(some(data, 25, 39), 0.12, 0.3)).astype(float)
    columns = {
        "units": bought,
        "product_name": data.columns["terminal_id"],
        "segment_name": data.columns["channel"],
        "arrived_us": data.columns["arrived_us"],
    }
    quotes = replace(data, target=bought, columns=columns)
    assert list(pricing_data_tests.parts(quotes, LIMITS)) == [], "demand that falls and stays there is demand"
    lost = np.where(some(data, 10, 11), 0.0, bought)
    found = list(pricing_data_tests.parts(replace(quotes, target=lost), LIMITS))
    assert {part.test for part in found} == {"lost_outcomes"}
    assert held_by(found, data.ids, days_of(quotes))[some(data, 10, 11)].all()


def test_too_much_left_out_is_an_error_that_says_what() -> None:
    data = flipped(payments(), some(payments(), 5, 16))
    with pytest.raises(UserError, match=r"at most 20% of the events .* data_tests\.max_left_out"):
        data_tests.tested(data, fraud_data_tests.parts, LIMITS)
    kept = data_tests.tested(data, fraud_data_tests.parts, LIMITS.model_copy(update={"max_left_out": 1.0}))
    assert kept.left_out.rows == len(data) - len(kept) > 0
    assert (
        data_tests.tested(kept.rows(np.zeros(len(kept), bool)), fraud_data_tests.parts, LIMITS).left_out.rows
        > 0
    )


def test_a_set_without_a_column_is_refused() -> None:
    data = payments()
    del data.columns["source"]
    with pytest.raises(UserError, match="columns amount, customer_id"):
        list(fraud_data_tests.parts(data, LIMITS))


def test_parts_come_back_from_their_record() -> None:
    parts = [
        Part("a", "why", (1, 2), "arrival_day", {"source": "analyst"}, None, 4),
        Part("b", "why", ids=("t-1", "t-2"), rows=2),
    ]
    assert [Part.from_json(part.as_json()) for part in parts] == parts


def test_odd_stretches_are_found_by_the_shortest() -> None:
    draw = np.random.default_rng(6)
    day = np.repeat(np.arange(40), 300)
    hit = draw.random(len(day)) < np.where((day >= 17) & (day <= 19), 0.6, 0.1)
    found = odd_stretches(day, hit, Limits(0.2))
    assert [(odd.first, odd.last) for odd in found] == [(17, 17), (18, 18), (19, 19)]
    assert odd_stretches(day, hit, Limits(0.6)) == []
    assert odd_stretches(day[:0], hit[:0], Limits(0.2)) == []
