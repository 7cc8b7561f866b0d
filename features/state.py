"""State of an entity: the only way it changes (`fold`) and the only way it is looked at (`read`).

A state is one row of float64 columns. Its first column, `seen_at`, is the time the decayed sums refer to
(seconds since 1970 UTC; NaN for an entity never seen). The standard aggregate is an exponentially decayed
sum (forward decay; Cormode, Shkapenyuk, Srivastava and Xu 2009): exact at any later time, no window buffers.

`fold` also gives every event a stamp that strictly rises per entity (its time, or a microsecond after the
stamp before), so that ties and late events have one order in the stream, the replay and Feast's join alike,
and it skips events whose position in the entity's stream was folded already.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numba
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

MICROSECONDS = 1_000_000
NEVER_FOLDED = -1
"""Position of a state that no event of its stream has reached."""

_LIFE_UNITS_S = {"h": 3_600.0, "d": 86_400.0}
_DECAYED, _LATEST = 0, 1


def life_s(name: str) -> float:
    """Mean life in seconds: after it an event counts 1/e.

    >>> life_s("7d")
    604800.0
    """
    return float(name[:-1]) * _LIFE_UNITS_S[name[-1]]


@dataclass(frozen=True)
class Decayed:
    """Decayed count, sum and sum of squares of `value` over events of `event`, one each per mean life.

    Columns: `{name}_n_{life}`, `{name}_sum_{life}`, and `{name}_squares_{life}` if `squares`.
    """

    name: str
    event: int
    value: str
    lives: tuple[str, ...]
    squares: bool = True

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the blocks, each with a column per life."""
        return ("n", "sum", "squares") if self.squares else ("n", "sum")


@dataclass(frozen=True)
class Latest:
    """`value` of the event of `event` with the greatest time; NaN before the first. Column: `{name}`.

    A late event counts too, if no later one of its kind has come. `clock` names the `Latest` that holds the
    time of what this one holds; itself, if its value is the time.
    """

    name: str
    event: int
    value: str
    clock: str


@dataclass(frozen=True)
class _Column:
    name: str
    operation: int
    event: int
    value: str
    life_s: float
    power: int
    clock: str


@dataclass(frozen=True)
class Entity:
    """What is remembered of one kind of thing.

    `values` names the columns of the event matrix that `fold` takes; `key` is the event field that
    identifies the entity and Feast's join key.
    """

    name: str
    key: str
    values: tuple[str, ...]
    aggregates: tuple[Decayed | Latest, ...]

    @property
    def view(self) -> str:
        """Name of its Feast feature view."""
        return f"{self.name}_state"

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Names of the state's columns, in the order they are stored."""
        return ("seen_at", *(column.name for column in self._folded))

    @cached_property
    def blocks(self) -> dict[str, slice]:
        """Block name, such as `amount_n`, to its columns, one a life."""
        found: dict[str, slice] = {"seen_at": slice(0, 1)}
        at = 1
        for aggregate in self.aggregates:
            for name, width in _block_widths(aggregate):
                found[name] = slice(at, at + width)
                at += width
        return found

    @cached_property
    def lives_s(self) -> Floats:
        """Mean life of every column, shape (columns,); infinite where nothing decays."""
        return np.array([np.inf, *(column.life_s for column in self._folded)])

    @cached_property
    def program(self) -> tuple[Ints, Ints, Ints, Ints, Ints]:
        """For every column: operation, event kind, index of its value, its power, column of its time."""
        rows = self._folded
        return (
            np.array([_LATEST, *(c.operation for c in rows)]),
            np.array([-1, *(c.event for c in rows)]),
            np.array([0, *(self.values.index(c.value) for c in rows)]),
            np.array([0, *(c.power for c in rows)]),
            np.array([0, *(self.columns.index(c.clock) for c in rows)]),
        )

    @cached_property
    def _folded(self) -> tuple[_Column, ...]:
        return tuple(column for aggregate in self.aggregates for column in _columns(aggregate))

    def cold(self, n: int) -> Floats:
        """`n` states of entities never seen, shape (n, columns)."""
        return np.repeat(self._cold, n, axis=0)

    @cached_property
    def _cold(self) -> Floats:
        row = np.zeros((1, len(self.columns)))
        row[:, 0] = np.nan
        row[:, self.program[0] == _LATEST] = np.nan
        return row


def _block_widths(aggregate: Decayed | Latest) -> list[tuple[str, int]]:
    if isinstance(aggregate, Latest):
        return [(aggregate.name, 1)]
    return [(f"{aggregate.name}_{part}", len(aggregate.lives)) for part in aggregate.parts]


def _columns(aggregate: Decayed | Latest) -> list[_Column]:
    if isinstance(aggregate, Latest):
        return [
            _Column(aggregate.name, _LATEST, aggregate.event, aggregate.value, np.inf, 1, aggregate.clock)
        ]
    return [
        _Column(
            f"{aggregate.name}_{part}_{life}",
            _DECAYED,
            aggregate.event,
            aggregate.value,
            life_s(life),
            power,
            "seen_at",
        )
        for power, part in enumerate(aggregate.parts)
        for life in aggregate.lives
    ]


