"""The figures of several processes as one: `prometheus_client` keeps those of each in files of a folder.

Counters of a process that died stay in the sum, which must never fall; its gauges go.
"""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead


class Together(MultiProcessCollector):
    """Sums the files of a folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(None, str(folder))  # type: ignore[no-untyped-call]
        self._folder = folder

    def collect(self) -> Iterable[Metric]:
        """All figures; `gauge_livemax` of the dead are forgotten first."""
        for process in {int(file.stem.rpartition("_")[2]) for file in self._folder.glob("gauge_live*.db")}:
            if not _lives(process):
                with suppress(FileNotFoundError):  # another process was faster
                    mark_process_dead(process, str(self._folder))  # type: ignore[no-untyped-call]
        figures: Iterable[Metric] = super().collect()  # type: ignore[no-untyped-call]
        return figures


def together(folder: Path) -> CollectorRegistry:
    """A registry that shows the figures of all processes of this folder."""
    registry = CollectorRegistry()
    registry.register(Together(folder))
    return registry


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
