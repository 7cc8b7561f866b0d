"""What the machine's cores did between two looks: figures of a run are worth what the machine left it."""

from dataclasses import dataclass

import psutil


@dataclass(frozen=True)
class Shares:
    """Of all cores' time."""

    busy: float
    """With anybody's work on this machine."""
    stolen: float
    """In which a core of this virtual machine was wanted here and served others; only Linux tells."""


class Cores:
    """Looks at the cores' own counters."""

    def __init__(self) -> None:
        self._before = psutil.cpu_times()._asdict()

    def look(self) -> Shares:
        """Since the last look, or since this was made."""
        now = psutil.cpu_times()._asdict()
        spent = {name: seconds - self._before[name] for name, seconds in now.items()}
        self._before = now
        whole, stolen = sum(spent.values()) or 1.0, spent.get("steal", 0.0)
        idle = spent["idle"] + spent.get("iowait", 0.0)
        return Shares((whole - idle - stolen) / whole, stolen / whole)
