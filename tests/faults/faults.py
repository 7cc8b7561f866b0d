"""What may go wrong, as values: each begins and ends, in a running stack under load."""

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from tests.faults.load import Load, Manner
from tests.faults.stack import AUDITOR, HISTORY, Stack, StackError, docker

FILL = """
import os
with open({file!r}, "wb", buffering=0) as disk:
    try:
        while True:
            disk.write(bytes(65536))
    except OSError:
        print("full")
"""
EMPTIED = """
from features.connection import Connection
from infra.settings import load
Connection(load().addresses.redis).execute([("FLUSHALL",)])
"""
RHYTHM_S = (1.5, 0.5)
"""Asleep and awake."""
SMALL_SHARE = "0.15"


class Fault(Protocol):
    """A disturbance."""

    @property
    def name(self) -> str:
        """As the table calls it."""
        ...

    @property
    def lasts_s(self) -> float:
        """From its begin to its end."""
        ...

    @property
    def hits(self) -> Sequence[str]:
        """Services that are themselves disturbed."""
        ...

    def begin(self, stack: Stack, load: Load) -> None:
        """Disturb."""
        ...

    def end(self, stack: Stack, load: Load) -> None:
        """Disturb no longer."""
        ...


@dataclass(frozen=True)
class Killed:
    """Signal 9 to all containers of some services at once; started again at the end."""

    hits: tuple[str, ...]
    lasts_s: float = 5.0

    @property
    def name(self) -> str:
        """Such as `kill -9 redis`."""
        return f"kill -9 {', '.join(self.hits)}" + (f" for {self.lasts_s:.0f} s" if self.lasts_s > 10 else "")

    def begin(self, stack: Stack, load: Load) -> None:
        """Kill."""
        docker("kill", *(name for each in self.hits for name in stack.containers(each)))

    def end(self, stack: Stack, load: Load) -> None:
        """Start."""
        docker("start", *(name for each in self.hits for name in stack.containers(each)))


@dataclass(frozen=True)
class Paused:
    """All containers of some services stand still, with their connections open."""

    hits: tuple[str, ...]
    lasts_s: float = 30.0

    @property
    def name(self) -> str:
        """Such as `redis stands still for 30 s`."""
        return f"{', '.join(self.hits)} stand still for {self.lasts_s:.0f} s"

    def begin(self, stack: Stack, load: Load) -> None:
        """Stop them in mid-air."""
        docker("pause", *(name for each in self.hits for name in stack.containers(each)))

    def end(self, stack: Stack, load: Load) -> None:
        """Let them go on."""
        docker("unpause", *(name for each in self.hits for name in stack.containers(each)))


