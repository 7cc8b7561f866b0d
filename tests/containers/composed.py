"""The project's own docker-compose.yml, running under a name and on ports of its own."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import yaml

from tests.containers.conftest import free_ports

if TYPE_CHECKING:
    from testcontainers.compose import DockerCompose

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docker-compose.yml"
SETTINGS = ROOT / "infra" / "config" / "compose" / "compose.toml"
PORTS = ("API_PORT", "KAFKA_PORT", "REDIS_PORT", "POSTGRES_PORT", "MLFLOW_PORT", "PROMETHEUS_PORT")
PROFILES = ["demo", "observe"]


@dataclass(frozen=True)
class Running:
    """The system as `up --wait` left it; `ports` are this machine's, by the name of their variable."""

    project: str
    compose: "DockerCompose"
    ports: Mapping[str, int]
    settings: Path
    """The file that its services read."""

    def client(self, port: str) -> httpx.Client:
        """HTTP to one of its servers."""
        return httpx.Client(base_url=f"http://127.0.0.1:{self.ports[port]}", timeout=60)

    def python(self, service: str, code: str, number: int = 1) -> str:
        """What a line of Python prints inside a service; `number` of its containers."""
        return self.inside(service, ["python", "-c", code], number)

    def inside(self, service: str, command: list[str], number: int = 1) -> str:
        """What a command prints inside a service."""
        return self.does("exec", "-T", "--index", str(number), service, *command)

    @contextmanager
    def explained_by(self, *names: str) -> Iterator[None]:
        """What these services wrote last is shown if what is done meanwhile fails."""
        try:
            yield
        except AssertionError:
            sys.stdout.write(self.does("logs", "--tail", "100", *names))
            raise

    def does(self, *words: str) -> str:
        """What `docker compose` prints; its trouble is shown if it fails."""
        command = [*self.compose.compose_command_property, *words]
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
        )
        assert done.returncode == 0, f"{words}: {done.stdout[-2_000:]}\n{done.stderr[-4_000:]}"
        return done.stdout.strip()


@contextmanager
def composed(folder: Path, more_settings: str) -> Iterator[Running]:
    """The whole system, built from the code that is here; nothing of it is left afterwards."""
    from testcontainers.compose import DockerCompose

    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    project = f"tollgate-test-{os.getpid()}"
    shutil.copy(SETTINGS, folder)
    settings = folder / SETTINGS.name
    settings.write_text(settings.read_text("utf-8") + more_settings, "utf-8")
    chosen = folder / "chosen.env"
    given = {"COMPOSE_PROJECT_NAME": project, "TOLLGATE_SETTINGS": folder, **ports}
    chosen.write_text("\n".join(f"{name}={value}" for name, value in given.items()), "utf-8")
    folder.chmod(0o755)  # the services are other users
    start = DockerCompose(ROOT, build=True, wait=True, env_file=str(chosen))
    every = DockerCompose(ROOT, env_file=str(chosen), profiles=PROFILES)
    try:
        _started(start)
        yield Running(project, every, ports, settings)
    finally:
        every.stop()
    assert left_over(project) == []


def _started(compose: "DockerCompose") -> None:
    """Start it; what the services wrote is shown if it does not get healthy."""
    try:
        compose.start()
    except subprocess.CalledProcessError:
        written, _ = compose.get_logs()
        sys.stdout.write(written[-20_000:])
        raise


def services(profiles: bool = False) -> dict[str, Any]:
    """The services that start without a profile, or all."""
    found: dict[str, Any] = yaml.safe_load(FILE.read_text("utf-8"))["services"]
    return {name: service for name, service in found.items() if profiles or "profiles" not in service}


def left_over(project: str) -> list[str]:
    """Names of what a project has left in the engine."""
    client, mine = _engine(), {"label": f"com.docker.compose.project={project}"}
    kinds: list[Callable[..., list[Any]]] = [client.volumes.list, client.networks.list]
    found = [each.name for kind in kinds for each in kind(filters=mine)]
    found += [each.name for each in client.containers.list(all=True, filters=mine)]
    client.close()
    return found


def told_by_docker(project: str) -> str:
    """All that `docker inspect` and `docker top` say of a project's containers."""
    client, mine = _engine(), {"label": f"com.docker.compose.project={project}"}
    containers = client.containers.list(all=True, filters=mine)
    told = [each.attrs for each in containers] + [
        each.top() for each in containers if each.status == "running"
    ]
    client.close()
    return json.dumps(told)


def _engine() -> Any:
    import docker

    return docker.from_env()
