"""Who decides for a share of customers before it decides for all: drawn by a keyed hash of the customer's id.

The key is the version, so that the same customer is on the same side in every process for as long as a canary
lasts, and the next one draws others. It is no secret: nobody is let pass by this lot.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any

from features.state import Flags
from training.control_group import lots


@dataclass(frozen=True)
class Canary:
    """A version that decides for some customers."""

    version: str
    share: float
    """Of the customers, above 0 and below 1."""
    since_us: int
    """Event time of its beginning, microseconds since 1970 UTC."""

    def takes(self, customer_ids: Sequence[str]) -> Flags:
        """Which of the customers it decides for, shape (n,).

        >>> Canary("7", 0.5, 0).takes(["c-1", "c-2", "c-3", "c-4", "c-1"]).tolist()
        [True, False, False, False, True]
        """
        key = blake2b(f"canary {self.version}".encode()).digest()
        return lots(customer_ids, key) < self.share

    @property
    def described(self) -> dict[str, Any]:
        """Its terms for people, `since` as RFC 3339 in UTC."""
        since = datetime.fromtimestamp(self.since_us / 1e6, UTC).isoformat(timespec="seconds")
        return {"version": self.version, "share": self.share, "since": since.replace("+00:00", "Z")}
