"""Real stacks for tests: started one after the other, away from each other's ports, gone afterwards."""

import fcntl
import random
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from infra.stack.local import Stack
from infra.stack.parts import PARTS


@contextmanager
def running(home: Path, only: Sequence[str]) -> Iterator[Stack]:
    """A stack of these parts on free ports."""
    stack = Stack(home)
    try:
        with _in_turn(), _usual_ports_taken():
            stack.up(only=only)
        yield stack
    finally:
        stack.down(purge=True)


@contextmanager
def _in_turn() -> Iterator[None]:
    """Tests run in several processes: one after the other looks for free ports."""
    with (Path(tempfile.gettempdir()) / "tollgate-tests.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _usual_ports_taken() -> Iterator[None]:
    """Keep the servers away from where processes of other stacks, even dead ones, look for their own."""
    spread = random.randrange(40, 160)
    with ExitStack() as held:
        for port in (part.port + i for part in PARTS.values() for i in range(spread)):
            with suppress(OSError):
                held.enter_context(socket.socket()).bind(("127.0.0.1", port))
        yield
