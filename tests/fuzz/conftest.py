"""The whole system as strangers meet it: real servers, our own processes, and a key for all calls."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from infra import keys
from infra.files import written_privately
from infra.settings import Settings, load, secrets_file
from infra.stack.local import Stack
from tests.stacks import running

OURS = ("worker", "history", "api")
SEED = int(os.environ.get("TOLLGATE_SEED") or 0)
"""Of all that is drawn; 0 is that of the short runs."""


@dataclass(frozen=True)
class System:
    """A running stack."""

    stack: Stack
    settings: Settings
    key: str

    @property
    def address(self) -> str:
        """Of the API."""
        return self.settings.addresses.api

    def unharmed(self) -> None:
        """None of our processes has died, hangs or has logged a bug."""
        for status in self.stack.status():
            if status.name in OURS:
                assert (status.state, status.restarts) == ("healthy", 0), status
                told = self.stack.folder.log(status.name).read_text("utf-8", "replace")
                at = told.find("Traceback (most recent")
                assert at < 0, f"{status.name}: {told[at : at + 3_000]}"


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """The servers and our processes, gone afterwards."""
    home, key = tmp_path_factory.mktemp("fuzzed") / "home", keys.new_key()
    secret(home, key)
    with (
        running(home, ["kafka", "valkey", "mlflow", *OURS]) as stack,
        pytest.MonkeyPatch.context() as environment,
    ):
        environment.setenv("TOLLGATE_HOME", str(home))
        yield System(stack, load(), key)


def secret(home: Path, key: str) -> None:
    """The settings' layer with one key for everything, and no limit of calls."""
    home.mkdir(parents=True)
    scopes = ", ".join(f'"{scope}"' for scope in keys.SCOPES)
    known = f'{{ name = "all", scopes = [{scopes}], sha256 = "{keys.digest(key)}" }}'
    written_privately(secrets_file(home), f"[api]\nkeys = [{known}]\nrequests_per_s = 0.0\n")
