"""Elasticity and recommended prices of tables whose truth is known."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.errors import UserError
from infra.settings import Settings
from ingestion.tables import DAY_US
from training import cross_fit
from training.cross_fit import folds
from training.price_effect import residuals, slope
from training.price_table import PriceTable, table_of
from training.pricing_file import demand_error, evaluate, least_squares
from training.tasks import EvaluateOptions, EventFile

pytestmark = pytest.mark.slow

TRUTH = -2.0
N = 4_000


def sales(n: int = N) -> pa.Table:
    """Prices that follow demand: dear when the season is high, so that the plain slope is far too flat."""
    rng = np.random.default_rng(7)
    season, product = rng.uniform(-1, 1, n), rng.integers(0, 3, n)
    log_price = 1.0 + 0.3 * product + 0.5 * season + 0.1 * rng.standard_normal(n)
    log_units = 6.0 + TRUTH * log_price + 0.4 * product + 2.0 * season + 0.2 * rng.standard_normal(n)
    names = np.array(["lemon", "apple", "fig"])[product]
    columns = {"price": np.exp(log_price), "units": np.exp(log_units), "product_id": names, "season": season}
    return pa.table(columns)


@pytest.fixture(scope="module")
def table() -> PriceTable:
    return table_of(sales(), ["season"])


def asked(folder: Path, rows: pa.Table, mapping: str = "", **more: Any) -> EvaluateOptions:
    pq.write_table(rows, folder / "sales.parquet")
    text = mapping or 'price = "price"\nunits = "units"\nproduct_id = "product_id"\ncontext = ["season"]'
    (folder / "mapping.toml").write_text(f"[prices]\n{text}\n", "utf-8")
    return EvaluateOptions(EventFile(folder / "sales.parquet", folder / "mapping.toml"), **more)


def test_the_correction_finds_the_elasticity_that_the_plain_slope_misses(table: PriceTable) -> None:
    found = slope(residuals(table, folds(N)))
    assert found.low < TRUTH < found.high
    assert found.high - found.low < 0.3
    assert least_squares(table) > -0.5, "prices followed demand"


def test_the_plain_slope_has_a_level_for_each_product() -> None:
    rows = sales().set_column(3, "season", pa.array(np.zeros(N)))
    price, product = np.log(rows["price"].to_numpy()), rows["product_id"].to_numpy(zero_copy_only=False)
    level = {"lemon": 5.0, "apple": 1.0, "fig": -3.0}
    units = np.exp(np.array([level[each] for each in product]) - 1.3 * price)
    exact = table_of(rows.set_column(1, "units", pa.array(units)), [])
    assert np.isclose(least_squares(exact), -1.3)


def test_demand_is_predicted_for_rows_not_seen(table: PriceTable) -> None:
    error = demand_error(table, folds(N))
    assert 0.2 < error < 0.35, "the noise is 0.2; nothing can be better"


def test_the_answer_as_json(tmp_path: Path, chosen: Settings) -> None:
    found = evaluate(chosen, asked(tmp_path, sales(600)))
    assert {"elasticity", "demand_rmse_log", "rows", "seconds"} <= set(found)
    assert set(found["elasticity"]) == {"value", "low", "high"}
    assert found["rows"] == 600


@pytest.mark.slow
def test_a_price_for_every_row_in_order(tmp_path: Path, chosen: Settings) -> None:
    """Elasticity -2: revenue is best at the cheapest price, margin at twice the cost."""
    rng = np.random.default_rng(3)
    price = rng.uniform(1, 6, 3_000)
    cost = np.where(rng.random(3_000) < 0.5, 1.0, 2.0)
    units = 1_000.0 * price**-2.0
    units[5] = 0.0
    rows = pa.table({"price": price, "units": units, "unit_cost": cost})
    mapping = 'price = "price"\nunits = "units"\ncontext = ["unit_cost"]'
    out = tmp_path / "prices.parquet"
    options = {"candidates": (4.0, 1.5, 2.0, 3.0), "out": out}

    found = evaluate(chosen, asked(tmp_path, rows, mapping, objective="margin", **options))
    prices = pq.read_table(out)["recommended_price"].to_numpy()
    assert len(prices) == 3_000, "the row without a sale has a price too"
    assert found["rows_left_out"] == 1
    assert np.mean(prices == 2 * cost) > 0.9

    evaluate(chosen, asked(tmp_path, rows, mapping, objective="revenue", **options))
    assert np.mean(pq.read_table(out)["recommended_price"].to_numpy() == 1.5) > 0.9

    evaluate(chosen, asked(tmp_path, rows, mapping, objective="0.5 margin + 0.5 revenue", **options))
    mixed = pq.read_table(out)["recommended_price"].to_numpy()
    assert np.mean(mixed == np.where(cost == 2.0, 2.0, 1.5)) > 0.9, "as if a unit cost half as much"


def test_objectives_that_a_table_cannot_tell_are_refused(tmp_path: Path, chosen: Settings) -> None:
    for objective, reason in (
        ("0.5 revenue + 0.5 growth", "growth weighs units by the list price"),
        ("0.5 margin + 0.5 revenue", "needs the cost of every row"),
        ("glory", "expected an objective, margin, revenue or growth, or a mix such as"),
    ):
        with pytest.raises(UserError, match=reason):
            evaluate(
                chosen, asked(tmp_path, sales(300), objective=objective, out=tmp_path / "prices.parquet")
            )


def test_rows_left_out_are_counted_and_said(tmp_path: Path, chosen: Settings) -> None:
    rows = sales(300)
    units = np.where(np.arange(300) < 7, 0.0, rows["units"].to_numpy())
    price = np.where(np.arange(300) == 20, 0.0, rows["price"].to_numpy())
    gaps = rows.set_column(0, "price", pa.array(price)).set_column(1, "units", pa.array(units))
    found = evaluate(chosen, asked(tmp_path, gaps, candidates=(2.0, 3.0), out=tmp_path / "prices.parquet"))
    assert (found["rows"], found["rows_left_out"], found["rows_without_cost"]) == (292, 8, 300)
    assert found["notes"] == [
        "8 of 300 rows are left out of demand and elasticity: 1 without a price above 0, 7 others without"
        " units above 0",
        "these 8 rows have a recommended price too, by what the others tell",
    ]
    assert evaluate(chosen, asked(tmp_path, sales(300)))["notes"] == []
    grown = asked(tmp_path, sales(300), objective="growth", candidates=(2.0,), out=tmp_path / "p.parquet")
    assert "300 rows have no 'unit_cost'" in evaluate(chosen, grown)["notes"][0]


def test_recommended_prices_know_nothing_of_a_person_without_permission(
    tmp_path: Path, chosen: Settings
) -> None:
    """The rich pay any price, the poor only the low one; told apart by a word or by a number."""
    rng = np.random.default_rng(5)
    rich, price = rng.random(1_500) < 0.5, rng.choice([1.0, 2.0], 1_500)
    units = np.where(rich, 10.0, np.where(price > 1, 1.0, 12.0)) * np.exp(0.05 * rng.standard_normal(1_500))
    words = pa.array(np.where(rich, "rich", "poor"))
    rows = pa.table({"price": price, "units": units, "purse": words, "income": rich + rng.random(1_500) / 9})
    mapping = 'price = "price"\nunits = "units"\ncontext = ["purse", "income"]'
    options = asked(tmp_path, rows, mapping, candidates=(1.0, 2.0), out=tmp_path / "prices.parquet")

    def told_apart(**changed: Any) -> bool:
        policy = chosen.pricing.model_copy(update=changed)
        found = evaluate(chosen.model_copy(update={"pricing": policy}), options)
        prices = pq.read_table(tmp_path / "prices.parquet")["recommended_price"].to_numpy()
        apart = bool(abs(prices[rich].mean() - prices[~rich].mean()) > 0.5)
        assert any("know nothing of purse, income" in note for note in found["notes"]) is not apart
        return apart

    personal = ("purse", "income", "age")
    assert told_apart(personal=())
    assert told_apart(personal=personal, use_personal=True)
    assert not told_apart(personal=personal)


def test_margin_without_costs_is_refused(tmp_path: Path, chosen: Settings) -> None:
    options = asked(tmp_path, sales(300), objective="margin", out=tmp_path / "prices.parquet")
    with pytest.raises(UserError, match="needs the cost of every row"):
        evaluate(chosen, options)


def weekly(folder: Path, **more: Any) -> EvaluateOptions:
    weeks = pa.array(np.arange(600) // 10)
    rows = sales(600).append_column("week", weeks).append_column("shop", pa.array(np.arange(600) % 10))
    names = 'price = "price"\nunits = "units"\nproduct_id = "product_id"\nperiod = "week"\nplace = "shop"'
    return asked(folder, rows, f'{names}\ncontext = ["season"]', **more)


def test_a_file_with_weeks_and_places_tells_more(tmp_path: Path, chosen: Settings) -> None:
    found = evaluate(chosen, weekly(tmp_path, by="product", test_from="50"))
    assert set(found["elasticity_within"]) >= {"value", "low", "high"}
    assert set(found["elasticity_by_product"]) == {"apple", "fig", "lemon"}
    assert [each["is"] for each in found["elasticity_by"]["groups"]] == ["apple", "fig", "lemon"]
    assert (found["forecast"]["rows_train"], found["forecast"]["rows_test"]) == (500, 100)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"by": "saeson"}, r"--by: expected product or a context column.*Did you mean 'season'\?"),
        ({"test_from": "2026-03-01"}, "--test-from: expected a period's number, came '2026-03-01'"),
        ({"test_from": "77"}, "the file's periods go from 0 to 59"),
    ],
)
def test_what_cannot_be_asked_is_said(
    more: dict[str, Any], says: str, tmp_path: Path, chosen: Settings
) -> None:
    with pytest.raises(UserError, match=says):
        evaluate(chosen, weekly(tmp_path, **more))


def test_a_date_is_a_period_of_a_file_with_times(tmp_path: Path, chosen: Settings) -> None:
    days = pa.array((20_000 + np.arange(600) // 10) * DAY_US, pa.timestamp("us"))
    rows = sales(600).append_column("at", days)
    names = 'price = "price"\nunits = "units"\nevent_time = "at"\ncontext = ["season"]'
    found = evaluate(chosen, asked(tmp_path, rows, names, test_from="2024-11-23"))
    assert found["forecast"]["rows_train"] == 500


def test_a_handful_of_rows_is_refused(tmp_path: Path, chosen: Settings) -> None:
    with pytest.raises(UserError, match="expected at least 100 rows"):
        evaluate(chosen, asked(tmp_path, sales(50)))


def test_words_and_gaps_become_numbers() -> None:
    rows = pa.table({"price": [1.0, None], "units": [0.0, 3.0], "colour": ["red", None], "size": [None, 4]})
    found = table_of(rows, ["colour", "size"])
    assert found.names == ("log_price", "product", "colour", "size")
    np.testing.assert_array_equal(found.matrix, [[0.0, 0.0, 0.0, np.nan], [np.nan, 0.0, -1.0, 4.0]])
    assert not found.usable.any(), "nothing sold, no price"


def test_folds_are_even_and_the_same_each_time() -> None:
    assert np.bincount(folds(103)).tolist() == [21, 21, 21, 20, 20]
    np.testing.assert_array_equal(folds(50), folds(50))
    assert cross_fit.FOLDS == 5
