"""Figures of weekly orange juice sales (Dominick's; Hoch et al. 1995) that others have published."""

from typing import Any

import pytest

from infra import settings
from tests.payments import data_folder
from training.pricing_file import evaluate
from training.tasks import EvaluateOptions, EventFile

ORANGE_JUICE = "orange_juice/orange_juice.parquet"
MAPPING = settings.DEFAULTS.parent / "mappings" / "orange_juice.toml"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (data_folder() / ORANGE_JUICE).exists(), reason="the sales are not at hand"),
]


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    file = EventFile(data_folder() / ORANGE_JUICE, MAPPING)
    return evaluate(settings.load(), EvaluateOptions(file, by="INCOME", test_from="141"))


def test_the_plain_slope_is_the_published_one(found: dict[str, Any]) -> None:
    assert found["elasticity_least_squares"] == pytest.approx(-3.139, abs=0.0005)


def test_the_corrected_elasticity_is_the_published_one(found: dict[str, Any]) -> None:
    elasticity = found["elasticity"]
    assert elasticity["value"] == pytest.approx(-2.62, abs=0.06)
    assert elasticity["low"] < -2.66 < elasticity["high"], "read off a plot"


def test_richer_places_look_at_the_price_less(found: dict[str, Any]) -> None:
    by_income = found["elasticity_by"]
    assert by_income["trend"]["low"] > 0
    assert by_income["groups"][0]["high"] < by_income["groups"][-1]["value"]


def test_sales_of_the_weeks_after_140_are_told_from_those_before(found: dict[str, Any]) -> None:
    forecast = found["forecast"]
    assert forecast["rmse_log"] <= 0.66
    assert forecast["rmse_log_last_period"] == pytest.approx(1.17, abs=0.005)
