"""Skew: whether the features that decisions used are those that the history gives for the same moments.

In a healthy system not one value differs: stream, request and replay share one definition and one order of
events. What differs says where they have parted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features import replay
from features.definition import FeatureSet
from features.domains import domain
from features.state import Floats
from ingestion.history import History
from ingestion.tables import DECISIONS
from training.traffic import vectors

SETTLING_MS = 60_000
"""Decisions so close to the newest are left for the next look: the history may not have all before them."""
COLUMNS = (
    "transaction_id", "event_time_us", "feature_names", "features", "appended_ms", "decision_position",
)  # fmt: skip


@dataclass(frozen=True)
class Skew:
    """What a comparison of logged with recomputed features gave."""

    compared: int = 0
    """Decisions."""
    unknown: int = 0
    """Decisions whose payment the history does not have."""
    mismatches: Mapping[str, int] = field(default_factory=dict)
    """Decisions that differ, by feature; features without any are left out."""
    different: int = 0
    """Decisions that differ in any feature."""
    until_ms: int | None = None
    """Newest time, by the log's clock, of what was compared."""

    @property
    def share(self) -> float:
        """Of the compared decisions, those that differ; 0 of none."""
        return self.different / self.compared if self.compared else 0.0


def mismatches(names: Sequence[str], logged: Floats, recomputed: Floats) -> tuple[dict[str, int], int]:
    """Rows that differ by feature, and in any of them; equal is bit for bit, unknown equals unknown.

    >>> nan = float("nan")
    >>> mismatches(["a", "b"], np.array([[1.0, nan], [2.0, 3.0]]), np.array([[1.0, nan], [2.0, 3.5]]))
    ({'b': 1}, 1)
    """
    differ = ~((logged == recomputed) | (np.isnan(logged) & np.isnan(recomputed)))
    counts = differ.sum(axis=0).tolist()
    found = {name: int(n) for name, n in zip(names, counts, strict=True) if n}
    return found, int(differ.any(axis=1).sum())


def compare(features: FeatureSet, history: History, after_ms: int | None, start_us: int, most: int) -> Skew:
    """Compare decisions that the log took after a moment with a replay of the whole history.

    Args:
        features: of the domain.
        history: has the decisions and all events before them.
        after_ms: of the log's clock; None compares all from `start_us` on.
        start_us: event time of the oldest decisions looked at.
        most: the newest so many are compared.
    """
    decided = history.read(DECISIONS, start_us, columns=COLUMNS)
    chosen = _chosen(decided, after_ms, most)
    rows, logged = vectors(chosen, features)
    until_ms = pc.max(chosen["appended_ms"]).as_py() if chosen.num_rows else after_ms
    if not rows.num_rows:
        return Skew(until_ms=until_ms)
    mine = domain(features.domain)
    again = replay.matrix_of(features, history.read(mine.decided), history.read(mine.settled))
    place = pc.index_in(rows["transaction_id"], again.ids.combine_chunks())
    known = pc.is_valid(place).to_numpy()
    recomputed = again.values[place.filter(pc.is_valid(place)).to_numpy()]
    found, different = mismatches(features.names, logged[known], recomputed)
    return Skew(int(known.sum()), int((~known).sum()), found, different, until_ms)


def _chosen(decided: pa.Table, after_ms: int | None, most: int) -> pa.Table:
    """The newest decisions after a moment, without the very newest; of one payment the first."""
    if not decided.num_rows:
        return decided
    appended = decided["appended_ms"]
    settled = pc.less_equal(appended, pc.max(appended).as_py() - SETTLING_MS)
    if after_ms is not None:
        settled = pc.and_(settled, pc.greater(appended, after_ms))
    rows = decided.filter(pc.fill_null(settled, fill_value=False)).sort_by("decision_position")
    first = np.unique(rows["transaction_id"].to_pandas().to_numpy(object), return_index=True)[1]
    rows = rows.take(np.sort(first)).sort_by([("appended_ms", "descending")])
    return rows.slice(0, most)
