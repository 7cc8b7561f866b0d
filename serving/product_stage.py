"""The pricing side of the stream: quotes and their outcomes, each counted once, in the products' states."""

from collections.abc import Sequence

import numpy as np

from features.connection import Connection
from features.index import KnownQuote, outcome_orphans_key, outcome_seen_key, quote_seen_key
from features.pricing import PRODUCT, QUOTE, event_values
from ingestion.broker import Record
from ingestion.streams import PRODUCT_EVENT, counted, encoded
from ingestion.topics import PRODUCT_COUNTED, PRODUCT_STREAM
from serving.entity_stage import (
    Earlier,
    EntityFold,
    StreamBatch,
    look_up,
    mark_seen,
    place_entries,
    read_batch,
)
from serving.router import messages, parked_outcomes
from serving.stage import Memoryless, Outgoing, Work, next_offsets


class ProductStage(Memoryless):
    """Reads the product stream, writes the products' states and what the history keeps."""

    topics: Sequence[str] = (PRODUCT_STREAM,)

    def __init__(self, store: Connection, partitions: int, remember_s: int) -> None:
        self._store = store
        self._fold = EntityFold(PRODUCT, store)
        self._partitions = partitions
        self._remember_s = remember_s

    def handle(self, records: Sequence[Record]) -> Work:
        """Drop what counted already and fold the rest."""
        work = Work(handled=next_offsets(records))
        arrived = read_batch(records)
        seen_keys = _seen_keys(arrived)
        earlier = look_up(self._store, seen_keys, _orphans(arrived))
        batch = arrived.take(earlier.fresh)
        work.count("duplicates", len(arrived) - len(batch))
        if len(batch):
            values = event_values(
                batch.integers("kind"),
                batch.numbers("price"),
                batch.numbers("units"),
                batch.integers("event_time_us"),
            )
            work.outputs += _counted(batch)
            work.writes += self._fold(batch, values).writes
            fresh_keys = [seen_keys[i] for i in earlier.fresh]
            work.writes += mark_seen(fresh_keys, place_entries(batch), self._remember_s)
            self._adopt(earlier, arrived, work)
        return work

    def _adopt(self, earlier: Earlier, arrived: StreamBatch, work: Work) -> None:
        """Outcomes that came before their quote follow it now, through the product stream."""
        rows = [row for i, _, sold in earlier.waiting for row in parked_outcomes(sold, _known(arrived, i))]
        work.outputs += messages(PRODUCT_STREAM, rows, "product_id", PRODUCT_EVENT, self._partitions)
        work.writes += [("DEL", key) for _, key, _ in earlier.waiting]
        work.count("outcomes_adopted", len(rows))


def _counted(batch: StreamBatch) -> list[Outgoing]:
    """What counts, for the history; after a crash it may come again, at the same places."""
    parts = {each: np.flatnonzero(batch.partition == each) for each in np.unique(batch.partition).tolist()}
    rows = {
        each: counted(batch.rows.take(at), each, batch.position[at].tolist()) for each, at in parts.items()
    }
    return [
        Outgoing(PRODUCT_COUNTED, value, partition=each)
        for each, part in rows.items()
        for value in encoded(part)
    ]


def _seen_keys(batch: StreamBatch) -> list[bytes]:
    kinds = batch.integers("kind").tolist()
    names = batch.strings("quote_id")
    return [
        quote_seen_key(name) if kind == QUOTE else outcome_seen_key(name)
        for kind, name in zip(kinds, names, strict=True)
    ]


def _orphans(batch: StreamBatch) -> list[tuple[int, bytes]]:
    names, quoted = batch.strings("quote_id"), np.flatnonzero(batch.integers("kind") == QUOTE)
    return [(i, outcome_orphans_key(names[i])) for i in quoted.tolist()]


def _known(batch: StreamBatch, i: int) -> KnownQuote:
    row = batch.rows.slice(i, 1).to_pylist()[0]
    return KnownQuote(row["product_id"], row["price"], row["event_time_us"])
