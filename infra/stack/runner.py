"""The life of one part: wait for what it needs, start it, watch it, start it again when it died."""

import logging
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

from infra import ready
from infra.errors import UserError
from infra.stack import launch, processes
from infra.stack.board import Board, State, Status
from infra.stack.folder import Folder
from infra.stack.part import Part, Place
from infra.stack.ports import free_from
from infra.stack.processes import PART, STACK, identify

log = logging.getLogger("infra.stack")

TICK_S = 0.1
WATCH_S = 0.5
TRIES = 3
LONGEST_PAUSE_S = 30.0
PACKAGES = Path(__file__).parents[2]


class PartError(Exception):
    """The part cannot be started; trying again would not help."""


class Runner(threading.Thread):
    """Runs one part until told to stop. Must outlive the process: the kernel ends it with this thread."""

    def __init__(self, part: Part, folder: Folder, board: Board) -> None:
        super().__init__(name=part.name)
        self._part, self._folder, self._board = part, folder, board
        self._asked = threading.Event()
        self._was_healthy = False
        self._deaths = 0
        self._status = Status(part.name, wanted_port=part.port)

    def ask_to_stop(self) -> None:
        """End the part soon; `join` waits for it."""
        self._asked.set()

    def run(self) -> None:
        """Keep the part alive until asked to stop, or until it is clear that it cannot be."""
        try:
            self._await_needs()
            while not self._asked.is_set():
                self._live_once()
                self._asked.wait(self._pause_s())
            self._show("stopped")
        except (UserError, PartError) as error:
            log.error("%s failed: %s", self.name, error)
            self._show("failed", note=str(error), process=None)
        except BaseException as bug:
            self._show("failed", note=repr(bug), process=None)
            raise

    def _await_needs(self) -> None:
        while not self._asked.is_set() and (missing := self._missing()):
            self._show("waiting", note=f"waits for {', '.join(missing)}")
            self._asked.wait(TICK_S)

    def _missing(self) -> list[str]:
        wanted = {need: self._board.of(need) for need in self._part.needs}
        return [need for need, status in wanted.items() if status and status.state != "healthy"]

    def _live_once(self) -> None:
        """One life of the process, from its preparation to its end."""
        place = self._prepared()
        if self._asked.is_set():
            return
        self._board.flush()
        started = time.monotonic()
        with self._spawn(place) as process:
            try:
                self._await_answer(place, process, started)
                self._watch(process)
            finally:
                self._end(process)
        if not self._asked.is_set():
            self._died(process.returncode, time.monotonic() - started)

    def _prepared(self) -> Place:
        place = Place(self._folder, self.name, self._port())
        address = self._part.address.format(port=place.port) if place.port else ""
        self._show("preparing", port=place.port, address=address, note="")
        self._folder.ready(self.name).unlink(missing_ok=True)
        self._part.prepare(place, lambda text: self._show("preparing", note=text))
        return place

    def _port(self) -> int:
        """Once others know the port it stays; before that a taken one moves."""
        if self._was_healthy or not self._part.port:
            return self._status.port
        return free_from(self._part.port, self._board.ports() - {self._status.port})

    def _spawn(self, place: Place) -> subprocess.Popen[bytes]:
        own = [sys.executable, "-I", "-S", launch.__file__, str(os.getpid())]
        with self._folder.log(self.name).open("ab") as out:
            process = subprocess.Popen(
                [*own, *self._part.command(place)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=self._environment(),
                start_new_session=True,
            )
        self._show("starting", process=identify(process.pid), note="")
        log.info("%s started, process %d", self.name, process.pid)
        return process

    def _environment(self) -> dict[str, str]:
        home = str(self._folder.home)
        found = os.environ.get("PYTHONPATH")
        return {
            **os.environ,
            **dict(self._part.environment),
            "TOLLGATE_HOME": home,
            STACK: home,
            PART: self.name,
            ready.VARIABLE: str(self._folder.ready(self.name)),
            "PYTHONPATH": os.pathsep.join([str(PACKAGES), *([found] if found else [])]),
            "PYTHONUNBUFFERED": "1",
        }

    def _await_answer(self, place: Place, process: subprocess.Popen[bytes], started: float) -> None:
        while not self._asked.is_set() and process.poll() is None:
            if self._part.answers(place) and _is_its_own(process, place):
                self._became_healthy(time.monotonic() - started)
                return
            if time.monotonic() - started > self._part.patience_s:
                raise PartError(f"did not answer within {self._part.patience_s:.0f} s")
            self._asked.wait(TICK_S)

    def _became_healthy(self, start_s: float) -> None:
        self._was_healthy, self._deaths = True, 0
        self._show("healthy", start_s=round(start_s, 1), note="")
        log.info("%s healthy after %.1f s", self.name, start_s)

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        while not self._asked.is_set() and process.poll() is None:
            self._asked.wait(WATCH_S)

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        """End the process and what it left behind."""
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(self._part.grace_s)
            except subprocess.TimeoutExpired:
                log.warning("%s did not stop within %.0f s and is killed", self.name, self._part.grace_s)
                process.kill()
        processes.end(processes.marked(self._folder.home, self.name), self._part.grace_s)

    def _died(self, code: int, age_s: float) -> None:
        self._deaths += 1
        how = f"ended with code {code} after {age_s:.1f} s"
        log.warning("%s %s", self.name, how)
        if not self._was_healthy and self._deaths >= TRIES:
            raise PartError(f"{how}, {TRIES} times")
        self._show("restarting", process=None, restarts=self._status.restarts + 1, note=how)

    def _pause_s(self) -> float:
        """0.5, 1, 2 ... seconds as the part dies again and again without getting healthy."""
        return min(LONGEST_PAUSE_S, 0.25 * 2.0**self._deaths)

    def _show(self, state: State, **changes: object) -> None:
        self._status = replace(self._status, state=state, **changes)  # type: ignore[arg-type]
        self._board.put(self._status)


def _is_its_own(process: subprocess.Popen[bytes], place: Place) -> bool:
    """Two stacks that start at once may choose the same port: the slower one ends, and chooses anew."""
    return not place.port or processes.listens(process.pid, place.port)
