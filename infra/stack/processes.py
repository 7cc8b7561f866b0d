"""Knowing our processes again, and ending them: by id, start time and a mark in their environment."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

STACK = "TOLLGATE_STACK"
PART = "TOLLGATE_PART"
START_TOLERANCE_S = 2.0


@dataclass(frozen=True)
class Identity:
    """A process: an id may be given again by the system, an id with its start time (epoch seconds) is not."""

    pid: int
    started: float


def identify(pid: int) -> Identity | None:
    """Give the identity of a running process, None if it is gone."""
    try:
        return Identity(pid, psutil.Process(pid).create_time())
    except psutil.Error:
        return None


def find(identity: Identity) -> psutil.Process | None:
    """Give the process if it is still that one and still runs."""
    try:
        process = psutil.Process(identity.pid)
        same = abs(process.create_time() - identity.started) < START_TOLERANCE_S
        return process if same and _runs(process) else None
    except psutil.Error:
        return None


def marked(home: Path, part: str | None = None) -> list[psutil.Process]:
    """Every other process that carries the mark of this stack, or of one part of it."""
    wanted = {STACK: str(home)} | ({PART: part} if part else {})
    return [process for process in _others() if _carries(process, wanted)]


def listens(pid: int, port: int) -> bool:
    """Whether the process or one that it has started listens on the port."""
    try:
        process = psutil.Process(pid)
        return any(_listens(each, port) for each in (process, *process.children(recursive=True)))
    except psutil.Error:
        return False


def end(processes: Sequence[psutil.Process], grace_s: float) -> None:
    """Ask processes to stop; kill those that still run after `grace_s`."""
    for process in processes:
        _quietly(process.terminate)
    _, alive = psutil.wait_procs(processes, timeout=grace_s)
    for process in alive:
        _quietly(process.kill)
    psutil.wait_procs(alive, timeout=5)


def unique(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Leave out what comes twice."""
    return list(dict.fromkeys(processes))


def _others() -> Iterator[psutil.Process]:
    ours = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    return (process for process in psutil.process_iter() if process.pid not in ours)


def _carries(process: psutil.Process, wanted: dict[str, str]) -> bool:
    try:
        return _runs(process) and wanted.items() <= process.environ().items()
    except (psutil.Error, OSError):
        return False


def _listens(process: psutil.Process, port: int) -> bool:
    try:
        sockets = process.net_connections("tcp")
    except psutil.Error:
        return False
    return any(each.status == psutil.CONN_LISTEN and each.laddr.port == port for each in sockets)


def _runs(process: psutil.Process) -> bool:
    """A zombie has ended; only its parent has not looked yet."""
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def _quietly(signal: Callable[[], None]) -> None:
    with contextlib.suppress(psutil.Error):
        signal()
