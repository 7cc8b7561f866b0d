"""State of an entity: the only way it changes (`fold`) and the only way it is looked at (`read`).

A state is one row of float64 columns. Its first column, `seen_at`, is the time the decayed sums refer to
(seconds since 1970 UTC; NaN for an entity never seen). The standard aggregate is an exponentially decayed
sum (forward decay; Cormode, Shkapenyuk, Srivastava and Xu 2009): exact at any later time, no window buffers.

`fold` also gives every event a stamp that strictly rises per entity (its time, or a microsecond after the
stamp before), so that ties and late events have one order in the stream, the replay and Feast's join alike,
and it skips events whose position in the entity's stream was folded already.
"""

import zlib
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

DAY_S = 86_400.0
_LIFE_UNITS_S = {"h": 3_600.0, "d": DAY_S}
_DECAYED, _PEAK, _LATEST, _RUN, _BEGAN, _RECENT, _MORE, _FIRST = range(8)
"""What a column does; the first two decay; `_MORE` is one that the column before it takes care of."""
_POWERS = {"n": 0, "sum": 1, "squares": 2}

CODE_BITS = 17
"""Bits of the code that stands for a text."""
CODES_A_COLUMN = 3
"""Codes in a column: 51 bits are a whole number that a float64 holds exactly."""
_CODE_MASK = 2**CODE_BITS - 1


def life_s(name: str) -> float:
    """Mean life in seconds: after it an event counts 1/e.

    >>> life_s("7d")
    604800.0
    """
    return float(name[:-1]) * _LIFE_UNITS_S[name[-1]]


@dataclass(frozen=True)
class Decayed:
    """Decayed count, sum and sum of squares of `value` over events of `event`, one each per mean life.

    Columns: `{name}_{part}_{life}` for each of `parts`, some of n, sum and squares.
    """

    name: str
    event: int
    value: str
    lives: tuple[str, ...]
    parts: tuple[str, ...] = ("n", "sum", "squares")

    @property
    def blocks(self) -> dict[str, int]:
        """Name and columns of each block."""
        return {f"{self.name}_{part}": len(self.lives) for part in self.parts}

    @property
    def folded(self) -> list["Column"]:
        """Every column, in order."""
        return [
            Column(
                f"{self.name}_{part}_{life}", _DECAYED, self.event, self.value, life_s(life), _POWERS[part]
            )
            for part in self.parts
            for life in self.lives
        ]


@dataclass(frozen=True)
class _Single:
    """An aggregate of `value` over events of `event` that is one number."""

    name: str
    event: int
    value: str

    @property
    def blocks(self) -> dict[str, int]:
        """Name and columns of its block."""
        return {self.name: 1}


@dataclass(frozen=True)
class Peak(_Single):
    """Greatest `value` of `event`, each decayed since it came, for values from 0. Column: `{name}`."""

    life: str

    @property
    def folded(self) -> list["Column"]:
        """Its column."""
        return [Column(self.name, _PEAK, self.event, self.value, life_s(self.life))]


@dataclass(frozen=True)
class Latest(_Single):
    """`value` of the event of `event` with the greatest time; NaN before the first. Column: `{name}`.

    A late event counts too, if no later one of its kind has come. `clock` names the `Latest` that holds the
    time of what this one holds; itself, if its value is the time.
    """

    clock: str

    @property
    def folded(self) -> list["Column"]:
        """Its column."""
        return [Column(self.name, _LATEST, self.event, self.value, clock=self.clock)]


@dataclass(frozen=True)
class Run(_Single):
    """How many events of `event` in a row, up to the newest, had a `value` of 0. Column: `{name}`."""

    @property
    def folded(self) -> list["Column"]:
        """Its column."""
        return [Column(self.name, _RUN, self.event, self.value)]


@dataclass(frozen=True)
class Began(_Single):
    """`value` of the event that began the newest run; NaN before the first. Column: `{name}`.

    `run` names the `Run` that counts it, which must come later among the entity's aggregates: an event with a
    value begins a run while that is 0.
    """

    run: str

    @property
    def folded(self) -> list["Column"]:
        """Its column."""
        return [Column(self.name, _BEGAN, self.event, self.value, clock=self.run)]


@dataclass(frozen=True)
class FirstOfDay(_Single):
    """`value` of the event of `event` that came first on the newest day (UTC). Column: `{name}`.

    NaN before any; an event of an earlier day changes nothing. `clock` names the `FirstOfDay` that holds the
    time of what this one holds, which must come later among the entity's aggregates; itself, if its value is
    the time.
    """

    clock: str

    @property
    def folded(self) -> list["Column"]:
        """Its column."""
        return [Column(self.name, _FIRST, self.event, self.value, clock=self.clock)]


