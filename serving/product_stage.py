"""The pricing side of the stream: quotes and their outcomes, each counted once, in the products' states."""

from collections.abc import Sequence

import numpy as np

from features.connection import Connection
from features.index import KnownQuote, outcome_orphans_key, outcome_seen_key, quote_seen_key
from features.pricing import PRODUCT, QUOTE, event_values
from ingestion.broker import Record
from ingestion.streams import PRODUCT_EVENT
from ingestion.topics import PRODUCT_STREAM
from serving.entity_stage import EntityFold, StreamBatch, first_copies, mark_seen, read_batch
from serving.router import messages, parked_outcomes
from serving.stage import Memoryless, Work, next_offsets


class ProductStage(Memoryless):
    """Reads the product stream, writes the products' states."""

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
        batch = arrived.take(first_copies(self._store, _seen_keys(arrived)))
        work.count("duplicates", len(arrived) - len(batch))
        if len(batch):
            values = event_values(
                batch.integers("kind"),
                batch.numbers("price"),
                batch.numbers("units"),
                batch.integers("event_time_us"),
            )
            work.writes += self._fold(batch, values).writes
            work.writes += mark_seen(_seen_keys(batch), batch, self._remember_s)
            self._adopt_orphans(batch, work)
        return work

    def _adopt_orphans(self, batch: StreamBatch, work: Work) -> None:
        """Outcomes that came before their quote follow it now, through the product stream."""
        quotes = batch.take(np.flatnonzero(batch.integers("kind") == QUOTE))
        orphans = [outcome_orphans_key(name) for name in quotes.strings("quote_id")]
        waiting = self._store.execute([("LRANGE", key, 0, -1) for key in orphans])
        found = [
            (i, key, replies)
            for i, (key, replies) in enumerate(zip(orphans, waiting, strict=True))
            if replies
        ]
        rows = [row for i, _, replies in found for row in parked_outcomes(replies, _known(quotes, i))]
        work.outputs += messages(PRODUCT_STREAM, rows, "product_id", PRODUCT_EVENT, self._partitions)
        work.writes += [("DEL", key) for _, key, _ in found]
        work.count("outcomes_adopted", len(rows))


def _seen_keys(batch: StreamBatch) -> list[bytes]:
    kinds = batch.integers("kind").tolist()
    names = batch.strings("quote_id")
    return [
        quote_seen_key(name) if kind == QUOTE else outcome_seen_key(name)
        for kind, name in zip(kinds, names, strict=True)
    ]


def _known(quotes: StreamBatch, i: int) -> KnownQuote:
    row = quotes.rows.slice(i, 1).to_pylist()[0]
    return KnownQuote(row["product_id"], row["price"], row["event_time_us"])
