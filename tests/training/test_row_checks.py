"""What a row must be by itself: each check that fails is a part in our words; other columns are an error."""

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import pytest
from pandera.config import ValidationDepth, config_context

from infra.errors import UserError
from infra.settings import DataTests
from ingestion.events import EARLIEST, LATEST, microseconds
from ingestion.tables import DAY_US
from training import fraud_data_tests, pricing_data_tests
from training.dataset import Dataset
from training.quarantine import Part

N = 6
TIME_US = 20_000 * DAY_US + np.arange(N) * 60_000_000
CUTOFF_US = 20_010 * DAY_US
RANGE = "amount: expected a number from 0 up to 1e+09"
SOURCE = "source: expected one of settlement, customer, analyst, chargeback"


def objects(*values: Any) -> Any:
    return np.array(values, object)


def rows(columns: Mapping[str, Any]) -> Dataset:
    ids = objects(*(f"id-{row}" for row in range(N)))
    arrived = {"arrived_us": TIME_US + DAY_US}
    return Dataset(
        ("a",), "f", ids, TIME_US.copy(), np.zeros((N, 1)), np.zeros(N), {**arrived, **columns}, CUTOFF_US
    )


def payments() -> Dataset:
    columns = {
        "amount": objects(*np.arange(1.0, N + 1)),
        "customer_id": objects(*(f"c-{row}" for row in range(N))),
        "terminal_id": objects(*(f"m-{row}" for row in range(N))),
        "channel": objects(*[None] * N),
        "country": objects(*["AT"] * N),
        "source": objects(*["settlement", "customer", "analyst", "chargeback", "settlement", "settlement"]),
        "agreed": np.full(N, np.nan),
    }
    return rows(columns)


def quotes() -> Dataset:
    names = {name: objects(*["a"] * N) for name in ("product_name", "segment_name")}
    return rows({"units": np.arange(N, dtype=np.float64), **names})


def refused(data: Dataset) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Test and rows of each part of payments, by its reason."""
    parts = list(fraud_data_tests.parts(data, DataTests()))
    assert all(part.rows for part in parts)
    return {part.reason: (part.test, part.ids or ()) for part in parts}


def test_rows_that_are_right_are_in_no_part() -> None:
    assert refused(payments()) == {}
    assert list(pricing_data_tests.parts(quotes(), DataTests())) == []


def test_each_failure_of_one_row_is_a_part_of_its_own_in_a_fixed_order() -> None:
    data = payments()
    data.columns["amount"][2] = -1.0
    data.columns["customer_id"][2] = None
    data.columns["source"][2] = "rumour"
    data.columns["arrived_us"][2] = data.time_us[2] - 1
    data.matrix[2] = -np.inf
    data.target[2] = 0.5
    found = refused(data)
    assert list(found.items()) == [
        (RANGE, ("range", ("id-2",))),
        ("a feature that is not finite", ("range", ("id-2",))),
        ("target: expected 0 or 1", ("range", ("id-2",))),
        ("customer_id: expected an id, came nothing", ("schema", ("id-2",))),
        (SOURCE, ("schema", ("id-2",))),
        ("settled before it happened", ("time_travel", ("id-2",))),
    ]


@pytest.mark.parametrize("nothing", [None, np.nan])
def test_what_is_missing_fails_where_a_value_is_needed(nothing: Any) -> None:
    data = payments()
    for row, name in enumerate(("amount", "customer_id", "terminal_id", "source", "country")):
        data.columns[name][row] = nothing
    data.target[5] = np.nan
    data.matrix[5] = np.nan
    assert refused(data) == {
        RANGE: ("range", ("id-0",)),
        "target: expected 0 or 1": ("range", ("id-5",)),
        "customer_id: expected an id, came nothing": ("schema", ("id-1",)),
        "terminal_id: expected an id, came nothing": ("schema", ("id-2",)),
        SOURCE: ("schema", ("id-3",)),
    }


def test_ends_of_time_and_of_a_range_are_inclusive() -> None:
    data = payments()
    data.columns["amount"][:2] = 0.0, 1e9
    data.columns["arrived_us"][:4] = data.time_us[0], -1, CUTOFF_US, CUTOFF_US + 1
    data.time_us[4:] = microseconds(EARLIEST) - 1, microseconds(LATEST)
    found = islice(fraud_data_tests.parts(data, DataTests()), 3)  # what follows looks at each day since 2000
    assert [(part.reason, part.ids) for part in found] == [
        ("a clock that is decades off", ("id-4", "id-5")),
        ("settled before it happened", ("id-5",)),
        ("from after the label cut-off", ("id-3", "id-5")),
    ]
    data.time_us[4:] = microseconds(EARLIEST), microseconds(LATEST) - 1
    found = islice(fraud_data_tests.parts(data, DataTests()), 2)
    assert [part.reason for part in found] == ["settled before it happened", "from after the label cut-off"]


def test_every_row_of_an_id_that_came_twice_is_refused() -> None:
    data = payments()
    data.ids[4] = "id-1"
    [part] = fraud_data_tests.parts(data, DataTests())
    assert part == Part("duplicate", "the same id more than once", ids=("id-1",), rows=2)


def test_quotes_have_units() -> None:
    data = quotes()
    data.columns["units"][:2] = -1.0, np.nan
    [part] = pricing_data_tests.parts(data, DataTests())
    assert part.reason == "units: expected a number from 0 up to 1e+09"
    assert part.ids == ("id-0", "id-1")


@pytest.mark.parametrize(
    ("columns", "wrong"),
    [
        ({"amount": objects("much", *range(1, N))}, "amount"),
        ({"arrived_us": TIME_US + 0.5}, "arrived_us"),
        ({"amount": objects("much", *range(1, N)), "arrived_us": TIME_US + 0.5}, "amount, arrived_us"),
        ({"country": objects("AT")}, "All arrays must be of the same length"),
    ],
    ids=["one value", "float for int", "two columns", "length"],
)
def test_a_column_of_another_type_or_length_is_an_error(columns: dict[str, Any], wrong: str) -> None:
    data = payments()
    with pytest.raises(UserError, match=rf"set of {N} rows with the columns amount, .* missing: {wrong}\.$"):
        refused(replace(data, columns={**data.columns, **columns}))


def test_a_missing_column_and_a_matrix_of_other_features_are_errors() -> None:
    data = quotes()
    few = {name: each for name, each in data.columns.items() if name not in ("units", "arrived_us")}
    with pytest.raises(UserError, match=r"missing: units, arrived_us\.$"):
        list(pricing_data_tests.parts(replace(data, columns=few), DataTests()))
    with pytest.raises(UserError, match="and 2 features"):
        list(pricing_data_tests.parts(replace(data, features=("a", "b")), DataTests()))


def test_the_environment_can_not_switch_the_checks_off() -> None:
    data = payments()
    data.columns["amount"][0] = -1.0
    with config_context(validation_enabled=False, validation_depth=ValidationDepth.SCHEMA_ONLY):
        assert refused(data) == {RANGE: ("range", ("id-0",))}


def test_only_a_test_of_data_needs_pandera() -> None:
    script = (
        "import sys, training.fraud_data_tests, training.pricing_data_tests; print('pandera' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
