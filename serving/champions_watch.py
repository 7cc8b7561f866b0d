"""Which model decides now: the champion on disk, kept up with the registry without a restart.

A request takes the model that is current when it begins; the next one is swapped in whole, by one assignment,
and the one before stays loaded, so that a rollback waits for nothing. While the registry is away the last
champion goes on.
"""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from features.definition import FeatureSet
from features.fraud import FRAUD
from features.pricing import PRICING
from features.state import Flags
from infra.errors import UserError
from training.canary import Canary
from training.champions import Champions
from training.models import Scorer, load
from training.promotion import follow
from training.tracking import Registry

log = logging.getLogger(__name__)

DISK_POLL_S = 0.25

FEATURE_SETS = {features.domain: features for features in (FRAUD, PRICING)}
"""What each task's models must expect."""


@dataclass(frozen=True)
class Swap:
    """A champion that has just taken over."""

    task: str
    version: str


@dataclass(frozen=True)
class Deputy:
    """A canary in memory: the model that decides for some customers."""

    canary: Canary
    model: Scorer

    def takes(self, customer_ids: Sequence[str]) -> Flags:
        """Which of the customers it decides for, shape (n,)."""
        return self.canary.takes(customer_ids)


class ChampionsWatch:
    """Loads champions and swaps them.

    Args:
        feature_sets: what each task's models must expect, by task.
        swapped: told of each swap.
    """

    def __init__(
        self,
        champions: Champions,
        registry: Registry,
        feature_sets: Mapping[str, FeatureSet],
        swapped: Callable[[Swap], None] = lambda _: None,
    ) -> None:
        self._champions = champions
        self._registry = registry
        self._feature_sets = feature_sets
        self._swapped = swapped
        self._current: dict[str, Scorer] = {}
        self._previous: dict[str, Scorer] = {}
        self._canaries: dict[str, Deputy] = {}
        self._refused: set[tuple[str, str]] = set()
        self._looking = threading.Lock()
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._watch, name="champions", daemon=True),
            threading.Thread(target=self._watch_disk, name="champions on disk", daemon=True),
        ]
        self._poll_s = 1.0

    def current(self, task: str) -> Scorer | None:
        """The model that decides now; None before the first champion."""
        return self._current.get(task)

    def previous(self, task: str) -> Scorer | None:
        """The model that decides after a rollback, loaded already; None if there was none before."""
        return self._previous.get(task)

    def canary(self, task: str) -> Deputy | None:
        """Who decides for some customers instead; None if the champion does for all."""
        return self._canaries.get(task)

    def start(self, poll_s: float = 1.0) -> None:
        """Load what is on disk, then follow registry and disk, each in a thread.

        Whoever promotes on this home writes to the disk at once; a registry may take its time to answer.
        """
        self._poll_s = poll_s
        for task in self._feature_sets:
            self._from_disk(task)
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the threads."""
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=10)

    def refresh(self) -> None:
        """Look at the registry now; when it does not answer, at what another process put on disk."""
        for task in self._feature_sets:
            try:
                follow(self._registry, self._champions, task)
            except UserError as error:
                log.debug("registry: %s", error)
            self._from_disk(task)

    def _watch(self) -> None:
        while not self._stop.wait(self._poll_s):
            self.refresh()

    def _watch_disk(self) -> None:
        while not self._stop.wait(min(self._poll_s, DISK_POLL_S)):
            for task in self._feature_sets:
                self._from_disk(task)

    def _from_disk(self, task: str) -> None:
        with self._looking:
            canary = self._champions.canary(task)  # first: promoted just now, it is both, not neither
            champion, previous = self._champions.current(task), self._champions.previous(task)
            if champion is not None:
                self._use(task, champion.version)
            if previous is not None and previous.version != _version(self._current.get(task)):
                self._keep(task, previous.version)
            self._try(task, canary)

    def _try(self, task: str, canary: Canary | None) -> None:
        """The canary in memory; one that is refused decides for nobody."""
        now = self._canaries.get(task)
        if canary == (now.canary if now else None):
            return
        model = self._loaded(task, canary.version) if canary else None
        if canary is None or model is None:
            self._canaries.pop(task, None)
            return
        self._canaries[task] = Deputy(canary, model)
        log.info("canary %s is version %s for %g of the customers", task, canary.version, canary.share)

    def _use(self, task: str, version: str) -> None:
        before = self._current.get(task)
        if _version(before) == version:
            return
        fresh = self._loaded(task, version)
        if fresh is None:
            return
        self._current[task] = fresh
        if before is not None:
            self._previous[task] = before
        log.info("champion %s is version %s", task, version)
        self._swapped(Swap(task, version))

    def _keep(self, task: str, version: str) -> None:
        """The version before, in memory."""
        if _version(self._previous.get(task)) == version:
            return
        found = self._loaded(task, version)
        if found is not None:
            self._previous[task] = found

    def _loaded(self, task: str, version: str) -> Scorer | None:
        """One in memory without a look at the disk; None for one that is refused, which is told once."""
        deputy = self._canaries.get(task)
        for spare in (self._previous.get(task), deputy.model if deputy else None):
            if _version(spare) == version:
                return spare
        if (task, version) in self._refused:
            return None
        try:
            fresh = load(self._champions.folder(task, version))
            fresh.card.expect(self._feature_sets[task].names, self._feature_sets[task].hash)
        except UserError as error:
            self._refused.add((task, version))
            log.error("model %s %s is refused: %s", task, version, error)
            return None
        return fresh


def _version(model: Scorer | None) -> str | None:
    return model.card.version if model else None
