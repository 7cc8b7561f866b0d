"""States in memory, folded in the order of the stream by the fold of the stream."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.domains import domain
from features.replay import EventLog, event_log
from features.state import NEVER_FOLDED, Entity, Events, Floats, States, fold
from ingestion.broker import type_of_headers
from ingestion.file_source import PastEvents


@dataclass
class Arrived:
    """A message as the history's writer takes it."""

    topic: str
    offset: int
    timestamp: int
    """Milliseconds since 1970 UTC."""
    value: bytes | None
    partition: int = 0
    key: bytes | None = None
    headers: type_of_headers = ()


@dataclass(frozen=True)
class Lane:
    """One entity kind: the ids of all there will ever be, and their states."""

    entity: Entity
    ids: pa.Array
    states: States

    @classmethod
    def of(cls, entity: Entity, ids: Sequence[str]) -> "Lane":
        """Nobody seen yet."""
        distinct = sorted(set(ids))
        return cls(entity, pa.array(distinct, pa.string()), States.cold(entity, len(distinct)))

    def fold(self, log: EventLog) -> Floats:
        """Fold all events in the order of their places; gives the state before each, in the log's order."""
        code = pc.index_in(log.rows[self.entity.key], value_set=self.ids).to_numpy().astype(np.int64)
        position = log.rows[f"{self.entity.name}_position"].to_numpy()
        order = np.argsort(position, kind="stable")
        events = Events(log.kind[order], log.time_us[order], code[order], position[order], log.values[order])
        seen = np.empty((len(order), len(self.entity.columns)))
        seen[order] = fold(self.entity, self.states, events).seen
        return seen


def warmed(task: str, past: PastEvents, ids: Sequence[Sequence[str]]) -> tuple[Lane, ...]:
    """States after the past; live events' positions begin anew.

    Args:
        task: whose entities these are.
        past: with its places.
        ids: of each entity kind, in the task's order.
    """
    mine = domain(task)
    lanes = tuple(Lane.of(*each) for each in zip(mine.features.entities, ids, strict=True))
    log = event_log(mine, past.decided, past.settled)
    for lane in lanes:
        lane.fold(log)
        lane.states.position[:] = NEVER_FOLDED
    return lanes
