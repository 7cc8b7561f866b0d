"""What the stages of the stream worker share: a stage turns records into outputs and writes, doing neither.

The worker notes, sends the outputs and has them acknowledged, then writes, then commits. A crash at any point
is repeated harmlessly: a state carries the position it was folded at.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from features.connection import type_of_command
from ingestion.broker import Partition, Record, type_of_headers


class Outgoing(NamedTuple):
    """A record to send."""

    topic: str
    value: bytes | None
    key: bytes | None = None
    headers: type_of_headers = ()
    partition: int | None = None


@dataclass
class Work:
    """What is to be done about a batch of records."""

    notes: list[type_of_command] = field(default_factory=list)
    """Redis commands before the outputs: what may be known early and may be said twice."""
    outputs: list[Outgoing] = field(default_factory=list)
    writes: list[type_of_command] = field(default_factory=list)
    """Redis commands after the outputs are acknowledged: states first, then what says that they are written.

    So when a crash lets only the first of them take effect, the same records bring the rest.
    """
    handled: dict[Partition, int] = field(default_factory=dict)
    """Next offset of each partition once outputs and writes are done."""
    counts: dict[str, int] = field(default_factory=dict)
    """Events by what became of them, for the metrics."""
    accepted_ms: list[int] = field(default_factory=list)
    """When the broker took each event that this batch makes count in scores."""

    def __bool__(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.notes or self.outputs or self.writes or self.handled)

    def count(self, what: str, n: int = 1) -> None:
        """Add to a count."""
        if n:
            self.counts[what] = self.counts.get(what, 0) + n


class Stage(Protocol):
    """A step of the stream."""

    @property
    def topics(self) -> Sequence[str]:
        """Topics it reads."""
        ...

    def assigned(self, partitions: Sequence[Partition]) -> None:
        """These partitions are ours from now on."""
        ...

    def revoked(self, partitions: Sequence[Partition]) -> None:
        """These partitions are no longer ours."""
        ...

    def restless(self) -> bool:
        """Whether it may have something to do although nothing came."""
        ...

    def handle(self, records: Sequence[Record]) -> Work:
        """Work out what the records mean."""
        ...


class Memoryless:
    """Base of a stage that keeps nothing between batches: partitions may come and go."""

    def assigned(self, partitions: Sequence[Partition]) -> None:
        """Nothing to look up."""

    def revoked(self, partitions: Sequence[Partition]) -> None:
        """Nothing to forget."""

    def restless(self) -> bool:
        """Nothing waits here."""
        return False


def next_offsets(records: Sequence[Record]) -> dict[Partition, int]:
    """Offset after the last record of each partition."""
    return {Partition(record.topic, record.partition): record.offset + 1 for record in records}
