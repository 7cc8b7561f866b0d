"""Several partitions as one sequence in event time, so that a replay at any speed sees the day's own order.

Pure: a partition is only a name here. Late events inside a partition come as they lie in it.
"""

import heapq
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

P = TypeVar("P", bound=tuple[Any, ...])
T = TypeVar("T")


@dataclass
class EventTimeMerge(Generic[P, T]):
    """Buffers of (event time, item) per partition, given out oldest head first."""

    _buffers: dict[P, deque[tuple[int, T]]] = field(default_factory=dict)

    def add(self, partition: P, time_us: int, item: T) -> None:
        """Append an item of a partition, in the partition's order."""
        self._buffers.setdefault(partition, deque()).append((time_us, item))

    def drop(self, partitions: Iterable[P]) -> None:
        """Forget what is buffered of partitions that are no longer ours."""
        for partition in partitions:
            self._buffers.pop(partition, None)

    def buffered(self, partition: P) -> int:
        """How many items of a partition wait."""
        return len(self._buffers.get(partition, ()))

    def waiting(self) -> bool:
        """Whether any item waits."""
        return any(self._buffers.values())

    def oldest(self, partition: P) -> T | None:
        """The first item of a partition that still waits."""
        buffer = self._buffers.get(partition)
        return buffer[0][1] if buffer else None

    def take(self, awaited: Iterable[P], limit: int) -> list[tuple[P, T]]:
        """Items in order of time, until one of the `awaited` partitions (those with more to come) runs empty.

        At equal times partitions go in their own order: `labels` before `transactions`.
        """
        still_to_come = set(awaited)
        heads = [(buffer[0][0], partition) for partition, buffer in self._buffers.items() if buffer]
        heapq.heapify(heads)
        missing = still_to_come - {partition for _, partition in heads}
        taken: list[tuple[P, T]] = []
        while heads and not missing and len(taken) < limit:
            partition = heads[0][1]
            buffer = self._buffers[partition]
            taken.append((partition, buffer.popleft()[1]))
            if buffer:
                heapq.heapreplace(heads, (buffer[0][0], partition))
            else:
                heapq.heappop(heads)
                missing |= {partition} & still_to_come
        return taken
