"""What was known of each transaction at a moment, by event time, and which label of several is believed.

A label counts from the moment it arrived; before that it is not known. Of several labels of one transaction

1. who looked closer is believed: a chargeback or an analyst before a customer, a customer before a
   settlement, which only says that nothing else was heard. So a chargeback overrides a customer's or a
   settlement's "legitimate", and neither of these overrides a chargeback later;
2. among chargebacks and analysts, as among labels of one source, the later arrival is believed: it was said
   in knowledge of the earlier. So a chargeback overrides an analyst's earlier "legitimate"; an analyst's
   later "legitimate" overrides a chargeback (the cardholder's own payment, a claim that was refused), and an
   earlier one does not;
3. of two that are equal in both, fraud is believed.

What is not believed is kept: the history has every label, and `contradicted` finds the transactions whose
labels disagree. The features do not know this order: every label that counted is folded when it arrives, so
a transaction with a "legitimate" and a "fraud" adds two labels to its customer's and its terminal's fraud
rate, one of them fraud, and two sources that agree add two as well. A source counts once with each word,
except when it returns to one that it had taken back.
"""

from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from features.state import Flags, Floats, Ints

CLOSENESS = {"settlement": 0, "customer": 1, "analyst": 2, "chargeback": 2}
"""How closely each source looked."""

Unlabelled = Literal["left_out", "legitimate"]


def truth(labels: pa.Table, cutoff_us: int) -> pd.Series:
    """1.0 for fraud, 0.0 for legitimate, by transaction id, as known at the cut-off.

    Args:
        labels: `transaction_id, event_time_us` (arrival), `label, source`.
        cutoff_us: microseconds since 1970 UTC, inclusive.
    """
    known = labels.filter(pc.less_equal(labels["event_time_us"], cutoff_us))
    order, is_fraud = _by_belief(known)
    said = pd.Series(
        is_fraud[order].astype(np.float64), known["transaction_id"].to_pandas().to_numpy()[order]
    )
    return said[~said.index.duplicated(keep="last")]


def told(ids: NDArray[np.object_], labels: pa.Table, cutoff_us: int) -> dict[str, NDArray[Any]]:
    """Of the label that is believed of each transaction: who said it, when, and whether others say the same.

    Returns `source` (None without a label), `arrived_us` (-1 without) and `agreed` (1.0 if every label of
    another source says the same, 0.0 if one does not, NaN without another source), each of shape (n,).
    """
    known = labels.filter(pc.less_equal(labels["event_time_us"], cutoff_us))
    order, is_fraud = _by_belief(known)
    names = known["transaction_id"].to_pandas().to_numpy()[order]
    said = pd.DataFrame(
        {
            "source": known["source"].to_pandas().to_numpy(object)[order],
            "arrived_us": known["event_time_us"].to_numpy()[order],
            "fraud": is_fraud[order].astype(np.float64),
        },
        index=names,
    )
    believed = said[~said.index.duplicated(keep="last")]
    another = said["source"].to_numpy() != believed["source"].reindex(names).to_numpy()
    same = said["fraud"].to_numpy() == believed["fraud"].reindex(names).to_numpy()
    agreed = pd.Series(same[another], names[another], np.float64).groupby(level=0).min()
    found = believed.reindex(ids)
    return {
        "source": found["source"].to_numpy(object),
        "arrived_us": found["arrived_us"].fillna(-1).to_numpy(np.int64),
        "agreed": agreed.reindex(ids).to_numpy(np.float64),
    }


def contradicted(labels: pa.Table, cutoff_us: int) -> pa.Array:
    """Ids of the transactions that were called fraud and legitimate, as known at the cut-off, inclusive."""
    known = labels.filter(pc.less_equal(labels["event_time_us"], cutoff_us))
    words = known.group_by("transaction_id").aggregate([("label", "count_distinct")])
    both = words.filter(pc.greater(words["label_count_distinct"], 1))
    return both["transaction_id"].combine_chunks()


def targets(
    ids: NDArray[np.object_],
    time_us: Ints,
    labels: pa.Table,
    cutoff_us: int,
    maturity_us: int,
    unlabelled: Unlabelled = "left_out",
) -> Floats:
    """Target of each transaction, shape (n,): 1.0 fraud, 0.0 legitimate, NaN not to be learned from.

    Younger transactions than `maturity_us` are NaN even with a label: the labels that come early are not
    like those that come late. Older ones without a label are NaN, or legitimate if `unlabelled` says so.
    """
    known = truth(labels, cutoff_us).reindex(ids).to_numpy(np.float64)
    mature = time_us <= cutoff_us - maturity_us
    assumed = 0.0 if unlabelled == "legitimate" else np.nan
    return np.where(mature, np.where(np.isnan(known), assumed, known), np.nan)


def _by_belief(known: pa.Table) -> tuple[Ints, Flags]:
    """Rows in order of how much each is believed, the most last, and whether each says fraud."""
    is_fraud = pc.equal(known["label"], "fraud").to_numpy()
    source = pc.index_in(known["source"], pa.array(list(CLOSENESS))).to_numpy()
    closeness = np.take(list(CLOSENESS.values()), source)
    return np.lexsort((is_fraud, known["event_time_us"].to_numpy(), closeness)), is_fraud
