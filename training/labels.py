"""What was known of each transaction at a moment, by event time.

A label counts from the moment it arrived. Of several labels of one transaction a chargeback's or an
analyst's word goes before a customer's or a settlement's; among equals the latest counts, and fraud at the
same instant.
"""

from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from features.state import Floats, Ints

VERDICTS = ("chargeback", "analyst")
"""Sources that looked at the transaction itself."""

Unlabelled = Literal["left_out", "legitimate"]


def truth(labels: pa.Table, cutoff_us: int) -> pd.Series:
    """1.0 for fraud, 0.0 for legitimate, by transaction id, as known at the cut-off.

    Args:
        labels: `transaction_id, event_time_us` (arrival), `label, source`.
        cutoff_us: microseconds since 1970 UTC, inclusive.
    """
    known = labels.filter(pc.less_equal(labels["event_time_us"], cutoff_us))
    is_fraud = pc.equal(known["label"], "fraud").to_numpy()
    verdict = pc.is_in(known["source"], pa.array(VERDICTS)).to_numpy()
    order = np.lexsort((is_fraud, known["event_time_us"].to_numpy(), verdict))
    said = pd.Series(
        is_fraud[order].astype(np.float64), known["transaction_id"].to_pandas().to_numpy()[order]
    )
    return said[~said.index.duplicated(keep="last")]


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
