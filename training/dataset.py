"""Training sets: what was known at each event, what became of it, and how it is cut by time."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from features.definition import FeatureSet
from features.state import MICROSECONDS, Entity, Flags, Floats, Ints
from infra.errors import UserError
from ingestion.reach import Reach
from ingestion.tables import DAY_US
from training.card import Trained
from training.quarantine import Part

Objects = NDArray[np.object_]

LEAST_TRAIN_SHARE = 0.7
"""Of the whole time; a short history is not all test window."""


@dataclass(frozen=True)
class Window:
    """Which events a training may see, by event time in microseconds since 1970 UTC."""

    cutoff_us: int
    """Nothing that arrived later is known; inclusive."""
    start_us: int | None = None
    """Oldest event, inclusive."""
    reach: Mapping[str, Reach] | None = None
    """How far each table of the history is read, to read as a past training did; None: all there is."""


@dataclass(frozen=True)
class Span:
    """What a person asks for; what is not given follows from the events."""

    until_us: int | None = None
    """Label cut-off; else the newest event."""
    days: float | None = None
    """Learn from so many days before it; else from all."""

    def window(self, newest_us: int) -> Window:
        """The window, for events up to `newest_us`."""
        cutoff_us = newest_us if self.until_us is None else self.until_us
        return Window(cutoff_us, None if self.days is None else cutoff_us - round(self.days * DAY_US))


@dataclass(frozen=True)
class Origin:
    """What a training set was read from: with the code all that its rows follow from."""

    window: Window
    files: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of the file of events (`data`) and of its mapping (`mapping`), if it came from a file."""
    paths: Mapping[str, str] = field(default_factory=dict)
    """Where these files lay."""


@dataclass(frozen=True)
class LeftOut:
    """Parts that the data tests refused; see `data_tests`."""

    parts: tuple[Part, ...] = ()
    rows: int = 0
    """How many rows of the set they held."""
    share: float = 0.0
    """Of all rows."""


@dataclass(frozen=True)
class Dataset:
    """Events in order of time, with their features as known at each, and their targets."""

    features: tuple[str, ...]
    feature_hash: str
    ids: Objects
    time_us: Ints
    matrix: Floats
    """Shape (n, features)."""
    target: Floats
    columns: Mapping[str, NDArray[Any]]
    """What else the task measures by, each of shape (n,)."""
    cutoff_us: int
    weight: Floats | None = None
    """How often each row counts, shape (n,); None: once."""
    selection: Mapping[str, float] = field(default_factory=dict)
    """Figures of how the rows came to be known, logged with the run."""
    origin: Origin | None = None
    """What it was read from; None of a set that was made up."""
    left_out: LeftOut = LeftOut()
    """What the data tests took out."""
    start_us: int | None = None
    """Of the window that was asked for; None: all there was."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Sections of the settings that a model of these rows follows from, as plain values."""
    test_start_us: int | None = None
    """Where the test window begins, of a training that is repeated; None: `holdout_start` says."""

    def __len__(self) -> int:
        return len(self.target)

    def rows(self, chosen: Flags) -> "Dataset":
        """The same of some rows."""
        return replace(
            self,
            ids=self.ids[chosen],
            time_us=self.time_us[chosen],
            matrix=self.matrix[chosen],
            target=self.target[chosen],
            columns={name: column[chosen] for name, column in self.columns.items()},
            weight=None if self.weight is None else self.weight[chosen],
        )

    def split(self, at_us: int) -> tuple["Dataset", "Dataset"]:
        """Events before a time, and from it on."""
        before = self.time_us < at_us
        return self.rows(before), self.rows(~before)

    @cached_property
    def version(self) -> str:
        """First 12 hex digits of the SHA-256 of every id, time, feature value, target and weight."""
        digest = hashlib.sha256("\0".join(map(str, self.ids)).encode())
        weights = [] if self.weight is None else [self.weight]
        for part in (self.time_us, self.matrix, self.target, *weights):
            digest.update(np.ascontiguousarray(part).data)
        return digest.hexdigest()[:12]

    @property
    def trained(self) -> Trained:
        """What a model's card says of this training set."""
        return Trained(int(self.time_us[0]), int(self.time_us[-1]), self.cutoff_us, len(self))


def test_start(data: Dataset, test_days: float, incumbent_end_us: int | None, least_fresh: int) -> int:
    """Where the test window of a data set begins: where it is told to, else as `holdout_start`."""
    if data.test_start_us is not None:
        return data.test_start_us
    return holdout_start(data.time_us, test_days, incumbent_end_us, least_fresh)


def holdout_start(time_us: Ints, test_days: float, incumbent_end_us: int | None, least_fresh: int) -> int:
    """Where the test window begins: the last `test_days`, of a short history its last 30 %.

    Where enough is new to the incumbent (`least_fresh` events after what it learned from), the window lies
    in the newer half of that: neither model has seen it, and the challenger could learn from the older
    half.

    Raises:
        UserError: there are no events.
    """
    if not len(time_us):
        raise UserError(
            "expected events with a known label or outcome in the window that ends with the newest event, got"
            " none; look at the newest event's time, or widen the window with --days."
        )
    first, last = int(time_us[0]), int(time_us[-1])
    usual = max(last - round(test_days * DAY_US), first + round(LEAST_TRAIN_SHARE * (last - first)))
    if incumbent_end_us is None or int((time_us > incumbent_end_us).sum()) < least_fresh:
        return usual
    return max(usual, incumbent_end_us + (last - incumbent_end_us) // 2)


class StatesAt(Protocol):
    """The feature store's point-in-time join."""

    def states_at(self, entity: Entity, ids: Sequence[str], before_us: Ints) -> Floats:
        """Each entity's state strictly before a stamp."""


def joined(features: FeatureSet, spine: pa.Table, store: StatesAt) -> Floats:
    """Feature matrix of a spine's events: the store's states just before each, finished by its request."""
    return finished(features, spine, states_before(features, spine, store))


def states_before(features: FeatureSet, spine: pa.Table, store: StatesAt) -> dict[str, Floats]:
    """The store's states just before each of a spine's events, shape (n, columns), by entity name."""
    return {
        entity.name: store.states_at(
            entity, spine[entity.key].to_pylist(), spine[f"{entity.name}_stamp_us"].to_numpy()
        )
        for entity in features.entities
    }


def finished(features: FeatureSet, spine: pa.Table, states: Mapping[str, Floats]) -> Floats:
    """Feature matrix of events by the states before them and their request columns."""
    request = {name: spine[name].to_numpy() for name in features.request}
    return features.matrix(states, request, spine["event_time_us"].to_numpy() / MICROSECONDS)
