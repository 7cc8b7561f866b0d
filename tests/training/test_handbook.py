import numpy as np
import pytest

from infra.errors import UserError
from training.handbook import Fold, fold_of
from training.tasks import EvaluateOptions, EventFile


def test_days_of_the_book_week() -> None:
    fold = fold_of(EvaluateOptions(EventFile("", ""), train_start="2018-07-25"))
    day = np.arange(17_720, 17_780)
    assert day[fold.learns(day)].tolist() == list(range(17_737, 17_744))
    nobody = np.array([""] * len(day), object)
    assert day[fold.examines(day, nobody, np.zeros(len(day), bool))].tolist() == list(range(17_751, 17_758))


def test_longer_history_ends_at_the_same_day_and_tests_the_same() -> None:
    short, long = Fold(100), Fold(100, history_days=84)
    day = np.arange(200)
    assert long.learns(day).sum() == 84
    assert day[long.learns(day)].max() == day[short.learns(day)].max()
    assert long.test_start == short.test_start


def test_cards_known_to_be_compromised_are_not_tested() -> None:
    fold = Fold(0, train_days=2, delay_days=2, test_days=2)
    rows = [
        (1, "in training", True), (4, "in training", False),
        (1, "day before the delay", True), (4, "day before the delay", False),
        (2, "in the delay", True), (4, "in the delay", False), (5, "in the delay", False),
        (3, "end of the delay", True), (5, "end of the delay", False),
        (4, "in the test", True), (5, "in the test", True),
    ]  # fmt: skip
    day, card, fraud = (np.array(column) for column in zip(*rows, strict=True))
    chosen = fold.examines(day, card.astype(object), fraud)
    kept = [(int(d), str(c)) for d, c in zip(day[chosen], card[chosen], strict=True)]
    assert kept == [(4, "in the delay"), (5, "end of the delay"), (4, "in the test"), (5, "in the test")]


@pytest.mark.parametrize("start", [None, "25.7.2018"])
def test_a_fold_needs_a_day(start: str | None) -> None:
    with pytest.raises(UserError, match="--train-start: expected a day"):
        fold_of(EvaluateOptions(EventFile("", ""), train_start=start))
