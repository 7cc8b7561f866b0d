"""Kafka's jars: fetched by jgo from their Maven coordinates, each checked against the lock's SHA-256.

Jars lie in Maven's own local repository (`~/.m2/repository`, or `M2_REPO`), shared by all checkouts.
`python -m infra.stack.jars` makes the lock anew.
"""

import hashlib
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from infra.errors import UserError

if TYPE_CHECKING:
    from jgo.maven import MavenContext

ENDPOINT = "org.apache.kafka:kafka_2.13:4.1.1+org.apache.logging.log4j:log4j-slf4j-impl:2.24.3!"
LOCK = Path(__file__).with_name("kafka.lock.toml")
DOWNLOADS_AT_ONCE = 4

Say = Callable[[str], None]


@dataclass(frozen=True)
class Jar:
    """A locked jar."""

    group: str
    artifact: str
    version: str
    sha256: str

    @property
    def path(self) -> Path:
        """Where a Maven repository keeps it."""
        name = f"{self.artifact}-{self.version}.jar"
        return Path(*self.group.split("."), self.artifact, self.version, name)


def locked() -> list[Jar]:
    """All jars of the class path, in order."""
    table = tomllib.loads(LOCK.read_text("utf-8"))["dependencies"]
    return [Jar(row["groupId"], row["artifactId"], row["version"], row["sha256"]) for row in table]


def missing(repository: Path) -> list[Jar]:
    """Jars that are not in the repository as the lock knows them."""
    return [jar for jar in locked() if not _is_whole(repository / jar.path, jar)]


def repository() -> Path:
    """Maven's local repository of this user."""
    return Path(_context().repo_cache)


def class_path(say: Say) -> list[Path]:
    """Give all jars, fetching those that are missing and saying how far that is.

    Raises:
        UserError: a jar cannot be fetched, or is not the one that was locked.
    """
    home = repository()
    absent = missing(home)
    if absent:
        _fetch(absent, home, say)
    return [home / jar.path for jar in locked()]


def _fetch(jars: list[Jar], home: Path, say: Say) -> None:
    """Fetch into a folder aside first: an interrupted download must not look like a jar."""
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".tollgate-", dir=home) as aside, _pool() as pool:
        context = _context(Path(aside))
        fetched = pool.map(lambda jar: _fetch_one(jar, context, home), jars)
        for count, jar in enumerate(_cancelling(fetched, pool), 1):
            say(f"fetching jars: {count} of {len(jars)} ({jar.artifact})")


def _cancelling(fetched: Iterator[Jar], pool: ThreadPoolExecutor) -> Iterator[Jar]:
    """After a failure the other downloads are pointless."""
    try:
        yield from fetched
    except UserError:
        pool.shutdown(wait=False, cancel_futures=True)
        raise


def _fetch_one(jar: Jar, context: "MavenContext", home: Path) -> Jar:
    component = context.project(jar.group, jar.artifact).at_version(jar.version)
    try:
        path = component.artifact().resolve()
    except (OSError, RuntimeError) as error:
        raise UserError(_unreachable(jar, error)) from error
    if not _is_whole(path, jar):
        raise UserError(f"{jar.path.name} is not the locked file (SHA-256 differs): try another network.")
    (home / jar.path).parent.mkdir(parents=True, exist_ok=True)
    path.replace(home / jar.path)
    return jar


def _unreachable(jar: Jar, error: Exception) -> str:
    reason = type(error).__name__
    return (
        f"Kafka's jars cannot be fetched ({jar.path.name}: {reason}); the first start needs the Maven "
        "repository: check the network, or name a mirror under [repositories] in ~/.config/jgo.conf."
    )


def _is_whole(path: Path, jar: Jar) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == jar.sha256


def _context(cache: Path | None = None) -> "MavenContext":
    """Give jgo's view of Maven, with the mirrors of its own configuration file."""
    from jgo import GlobalSettings
    from jgo.constants import MAVEN_CENTRAL_URL
    from jgo.maven import MavenContext

    chosen = GlobalSettings.load()
    remote = {**chosen.repositories, "central": chosen.repositories.get("central", MAVEN_CENTRAL_URL)}
    return MavenContext(repo_cache=cache or chosen.repo_cache, remote_repos=remote, timeout=30)


def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(DOWNLOADS_AT_ONCE)


def relock() -> None:
    """Resolve `ENDPOINT` anew and write the lock; for whoever moves to another Kafka."""
    from jgo.env import EnvironmentBuilder

    with tempfile.TemporaryDirectory() as folder:
        builder = EnvironmentBuilder(context=_context(), cache_dir=Path(folder))
        environment = builder.from_endpoint(ENDPOINT, main_class="kafka.Kafka")
        LOCK.write_text(environment.lock_path.read_text("utf-8"), "utf-8")


if __name__ == "__main__":
    relock()