@dataclass(frozen=True)
class Cut:
    """Nothing passes between the services of each pair; no refusal, only silence."""

    pairs: tuple[tuple[str, str], ...]
    lasts_s: float = 20.0
    hits: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Such as `no network between api and redis for 20 s`."""
        told = "; ".join(f"{one} – {other}" for one, other in self.pairs)
        return f"network cut for {self.lasts_s:.0f} s: {told}"

    def begin(self, stack: Stack, load: Load) -> None:
        """Cut."""
        for pair in self.pairs:
            stack.cut(*pair)

    def end(self, stack: Stack, load: Load) -> None:
        """Mend."""
        for pair in self.pairs:
            stack.mend(*pair)


@dataclass(frozen=True)
class Restarted:
    """A service is told to stop, and started again; several containers of it one after the other."""

    hits: tuple[str, ...]
    lasts_s: float = 0.0
    name: str = "rolling restart"

    def begin(self, stack: Stack, load: Load) -> None:
        """One after the other, each when the one before is well again."""
        from tests.faults.stack import wait_until

        for service in self.hits:
            for name in stack.containers(service):
                docker("restart", "-t", "30", name)
                wait_until(stack.healthy, limit_s=90)

    def end(self, stack: Stack, load: Load) -> None:
        """All is done."""


@dataclass(frozen=True)
class Flushed:
    """Redis is emptied; the end computes its states anew from the history."""

    name: str = "Redis emptied, then `tollgate rebuild`"
    lasts_s: float = 3.0
    hits: tuple[str, ...] = ()

    def begin(self, stack: Stack, load: Load) -> None:
        """Forget everything."""
        stack.python(EMPTIED)

    def end(self, stack: Stack, load: Load) -> None:
        """Rebuild."""
        code, told = stack.tollgate("rebuild", "--json")
        if code:
            raise StackError(f"rebuild failed: {told[-1_000:]}")


@dataclass(frozen=True)
class DiskFull:
    """The disk of the history has not a byte left."""

    name: str = "disk full for the history"
    lasts_s: float = 15.0
    hits: tuple[str, ...] = ()
    file: str = f"{HISTORY}/.filled"

    def begin(self, stack: Stack, load: Load) -> None:
        """Fill it."""
        told = stack.python(FILL.format(file=self.file), AUDITOR)
        if told != "full":
            raise StackError(f"the disk did not fill: {told}")

    def end(self, stack: Stack, load: Load) -> None:
        """Make room."""
        stack.python(f"import os; os.remove({self.file!r})", AUDITOR)


@dataclass(frozen=True)
class SentOtherwise:
    """Events that come in another manner than they should."""

    name: str
    manner: Manner
    lasts_s: float = 15.0
    hits: tuple[str, ...] = ()

    def begin(self, stack: Stack, load: Load) -> None:
        """Send so."""
        load.manner = self.manner

    def end(self, stack: Stack, load: Load) -> None:
        """Send as usual."""
        load.manner = Manner()


@dataclass(frozen=True)
class Slow:
    """A service gets a small share of a processor, and sleeps in a rhythm."""

    service: str
    lasts_s: float = 25.0
    hits: tuple[str, ...] = ()
    _awake: threading.Event = field(default_factory=threading.Event, compare=False, repr=False)
    _threads: list[threading.Thread] = field(default_factory=list, compare=False, repr=False)

    @property
    def name(self) -> str:
        """Such as `slow worker`."""
        return f"slow {self.service}: {SMALL_SHARE} of a processor, asleep three quarters of the time"

    def begin(self, stack: Stack, load: Load) -> None:
        """Slow it down."""
        docker("update", "--cpus", SMALL_SHARE, *stack.containers(self.service))
        self._awake.clear()
        self._threads.append(threading.Thread(target=self._rhythm, args=(stack.containers(self.service),)))
        self._threads[-1].start()

    def end(self, stack: Stack, load: Load) -> None:
        """Let it have all processors again."""
        self._awake.set()
        self._threads.pop().join()
        docker("update", "--cpus", str(os.cpu_count() or 1), *stack.containers(self.service))

    def _rhythm(self, names: Sequence[str]) -> None:
        asleep, awake = RHYTHM_S
        while not self._awake.is_set():
            docker("pause", *names, check=False)
            self._awake.wait(asleep)
            docker("unpause", *names, check=False)
            self._awake.wait(awake)


FAULTS: tuple[Fault, ...] = (
    Killed(("kafka",)),
    Killed(("redis",)),
    Killed(("api",)),
    Killed(("worker",)),
    Killed(("history",)),
    Killed(("retrainer",)),
    Killed(("postgres", "mlflow"), lasts_s=60.0),
    Restarted(("kafka",), name="Kafka restarted"),
    Paused(("kafka",)),
    Paused(("redis",)),
    Paused(("worker",)),
    Paused(("api",)),
    Paused(("history", "retrainer", "postgres", "mlflow")),
    Cut((("api", "redis"),)),
    Cut((("api", "kafka"),)),
    Cut((("worker", "redis"),)),
    Cut((("worker", "kafka"),)),
    Cut((("history", "kafka"), ("mlflow", "postgres"), ("api", "mlflow"), ("worker", "mlflow"))),
    Cut((("retrainer", "mlflow"), ("retrainer", "kafka"), ("retrainer", "redis"))),
    Flushed(),
    DiskFull(),
    SentOtherwise("every event twice, in any order", Manner(copies=2, shuffled=True)),
    SentOtherwise("event times between 36 h behind and 20 h ahead", Manner(skew_h=(-36.0, 20.0))),
    Slow("worker"),
    Restarted(("worker", "api"), name="rolling restart of workers and API"),
)
"""The whole set."""

SHORT: tuple[Fault, ...] = (
    Killed(("worker",)),
    Killed(("redis",)),
    Cut((("worker", "kafka"),), lasts_s=12.0),
)
"""What CI tries."""
