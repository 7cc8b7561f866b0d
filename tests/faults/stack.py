"""The compose stack under a name and on ports of its own, and what can be done to its containers.

Everything goes through the `docker` command line, so it needs no rights that its user does not have, and
nothing is changed in the compose file but what `overridden` tells.
"""

import json
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docker-compose.yml"
TAG = "faults"
"""Of its own: who builds the system meanwhile does not change what is tried."""
IMAGE = f"tollgate:{TAG}"
HOME = "/var/lib/tollgate"
HISTORY = f"{HOME}/history"
HISTORY_SIZE = "size=96m,uid=10001,gid=10001,mode=0755"
"""The history has a small disk of its own, in memory, so that it can be filled."""
PORTS = ("API_PORT", "KAFKA_PORT", "REDIS_PORT", "POSTGRES_PORT", "MLFLOW_PORT")
NOBODY = "02:00:00:00:de:ad"
"""A network card that is not there."""
LIMIT_S = 240.0
AUDITOR = "retrainer"
"""The service whose container runs our commands: it is the last that a score would miss."""

NEIGHBOUR = Path(__file__).with_name("neighbour.py")


class StackError(RuntimeError):
    """Docker did not do what was asked."""


def docker(*arguments: str, check: bool = True, limit_s: float = LIMIT_S) -> str:
    """What a docker command says. StackError if it fails."""
    asked = ["docker", *arguments]
    told = subprocess.run(asked, capture_output=True, text=True, timeout=limit_s, check=False)
    if check and told.returncode:
        raise StackError(f"{' '.join(asked)[:300]}: {told.stderr.strip()[-2_000:]}{told.stdout[-500:]}")
    return told.stdout.strip()


def overridden() -> dict[str, Any]:
    """What differs from the compose file: the disk of the history."""
    services: dict[str, Any] = yaml.safe_load(FILE.read_text("utf-8"))["services"]
    past = {"volumes": [f"past:{HISTORY}"]}
    changed = {
        name: past
        for name, each in services.items()
        if any(f":{HOME}" in volume for volume in each.get("volumes", ()))
    }
    tmpfs = {"type": "tmpfs", "device": "tmpfs", "o": HISTORY_SIZE}
    return {"services": changed, "volumes": {"past": {"driver": "local", "driver_opts": tmpfs}}}


