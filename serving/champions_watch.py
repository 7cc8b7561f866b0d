"""Which model decides now: the champion on disk, kept up with the registry without a restart.

A request takes the model that is current when it begins; the next one is swapped in whole, by one assignment,
and the one before stays loaded until nobody uses it. While the registry is away the last champion goes on.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from features.definition import FeatureSet
from features.fraud import FRAUD
from features.pricing import PRICING
from infra.errors import UserError
from training.champions import Champions
from training.models import Scorer, load
from training.promotion import follow
from training.tracking import Registry

log = logging.getLogger(__name__)

FEATURE_SETS = {features.domain: features for features in (FRAUD, PRICING)}
"""What each task's models must expect."""


@dataclass(frozen=True)
class Swap:
    """A champion that has just taken over."""

    task: str
    version: str


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
        self._refused: dict[str, str] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="champions", daemon=True)
        self._poll_s = 1.0

    def current(self, task: str) -> Scorer | None:
        """The model that decides now; None before the first champion."""
        return self._current.get(task)

    def start(self, poll_s: float = 1.0) -> None:
        """Load what is on disk, then follow the registry in a thread."""
        self._poll_s = poll_s
        for task in self._feature_sets:
            self._from_disk(task)
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join(timeout=10)

    def refresh(self) -> None:
        """Look at the registry now; when it does not answer, at what another process put on disk."""
        for task in self._feature_sets:
            try:
                self._follow(task)
            except UserError as error:
                log.debug("registry: %s", error)
                self._from_disk(task)

    def _watch(self) -> None:
        while not self._stop.wait(self._poll_s):
            self.refresh()

    def _follow(self, task: str) -> None:
        champion = follow(self._registry, self._champions, task)
        if champion is not None:
            self._use(task, champion.version)

    def _from_disk(self, task: str) -> None:
        champion = self._champions.current(task)
        if champion is not None:
            self._use(task, champion.version)

    def _use(self, task: str, version: str) -> None:
        model = self._current.get(task)
        if (model and model.card.version == version) or self._refused.get(task) == version:
            return
        try:
            fresh = load(self._champions.folder(task, version))
            fresh.card.expect(self._feature_sets[task].names, self._feature_sets[task].hash)
        except UserError as error:
            self._refused[task] = version
            log.error("champion %s %s is refused: %s", task, version, error)
            return
        self._current[task] = fresh
        log.info("champion %s is version %s", task, version)
        self._swapped(Swap(task, version))
