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
