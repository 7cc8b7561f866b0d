"""How one of our processes tells the stack that it is ready for work."""

import os
from pathlib import Path

VARIABLE = "TOLLGATE_READY"


def tell() -> None:
    """Say that this process is ready; nothing happens if no stack asked (`TOLLGATE_READY` unset).

    To be called once, when the process can do its work: consumers joined, models loaded, port open.
    """
    if path := os.environ.get(VARIABLE):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).touch()
