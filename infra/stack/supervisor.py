"""The process that keeps a stack running: `python -m infra.stack.supervisor HOME`, in its own session."""

import fcntl
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra import logs
from infra.signals import ENDING, stop_signal
from infra.stack import processes
from infra.stack.board import Board
from infra.stack.folder import Folder, rotate
from infra.stack.parts import PARTS, chosen, depth
from infra.stack.processes import identify
from infra.stack.runner import Runner

log = logging.getLogger("infra.stack")

TICK_S = 0.1


class Supervisor:
    """Runs the parts that the folder's `stack.wanted` names, until told to stop or the folder is gone."""

    def __init__(self, folder: Folder, board: Board, stop: threading.Event) -> None:
        self._folder, self._board, self._stop = folder, board, stop
        self._runners: dict[str, Runner] = {}

    def run(self) -> None:
        """Start what is wanted, show how it is; at the end stop all of it, the deepest first."""
        try:
            while not self._stop.is_set() and self._folder.home.exists():
                self._start_wanted()
                self._board.flush()
                self._stop.wait(TICK_S)
        finally:
            self._stop_all()

    def _start_wanted(self) -> None:
        new = [part for part in chosen(_words(self._folder.wanted)) if part.name not in self._runners]
        for part in new:
            self._board.add(part)
        for part in new:
            rotate(self._folder.log(part.name))
            self._runners[part.name] = Runner(part, self._folder, self._board)
            self._runners[part.name].start()

    def _stop_all(self) -> None:
        for level in sorted({depth(PARTS[name]) for name in self._runners}, reverse=True):
            layer = [runner for name, runner in self._runners.items() if depth(PARTS[name]) == level]
            for runner in layer:
                runner.ask_to_stop()
            for runner in layer:
                runner.join()
            if self._folder.home.exists():
                self._board.flush()


def main() -> None:
    """Supervise the stack of the folder named on the command line."""
    folder = Folder(Path(sys.argv[1]))
    logs.setup()
    with _alone(folder):
        _detach()
        stop = stop_signal((*ENDING, signal.SIGHUP))
        me = identify(os.getpid())
        assert me, "a process can always be seen by itself"
        board = Board(folder, me)
        board.flush()
        log.info("supervisor started, process %d", me.pid)
        Supervisor(folder, board, stop).run()
        processes.end(processes.marked(folder.home), grace_s=5)
        log.info("supervisor stopped")


def _detach() -> None:
    """Go on as a child that nobody waits for; whoever started us sees us end well."""
    if os.fork():
        os._exit(0)


@contextmanager
def _alone(folder: Folder) -> Iterator[None]:
    """Hold the folder's lock; leave if another supervisor holds it."""
    with folder.lock.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit("another supervisor runs this stack")
        yield


def _words(path: Path) -> list[str]:
    return path.read_text("utf-8").split() if path.exists() else []


if __name__ == "__main__":
    main()
