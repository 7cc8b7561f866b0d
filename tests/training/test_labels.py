from itertools import product

import numpy as np
import pyarrow as pa
import pytest

from training.labels import contradicted, targets, truth

SOURCES = ("chargeback", "analyst", "customer", "settlement")
BELIEVED = {
    ("chargeback", "chargeback"): "later",
    ("chargeback", "analyst"): "later",
    ("chargeback", "customer"): "chargeback",
    ("chargeback", "settlement"): "chargeback",
    ("analyst", "analyst"): "later",
    ("analyst", "customer"): "analyst",
    ("analyst", "settlement"): "analyst",
    ("customer", "customer"): "later",
    ("customer", "settlement"): "customer",
    ("settlement", "settlement"): "later",
}
"""Who is believed of each pair, whoever spoke first."""

type_of_label = tuple[str, int, str, str]


def said(*labels: type_of_label) -> pa.Table:
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


@pytest.mark.parametrize("word", ["fraud", "legitimate"])
@pytest.mark.parametrize(("earlier", "later"), list(product(SOURCES, SOURCES)))
def test_who_is_believed_of_two_that_disagree(earlier: str, later: str, word: str) -> None:
    """Each pair of sources, in both orders of speaking, with both words, and in both orders of the rows."""
    contrary = "legitimate" if word == "fraud" else "fraud"
    labels = [("t", 1, contrary, earlier), ("t", 2, word, later)]
    believed = BELIEVED.get((earlier, later)) or BELIEVED[later, earlier]
    fraud = float((word if believed in ("later", later) else contrary) == "fraud")
    assert truth(said(*labels), 10).to_dict() == {"t": fraud}
    assert truth(said(*reversed(labels)), 10).to_dict() == {"t": fraud}
    assert truth(said(*labels), 1).to_dict() == {"t": float(contrary == "fraud")}, (
        "the later is not known yet"
    )


@pytest.mark.parametrize(("one", "other"), [("analyst", "analyst"), ("analyst", "chargeback")])
def test_at_the_same_instant_fraud_is_believed(one: str, other: str) -> None:
    labels = [("t", 2, "fraud", one), ("t", 2, "legitimate", other)]
    assert truth(said(*labels), 2).to_dict() == {"t": 1.0}
    assert truth(said(*reversed(labels)), 2).to_dict() == {"t": 1.0}


def test_an_analyst_who_changes_her_word_back_is_believed() -> None:
    words = ("fraud", "legitimate", "fraud")
    labels = [("t", at, word, "analyst") for at, word in enumerate(words)]
    assert [truth(said(*labels), at).to_dict() for at in range(3)] == [{"t": 1.0}, {"t": 0.0}, {"t": 1.0}]


def test_contradicted_are_those_whose_labels_disagree_by_then() -> None:
    labels = said(
        ("agreed", 1, "fraud", "customer"),
        ("agreed", 2, "fraud", "chargeback"),
        ("disputed", 1, "legitimate", "analyst"),
        ("disputed", 5, "fraud", "chargeback"),
        ("once", 1, "legitimate", "settlement"),
    )
    assert contradicted(labels, 4).to_pylist() == []
    assert contradicted(labels, 5).to_pylist() == ["disputed"]
    assert contradicted(labels.slice(0, 0), 5).to_pylist() == []


def test_only_mature_transactions_are_learned_from() -> None:
    labels = said(("old", 50, "fraud", "chargeback"), ("young", 95, "fraud", "chargeback"))
    ids = np.array(["old", "young", "silent"], object)
    times = np.array([10, 91, 20])
    found = targets(ids, times, labels, cutoff_us=100, maturity_us=10)
    assert np.array_equal(found, [1.0, np.nan, np.nan], equal_nan=True)
    assumed = targets(ids, times, labels, 100, 10, unlabelled="legitimate")
    assert np.array_equal(assumed, [1.0, np.nan, 0.0], equal_nan=True)
