"""Drift of columns: large and sure, after correction, in any shape of values, and small on disk."""

import json
from pathlib import Path

import numpy as np
import pytest

from features.fraud import FRAUD
from training.drift import SCORE, Column, Limits, alike, columns_of, compare, counted, psi
from training.performance import Standard
from training.reference import FILE, Reference, read

LIMITS = Limits(psi=0.25, false_discoveries=0.01)
N = 4_000


def draws(seed: int, n: int = N, columns: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, columns))


def test_the_index_is_jeffreys_divergence_of_the_shares() -> None:
    assert psi(np.array([50, 50]), np.array([50, 50])) == 0.0
    expected = 0.4 * np.log(0.9 / 0.5) - 0.4 * np.log(0.1 / 0.5)
    assert psi(np.array([5_000, 5_000]), np.array([9_000, 1_000])) == pytest.approx(expected, rel=1e-3)
    assert np.isfinite(psi(np.array([100, 0]), np.array([0, 100])))


def test_every_row_is_in_one_bin_and_what_is_not_known_in_the_last() -> None:
    values = np.array([1.0, 2.0, 2.0, 3.0, np.nan, np.inf])
    assert counted(np.array([1.0, 2.0]), values).tolist() == [1, 2, 1, 2]
    column = Column.of(draws(1)[:, 0])
    assert column.counts.tolist() == [N // 10] * 10 + [0]


@pytest.mark.parametrize(
    "values",
    [np.zeros(50), np.full(50, np.nan), np.arange(3.0), np.repeat([0.0, 1.0], [45, 5]), np.empty(0)],
    ids=["constant", "never known", "few", "yes or no", "none"],
)
def test_odd_columns_do_not_drift_from_themselves(values: np.ndarray) -> None:
    column = Column.of(values)
    again = Column.from_json(json.loads(json.dumps(column.as_json(), allow_nan=False)))
    found = compare({"odd": again}, {"odd": values}, LIMITS)
    assert all(each.psi == pytest.approx(0.0) and not each.drifted for each in found)


def test_only_what_moved_drifts_and_the_furthest_comes_first() -> None:
    reference = columns_of(tuple("abcde"), draws(1), draws(2)[:, 0])
    now = draws(3)
    now[:, 1] += 1.0
    now[:, 3] *= 3.0
    now[: N // 2, 4] = np.nan
    sample = {name: now[:, i] for i, name in enumerate("abcde")} | {SCORE: draws(4)[:, 0]}
    found = compare(reference, sample, LIMITS)
    assert {each.name for each in found if each.drifted} == {"b", "d", "e"}
    assert [each.psi for each in found] == sorted([each.psi for each in found], reverse=True)
    gaps = next(each for each in found if each.name == "e")
    assert gaps.statistic < 0.1
    assert gaps.adjusted < 1e-6, "no known value moved, but half of them are gone"


def test_a_large_index_of_few_rows_is_not_sure() -> None:
    reference = columns_of(("a",), draws(1, columns=1), draws(2)[:, 0])
    found = compare(reference, {"a": np.array([1.0, 1.2, 0.8])}, LIMITS)
    assert found[0].psi > LIMITS.psi
    assert not found[0].drifted


def test_a_sure_difference_that_is_small_is_no_drift() -> None:
    reference = columns_of(("a",), draws(1, 50_000, 1), draws(2)[:, 0])
    found = compare(reference, {"a": draws(5, 50_000, 1)[:, 0] + 0.15}, LIMITS)
    assert found[0].adjusted < LIMITS.false_discoveries
    assert not found[0].drifted


def test_rows_of_few_products_are_few_observations() -> None:
    """Prices of ten products wander: as rows they are surely different, as products they are not."""
    draw = np.random.default_rng(6)
    level, products = draw.normal(size=10), draw.integers(0, 10, N)
    before = level[products] + 0.1 * draw.normal(size=N)
    now = (level + draw.normal(size=10))[products] + 0.1 * draw.normal(size=N)
    grouped = columns_of(("price",), before[:, None], before, products)
    (one, _) = compare(grouped, {"price": now, SCORE: now}, LIMITS, products)
    assert one.psi > LIMITS.psi
    assert not one.drifted
    alone = columns_of(("price",), before[:, None], before)
    assert compare(alone, {"price": now}, LIMITS)[0].drifted
    gone = {"price": np.where(products < 2, np.nan, before), SCORE: before}
    assert not compare(grouped, gone, LIMITS, products)[0].drifted, "two of ten that are no longer known"
    assert compare(alone, {"price": gone["price"]}, LIMITS)[0].drifted
    far = {"price": now + 30.0, SCORE: now}
    assert compare(grouped, far, LIMITS, products)[0].drifted, "when all of them moved far, they did"


def test_independent_rows_count_fully_whatever_their_groups() -> None:
    draw = np.random.default_rng(6)
    assert alike(draw.normal(size=N), draw.integers(0, 50, N)) == pytest.approx(1.0, abs=0.5)
    assert alike(draw.normal(size=N), np.arange(N)) == 1.0
    assert alike(np.full(5, np.nan), np.zeros(5, int)) == 1.0


@pytest.mark.slow
def test_the_correction_holds_the_share_of_false_discoveries() -> None:
    """Of 40 columns that did not move, in 20 samples, hardly any is called different."""
    draw = np.random.default_rng(11)
    names = tuple(f"f{i}" for i in range(40))
    matrix = draw.normal(size=(N, 40))
    reference = columns_of(names, matrix, matrix[:, 0])
    called, uncorrected = 0, 0
    for _ in range(20):
        now = draw.normal(size=(300, 40))
        found = compare(reference, {name: now[:, i] for i, name in enumerate(names)}, LIMITS)
        called += sum(each.adjusted <= 0.05 for each in found) > 0
        uncorrected += sum(each.p_value <= 0.05 for each in found) > 0
    assert called <= 4, "one sample in twenty"
    assert uncorrected > 13, "without the correction nearly every sample has one"


def test_the_file_is_small_the_same_each_time_and_comes_back(tmp_path: Path) -> None:
    folder = tmp_path
    matrix = np.random.default_rng(5).normal(size=(20_000, len(FRAUD.names)))
    matrix[::3, 4] = np.nan
    made = [
        Reference(columns_of(FRAUD.names, matrix, matrix[:, 1]), Standard(10.0, 8.0, 1.5, {"a": np.nan}))
        for _ in range(2)
    ]
    (one, two) = (each.file()[FILE] for each in made)
    assert one == two
    assert len(one) < 1_000_000
    assert read(folder) is None, "an older model has none"
    (folder / FILE).write_bytes(one)
    again = read(folder)
    assert again is not None
    assert again.file()[FILE] == one
    assert again.standard == Standard(10.0, 8.0, 1.5, {})
    sample = {name: matrix[:, i] for i, name in enumerate(FRAUD.names)}
    assert not any(each.drifted for each in compare(again.columns, sample, LIMITS))
