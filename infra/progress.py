"""Progress of long work on stderr: bars on a terminal, a plain line now and then without one, or nothing."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

LINE_EVERY_S = 5.0


class Task(Protocol):
    """One piece of long work."""

    def advance(self, n: float = 1) -> None:
        """`n` more units are done."""

    def expect(self, total: float) -> None:
        """The whole is `total` units, known only now."""

    def say(self, note: str) -> None:
        """Show `note` beside the title instead of the last one."""

    def finish(self, note: str) -> None:
        """The work is over; `note` says how it went."""


class Display(Protocol):
    """Shows several pieces of work side by side."""

    def task(self, title: str, total: float | None = None, unit: str = "") -> Task:
        """Show a new piece of work; `total` None if nobody knows how long it will be."""


class Silent:
    """Shows nothing; a display and its tasks at once."""

    def task(self, title: str, total: float | None = None, unit: str = "") -> Task:  # noqa: ARG002
        """Give itself: all silent tasks are alike."""
        return self

    def advance(self, n: float = 1) -> None:
        """Nothing to show."""

    def expect(self, total: float) -> None:
        """Nothing to show."""

    def say(self, note: str) -> None:
        """Nothing to show."""

    def finish(self, note: str) -> None:
        """Nothing to show."""


class Lines:
    """Plain lines for a log file or a pipe: one as a note changes, and at most one in `LINE_EVERY_S`."""

    def __init__(self, out: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._out, self._clock = out, clock

    def task(self, title: str, total: float | None = None, unit: str = "") -> "LinesTask":
        """Announce nothing yet: the first line comes with the first note or the first news."""
        return LinesTask(self._out, self._clock, title, total, unit)


class LinesTask:
    """One piece of work told in lines."""

    def __init__(
        self, out: TextIO, clock: Callable[[], float], title: str, total: float | None, unit: str
    ) -> None:
        self._out, self._clock, self._title, self._total, self._unit = out, clock, title, total, unit
        self._done, self._told_at, self._note = 0.0, clock(), ""

    def advance(self, n: float = 1) -> None:
        """Tell how far it is, unless that was told a moment ago."""
        self._done += n
        if self._clock() - self._told_at >= LINE_EVERY_S:
            self._tell(_amount(self._done, self._total, self._unit))

    def expect(self, total: float) -> None:
        """Later lines show a percentage."""
        self._total = total

    def say(self, note: str) -> None:
        """Tell a note once."""
        if note != self._note:
            self._note = note
            self._tell(note)

    def finish(self, note: str) -> None:
        """Tell the end."""
        self._tell(note)

    def _tell(self, text: str) -> None:
        self._told_at = self._clock()
        print(f"{self._title}: {text}", file=self._out, flush=True)


class Bars:
    """Bars and spinners on a terminal."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars

    def task(self, title: str, total: float | None = None, unit: str = "") -> "BarsTask":
        """Add a bar, pulsing while `total` is unknown."""
        return BarsTask(self._bars, self._bars.add_task(title, total=total, note=""), unit)


class BarsTask:
    """One bar."""

    def __init__(self, bars: Progress, task: TaskID, unit: str) -> None:
        self._bars, self._task, self._unit = bars, task, unit

    def advance(self, n: float = 1) -> None:
        """Move the bar."""
        self._bars.advance(self._task, n)
        if self._unit:
            at = self._bars.tasks[self._task]
            self.say(_amount(at.completed, at.total, self._unit))

    def expect(self, total: float) -> None:
        """Turn the pulse into a bar."""
        self._bars.update(self._task, total=total)

    def say(self, note: str) -> None:
        """Show a note right of the bar."""
        self._bars.update(self._task, note=note)

    def finish(self, note: str) -> None:
        """Fill the bar."""
        total = self._bars.tasks[self._task].total or 1
        self._bars.update(self._task, total=total, completed=total, note=note)


@contextmanager
def shown(silent: bool = False, out: TextIO | None = None) -> Iterator[Display]:
    """A display for several tasks, on stderr; `silent` for `--json`."""
    stream = out or sys.stderr
    if silent:
        yield Silent()
    elif not stream.isatty():
        yield Lines(stream)
    else:
        with _bars(stream) as bars:
            yield Bars(bars)


@contextmanager
def working(title: str, total: float | None = None, unit: str = "", silent: bool = False) -> Iterator[Task]:
    """One task on a display of its own.

    >>> with working("Reading", total=2, silent=True) as task:
    ...     task.advance()
    """
    with shown(silent) as display:
        yield display.task(title, total, unit)


def _bars(stream: TextIO) -> Progress:
    columns = (
        SpinnerColumn(finished_text="[green]✓"),
        TextColumn("{task.description:<14}"),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    return Progress(*columns, console=Console(file=stream))


def _amount(done: float, total: float | None, unit: str) -> str:
    """Say how much is done.

    >>> _amount(500, 2000, "rows")
    '500 of 2,000 rows (25 %)'
    """
    if total:
        return f"{done:,.0f} of {total:,.0f} {unit} ({done / total:.0%})".replace("%", " %")
    return f"{done:,.0f} {unit}".rstrip()
