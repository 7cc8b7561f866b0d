"""What the demonstration is about: past events to learn from, then two stretches of live ones."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from infra.errors import UserError
from infra.progress import Task
from ingestion import mapping
from ingestion.commands import read_past
from ingestion.events import microseconds
from ingestion.file_source import PastEvents
from ingestion.simulated import past_payments, past_prices
from ingestion.simulators.columns import take
from ingestion.simulators.market import Market, MarketProcess, Quotes
from ingestion.simulators.payments import Labels, Payments, simulate
from ingestion.simulators.population import Population
from ingestion.simulators.scenarios import RING, Fraud
from ingestion.tables import DAY_US

PAST_DAYS, BEFORE_DAYS, AFTER_DAYS = 90, 21, 4
"""Days to learn from; live days until the retraining; live days after it."""
CUSTOMERS = 650
RING_SHARE, RING_CASHOUT = 0.012, (2.0, 4.5)
"""The new fraud pattern, from the first live day on: its share of payments, and what a card is emptied of, in
multiples of its usual amount."""
CHARGEBACK_DAYS = (1.0, 7.0)
QUOTES_PER_DAY, LIVE_QUOTE_EVERY = 400.0, 4
"""Of the past seller; live, every so many-th customer asks us for a price."""
FILE_BEFORE_DAYS = FILE_AFTER_DAYS = 1


@dataclass(frozen=True)
class Stretch:
    """Live events of [start, end), in microseconds since 1970 UTC."""

    name: str
    start_us: int
    end_us: int


@dataclass(frozen=True)
class Story:
    """Payments with labels, a market, and the two live stretches between which the model is trained anew."""

    title: str
    payments: PastEvents
    new_pattern: frozenset[str]
    """Payments of the fraud that nobody has seen before the live stretches; none if that is not known."""
    before: Stretch
    after: Stretch
    market: Market
    prices: PastEvents
    """Quotes of the past seller with what was bought, all before the live stretches."""
    first_quote_day: int
    """Day of the market on which the live stretches begin."""

    @property
    def past(self) -> PastEvents:
        """What is known before the live stretches."""
        return self.payments.between(None, self.before.start_us)

    def frauds(self) -> dict[str, bool]:
        """Whether a payment is fraud, by its id; of payments whose label the story knows."""
        settled = self.payments.settled
        labels = np.array(settled["label"].to_pylist(), dtype=object) == "fraud"
        return dict(zip(settled["transaction_id"].to_pylist(), labels.tolist(), strict=True))

    def quotes(self, stretch: Stretch) -> Quotes:
        """Requests for a price in a stretch."""
        first = self.first_quote_day + (stretch.start_us - self.before.start_us) // DAY_US
        days = max(1, (stretch.end_us - stretch.start_us) // DAY_US)
        asked = self.market.quotes(int(days), int(first))
        return take(asked, slice(None, None, LIVE_QUOTE_EVERY))


def simulated(seed: int, today: datetime) -> Story:
    """Ninety past days, then live days in which a fraud pattern begins that nobody has seen."""
    start = midnight(today) - timedelta(days=PAST_DAYS + BEFORE_DAYS + AFTER_DAYS)
    process = Payments(
        seed=seed,
        start=start,
        population=Population(customers=CUSTOMERS),
        fraud=Fraud(ring_first_day=PAST_DAYS, ring_share=RING_SHARE, ring_cashout_multiple=RING_CASHOUT),
        labels=Labels(chargeback_days=CHARGEBACK_DAYS),
    )
    log = simulate(process, PAST_DAYS + BEFORE_DAYS + AFTER_DAYS)
    live = microseconds(start) + PAST_DAYS * DAY_US
    cut, end = live + BEFORE_DAYS * DAY_US, live + (BEFORE_DAYS + AFTER_DAYS) * DAY_US
    market = Market(MarketProcess(seed=seed, start=start, quotes_per_day=QUOTES_PER_DAY))
    return Story(
        title=f"{PAST_DAYS} simulated days, {BEFORE_DAYS} + {AFTER_DAYS} live ones",
        payments=past_payments(log),
        new_pattern=frozenset(log.transaction_id[log.scenario == RING].tolist()),
        before=Stretch("before retraining", live, cut),
        after=Stretch("after retraining", cut, end),
        market=market,
        prices=past_prices(market, market.simulate(PAST_DAYS)).between(None, live),
        first_quote_day=PAST_DAYS,
    )


def from_file(data: Path, mapping_file: Path, currency: str, seed: int, task: Task) -> Story:
    """The file's last two days live, all before them as the past; prices are of the simulated market.

    Raises:
        UserError: the file holds less than three days of payments, or no labels.
    """
    payments = read_past(data, mapping.load(mapping_file), currency, task)
    times = payments.decided["event_time_us"].to_numpy()
    if not len(times) or not payments.settled.num_rows:
        raise UserError(f"{data}: expected payments with labels, found {len(times)} payments.")
    end = int(times[-1] // DAY_US + 1) * DAY_US
    live = end - (FILE_BEFORE_DAYS + FILE_AFTER_DAYS) * DAY_US
    if times[0] > live - DAY_US:
        raise UserError(f"{data}: expected at least three days of payments: the last two are replayed live.")
    start = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=live - PAST_DAYS * DAY_US)
    market = Market(MarketProcess(seed=seed, start=start, quotes_per_day=QUOTES_PER_DAY))
    return Story(
        title=f"{data.name}: {len(times):,} payments, the last two days live",
        payments=payments,
        new_pattern=frozenset(),
        before=Stretch("before retraining", live, live + FILE_BEFORE_DAYS * DAY_US),
        after=Stretch("after retraining", live + FILE_BEFORE_DAYS * DAY_US, end),
        market=market,
        prices=past_prices(market, market.simulate(PAST_DAYS)).between(None, live),
        first_quote_day=PAST_DAYS,
    )


def midnight(moment: datetime) -> datetime:
    """The last midnight UTC."""
    return moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
