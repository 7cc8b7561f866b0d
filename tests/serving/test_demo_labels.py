"""The demonstration's world is honest: nobody learns what a declined payment would have been."""

from collections.abc import Sequence
from typing import Any

import orjson

from ingestion.playback import Message
from ingestion.topics import LABELS, TRANSACTIONS
from serving.demo.live import Decided, Stage


class Heard:
    """A listener to whom everything was told already."""

    def __init__(self, decisions: dict[str, str]) -> None:
        self.seen = Decided()
        for name, decision in decisions.items():
            self.seen.add(orjson.dumps({"transaction_id": name, "decision": decision}))

    def wait_for(self, names: Sequence[str]) -> None:
        assert all(name in self.seen.decisions for name in names)


def test_a_declined_payment_gets_no_label() -> None:
    heard: Any = Heard(
        {"approved": "approve", "reviewed": "review", "declined": "decline", "today": "decline"}
    )
    nothing: Any = None
    stage = Stage(nothing, nothing, heard, nothing, {"approved", "reviewed", "declined"})
    labels = [
        Message(0, LABELS, name.encode(), b"{}")
        for name in ("past", "approved", "reviewed", "declined", "today")
    ]
    payment = Message(0, TRANSACTIONS, b"declined", b"{}")
    assert [each.key for each in stage._knowable([*labels, payment])] == [
        b"past",
        b"approved",
        b"reviewed",
        b"today",
        b"declined",
    ]
