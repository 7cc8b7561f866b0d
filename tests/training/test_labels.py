import numpy as np
import pyarrow as pa
import pytest

from training.labels import targets, truth


def said(*labels: tuple[str, int, str, str]) -> pa.Table:
    ids, times, words, sources = zip(*labels, strict=True)
    return pa.table(
        {
            "transaction_id": ids,
            "event_time_us": pa.array(times, pa.int64()),
            "label": words,
            "source": sources,
        }
    )


def test_a_label_counts_from_the_moment_it_arrived() -> None:
    labels = said(("t", 100, "fraud", "chargeback"))
    assert truth(labels, 99).to_dict() == {}
    assert truth(labels, 100).to_dict() == {"t": 1.0}


@pytest.mark.parametrize(
    ("labels", "fraud"),
    [
        ([("t", 1, "legitimate", "settlement"), ("t", 2, "fraud", "chargeback")], 1.0),
        ([("t", 2, "fraud", "chargeback"), ("t", 9, "legitimate", "settlement")], 1.0),
        ([("t", 1, "fraud", "chargeback"), ("t", 2, "legitimate", "analyst")], 0.0),
        ([("t", 2, "legitimate", "analyst"), ("t", 1, "fraud", "analyst")], 0.0),
        ([("t", 2, "fraud", "analyst"), ("t", 2, "legitimate", "analyst")], 1.0),
        ([("t", 1, "legitimate", "analyst"), ("t", 5, "fraud", "customer")], 0.0),
    ],
)
def test_who_looked_closer_and_then_who_came_later_is_believed(
    labels: list[tuple[str, int, str, str]], fraud: float
) -> None:
    assert truth(said(*labels), 10).to_dict() == {"t": fraud}
    assert truth(said(*reversed(labels)), 10).to_dict() == {"t": fraud}


def test_only_mature_transactions_are_learned_from() -> None:
    labels = said(("old", 50, "fraud", "chargeback"), ("young", 95, "fraud", "chargeback"))
    ids = np.array(["old", "young", "silent"], object)
    times = np.array([10, 91, 20])
    found = targets(ids, times, labels, cutoff_us=100, maturity_us=10)
    assert np.array_equal(found, [1.0, np.nan, np.nan], equal_nan=True)
    assumed = targets(ids, times, labels, 100, 10, unlabelled="legitimate")
    assert np.array_equal(assumed, [1.0, np.nan, 0.0], equal_nan=True)
