"""Who is how: the state of each part, written to the home folder for everyone to read."""

import json
import threading
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter

from infra.settings import addresses_file
from infra.stack import folder as files
from infra.stack.folder import Folder
from infra.stack.part import Part
from infra.stack.processes import Identity

State = Literal["waiting", "preparing", "starting", "healthy", "restarting", "failed", "stopped"]


@dataclass(frozen=True)
class Status:
    """How a part is; `port` 0 if it has none, `restarts` counts deaths, `note` says more in words."""

    name: str
    state: State = "waiting"
    process: Identity | None = None
    port: int = 0
    wanted_port: int = 0
    address: str = ""
    restarts: int = 0
    start_s: float | None = None
    """From the start of the process until it was healthy."""
    note: str = ""


@dataclass(frozen=True)
class Report:
    """What `stack.json` holds."""

    supervisor: Identity
    parts: tuple[Status, ...]


_REPORT = TypeAdapter(Report)


def read(folder: Folder) -> Report | None:
    """Give the last report, None if there is none."""
    try:
        return _REPORT.validate_json(folder.state.read_bytes())
    except (FileNotFoundError, ValueError):
        return None


class Board:
    """The states of all parts, shared by the threads of a supervisor."""

    def __init__(self, folder: Folder, supervisor: Identity) -> None:
        self._folder, self._supervisor = folder, supervisor
        self._lock = threading.Lock()
        self._states: dict[str, Status] = {}
        self._servers: dict[str, str] = {}
        self._dirty = True

    def add(self, part: Part) -> None:
        """Show a part for the first time."""
        with self._lock:
            self._states[part.name] = Status(part.name, wanted_port=part.port)
            self._servers |= {part.name: part.server} if part.server else {}
            self._dirty = True

    def of(self, name: str) -> Status | None:
        """How a part is; None for one that nobody wants."""
        with self._lock:
            return self._states.get(name)

    def ports(self) -> frozenset[int]:
        """Ports that parts of this stack have or want."""
        with self._lock:
            return frozenset(status.port for status in self._states.values() if status.port)

    def put(self, status: Status) -> None:
        """Show a part's new state."""
        with self._lock:
            self._dirty = self._dirty or self._states[status.name] != status
            self._states[status.name] = status

    def note(self, name: str, text: str) -> None:
        """Say more of a part, in words."""
        status = self.of(name)
        if status:
            self.put(replace(status, note=text))

    def flush(self) -> None:
        """Write what has changed."""
        with self._lock:
            if self._dirty:
                self._dirty = False
                report = Report(self._supervisor, tuple(self._states.values()))
                _write(self._folder.state, asdict(report))
                _write(addresses_file(self._folder.home), self._addresses())

    def _addresses(self) -> dict[str, str]:
        known = {status.name: status.address for status in self._states.values() if status.address}
        return {server: known[name] for name, server in self._servers.items() if name in known}


def _write(path: Path, content: object) -> None:
    files.replace(path, json.dumps(content, indent=1) + "\n")


def remove(folder: Folder) -> None:
    """Forget the report and the addresses: nothing runs any more."""
    for path in (folder.state, addresses_file(folder.home), folder.wanted):
        Path(path).unlink(missing_ok=True)
