"""The local stack as an object, for the command line, the demo and the tests."""

import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from infra.errors import UserError
from infra.progress import Display, Silent, Task
from infra.stack import board, processes
from infra.stack.board import Report, Status
from infra.stack.folder import Folder, replace, rotate, tail
from infra.stack.parts import PARTS, chosen
from infra.stack.processes import STACK
from infra.stack.runner import PACKAGES

TICK_S = 0.1
SUPERVISOR_START_S = 30.0
STOP_S = 90.0
QUIET_S = 300.0
"""A start without any news for so long has hung."""


class Stack:
    """The servers and processes of one home folder; a stack outlives the object and the process."""

    def __init__(self, home: Path) -> None:
        self.folder = Folder(home.expanduser().absolute())

    def up(self, only: Iterable[str] | None = None, progress: Display | None = None) -> tuple[Status, ...]:
        """Start all parts, or `only` some, and give their states when all are healthy.

        What runs already goes on running. A part that does not start, or Ctrl-C, takes the whole stack down.

        Raises:
            UserError: a part did not become healthy; the sentence names it, the reason and its log.
        """
        names = [part.name for part in chosen(PARTS if only is None else only)]
        try:
            self._want(names)
            return self._await_healthy(names, progress or Silent())
        except BaseException:
            self.down()
            raise

    def down(self, purge: bool = False, progress: Display | None = None) -> None:
        """Stop every part, also what a killed supervisor left behind; `purge` removes the home folder too.

        Raises:
            UserError: the folder to remove does not look like ours.
        """
        if purge:
            self._refuse_foreign()
        task = (progress or Silent()).task("stack")
        self._stop_supervisor(task)
        self._end_leftovers(task)
        board.remove(self.folder)
        if purge:
            task.say("removing its folder")
            shutil.rmtree(self.folder.home, ignore_errors=True)
        task.finish("stopped" + (" and removed" if purge else ""))

    def status(self) -> tuple[Status, ...]:
        """Every part of the table: as the supervisor sees it, `stopped` if it does not run."""
        report = self.report()
        known = {status.name: status for status in report.parts} if report else {}
        return tuple(known.get(name, Status(name, state="stopped")) for name in PARTS)

    def report(self) -> Report | None:
        """What the supervisor wrote last; None if no supervisor runs."""
        report = board.read(self.folder)
        return report if report and processes.find(report.supervisor) else None

    def leftovers(self) -> list[int]:
        """Ids of processes of this stack that run without their supervisor."""
        return [] if self.report() else [process.pid for process in self._strays()]

    def _want(self, names: list[str]) -> None:
        self.folder.home.joinpath("logs").mkdir(parents=True, exist_ok=True)
        with self._gate():
            report = self.report()
            running = [status.name for status in report.parts] if report else []
            if not report:
                self._end_leftovers(Silent())
                board.remove(self.folder)
            replace(self.folder.wanted, "\n".join(dict.fromkeys([*running, *names])))
            if not report:
                self._start_supervisor()

    def _start_supervisor(self) -> None:
        log = self.folder.log("supervisor")
        rotate(log)
        with log.open("ab") as out:
            started = subprocess.run(
                [sys.executable, "-m", "infra.stack.supervisor", str(self.folder.home)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=self._supervisor_environment(),
                start_new_session=True,
                check=False,
            )
        if started.returncode != 0 or not self._reports_soon():
            raise UserError(f"the supervisor did not start; {log} ends with:\n{tail(log)}")

    def _reports_soon(self) -> bool:
        deadline = time.monotonic() + SUPERVISOR_START_S
        while not self.report() and time.monotonic() < deadline:
            time.sleep(TICK_S)
        return self.report() is not None

    def _supervisor_environment(self) -> dict[str, str]:
        found = os.environ.get("PYTHONPATH")
        path = os.pathsep.join([str(PACKAGES), *([found] if found else [])])
        return {**os.environ, STACK: str(self.folder.home), "PYTHONPATH": path}

    def _await_healthy(self, names: list[str], progress: Display) -> tuple[Status, ...]:
        told = {name: Told(progress.task(name)) for name in names}
        quiet_since = time.monotonic()
        while time.monotonic() < quiet_since + QUIET_S:
            states = tuple(status for status in self._live() if status.name in told)
            news = [told[status.name].tell(status) for status in states]
            if any(news):
                quiet_since = time.monotonic()
            self._refuse_failed(states)
            if len(states) == len(names) and all(status.state == "healthy" for status in states):
                return states
            time.sleep(TICK_S)
        late = next(status for status in self.status() if status.name in told and status.state != "healthy")
        raise UserError(self._why(late, f"it is {late.state}, without news for {QUIET_S:.0f} s"))

    def _live(self) -> tuple[Status, ...]:
        report = self.report()
        if not report:
            log = self.folder.log("supervisor")
            raise UserError(f"the supervisor ended; {log} ends with:\n{tail(log)}")
        return report.parts

    def _refuse_failed(self, states: tuple[Status, ...]) -> None:
        for status in states:
            if status.state == "failed":
                raise UserError(self._why(status, status.note))

    def _why(self, status: Status, reason: str) -> str:
        log = self.folder.log(status.name)
        last = tail(log)
        return f"{status.name} did not start: {reason}" + (f"\n{log} ends with:\n{last}" if last else "")

    def _stop_supervisor(self, task: Task) -> None:
        report = self.report()
        process = processes.find(report.supervisor) if report else None
        if process:
            task.say("stopping")
            processes.end([process], STOP_S)

    def _end_leftovers(self, task: Task) -> None:
        strays = self._strays()
        if strays:
            task.say(f"ending {len(strays)} processes that were left behind")
            processes.end(strays, grace_s=30)

    def _strays(self) -> list[psutil.Process]:
        report = board.read(self.folder)
        known = [status.process for status in report.parts if status.process] if report else []
        recorded = [processes.find(identity) for identity in known]
        return processes.unique([*processes.marked(self.folder.home), *filter(None, recorded)])

    def _refuse_foreign(self) -> None:
        home = self.folder.home
        ours = self.folder.lock.exists() or not home.exists()
        if not ours or Path.cwd().is_relative_to(home) or Path.home().is_relative_to(home):
            raise UserError(f"{home} does not look like a folder of the stack; it is not removed.")

    @contextmanager
    def _gate(self) -> Iterator[None]:
        """One command at a time may start a supervisor."""
        with self.folder.gate.open("w") as gate:
            fcntl.flock(gate, fcntl.LOCK_EX)
            yield


class Told:
    """Tells a task each new state of its part, once."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._last = ""

    def tell(self, status: Status) -> bool:
        """Show the state, if it is new; give whether it was."""
        text = described(status)
        if text == self._last:
            return False
        self._last = text
        (self._task.finish if status.state == "healthy" else self._task.say)(text)
        return True


def described(status: Status) -> str:
    """Say how a part is, in words."""
    words: list[str] = [status.state]
    if status.state == "healthy":
        words += [f"in {status.start_s} s"] * (status.start_s is not None)
        words += [f"at {status.address}"] * bool(status.address)
    if status.restarts:
        words += [f"(restarts: {status.restarts})"]
    if status.port and status.port != status.wanted_port:
        words += [f"(port {status.wanted_port} was taken)"]
    return " ".join(words) + (f": {status.note}" if status.note else "")
