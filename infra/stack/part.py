"""What the stack must know of a server or a process to run it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from infra.stack.folder import Folder

Say = Callable[[str], None]
Server = Literal["kafka", "redis", "mlflow", "api"]


@dataclass(frozen=True)
class Place:
    """Where one part runs: its folder, and its port (0 if it has none)."""

    folder: Folder
    name: str
    port: int = 0


def no_preparation(place: Place, say: Say) -> None:
    """For a part that can be started at once."""


@dataclass(frozen=True)
class Part:
    """One server or process of the stack."""

    name: str
    command: Callable[[Place], list[str]]
    answers: Callable[[Place], bool]
    """Whether it is ready for work; asked often, so it must be quick."""
    needs: tuple[str, ...] = ()
    """Parts that must be healthy before this one starts; those that nobody wants are not waited for."""
    port: int = 0
    """The port it would like; 0 if it listens on none."""
    server: Server | None = None
    """Its name in the settings' `addresses`."""
    address: str = "127.0.0.1:{port}"
    prepare: Callable[[Place, Say], None] = no_preparation
    """Done before each start; a `UserError` says why the part cannot run."""
    environment: tuple[tuple[str, str], ...] = ()
    patience_s: float = 120
    """How long a start may take."""
    grace_s: float = 20
    """How long a stop may take."""