@dataclass(frozen=True)
class Stack:
    """A running project.

    Args:
        project: its name.
        ports: of this machine, by the name of their variable.
        folder: for the files that say how it differs.
    """

    project: str
    ports: Mapping[str, int]
    folder: Path

    @classmethod
    def running(cls, project: str, folder: Path) -> "Stack":
        """One that runs already."""
        inside = {"API_PORT": ("api", "8000"), "KAFKA_PORT": ("kafka", "9092")}
        found = {
            name: int(docker("port", f"{project}-{service}-1", port).splitlines()[0].rpartition(":")[2])
            for name, (service, port) in inside.items()
        }
        return cls(project, found, folder)

    def compose(self, *arguments: str, limit_s: float = 1_200) -> str:
        """What a compose command says."""
        override = self.folder / "override.yml"
        override.write_text(yaml.safe_dump(overridden()), "utf-8")
        values: dict[str, object] = {**self.ports, "TOLLGATE_TAG": TAG}
        environment = "\n".join(f"{name}={value}" for name, value in values.items())
        chosen = self.folder / "ports.env"
        chosen.write_text(environment, "utf-8")
        files = ["--env-file", str(chosen), "-f", str(FILE), "-f", str(override)]
        return docker("compose", "-p", self.project, *files, *arguments, limit_s=limit_s)

    def up(self, workers: int = 2) -> None:
        """Build the image from the code that is here, start everything, wait until a score can be had."""
        self.compose("build", "--quiet", "api")
        asked = ("up", "-d", "--wait", "--scale", f"worker={workers}")
        try:
            self.compose(*asked)
        except StackError:  # on a busy machine a server may take longer than compose waits
            self.compose(*asked)

    def down(self) -> None:
        """Stop everything and forget it."""
        self.compose("down", "-v", "--timeout", "5")

    def containers(self, service: str | None = None) -> list[str]:
        """Names of the containers of a service, or of all, also of those that stand still."""
        mine = ["--filter", f"label=com.docker.compose.project={self.project}"]
        only = ["--filter", f"label=com.docker.compose.service={service}"] if service else []
        return sorted(docker("ps", "-a", *mine, *only, "--format", "{{.Names}}").split())

    def states(self) -> dict[str, str]:
        """What each container says of itself, such as `Up 2 minutes (healthy)`."""
        mine = ["--filter", f"label=com.docker.compose.project={self.project}"]
        lines = docker("ps", "-a", *mine, "--format", "{{.Names}}\t{{.Status}}").splitlines()
        return dict(line.split("\t") for line in lines if "-secrets-" not in line)

    def healthy(self) -> bool:
        """Whether all run and say that they are well."""
        return all("(healthy)" in state for state in self.states().values())

    def each(self, command: Sequence[str], service: str) -> None:
        """A docker command with every container of a service as its last word."""
        docker(*command, *self.containers(service))

    def python(self, code: str, service: str = AUDITOR) -> str:
        """What a program says inside a container of ours, with the settings that are there."""
        return docker("exec", self.containers(service)[0], "python", "-c", code)

    def tollgate(self, *arguments: str, given: str = "") -> tuple[int, str]:
        """Exit code and output of a command of ours, inside a container; `given` is its input."""
        asked = ["docker", "exec", "-i", self.containers(AUDITOR)[0], "tollgate", *arguments]
        told = subprocess.run(
            asked, input=given, capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
        return told.returncode, told.stdout or told.stderr

    def key(self) -> str:
        """Value of the header that our own programs send."""
        return self.python("from infra.settings import load; print(load().api.headers['Authorization'])")

    def cut(self, one: str, other: str) -> None:
        """Let nothing through between two services, silently: each takes the other for a card not there."""
        self._neighbours(one, other, "cut")

    def mend(self, one: str, other: str) -> None:
        """Let them hear each other again."""
        self._neighbours(one, other, "mend")

    def _neighbours(self, one: str, other: str, how: str) -> None:
        for here, there in ((one, other), (other, one)):
            addresses = [address for name in self.containers(there) if (address := self._address(name))]
            for name in self.containers(here):
                self._with_network_of(name, how, addresses)

    def _with_network_of(self, name: str, how: str, addresses: Sequence[str]) -> None:
        """A short-lived container with the right to change the network of another, as that one has not."""
        docker(
            "run", "--rm", "--user", "0", "--cap-add", "NET_ADMIN", "--network", f"container:{name}",
            IMAGE, "python", "-c", NEIGHBOUR.read_text("utf-8"), how, NOBODY, *addresses,
        )  # fmt: skip

    def _address(self, name: str) -> str:
        shown = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}"
        return docker("inspect", "-f", shown, name).split(" ")[0]

    def audit(self, accepted: Sequence[tuple[str, str]], patience_s: float) -> Mapping[str, Any]:
        """What `tollgate audit` finds, with the events that were accepted. StackError if it can't tell."""
        lines = "\n".join(json.dumps({"topic": topic, "id": name}) for topic, name in accepted)
        told = self.tollgate(
            "audit", "--json", "--accepted", "/dev/stdin", "--patience", str(patience_s), given=lines
        )[1]
        try:
            found: dict[str, Any] = json.loads(told.splitlines()[0])
        except (json.JSONDecodeError, IndexError) as error:
            raise StackError(f"the audit could not tell: {told[-2_000:]}") from error
        return found

    def logs(self, service: str, since_s: float) -> str:
        """The last lines that a service wrote."""
        return "\n".join(
            subprocess.run(
                ["docker", "logs", "--since", f"{since_s:.0f}s", "--tail", "200", name],
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=60,
            ).stdout
            for name in self.containers(service)
        )  # fmt: skip


def wait_until(true: Callable[[], bool], limit_s: float, pause_s: float = 0.5) -> float:
    """Wait for it; gives how many seconds that took. StackError if it does not come true."""
    began = time.monotonic()
    while not true():
        if time.monotonic() - began > limit_s:
            raise StackError(f"expected {true.__doc__ or true} within {limit_s:.0f} s")
        time.sleep(pause_s)
    return time.monotonic() - began
