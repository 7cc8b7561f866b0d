"""The same price for the same context within a window: what was quoted is held in Redis for that long.

Two contexts are the same if product, objective and everything that features read of the request are, after
what tells of a person is blanked; and the shopper's probability of fraud, where prices may depend on it. The
window counts in event time from the quote that began it. Of several requests of the same moment the first
wins: a price is kept unless another came after what was read.
"""

import hashlib
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import orjson

from features.connection import type_of_command
from features.pricing import impersonal, request_columns
from infra.settings import Objective, PricingPolicy, Product
from ingestion.events import QuoteRequest, microseconds
from serving.pricing import Held, objective_of

_PREFIX = b"held:"
_KEEP_UNLESS_CHANGED = """
local kept = redis.call('GET', KEYS[1])
if kept and kept ~= ARGV[1] then return kept end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return ARGV[2]
"""
"""Replace what was read (nothing is an empty text) by ours, and give what is there then; atomic."""


class Store(Protocol):
    """Sends commands, gives their replies in order."""

    async def execute(self, commands: Sequence[type_of_command]) -> list[Any]:
        """Replies in the order of the commands."""
        ...


class SameContext:
    """What is held for one request's context; `found` comes before `keep`.

    It begins with the objective of a product that has none of its own; `turned_by` takes one that has.
    """

    def __init__(self, asked: QuoteRequest, rules: PricingPolicy) -> None:
        self._asked, self._rules = asked, rules
        self._objective = objective_of(asked, None, rules)
        self._key = _PREFIX + _digest(asked, rules, self._objective)
        self._at_us = microseconds(asked.event_time)
        self._quote_id = asked.quote_id
        self._window_us = round(rules.same_price_s * 1e6)
        self._read = b""

    def turned_by(self, product: Product) -> bool:
        """Take the product's own objective; True if that makes another context, to be asked for anew."""
        objective = objective_of(self._asked, product, self._rules)
        if objective == self._objective:
            return False
        self._objective = objective
        self._key = _PREFIX + _digest(self._asked, self._rules, objective)
        return True

    @property
    def asking(self) -> type_of_command:
        """Command to go in one round trip with others; `found` takes its reply."""
        return ("GET", self._key)

    def found(self, reply: bytes | None) -> Held | None:
        """What is held and counts; None if nothing does, or nothing is ever held."""
        self._read = reply or b""
        return self._counting(reply)

    async def keep(self, store: Store, mine: Held) -> Held | None:
        """Hold my price, unless another has come since `found`: then gives that one."""
        if not self._window_us:
            return None
        entry = orjson.dumps([mine.price, mine.propensity, mine.exploration, self._at_us, self._quote_id])
        command = (
            "EVAL", _KEEP_UNLESS_CHANGED, 1, self._key, self._read, entry, max(self._window_us // 1_000, 1)
        )  # fmt: skip
        (kept,) = await store.execute([command])
        return None if kept == entry else self._counting(kept)

    def _counting(self, entry: bytes | None) -> Held | None:
        if entry is None or not self._window_us:
            return None
        price, propensity, exploration, at_us = orjson.loads(entry)[:4]
        near = abs(self._at_us - at_us) < self._window_us
        return Held(price, propensity, exploration) if near else None


def _digest(asked: QuoteRequest, rules: PricingPolicy, objective: Objective) -> bytes:
    """32 hex digits, equal for equal contexts."""
    nothing = np.array([np.nan])
    columns = request_columns(
        nothing, nothing, nothing, ([asked.product_id], [asked.segment]), [asked.context]
    )
    values = np.concatenate(list(impersonal(columns, rules.unused).values())) + 0.0  # -0 is 0
    if rules.asks_who_pays and asked.fraud_probability is not None:
        values = np.append(values, asked.fraud_probability + 0.0)
    names = f"{asked.product_id}\0{objective}\0".encode()
    return hashlib.blake2b(names + values.tobytes(), digest_size=16).hexdigest().encode()
