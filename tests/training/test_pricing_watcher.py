"""Watching prices in a simulated market: a fall of demand is told, an outage of outcomes is none."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from features.pricing import PRICING
from infra import settings
from infra.settings import Settings
from ingestion.file_source import PastEvents, placed
from ingestion.history import History
from ingestion.simulated import past_prices
from ingestion.simulators.columns import midnight_us
from ingestion.simulators.market import Market, MarketProcess
from ingestion.tables import DAY_US, OUTCOMES, QUOTES
from tests.training.watched import kept, outage
from training import pricing
from training.dataset import Span
from training.findings import Findings
from training.tasks import Trial
from training.watcher import Looker

pytestmark = pytest.mark.slow

PAST_DAYS, SHIFT_DAY, DAYS = 30, 45, 55


@pytest.fixture(scope="module")
def market() -> tuple[PastEvents, Trial, int]:
    process = MarketProcess(seed=3, quotes_per_day=300.0, shift_first_day=SHIFT_DAY)
    made = Market(process)
    past = past_prices(made, made.simulate(DAYS))
    events = placed(past, [entity.name for entity in PRICING.entities], start=0)
    start_us = midnight_us(process.start)
    known = events.between(None, start_us + PAST_DAYS * DAY_US)
    chosen = settings.load()
    data = pricing.from_tables(known.decided, known.settled, Span(), chosen.pricing)
    return events, pricing.learn(data, None, chosen), start_us


def home_of(tmp_path: Path, chosen: Settings, trial: Trial, quotes: pa.Table, outcomes: pa.Table) -> Settings:
    mine = chosen.model_copy(update={"home": tmp_path})
    kept(mine, trial, task="pricing")
    History(mine.history).backfill({QUOTES: quotes, OUTCOMES: outcomes})
    return mine


def seen(chosen: Settings, now_us: int) -> Findings:
    found = Looker(chosen).look(pricing.TASK, now_us)
    assert found is not None
    return found


def test_a_fall_of_demand_raises_the_alarm_within_a_day_of_200_outcomes(
    tmp_path: Path, chosen: Settings, market: tuple[PastEvents, Trial, int]
) -> None:
    events, trial, start_us = market
    mine = home_of(tmp_path, chosen, trial, events.decided, events.settled)
    before = seen(mine, start_us + SHIFT_DAY * DAY_US)
    assert before.alerts == ()
    assert before.matured is not None
    assert before.matured["margin_to_forecast"] == pytest.approx(1.0, abs=0.15)
    after_shift = events.settled["quoted_at_us"].to_numpy() >= start_us + SHIFT_DAY * DAY_US
    arrived = np.sort(events.settled["event_time_us"].to_numpy()[after_shift])[199]
    first = seen(mine, int(arrived) + DAY_US)
    assert "fewer_sales" in [each.name for each in first.alerts]
    assert "more_sales" not in [each.name for each in first.alerts]
    assert first.due
    late = seen(mine, start_us + DAYS * DAY_US)
    assert late.matured is not None
    assert late.matured["margin_to_forecast"] < before.matured["margin_to_forecast"]
    assert late.skew is None, "quotes in the history have no vectors to compare"


@pytest.mark.parametrize("zeros", [True, False], ids=["all are told", "only sales are told"])
def test_an_outage_of_outcomes_is_no_fall_of_demand(
    tmp_path: Path, chosen: Settings, market: tuple[PastEvents, Trial, int], zeros: bool
) -> None:
    events, trial, start_us = market
    begins, ends = (start_us + day * DAY_US for day in (PAST_DAYS + 2, PAST_DAYS + 12))
    settled = outage(events.settled, begins, start_us + (DAYS + 9) * DAY_US)
    if not zeros:
        settled = settled.filter(pa.array(settled["units"].to_numpy() > 0))
    mine = home_of(tmp_path, chosen, trial, events.decided, settled)
    during = seen(mine, ends)
    assert [each.name for each in during.alerts] == ["no_outcomes"]