@dataclass(frozen=True)
class Events:
    """Events of one entity kind in the order of its stream: n rows, one an event."""

    kind: Ints
    time_us: Ints
    entity: Ints
    """Row of the event's entity in the states that are folded."""
    position: Ints
    """Place in the entity's stream, strictly rising per entity."""
    values: Floats
    """Shape (n, len(Entity.values)); NaN is a value not given and changes nothing."""


@dataclass(frozen=True)
class States:
    """States of m entities; `fold` changes them in place."""

    columns: Floats
    stamp_us: Ints
    position: Ints

    @classmethod
    def cold(cls, entity: Entity, m: int) -> "States":
        """`m` entities never seen."""
        return cls(entity.cold(m), np.full(m, -(2**62)), np.full(m, NEVER_FOLDED))


@dataclass(frozen=True)
class Folded:
    """What `fold` tells of n events, row by row."""

    seen: Floats
    """State before the event, or after it, as asked; shape (n, columns)."""
    stamp_us: Ints
    """The event's stamp in its entity's order."""
    fresh: Flags
    """False where the event had been folded already: nothing changed, `seen` is the state as it stands."""


def fold(
    entity: Entity, states: States, events: Events, keep: Literal["before", "after"] = "before"
) -> Folded:
    """Fold `events` into `states`, in place and in order, and keep each event's state before or after it."""
    n = len(events.kind)
    folded = Folded(np.empty((n, len(entity.columns))), np.empty(n, np.int64), np.empty(n, np.bool_))
    _fold(
        entity.lives_s, *entity.program,
        events.kind, events.time_us, events.entity, events.position, events.values,
        states.columns, states.stamp_us, states.position,
        keep == "after", folded.seen, folded.stamp_us, folded.fresh,
    )  # fmt: skip
    return folded


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _fold(
    life: Floats,
    operation: Ints,
    listens: Ints,
    value: Ints,
    power: Ints,
    clock: Ints,
    kind: Ints,
    time_us: Ints,
    entity: Ints,
    position: Ints,
    values: Floats,
    columns: Floats,
    stamps: Ints,
    positions: Ints,
    after: bool,
    seen: Floats,
    stamp_out: Ints,
    fresh: Flags,
) -> None:
    for i in range(len(kind)):
        e = entity[i]
        fresh[i] = position[i] > positions[e]
        if not after:
            seen[i] = columns[e]
        if fresh[i]:
            positions[e] = position[i]
            stamps[e] = max(time_us[i], stamps[e] + 1)
            _advance_and_add(
                life,
                operation,
                listens,
                value,
                power,
                clock,
                kind[i],
                time_us[i] / 1e6,
                values[i],
                columns[e],
            )
        if after:
            seen[i] = columns[e]
        stamp_out[i] = stamps[e]


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _advance_and_add(
    life: Floats,
    operation: Ints,
    listens: Ints,
    value: Ints,
    power: Ints,
    clock: Ints,
    kind: int,
    at: float,
    x: Floats,
    state: Floats,
) -> None:
    """Decay to the event's time, then add it; a late event adds what would be left of it by now."""
    ahead = 0.0 if np.isnan(state[0]) else at - state[0]
    late = ahead < 0
    for c in range(1, len(state)):
        decayed = operation[c] == 0
        if decayed and not late:
            state[c] *= np.exp(-ahead / life[c])
        if listens[c] == kind and not np.isnan(x[value[c]]):
            if decayed:
                weight = np.exp(ahead / life[c]) if late else 1.0
                state[c] += weight * x[value[c]] ** power[c]
            elif not at < state[clock[c]]:
                state[c] = x[value[c]]
    if not late:
        state[0] = at


@dataclass(frozen=True)
class Snapshot:
    """States as they are at a moment, by block."""

    entity: Entity
    columns: Floats = field(repr=False)

    def block(self, name: str) -> Floats:
        """Shape (n, lives of the block)."""
        return self.columns[:, self.entity.blocks[name]]


def read(entity: Entity, states: Floats, at_s: Floats) -> Snapshot:
    """Decay states of shape (n, columns) to the times `at_s` of shape (n,), seconds since 1970 UTC.

    A time before `seen_at` (a late request) sees the state as it stands. An idle entity's sums fade here,
    not when something is written, so every path sees the same empty last hour.
    """
    idle_s = np.fmax(at_s - states[:, 0], 0.0)
    return Snapshot(entity, states * np.exp(idle_s[:, None] / -entity.lives_s))


def codes_of(ids: Sequence[str]) -> tuple[Ints, list[str]]:
    """Row of each id among the distinct ids, which come in order of first appearance."""
    rows: dict[str, int] = {}
    codes = np.array([rows.setdefault(each, len(rows)) for each in ids], np.int64)
    return codes, list(rows)
