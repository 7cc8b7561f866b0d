"""Files that others read while we write them."""

import os
import threading
from pathlib import Path


def replaced(path: Path, text: str) -> None:
    """Replace a file at once: a reader sees the old text or the new. Folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}")
    partial.write_text(text, "utf-8")
    partial.replace(path)


def written_privately(path: Path, text: str) -> None:
    """Write a new file that only its owner can read (mode 0600), whole before anybody sees its name.

    Raises:
        FileExistsError: there is a file of that name.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}")
    with os.fdopen(
        os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8"
    ) as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(partial, path)
    finally:
        partial.unlink()


def synced(folder: Path) -> None:
    """Make sure that the names in a folder outlast a loss of power."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
