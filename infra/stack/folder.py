"""What the stack keeps where in its home folder."""

from dataclasses import dataclass
from pathlib import Path

LOGS_KEPT = 3
LOG_BYTES = 5_000_000


@dataclass(frozen=True)
class Folder:
    """The files of one stack, under `home` (absolute)."""

    home: Path

    @property
    def state(self) -> Path:
        """What runs now: process ids, ports, state of each part."""
        return self.home / "stack.json"

    @property
    def wanted(self) -> Path:
        """Names of the parts that the supervisor shall run, a line each."""
        return self.home / "stack.wanted"

    @property
    def lock(self) -> Path:
        """Held by the one supervisor of this folder as long as it lives."""
        return self.home / "stack.lock"

    @property
    def gate(self) -> Path:
        """Held by a command while it starts a supervisor."""
        return self.home / "stack.gate"

    def log(self, part: str) -> Path:
        """Where a part, or the supervisor, writes its log."""
        return self.home / "logs" / f"{part}.log"

    def data(self, part: str) -> Path:
        """Where a server keeps its data."""
        return self.home / part

    def ready(self, part: str) -> Path:
        """Appears when one of our processes says that it is ready."""
        return self.home / "run" / f"{part}.ready"


def replace(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old text or the new, never half of it."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, "utf-8")
    part.replace(path)


def rotate(log: Path) -> None:
    """Move a log over `LOG_BYTES` aside, keeping the last `LOGS_KEPT`."""
    if not log.exists() or log.stat().st_size < LOG_BYTES:
        return
    for number in range(LOGS_KEPT - 1, 0, -1):
        older = log.with_name(f"{log.name}.{number}")
        if older.exists():
            older.replace(log.with_name(f"{log.name}.{number + 1}"))
    log.replace(log.with_name(f"{log.name}.1"))


def tail(log: Path, lines: int = 12) -> str:
    """Give the last lines of a log, empty if there is none."""
    if not log.exists():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 20_000))
        return "\n".join(file.read().decode("utf-8", "replace").splitlines()[-lines:])
