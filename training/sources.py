"""Where a training set is read from: the history as it is or was, or a file; and what names either."""

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from infra.settings import Settings
from ingestion.history import History
from training.dataset import Origin, Window
from training.tasks import EventFile


def opened(settings: Settings, window: Window, tables: Sequence[str]) -> tuple[History, Origin]:
    """The history up to where a window reads it, or to where it reaches now, and that as an origin.

    What is appended after this call is not read, so that the origin names all that was.
    """
    history = History(settings.history)
    reach = window.reach if window.reach is not None else history.reach(tables)
    return history.upto(reach), Origin(replace(window, reach=reach))


@contextmanager
def replay_room(settings: Settings, window: Window) -> Iterator[Settings]:
    """Settings whose home takes the replayed states: the usual one, or one that is gone afterwards.

    States as they were in the past are nobody else's: they do not replace those that Feast reads.
    """
    if window.reach is None:
        yield settings
        return
    settings.home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".repeat-", dir=settings.home) as folder:
        yield settings.model_copy(update={"home": Path(folder)})


def of_file(file: EventFile, window: Window) -> Origin:
    """The origin of a set that was read from a file through a mapping."""
    paths = {"data": file.data, "mapping": file.mapping}
    return Origin(
        window,
        files={name: digest(path) for name, path in paths.items()},
        paths={name: str(path.absolute()) for name, path in paths.items()},
    )


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as opened_file:
        return hashlib.file_digest(opened_file, "sha256").hexdigest()
