"""The API in several processes: one port, one sum of figures; one that dies is replaced, all end together."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest
from prometheus_client.mmap_dict import MmapedDict

from tests.containers.conftest import free_ports
from tests.servers import Servers, until

pytestmark = pytest.mark.servers

PROCESSES = 3
CALLS = 240
BEGUN = "Application startup complete"


@dataclass
class Api:
    """`tollgate run api`, and what it has written."""

    process: "subprocess.Popen[bytes]"
    port: int
    log: Path
    space: Path

    def begun(self) -> int:
        """How many processes have begun to serve so far."""
        return self.log.read_text("utf-8").count(BEGUN)

    def get(self, path: str) -> httpx.Response:
        """Ask over a connection of its own, so any process may answer."""
        return httpx.get(f"http://127.0.0.1:{self.port}{path}", timeout=20)

    def answered(self) -> float:
        """Answers of /healthz as /metrics counts them."""
        found = re.search(
            r'^tollgate_api_requests_total\{call="/healthz",status="200"\} (\S+)$',
            self.get("/metrics").text,
            re.MULTILINE,
        )
        return float(found[1]) if found else 0.0

    def files(self, kind: str) -> dict[int, Path]:
        """Where each process keeps its figures, by its id."""
        return {int(path.stem.rpartition("_")[2]): path for path in self.space.glob(f"*/{kind}_*.db")}


@pytest.fixture
def api(servers: Servers, tmp_path: Path) -> Iterator[Api]:
    (port,) = free_ports(1)
    space, log = tmp_path / "space", tmp_path / "log"
    space.mkdir()
    environment = {
        **os.environ,
        **servers.variables,
        "TMPDIR": str(space),
        "TOLLGATE_API__WORKERS": str(PROCESSES),
    }
    command = [sys.executable, "-m", "infra.cli", "run", "api", "--port", str(port)]
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=environment, stderr=out)
    running = Api(process, port, log, space)
    try:
        until(lambda: running.begun() == PROCESSES or process.poll() is not None, limit_s=120)
        yield running
    finally:
        for each in [*psutil.Process(process.pid).children(recursive=True)] if process.poll() is None else []:
            each.kill()
        process.kill()
        process.wait()


def ask_many(api: Api) -> None:
    with ThreadPoolExecutor(12) as threads:
        statuses = list(threads.map(lambda _: api.get("/healthz").status_code, range(CALLS)))
    assert statuses == [200] * CALLS


def own_count(file: Path) -> float:
    """Answers of /healthz by one process."""
    values = MmapedDict.read_all_values_from_file(str(file))
    return sum(value for key, value, _, _ in values if "requests_total" in key and "/healthz" in key)


def test_several_are_one_and_a_dead_one_is_replaced(api: Api) -> None:
    ask_many(api)
    counts = {process: own_count(path) for process, path in api.files("counter").items()}
    assert len(counts) == PROCESSES
    assert sum(count > 0 for count in counts.values()) > 1, "one process answered all"
    assert {api.answered() for _ in range(8)} == {CALLS}
    assert re.search(r'^tollgate_policy_info\{[^}]*version="\w+"\} 1\.0$', api.get("/metrics").text, re.M)

    killed = max(counts, key=lambda process: counts[process])
    os.kill(killed, signal.SIGSTOP)
    time.sleep(1.0)  # who watches over it waits for its answer now
    os.kill(killed, signal.SIGKILL)
    until(lambda: api.begun() == PROCESSES + 1, limit_s=60)
    assert api.answered() == CALLS, "what the dead one counted stays"
    assert killed not in api.files("gauge_livemax")
    assert len(api.files("gauge_livemax")) == PROCESSES
    ask_many(api)
    assert api.answered() == 2 * CALLS

    family = psutil.Process(api.process.pid).children(recursive=True)
    api.process.terminate()
    assert api.process.wait(20) == 0
    until(lambda: not any(each.is_running() for each in family), limit_s=5)  # the last one tidies up
    assert not list(api.space.iterdir()), "its figures go with it"
