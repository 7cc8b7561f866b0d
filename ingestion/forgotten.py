"""Who was forgotten, and when: what still lies in the log of the time before is passed over when it is read.

Kafka's log can't be edited, and a file of past events may be loaded again. So a list beside the history says
of whom nothing from before a moment counts; what comes later is a new person. The list holds digests, not
identifiers; without a key of pseudonyms who has the list can find out by trying whether somebody is on it.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from infra import files

Flags = npt.NDArray[np.bool_]
DIGEST_BYTES = 16


class Forgotten:
    """The list in a file, read again when it has changed; without a file nobody is on it."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._stamp: object = None
        self._until_ms: dict[str, int] = {}
        self._newest_ms = -1

    def add(self, names: Sequence[str], at_ms: int) -> None:
        """Nothing of these identifiers counts that came up to a time, in milliseconds since 1970 UTC."""
        assert self._file is not None
        self._look()
        listed = self._until_ms | {_digest(name): at_ms for name in names}
        files.replaced(self._file, json.dumps(listed, indent=0))

    def holds(self, name: str, at_ms: int) -> bool:
        """Whether an event of this person that came at this time is passed over."""
        self._look()
        return at_ms <= self._newest_ms and at_ms <= self._until_ms.get(_digest(name), -1)

    def stay(
        self,
        at_ms: npt.NDArray[np.int64],
        names: Callable[[], Sequence[str]],
        chain: Callable[[str], Sequence[str]] = lambda name: (name,),
    ) -> Flags | None:
        """Which events stay, shape (n,); None if all do.

        Args:
            at_ms: when each came.
            names: gives the identifier of each event's person; asked only if it matters.
            chain: everything that an identifier may be listed as.
        """
        self._look()
        if not len(at_ms) or int(at_ms.min()) > self._newest_ms:
            return None
        people = names()
        until = {name: self._until(chain(name)) for name in set(people)}
        staying: Flags = at_ms > np.array([until[name] for name in people])
        return None if staying.all() else staying

    def _until(self, names: Sequence[str]) -> int:
        return max(self._until_ms.get(_digest(name), -1) for name in names)

    def _look(self) -> None:
        try:
            found = self._file.stat() if self._file else None
        except FileNotFoundError:
            found = None
        stamp = found and (found.st_mtime_ns, found.st_ino, found.st_size)
        if stamp != self._stamp:
            assert self._file is not None
            self._until_ms = json.loads(self._file.read_text("utf-8")) if found else {}
            self._newest_ms = max(self._until_ms.values(), default=-1)
            self._stamp = stamp


def _digest(name: str) -> str:
    raw = hashlib.blake2b(name.encode(), digest_size=DIGEST_BYTES, person=b"forgotten")
    return raw.hexdigest()
