"""Fraud scores over HTTP: look up what is known, decide, publish. Concurrent requests share each step."""

import time
from collections.abc import Sequence
from functools import partial
from itertools import product, starmap
from typing import Any, NamedTuple

import numpy as np

from features.connection import AsyncConnection, StoreError, type_of_command
from features.fraud import CUSTOMER, FRAUD, TERMINAL, codes_of_payments, request_columns
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


class Asked(NamedTuple):
    """How a decision was asked for."""

    dry_run: bool = False
    """Publish nothing."""
    explain: bool = False
    """Give reasons for what is simply approved, too."""


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
        self._together = {
            asked: MicroBatch(partial(self.decide, asked=asked))
            for asked in starmap(Asked, product((False, True), repeat=2))
        }

    async def score(self, event: Transaction, asked: Asked) -> bytes:
        """JSON of one decision, made together with those that others ask for at the same time."""
        return await self._together[asked].ask(event)

    async def decide(self, events: Sequence[Transaction], asked: Asked) -> list[bytes]:
        """JSON of each decision: the one there was before, or a new one, which is published.

        A transaction that is asked for twice is decided once; with `dry_run` each is decided anew.
        """
        start = time.perf_counter()
        states, known, degraded = await self._look_up(events)
        if asked.dry_run:
            return self._decided(events, states, start, degraded, asked.explain)
        decided = {event.transaction_id: value for event, value in zip(events, known, strict=True) if value}
        rows = {event.transaction_id: i for i, event in reversed(list(enumerate(events)))}  # first copies
        fresh = [i for name, i in rows.items() if name not in decided]
        if fresh:
            new = [events[i] for i in fresh]
            before = {name: each[fresh] for name, each in states.items()}
            values = self._decided(new, before, start, degraded, asked.explain)
            await self._publish(new, values)
            decided |= {event.transaction_id: value for event, value in zip(new, values, strict=True)}
        return [decided[event.transaction_id] for event in events]

    def _decided(
        self,
        events: Sequence[Transaction],
        states: dict[str, Floats],
        start: float,
        degraded: bool,
        explain: bool,
    ) -> list[bytes]:
        """JSON of a new decision on each, given the states before it."""
        payments = [_payment(event) for event in events]
        matrix = _matrix(payments, states)
        features_ms = (time.perf_counter() - start) * 1e3
        decisions = self._decider.decide(payments, matrix, features_ms, degraded, explain)
        self._measure(decisions)
        return [encoded(each) for each in decisions]

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
        """A micro-batch counts once in the times of its stages, each decision for itself."""
        latency = decisions[0]["latency_ms"]
        self._measures.stages("score", {stage: latency[stage] / 1e3 for stage in ("features", "model")})
        for decision in decisions:
            self._measures.decided(decision["decision"], decision["degraded"])


def outgoing(event: Transaction, headers: Sequence[tuple[str, bytes]] = ()) -> Outgoing:
    """The transaction as a record of its topic."""
    value = event.model_dump_json(exclude_unset=True).encode()
    return Outgoing(TRANSACTIONS, value, event.customer_id.encode(), headers)


def _matrix(payments: Sequence[dict[str, Any]], states: dict[str, Floats]) -> Floats:
    amount = np.array([payment["amount"] for payment in payments])
    at_s = np.array([payment["event_time_us"] for payment in payments], np.int64) / MICROSECONDS
    channel = [payment["channel"] for payment in payments]
    return FRAUD.matrix(states, request_columns(amount, channel, codes_of_payments(payments)), at_s)


def _payment(event: Transaction) -> dict[str, Any]:
    fields: dict[str, Any] = event.__dict__ | {"event_time_us": microseconds(event.event_time)}
    return fields
