"""What is remembered of a transaction's labels: which were told, by whom, when they arrived, in which order.

Each label that counted leaves an entry under the key by which a copy of it is known. A source counts once
with each word; said again it changes nothing, with one exception: a source that has taken its word back
meanwhile may return to it later, for else its last word would be lost.
"""

from collections.abc import Mapping, Sequence
from math import inf
from typing import NamedTuple, get_args

from features.index import Place, label_seen_key, place_entry
from ingestion.events import Label
from ingestion.topics import LABELS
from serving.stage import Outgoing

SOURCES: tuple[str, ...] = get_args(Label.model_fields["source"].annotation)
WORDS: tuple[str, str] = get_args(Label.model_fields["label"].annotation)
_CONTRARY = dict(zip(WORDS, reversed(WORDS), strict=True))


class Said(NamedTuple):
    """A label that came; its arrival is in microseconds since 1970 UTC."""

    transaction_id: str
    source: str
    label: str
    time_us: int


class Told(NamedTuple):
    """A label that counted, ordered as they counted."""

    place: Place
    label: str
    source: str
    time_us: int | None
    """When it arrived, microseconds since 1970 UTC; None if a backfill brought it."""


class News(NamedTuple):
    """What labels add to those that are known."""

    counts: list[bool]
    """Of each, whether it counts."""
    contradicting: int
    """How many of them say the contrary of what was known of their transaction."""


def outgoing(label: Label) -> Outgoing:
    """The label as a record of its topic."""
    return Outgoing(LABELS, label.model_dump_json().encode(), label.transaction_id.encode())


def label_entry(place: Place, time_us: int) -> bytes:
    """Value under a label's `seen:` key: that of `features.index`, and the arrival."""
    return b"%b:%d" % (place_entry(place), time_us)


def label_keys(transaction_id: str) -> list[bytes]:
    """Keys of all labels that a transaction can have; `told` takes their values."""
    return [label_seen_key(transaction_id, source, word) for source in SOURCES for word in WORDS]


def contrary_keys(transaction_id: str, label: str) -> list[bytes]:
    """Keys of all labels that say the contrary."""
    return [label_seen_key(transaction_id, source, _CONTRARY[label]) for source in SOURCES]


def told(entries: Sequence[bytes | None]) -> list[Told]:
    """The labels of a transaction in the order in which they counted, from the values of its `label_keys`."""
    pairs = [(source, word) for source in SOURCES for word in WORDS]
    return sorted(
        Told(_place(entry), word, source, _time_us(entry))
        for (source, word), entry in zip(pairs, entries, strict=True)
        if entry is not None
    )


def news(labels: Sequence[Said], entries: Mapping[bytes, bytes | None]) -> News:
    """Which labels count, in the order in which they came.

    Args:
        labels: that came.
        entries: what is remembered under their own keys and their `contrary_keys`.
    """
    times: dict[bytes, float] = {key: _known_time(entry) for key, entry in entries.items() if entry}
    counts, contradicting = [], 0
    for said in labels:
        key = label_seen_key(said.transaction_id, said.source, said.label)
        own = times.get(key)
        taken_back = times.get(label_seen_key(said.transaction_id, said.source, _CONTRARY[said.label]))
        counted = own is None or (taken_back is not None and own < taken_back < said.time_us)
        counts.append(counted)
        if counted:
            times[key] = said.time_us
            contradicting += any(key in times for key in contrary_keys(said.transaction_id, said.label))
    return News(counts, contradicting)


def _place(entry: bytes) -> Place:
    partition, position, *_ = entry.split(b":")
    return Place(int(partition), int(position))


def _time_us(entry: bytes) -> int | None:
    _, _, *time_us = entry.split(b":")
    return int(time_us[0]) if time_us else None


def _known_time(entry: bytes) -> float:
    """Infinite where it is not known: then nothing is later, and nothing was taken back."""
    time_us = _time_us(entry)
    return inf if time_us is None else time_us
