"""A fraud champion on disk over a simulated history, for the tests of watching."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from features.fraud import FRAUD
from infra.settings import Settings
from ingestion.file_source import PastEvents, placed
from ingestion.history import History
from ingestion.simulated import past_payments
from ingestion.simulators.columns import midnight_us
from ingestion.simulators.payments import Labels, PaymentLog, Payments, simulate
from ingestion.simulators.population import Population
from ingestion.simulators.scenarios import RING, Fraud
from ingestion.tables import DAY_US, LABELS, TRANSACTIONS
from training import card as cards
from training import fraud
from training.champions import Champions
from training.dataset import Span
from training.tasks import Trial

PAST_DAYS, RING_DAY, DAYS = 45, 60, 79


@dataclass(frozen=True)
class World:
    """A history of payments, of which a champion learned from the first `PAST_DAYS`."""

    log: PaymentLog
    events: PastEvents
    trial: Trial
    start_us: int

    def us(self, day: float) -> int:
        """A moment, in days since the first."""
        return self.start_us + round(day * DAY_US)

    def arrived(self, ring: bool, at: int) -> float:
        """Day on which that many labels of the ring (or of no ring) had arrived."""
        times = np.sort(self.log.label_time_us[self.log.is_fraud & ((self.log.scenario == RING) == ring)])
        return float(times[at - 1] - self.start_us) / DAY_US


def world(settings: Settings, seed: int = 5, chargeback_days: tuple[float, float] = (1.0, 7.0)) -> World:
    """Ring fraud begins on `RING_DAY`; the champion, trained before, does not know it."""
    process = Payments(
        seed=seed,
        population=Population(customers=350),
        fraud=Fraud(
            large_share=0.004,
            terminal_share=0.005,
            card_share=0.006,
            ring_first_day=RING_DAY,
            ring_share=0.02,
            ring_cashout_multiple=(2.0, 4.5),
        ),
        labels=Labels(chargeback_days=chargeback_days),
    )
    log = simulate(process, DAYS)
    events = placed(past_payments(log), [entity.name for entity in FRAUD.entities], start=0)
    start_us = midnight_us(process.start)
    cutoff_us = start_us + PAST_DAYS * DAY_US
    past = events.between(None, cutoff_us)
    data = fraud.from_tables(settings, past.decided, past.settled, Span())
    return World(log, events, fraud.learn(data, None, settings), start_us)


def kept(settings: Settings, trial: Trial, version: str = "1", task: str = "fraud") -> Path:
    """Make the trial's model the champion on disk, as a promotion does."""
    source = settings.home / "made" / version
    trial.model.save(source)
    cards.add(source, trial.beside)
    champions = Champions(settings.home)
    champions.keep(task, version, source)
    champions.set_current(task, version)
    return champions.folder(task, version)


def written(settings: Settings, transactions: pa.Table, labels: pa.Table) -> History:
    """A history of these rows."""
    history = History(settings.history)
    history.backfill({TRANSACTIONS: transactions, LABELS: labels})
    return history


def outage(labels: pa.Table, from_us: int, to_us: int) -> pa.Table:
    """Labels that would arrive in between come all at once when it is over."""
    arrived = labels["event_time_us"].to_numpy()
    held = np.where((arrived >= from_us) & (arrived < to_us), to_us, arrived)
    return labels.set_column(labels.column_names.index("event_time_us"), "event_time_us", pa.array(held))
