"""Where decisions are kept: the topic `decisions` for everybody, Redis for those who ask by transaction.

A decision on the topic carries the place of its payment in the terminal stream. A worker that takes over a
partition reads there which payments were decided already, so a crash between the topic and the states decides
nothing twice.
"""

from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import BaseModel, Field, ValidationInfo, model_validator

from features.connection import set_expiring, type_of_command
from features.index import Place, place_entry
from ingestion.broker import Consumer, Partition
from ingestion.topics import DECISIONS, PLACE, place_of
from serving.stage import Outgoing


class ExpectedCost(BaseModel):
    """What of a decision's expected cost the queue of reviews needs."""

    approve: Annotated[float, Field(allow_inf_nan=False)]


class Decided(BaseModel):
    """What must be true of a decision that came with its payment.

    Validate it with the payment's `transaction_id` in the context.
    """

    transaction_id: str
    decision: Literal["approve", "review", "decline"]
    expected_cost: ExpectedCost

    @model_validator(mode="after")
    def _of_its_payment(self, info: ValidationInfo) -> Self:
        paid = (info.context or {}).get("transaction_id")
        if self.transaction_id != paid:
            raise ValueError(
                f"expected the decision on transaction {paid!r}, came one on {self.transaction_id!r:.60}"
            )
        return self


def decision_key(transaction_id: str) -> bytes:
    """Redis key of a decision, JSON."""
    return b"decision:" + transaction_id.encode()


def outgoing(value: bytes, customer_id: str, customer_partition: int, place: Place) -> Outgoing:
    """A decision as a record of the topic."""
    headers = [(PLACE, place_entry(place))]
    return Outgoing(DECISIONS, value, customer_id.encode(), headers, customer_partition)


def keeping(transaction_id: str, value: bytes, ttl_s: int) -> type_of_command:
    """Command that keeps a decision, whose JSON is `value`, for who asks by transaction."""
    return set_expiring(decision_key(transaction_id), value, ttl_s)


def decided_since(address: str, append_ms: int, places: Sequence[int]) -> dict[Place, bytes]:
    """Decisions on payments of these terminal-stream partitions that the topic took at or after a time."""
    consumer = Consumer(address, [DECISIONS], group=None)
    try:
        return _read_to_end(consumer, append_ms, set(places))
    finally:
        consumer.close()


def _read_to_end(consumer: Consumer, append_ms: int, partitions: set[int]) -> dict[Place, bytes]:
    for partition in consumer.assignment():
        consumer.seek_to_time(partition, append_ms)
    found: dict[Place, bytes] = {}
    for record in consumer.to_the_end():
        place = place_of(record.headers)
        if place and place[0] in partitions:
            found[Place(*place)] = record.value or b""
    return found


def in_partition(partitions: Sequence[Partition], topic: str) -> list[int]:
    """Numbers of those partitions that belong to a topic."""
    return [number for name, number in partitions if name == topic]
