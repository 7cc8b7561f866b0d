"""What an unattended run is about: a past to learn from, then days with a new fraud and a fall of demand."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from features.domains import domain
from features.state import Ints
from ingestion.file_source import PastEvents, placed
from ingestion.simulated import past_payments, past_prices
from ingestion.simulators.columns import midnight_us
from ingestion.simulators.market import Market, MarketProcess
from ingestion.simulators.payments import Labels, PaymentLog, Payments, simulate
from ingestion.simulators.population import Population
from ingestion.simulators.scenarios import RING, Fraud
from ingestion.tables import DAY_US

SHOWING = 200
"""So many labels or outcomes of a change are enough to see it."""


@dataclass(frozen=True)
class Story:
    """Days are counted from the first that the system decides; the past lies before day 0."""

    seed: int
    days: int = 60
    past_days: int = 35
    ring_day: int = 30
    """A fraud pattern that nobody has seen begins on it."""
    shift_day: int = 40
    """Buyers are willing to pay a third less from it on."""
    customers: int = 250
    """They make two payments a day each."""
    quotes_per_day: float = 300.0
    turns: int = 2
    """Watcher, retrainer and shadow take theirs so often a day."""

    @property
    def payments(self) -> Payments:
        """The payments' process: some 500 a day.

        The known frauds are as frequent as the watcher is tested with; of the new one there is as much that
        200 labels come within the days. It takes what its victims might spend, as the simulator has it: of
        cash-outs that are as large as those of stolen cards (as in the demonstration) a champion that has not
        seen them stops half.
        """
        return Payments(
            seed=self.seed,
            population=Population(customers=self.customers),
            fraud=Fraud(
                large_share=0.004,
                terminal_share=0.005,
                card_share=0.006,
                ring_first_day=self.past_days + self.ring_day,
                ring_share=0.03,
            ),
            labels=Labels(chargeback_days=(1.0, 7.0)),
        )

    @cached_property
    def log(self) -> PaymentLog:
        """All payments with the truth about them."""
        return simulate(self.payments, self.past_days + self.days)

    @cached_property
    def paid(self) -> PastEvents:
        """The same as events; of a label, when it arrives."""
        return past_payments(self.log)

    @cached_property
    def market(self) -> Market:
        """Where prices are quoted."""
        shift = self.past_days + self.shift_day
        return Market(MarketProcess(self.seed, quotes_per_day=self.quotes_per_day, shift_first_day=shift))

    @cached_property
    def new_pattern(self) -> frozenset[str]:
        """Payments of the new fraud."""
        return frozenset(self.log.transaction_id[self.log.scenario == RING].tolist())

    def past_of(self, task: str) -> PastEvents:
        """What a task knows before day 0, in its order."""
        known = self.paid if task == "fraud" else self._past_prices
        past = known.between(None, self.us(0))
        return placed(past, [entity.name for entity in domain(task).features.entities], start=0)

    @property
    def _past_prices(self) -> PastEvents:
        return past_prices(self.market, self.market.simulate(self.past_days))

    def us(self, day: float) -> int:
        """A moment in microseconds since 1970 UTC."""
        return midnight_us(self.payments.start) + round((self.past_days + day) * DAY_US)

    def turn_us(self, turn: int) -> int:
        """When a turn begins, counted from day 0; microseconds since 1970 UTC."""
        return self.us(turn / self.turns)

    def day_of(self, time_us: int) -> float:
        """The day of a moment, with its fraction."""
        return (time_us - self.us(0)) / DAY_US

    def nth(self, times_us: Ints, n: int = SHOWING) -> float:
        """Day on which the n-th of some arrivals came; infinite if fewer came."""
        ordered = np.sort(times_us)
        return self.day_of(int(ordered[n - 1])) if len(ordered) >= n else float("inf")
