"""Nothing may look at a label before it arrived: other labels later, the same features now."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from features.fraud import FRAUD
from features.replay import matrix_of
from features.state import Floats
from ingestion.tables import DAY_US
from tests.training.made import MIDNIGHT_US, past_events

TRANSACTIONS, LABELS = past_events(n=3_000, days=30)


def flipped(since_us: int) -> pa.Table:
    """The labels, every one that arrived from then on turned round."""
    turned = pc.if_else(pc.equal(LABELS["label"], "fraud"), "legitimate", "fraud")
    told = pc.if_else(pc.greater_equal(LABELS["event_time_us"], since_us), turned, LABELS["label"])
    return LABELS.set_column(LABELS.schema.get_field_index("label"), "label", told)


def features(labels: pa.Table) -> Floats:
    return matrix_of(FRAUD, TRANSACTIONS, labels).values


@pytest.mark.parametrize("day", [8, 15, 29])
def test_labels_that_come_later_are_out_of_reach(day: int) -> None:
    moment_us = MIDNIGHT_US + day * DAY_US
    honest, probed = features(LABELS), features(flipped(moment_us))
    differ = (honest.view(np.int64) != probed.view(np.int64)).any(axis=1)
    times = TRANSACTIONS["event_time_us"].to_numpy()
    assert not differ[times <= moment_us].any()
    assert differ[times > moment_us].any()  # the probe can tell


def test_labels_that_never_come_are_no_labels() -> None:
    never = LABELS.slice(0, 0)
    names = [name for name in FRAUD.names if "fraud" in name and not name.endswith("_run")]
    columns = [FRAUD.names.index(name) for name in names]
    assert np.isnan(features(never)[:, columns]).all()
    assert len(names) > 4
