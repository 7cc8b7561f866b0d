"""Which fraud policy decides now: that of the settings, kept up with their files without a restart.

A batch takes the policy that is current when it begins; the next one is swapped in whole, by one assignment.
A file that is wrong is refused, once, and the policy before it goes on. Other sections of the settings count
from the next start.
"""

import logging
import threading
from typing import Protocol

from infra.errors import UserError
from infra.settings import FraudPolicy, load, stamps
from training.rule_book import RuleBook, rule_book

log = logging.getLogger(__name__)


class Watcher(Protocol):
    """Told what became of the policy; the process gives metrics."""

    def decides(self, version: str) -> None:
        """This version of the policy decides from now on."""
        ...

    def refused(self) -> None:
        """A changed file was wrong."""
        ...


class PolicyWatch:
    """Compiles policies and swaps them.

    Args:
        policy: of settings that were loaded just now; a file that changes after this is noticed.

    Raises:
        UserError: a rule of `policy` is wrong; the sentence names its file and line.
    """

    def __init__(self, policy: FraudPolicy, watcher: Watcher) -> None:
        self._stamps = stamps()
        self._current = rule_book(policy)
        self._watcher = watcher
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="policy", daemon=True)
        self._poll_s = 1.0

    def current(self) -> RuleBook:
        """What decides now."""
        return self._current

    def start(self, poll_s: float = 1.0) -> None:
        """Follow the files in a thread."""
        self._poll_s = poll_s
        self._watcher.decides(self._current.version)
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join(timeout=10)

    def refresh(self) -> None:
        """Look at the files now; read them if they are others than at the last look."""
        found = stamps()
        if found == self._stamps:
            return
        self._stamps = found
        try:
            fresh = rule_book(load().fraud)
        except UserError as error:
            log.error("fraud policy %s goes on, the changed one is refused: %s", self._current.version, error)
            self._watcher.refused()
            return
        if fresh.version != self._current.version:
            self._use(fresh)

    def _watch(self) -> None:
        while not self._stop.wait(self._poll_s):
            self.refresh()

    def _use(self, fresh: RuleBook) -> None:
        log.info("fraud policy is version %s, was %s", fresh.version, self._current.version)
        self._current = fresh
        self._watcher.decides(fresh.version)
