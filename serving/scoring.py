"""Fraud scores over HTTP: look up what is known, decide, publish. Concurrent requests share each step."""

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from features.connection import AsyncConnection, StoreError, type_of_command
from features.fraud import CUSTOMER, FRAUD, TERMINAL, request_columns
from features.online import Codec
from features.state import MICROSECONDS, Floats
from ingestion.events import Transaction, microseconds
from ingestion.topics import TRANSACTIONS
from serving.decision_log import decision_key
from serving.fraud import FraudDecider, encoded
from serving.measures import ApiMeasures
from serving.micro_batch import MicroBatch
from serving.publisher import Publisher
from serving.router import DECISION_HEADER
from serving.stage import Outgoing


class Scoring:
    """Decides transactions on what the feature store knows now."""

    def __init__(
        self, store: AsyncConnection, publisher: Publisher, decider: FraudDecider, measures: ApiMeasures
    ) -> None:
        self._store = store
        self._publisher = publisher
        self._decider = decider
        self._measures = measures
        self._customers, self._terminals = Codec(CUSTOMER), Codec(TERMINAL)
        self._published = MicroBatch(self.decide)
        self._dry = MicroBatch(partial(self.decide, dry_run=True))

    async def score(self, event: Transaction, dry_run: bool = False) -> bytes:
        """JSON of one decision, made together with those that others ask for at the same time."""
        return await (self._dry if dry_run else self._published).ask(event)

    async def decide(self, events: Sequence[Transaction], dry_run: bool = False) -> list[bytes]:
        """JSON of each decision: the one there was before, or a new one, which is published."""
        start = time.perf_counter()
        states, known, degraded = await self._look_up(events)
        fresh = [i for i, value in enumerate(known) if value is None or dry_run]
        decided = {i: value for i, value in enumerate(known) if value is not None}
        if fresh:
            asked = [events[i] for i in fresh]
            matrix = _matrix(asked, {name: rows[fresh] for name, rows in states.items()})
            features_ms = (time.perf_counter() - start) * 1e3
            decisions = self._decider.decide(
                [_payment(each) for each in asked], matrix, features_ms, degraded
            )
            self._measure(decisions)
            values = [encoded(each) for each in decisions]
            if not dry_run:
                await self._publish(asked, values)
            decided |= dict(zip(fresh, values, strict=True))
        return [decided[i] for i in range(len(events))]

    async def _look_up(
        self, events: Sequence[Transaction]
    ) -> tuple[dict[str, Floats], list[bytes | None], bool]:
        """States before each event and earlier decisions, in one round trip; cold if no answer comes."""
        n = len(events)
        commands: list[type_of_command] = [
            *(self._customers.read(event.customer_id) for event in events),
            *(self._terminals.read(event.terminal_id) for event in events),
            *(("GET", decision_key(event.transaction_id)) for event in events),
        ]
        try:
            replies = await self._store.execute(commands)
        except StoreError:
            cold = {entity.name: entity.cold(n) for entity in (CUSTOMER, TERMINAL)}
            return cold, [None] * n, True
        states = {
            CUSTOMER.name: self._customers.columns(replies[:n]),
            TERMINAL.name: self._terminals.columns(replies[n : 2 * n]),
        }
        return states, replies[2 * n :], False

    async def _publish(self, events: Sequence[Transaction], decisions: Sequence[bytes]) -> None:
        """One record for transaction and decision, so that neither is ever there without the other."""
        start = time.perf_counter()
        records = [
            outgoing(event, [(DECISION_HEADER, value)])
            for event, value in zip(events, decisions, strict=True)
        ]
        await self._publisher.publish(records)
        self._measures.stages("score", {"publish": time.perf_counter() - start})

    def _measure(self, decisions: Sequence[dict[str, Any]]) -> None:
        latency = decisions[0]["latency_ms"]
        self._measures.stages("score", {stage: latency[stage] / 1e3 for stage in ("features", "model")})
        for decision in decisions:
            self._measures.decided(decision["decision"], decision["degraded"])


def outgoing(event: Transaction, headers: Sequence[tuple[str, bytes]] = ()) -> Outgoing:
    """The transaction as a record of its topic."""
    value = event.model_dump_json(exclude_unset=True).encode()
    return Outgoing(TRANSACTIONS, value, event.customer_id.encode(), headers)


def _matrix(events: Sequence[Transaction], states: dict[str, Floats]) -> Floats:
    amount = np.array([event.amount for event in events])
    at_s = np.array([microseconds(event.event_time) for event in events], np.int64) / MICROSECONDS
    return FRAUD.matrix(states, request_columns(amount, [event.channel for event in events]), at_s)


def _payment(event: Transaction) -> dict[str, Any]:
    fields: dict[str, Any] = event.__dict__ | {"event_time_us": microseconds(event.event_time)}
    return fields
