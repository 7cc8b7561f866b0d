"""The queue of payments to review as a sorted set in Redis: how entries come, go, and are read in order.

The order is what approving would cost on average (`expected_cost.approve`: probability of fraud × what a
fraud of this amount costs), dearest first. That is what a review can save: an analyst's time costs the same
for every payment, so that taking it off would change no place. At equal losses the greater id goes first, so
the order is the same whenever it is read.

An entry joins with its decision and leaves with the first label of its transaction. Both are written by the
owner of the terminal, which has a label after its payment: a batch that is repeated after a crash is followed
by the label again. Where a label was folded before its payment, the entry stays, and so does one whose
decision has expired: `serving.reviews` looks at what it reads, and takes such entries out.
"""

from collections.abc import Mapping, Sequence
from math import inf, isfinite
from typing import Any, NamedTuple

from features.connection import type_of_command

PENDING = b"reviews:pending"
"""Redis sorted set: transactions to review by expected loss, in money."""
DONE = b"reviews:done"
"""Redis sorted set: transactions with a verdict by its time, in seconds since 1970 UTC."""


class Spot(NamedTuple):
    """A place in a queue; the next entry has a lower score, or the same and a smaller name."""

    score: float
    name: bytes

    def __str__(self) -> str:
        return f"{self.score!r},{self.name.decode()}"


TOP = Spot(inf, b"")
"""Before the first entry."""


def spot(text: str) -> Spot:
    """The place that `str` has written. Raises ValueError for any other text.

    >>> spot(str(Spot(8.1, b"t-1")))
    Spot(score=8.1, name=b't-1')
    """
    score, _, name = text.partition(",")
    found = Spot(float(score), name.encode())
    if not (isfinite(found.score) and name):
        raise ValueError("expected a number, a comma and a transaction_id")
    return found


def expected_loss(decision: Mapping[str, Any]) -> float:
    """What approving would cost on average, in money: the order of the queue."""
    return float(decision["expected_cost"]["approve"])


def joining(decisions: Sequence[Mapping[str, Any]]) -> list[type_of_command]:
    """One command that queues these decisions, if there are any; an entry that is there stays as it is."""
    entries = [part for each in decisions for part in (expected_loss(each), each["transaction_id"])]
    return [("ZADD", PENDING, "NX", *entries)] if entries else []


def leaving(transaction_ids: Sequence[str | bytes]) -> list[type_of_command]:
    """One command that takes these transactions out, if there are any."""
    return [("ZREM", PENDING, *transaction_ids)] if transaction_ids else []


def asking(queue: bytes, after: Spot, n: int) -> list[type_of_command]:
    """Commands whose replies `following` takes: what shares the score of `after`, and what is below it.

    A place is not a number of entries to skip: what comes or goes above it moves nothing.
    """
    return [
        ("ZREVRANGEBYSCORE", queue, after.score, after.score),
        ("ZREVRANGEBYSCORE", queue, f"({after.score!r}", "-inf", "WITHSCORES", "LIMIT", 0, n),
    ]


def following(replies: Sequence[Sequence[bytes]], after: Spot, n: int) -> list[Spot]:
    """The next `n` entries, or all that are left."""
    same, below = replies
    ties = [Spot(after.score, name) for name in same if name < after.name]
    lower = [Spot(float(score), name) for name, score in zip(below[::2], below[1::2], strict=True)]
    return [*ties, *lower][:n]
