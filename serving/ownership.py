"""One writer of each partition's states, even if a worker wakes up that was stopped while others took over.

Kafka gives a partition to another member once it has not heard of one for a while; it can't stop a process
that only slept (a paused container, a suspended machine) and then ends the turn it was in. So whoever takes
over closes, on Redis' side, the connection of who had the partition before and no longer beats: what is still
to come from it is thrown away, and it ends by the error.
"""

from collections.abc import Iterable, Sequence

from features.connection import Connection
from features.pause import HEARTBEAT
from ingestion.broker import Partition

OWNERS = b"tollgate:owners"
"""Redis hash: the worker that each partition was last given to."""


def heartbeat_key(worker: str) -> bytes:
    """Redis key that says `running` or `paused` while a worker lives."""
    return HEARTBEAT + worker.encode()


class Ownership:
    """What a worker must do before it may write the states of a partition.

    Args:
        store: the one connection by which the worker writes; Redis knows it by the worker's name.
        name: of the worker, its own among all.
    """

    def __init__(self, store: Connection, name: str) -> None:
        self._store = store
        self._name = name

    def take(self, partitions: Sequence[Partition]) -> None:
        """Become the writer of these."""
        if not partitions:
            return
        fields = [f"{topic}-{number}" for topic, number in partitions]
        (owners,) = self._store.execute([("HMGET", OWNERS, *fields)])
        others = {owner.decode() for owner in owners if owner} - {self._name}
        self._close(self._silent(sorted(others)))
        named = [word for field in fields for word in (field, self._name)]
        self._store.execute([("HSET", OWNERS, *named)])

    def _silent(self, workers: Sequence[str]) -> set[str]:
        """Those that no longer beat; who lives has ended its turn before it gave anything away."""
        beats = self._store.execute([("EXISTS", heartbeat_key(each)) for each in workers])
        return {worker for worker, there in zip(workers, beats, strict=True) if not there}

    def _close(self, workers: set[str]) -> None:
        if not workers:
            return
        (listed,) = self._store.execute([("CLIENT", "LIST")])
        self._store.execute(
            [("CLIENT", "KILL", "ID", each) for each in connections(listed.decode(), workers)]
        )


def connections(listed: str, names: Iterable[str]) -> list[str]:
    r"""Ids of the connections of these names in what `CLIENT LIST` says.

    >>> connections("id=3 addr=127.0.0.1:9 name=w-1 db=0\nid=4 addr=127.0.0.1:8 name= db=0\n", {"w-1"})
    ['3']
    """
    wanted = set(names)
    rows = [dict(word.partition("=")[::2] for word in line.split()) for line in listed.splitlines()]
    return [row["id"] for row in rows if row.get("name") in wanted]
