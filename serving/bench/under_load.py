"""A system of our own under a load from another process: what `bench-overload` and `soak` share."""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random

import psutil

from infra import settings
from infra.errors import UserError
from infra.progress import Display
from infra.settings import Settings
from infra.stack.local import Stack
from ingestion.broker import Consumer, Partition
from ingestion.topics import ensure_topics
from serving.bench.open_load import GRACE_S, Plan, Sent, read
from serving.bench.swaps import noise, noise_record
from training.promotion import promote
from training.runs import Desk

SERVERS = ("kafka", "valkey", "mlflow")
OURS = ("history", "worker", "api")
MIX = {"score": 0.898, "quote": 0.1, "list": 0.002}
"""Of calls; a list has as many payments as a hundred scores."""
CONNECTIONS = 64
"""Of the closed loop that finds the capacity."""
MOST_CONNECTIONS = 512
WARM_S, MEASURED_S = 15.0, 15.0
PATIENCE_S = 120.0
"""How long nothing may come before what is missing is given up."""


@dataclass(frozen=True)
class System:
    """Our servers and processes at work."""

    chosen: Settings
    stack: Stack

    @property
    def port(self) -> int:
        """Of the API."""
        return int(self.chosen.addresses.api.rpartition(":")[2])

    def processes(self) -> dict[str, psutil.Process]:
        """Of each part that runs."""
        return {
            each.name: psutil.Process(each.process.pid)
            for each in self.stack.status()
            if each.process is not None
        }


@contextmanager
def system(home: Path | None, display: Display) -> Iterator[System]:
    """A whole system in a folder of its own, gone at the end, with a champion that decides."""
    os.environ["TOLLGATE_HOME"] = str((home or settings.load().home / "bench").absolute())
    stack = Stack(settings.load().home)
    stack.up(SERVERS, display)
    try:
        chosen = settings.load()
        ensure_topics(chosen)
        _promote(chosen)
        stack.up(OURS, display)
        yield System(settings.load(), stack)
    finally:
        stack.down(purge=True)


def _promote(chosen: Settings) -> None:
    """A champion that learned from noise costs as much as any other."""
    with Desk.opened(chosen) as desk:
        desk.tracking.log(noise_record(1), noise(1), register=True)
        promote(desk.registry, desk.champions, "fraud", "1", "bench", "a model to decide by")


def capacity(of: System, display: Display) -> float:
    """Calls of the usual mix that are accepted a second when each connection waits for its answers.

    One long loop: worker and broker must be as busy as under the load that follows; a pause would be a rest.
    """
    task = display.task("Capacity")
    calls = send(
        Plan(of.port, "c", WARM_S + MEASURED_S, 0.0, CONNECTIONS, 1, MIX, of.chosen.api.headers)
    ).calls
    accepted = (calls.status >= 200) & (calls.status < 300)
    count = int((accepted & (calls.done_s >= calls.due_s[0] + WARM_S)).sum())
    if not count:
        raise UserError(f"the API accepted none of {len(calls.status)} calls; see its log.")
    task.finish(f"{count / MEASURED_S:,.0f} calls/s")
    return count / MEASURED_S


def send(plan: Plan) -> Sent:
    """Send a load from a process of its own, and wait for its end."""
    with sending(plan) as result:
        return result()


@contextmanager
def sending(plan: Plan) -> Iterator[Callable[[], Sent]]:
    """Begin to send a load; what is given waits for its end."""
    with tempfile.TemporaryDirectory(prefix="tollgate-load-") as folder:
        path = Path(folder) / "plan.json"
        path.write_text(json.dumps(asdict(plan)), "utf-8")
        command = [sys.executable, "-m", "serving.bench.open_load", str(path)]
        process = subprocess.Popen(command, stderr=subprocess.PIPE)

        def result() -> Sent:
            _, said = process.communicate(timeout=plan.seconds + GRACE_S + PATIENCE_S)
            if process.returncode:
                raise UserError(f"the load's sender failed: {said.decode(errors='replace').strip()[-500:]}")
            return read(path.parent)

        try:
            yield result
        finally:
            if process.poll() is None:
                process.kill()
                process.communicate()


class Sampler:
    """Looks at something every `every_s` seconds, in a thread, while it is open.

    With `chance` it is at any moment of each of these times: what comes and goes at an even pace, such as
    once a minute, would else be met ever more often, or ever more seldom, and look like a trend.
    """

    def __init__(self, look: Callable[[], None], every_s: float, chance: Random | None = None) -> None:
        self._look, self._every_s, self._chance = look, every_s, chance
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._error: BaseException | None = None

    def __enter__(self) -> "Sampler":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        next_s = time.monotonic()
        try:
            while not self._stop.wait(max(0.0, next_s + self._later() - time.monotonic())):
                next_s += self._every_s
                self._look()
        except BaseException as error:  # noqa: BLE001 - raised again where it can be seen
            self._error = error

    def _later(self) -> float:
        return self._chance.uniform(0, self._every_s) if self._chance else 0.0


@dataclass
class Memory:
    """Megabytes of a process at moments."""

    process: psutil.Process
    at_s: list[float] = field(default_factory=list)
    mb: list[float] = field(default_factory=list)

    def look(self) -> None:
        """Add what it is now."""
        self.at_s.append(time.time())
        self.mb.append(self.process.memory_info().rss / 1e6)


@dataclass
class Topic:
    """What comes on a topic from now on, by id."""

    address: str
    topic: str
    field_name: str
    """Of the id in the JSON of a value."""
    from_: Mapping[Partition, int] = field(init=False)

    def __post_init__(self) -> None:
        """Remember where it ends now."""
        self.from_ = self._ends()

    def count(self) -> int:
        """Messages since then."""
        return sum(self._ends().values()) - sum(self.from_.values())

    def _ends(self) -> dict[Partition, int]:
        consumer = Consumer(self.address, [self.topic], group=None)
        try:
            return consumer.ends(consumer.assignment())
        finally:
            consumer.close()

    def copies(self, run: str, wanted: Sequence[str]) -> dict[str, int]:
        """How often each id of a run came; waits until all that are wanted did, or nothing comes any more."""
        found: dict[str, int] = {}
        missing, mark = set(wanted), b'"%b":"' % self.field_name.encode()
        consumer = Consumer(self.address, [self.topic], group=None)
        for partition, offset in self.from_.items():
            consumer.seek(partition, offset)
        last = time.monotonic()
        while (missing or _behind(consumer)) and time.monotonic() - last < PATIENCE_S:
            for record in consumer.poll(wait_ms=200):
                name = _value(record.value or b"", mark)
                if name.startswith(f"{run}-"):
                    found[name] = found.get(name, 0) + 1
                    missing.discard(name)
                    last = time.monotonic()
        consumer.close()
        return found


def _behind(consumer: Consumer) -> bool:
    mine = consumer.assignment()
    return any(consumer.position(partition) < end for partition, end in consumer.ends(mine).items())


def _value(value: bytes, mark: bytes) -> str:
    start = value.find(mark) + len(mark)
    return value[start : value.find(b'"', start)].decode()