@dataclass(frozen=True)
class Recent:
    """The distinct codes that came last as `value` of `event`, newest first; a late event counts as new.

    A code is a whole number from 1 to 2^17 - 1 (`code_of` a text); three of them share a column, and 0 is
    none. `recall` reads them. Columns: `{name}_0` to `{name}_{columns - 1}`.
    """

    name: str
    event: int
    value: str
    columns: int

    @property
    def blocks(self) -> dict[str, int]:
        """Name and columns of its block."""
        return {self.name: self.columns}

    @property
    def folded(self) -> list["Column"]:
        """Every column, in order; the first does the work."""
        kinds = [_RECENT, *[_MORE] * (self.columns - 1)]
        return [
            Column(f"{self.name}_{i}", kind, self.event, self.value, power=self.columns)
            for i, kind in enumerate(kinds)
        ]


@dataclass(frozen=True)
class Column:
    """What the fold does with one column of a state."""

    name: str
    operation: int
    event: int
    value: str
    life_s: float = np.inf
    power: int = 1
    """Of the value in a sum; for `Recent` how many columns."""
    clock: str = "seen_at"
    """Column that the operation looks at too."""


type_of_aggregate = Decayed | Peak | Latest | Run | Began | FirstOfDay | Recent


@dataclass(frozen=True)
class Entity:
    """What is remembered of one kind of thing.

    `values` names the columns of the event matrix that `fold` takes; `key` is the event field that
    identifies the entity and Feast's join key.
    """

    name: str
    key: str
    values: tuple[str, ...]
    aggregates: tuple[type_of_aggregate, ...]

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
            for name, width in aggregate.blocks.items():
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
    def _folded(self) -> tuple[Column, ...]:
        return tuple(column for aggregate in self.aggregates for column in aggregate.folded)

    def cold(self, n: int) -> Floats:
        """`n` states of entities never seen, shape (n, columns)."""
        return np.repeat(self._cold, n, axis=0)

    @cached_property
    def _cold(self) -> Floats:
        row = np.zeros((1, len(self.columns)))
        row[:, 0] = np.nan
        row[:, np.isin(self.program[0], (_LATEST, _BEGAN, _FIRST))] = np.nan
        return row


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
        if operation[c] <= _PEAK and not late:
            state[c] *= np.exp(-ahead / life[c])
        if listens[c] != kind or np.isnan(x[value[c]]):
            continue
        if operation[c] <= _PEAK:
            weight = np.exp(ahead / life[c]) if late else 1.0
            added = weight * x[value[c]] ** power[c]
            state[c] = state[c] + added if operation[c] == _DECAYED else max(state[c], added)
        else:
            _take(operation[c], state, c, x[value[c]], at, state[clock[c]], power[c])
    if not late:
        state[0] = at


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _take(operation: int, state: Floats, c: int, given: float, at: float, clock: float, columns: int) -> None:
    """What does not decay."""
    if operation == _RUN:
        state[c] = state[c] + 1.0 if given == 0.0 else 0.0
    elif operation == _RECENT:
        _remember(state[c : c + columns], int(given))
    elif _replaces(operation, at, clock):
        state[c] = given


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _replaces(operation: int, at: float, clock: float) -> bool:
    """Whether a value replaces what is kept; a time of NaN is before every other."""
    if operation == _LATEST:
        return not at < clock
    if operation == _FIRST:
        return not at // DAY_S <= clock // DAY_S
    return operation == _BEGAN and clock == 0.0


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _remember(columns: Floats, code: int) -> None:
    """Put a code first; those before it move back by one, up to where it was."""
    moving = code
    for c in range(len(columns)):
        packed, kept = int(columns[c]), 0
        for i in range(CODES_A_COLUMN):
            old = (packed >> (CODE_BITS * i)) & _CODE_MASK
            kept |= (moving if moving else old) << (CODE_BITS * i)
            if moving:
                moving = 0 if old == code else old
        columns[c] = kept


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


def code_of(text: str) -> int:
    """Code of a text for `Recent`, the same everywhere, for ever; one in 131,071 others has the same.

    >>> code_of("terminal-4")
    68590
    """
    return int(zlib.crc32(text.encode()) % _CODE_MASK) + 1


def recall(recent: Floats, code: Floats) -> Floats:
    """How many other codes came since each row's own came last, as many as are remembered if it did not.

    Args:
        recent: block of a `Recent`, shape (n, columns).
        code: shape (n, 1); NaN gives NaN.
    """
    packed = recent.astype(np.int64)[:, :, None] >> (CODE_BITS * np.arange(CODES_A_COLUMN))
    slots = (packed & _CODE_MASK).reshape(len(recent), recent.shape[1] * CODES_A_COLUMN)
    found = slots == code
    place = np.where(found.any(axis=1), found.argmax(axis=1), slots.shape[1])[:, None]
    return np.where(np.isnan(code), np.nan, place)


def codes_of(ids: Sequence[str]) -> tuple[Ints, list[str]]:
    """Row of each id among the distinct ids, which come in order of first appearance."""
    rows: dict[str, int] = {}
    codes = np.array([rows.setdefault(each, len(rows)) for each in ids], np.int64)
    return codes, list(rows)
