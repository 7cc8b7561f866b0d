"""Fraud scores over HTTP: look up what is known, decide, publish. Concurrent requests share each step."""

import asyncio
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
from serving.measures import BROKER, STORE, ApiMeasures
from serving.micro_batch import MicroBatch, portions
from serving.outbox import Kept
from serving.publisher import Publisher
from serving.router import DECISION_HEADER
from serving.stage import Outgoing

DECIDED_AT_ONCE = 64


class Asked(NamedTuple):
    """How a decision was asked for."""

    dry_run: bool = False
    """Publish nothing."""
    explain: bool = False
    """Give reasons for what is simply approved, too."""


class Before(NamedTuple):
    """What was known when decisions were asked for."""

    states: dict[str, Floats]
    start: float
    """`perf_counter` of that moment."""
    lacking: Sequence[str]
    """Neighbours that are away: with any, a decision is degraded."""

    def of(self, rows: Sequence[int]) -> "Before":
        """Of some of the events."""
        chosen = list(rows)
        return Before({name: each[chosen] for name, each in self.states.items()}, self.start, self.lacking)


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
        states, known, lacking = await self._look_up(events)
        if asked.dry_run:
            before = Before(states, start, lacking)
            return await self._each(events, range(len(events)), before, asked.explain)
        before = Before(states, start, (*lacking, BROKER) if self._publisher.away else lacking)
        decided = {event.transaction_id: value for event, value in zip(events, known, strict=True) if value}
        rows = {event.transaction_id: i for i, event in reversed(list(enumerate(events)))}  # first copies
        fresh = [i for name, i in rows.items() if name not in decided]
        if fresh:
            new = [events[i] for i in fresh]
            values = await self._each(events, fresh, before, asked.explain)
            await self._publish(new, values)
            decided |= {event.transaction_id: value for event, value in zip(new, values, strict=True)}
        return [decided[event.transaction_id] for event in events]

    async def _each(
        self, events: Sequence[Transaction], chosen: Sequence[int], before: Before, explain: bool
    ) -> list[bytes]:
        """JSON of a new decision on each chosen event; in portions, so that a long list holds up nobody."""
        decided: list[bytes] = []
        for rows in portions(chosen, DECIDED_AT_ONCE):
            if decided:
                await asyncio.sleep(0)
            decided += self._decided([events[i] for i in rows], before.of(rows), explain)
        return decided

    def _decided(self, events: Sequence[Transaction], before: Before, explain: bool) -> list[bytes]:
        """JSON of a new decision on each, given what was known before it."""
        payments = [_payment(event) for event in events]
        matrix = _matrix(payments, before.states)
        features_ms = (time.perf_counter() - before.start) * 1e3
        decisions = self._decider.decide(payments, matrix, features_ms, bool(before.lacking), explain)
        self._measure(decisions, before.lacking)
        return [encoded(each) for each in decisions]

    async def _look_up(
        self, events: Sequence[Transaction]
    ) -> tuple[dict[str, Floats], list[bytes | None], Sequence[str]]:
        """States before each event and earlier decisions, in one round trip; cold if no answer comes.

        A decision that waits in the outbox is known, too.
        """
        n = len(events)
        commands: list[type_of_command] = [
            *(self._customers.read(event.customer_id) for event in events),
            *(self._terminals.read(event.terminal_id) for event in events),
            *(("GET", decision_key(event.transaction_id)) for event in events),
        ]
        waiting = [self._waiting(event.transaction_id) for event in events]
        try:
            replies = await self._store.execute(commands)
        except StoreError:
            cold = {entity.name: entity.cold(n) for entity in (CUSTOMER, TERMINAL)}
            return cold, waiting, (STORE,)
        states = {
            CUSTOMER.name: self._customers.columns(replies[:n]),
            TERMINAL.name: self._terminals.columns(replies[n : 2 * n]),
        }
        known = [ours or theirs for ours, theirs in zip(waiting, replies[2 * n :], strict=True)]
        return states, known, ()

    def _waiting(self, transaction_id: str) -> bytes | None:
        record = self._publisher.kept(_name(transaction_id))
        return None if record is None else dict(record.headers)[DECISION_HEADER]

    async def _publish(self, events: Sequence[Transaction], decisions: Sequence[bytes]) -> None:
        """One record for transaction and decision, so that neither is ever there without the other."""
        start = time.perf_counter()
        records = [
            Kept(_name(event.transaction_id), outgoing(event, [(DECISION_HEADER, value)]))
            for event, value in zip(events, decisions, strict=True)
        ]
        await self._publisher.deliver(records)
        self._measures.stages("score", {"publish": time.perf_counter() - start})

    def _measure(self, decisions: Sequence[dict[str, Any]], lacking: Sequence[str]) -> None:
        """A micro-batch counts once in the times of its stages, each decision for itself."""
        latency = decisions[0]["latency_ms"]
        self._measures.stages("score", {stage: latency[stage] / 1e3 for stage in ("features", "model")})
        for decision in decisions:
            self._measures.decided(decision["decision"], lacking)


def _name(transaction_id: str) -> str:
    """Of a decision in the outbox."""
    return f"t:{transaction_id}"


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
