"""The Fraud Detection Handbook's protocol: what is trained on, what is waited for, what is tested.

Le Borgne, Siblini, Lebichot, Bontempi: Reproducible Machine Learning for Credit Card Fraud Detection,
chapter 3 (`get_train_test_set`) and chapter 4 (card precision top-k). Train on a week; wait the delay of
the labels; test on the next week without the cards that are known by then to be compromised: those with
fraud in the training week, and, for each test day, those with fraud up to that day less the delay.
"""

from dataclasses import dataclass
from datetime import date

import numpy as np

from features.state import Flags, Ints
from infra.errors import UserError
from training.dataset import Objects
from training.tasks import EvaluateOptions

_EPOCH = date(1970, 1, 1)


@dataclass(frozen=True)
class Fold:
    """One training and test period, in days since 1970 UTC."""

    train_start: int
    train_days: int = 7
    delay_days: int = 7
    test_days: int = 7
    history_days: int | None = None
    """Train on so many days before the delay instead; the test is the same."""

    @property
    def train_end(self) -> int:
        """Exclusive; the delay begins."""
        return self.train_start + self.train_days

    @property
    def learn_start(self) -> int:
        """First day that is trained on."""
        return self.train_end - (self.history_days or self.train_days)

    @property
    def test_start(self) -> int:
        """First day of the test."""
        return self.train_end + self.delay_days

    @property
    def test_end(self) -> int:
        """Exclusive; nothing later matters."""
        return self.test_start + self.test_days

    def learns(self, day: Ints) -> Flags:
        """Rows, by their day, that are learned from."""
        return (day >= self.learn_start) & (day < self.train_end)

    def examines(self, day: Ints, card: Objects, fraud: Flags) -> Flags:
        """Rows of the test days, without the cards known to be compromised by then."""
        in_week = (day >= self.train_start) & (day < self.train_end)
        known: set[object] = set(card[in_week & fraud])
        chosen = np.zeros(len(day), np.bool_)
        for number in range(self.test_days):
            known |= set(card[(day == self.train_end + number - 1) & fraud])
            today = np.flatnonzero(day == self.test_start + number)
            chosen[today] = [each not in known for each in card[today]]
        return chosen


def fold_of(options: EvaluateOptions) -> Fold:
    """The fold that a command asked for. Raises UserError without a day to start."""
    try:
        start = date.fromisoformat(options.train_start or "")
    except ValueError:
        came = options.train_start or "nothing"
        raise UserError(f"--train-start: expected a day such as 2018-07-25, came {came}.") from None
    return Fold(
        (start - _EPOCH).days, options.train_days, options.delay_days, options.test_days, options.history_days
    )
