"""Live decisions of a task with the vectors that they used, and what became of them."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.definition import FeatureSet
from features.state import Flags, Floats
from infra.settings import Settings
from training.dataset import Dataset
from training.models import Scorer
from training.shadow_gate import Matured


@dataclass(frozen=True)
class Scored:
    """A model and what it said of rows, shape (n,)."""

    model: Scorer
    score: Floats


@dataclass(frozen=True)
class Pair:
    """Two models on the same rows."""

    challenger: Scored
    champion: Scored


@dataclass(frozen=True)
class Canaried:
    """What a canary needs to know of a task, and how it is watched before there are labels."""

    asker: str
    """Column of `made` that names who is asking: the same one is always on the same side."""
    made: Callable[[Settings, str, int], Dataset]
    """Decisions that a version truly made, from a time on, inclusive, with the logged vectors; no target."""
    stopped: Callable[[Settings, Dataset, Scored], Flags]
    """Which of them a model would not simply let pass."""


@dataclass(frozen=True)
class Traffic:
    """What shadowing needs to know of a task."""

    features: FeatureSet
    table: str
    """Of the history: decisions with `feature_names` and `features`."""
    key: str
    """Column that identifies a decision."""
    what: tuple[str, str]
    """What its truths are called, and those of them that are rare and tell most."""
    matured: Callable[[Settings, int, int], Dataset]
    """Decisions from a time on, inclusive, whose truth is known at the cut-off, with the logged vectors."""
    compared: Callable[[Settings, Dataset, Pair, int], Matured]
    """What two models are worth on them, at the look after so many others."""
    canaried: Canaried | None = None
    """None: nobody knows who is asking, so there is no canary and who has proven itself takes over."""


NEEDED = ("feature_names", "features")
"""Columns that `vectors` reads."""


def vectors(rows: pa.Table, features: FeatureSet) -> tuple[pa.Table, Floats]:
    """Rows that carry a vector of exactly these features, and their vectors, shape (n, features).

    Others were decided by a process that knew other features, or came by a backfill.
    """
    joined = pc.binary_join(rows["feature_names"], "\0")
    lengths = pc.list_value_length(rows["features"])
    fitting = pc.and_(pc.equal(joined, "\0".join(features.names)), pc.equal(lengths, len(features.names)))
    chosen = rows.filter(pc.fill_null(fitting, False))
    values = pc.list_flatten(chosen["features"]).to_numpy()
    return chosen, np.asarray(values, np.float64).reshape(chosen.num_rows, len(features.names))
