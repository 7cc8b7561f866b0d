"""Runs and registered models: the only module that speaks MLflow.

`Registry` speaks its REST interface and imports nothing of it, so that serving and the command line may ask
in a moment which version is the champion. `Tracking` records runs, with MLflow's own client (7 s to
import).
"""

import json
import logging
import math
import os
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx

from infra.errors import UserError
from training import card as cards
from training.models import Scorer

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
MODEL_FOLDER = "tollgate"
"""Artefact folder of a run that holds our own `model.json` and its files."""
HEADLINE = "headline"
"""Tag of a version: its few most telling figures, as JSON."""
SHADOW, IN_SHADOW, DIRECT, ASIDE, PROMOTED, REFUSED = "shadow", "on", "direct", "off", "promoted", "refused"
"""Tag of a version, and what it may be: scoring beside the champion; to take over on its trial alone;
neither; once champion; refused, with a colon and why."""
CANARY = "canary"
"""Alias of the version that decides for some customers, its state in the tag `SHADOW`, and the tag that says
for which and since when, as JSON."""
EVIDENCE = "shadow_evidence"
"""Tag of a version: what its shadow has shown so far, as JSON."""

PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "30", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}
"""Of MLflow's own client, by its variables; unless they are set, it waits 120 s, eight times."""
KEPT_S = 2.0
"""MLflow closes a connection that was idle for 5 s: a client that keeps it as long may ask just then."""
_API = "/api/2.0/mlflow"
_ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
_MAX_PARAMETER = 500


class RegistryError(UserError):
    """MLflow did not answer, or refused."""


class RegistryAwayError(RegistryError):
    """MLflow did not answer, or can't just now."""


@dataclass(frozen=True)
class Version:
    """A registered version of a task's model."""

    task: str
    version: str
    run_id: str
    aliases: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)


class Registry:
    """Registered models over plain HTTP.

    Args:
        url: address of the MLflow server.
        timeout_s: for each call; a download may take ten times as long.
    """

    def __init__(self, url: str, timeout_s: float = 2.0) -> None:
        self._url = url
        self._http = httpx.Client(
            base_url=url, timeout=timeout_s, limits=httpx.Limits(keepalive_expiry=KEPT_S)
        )
        self._patient = httpx.Timeout(10 * timeout_s)

    def champion(self, task: str) -> Version | None:
        """The version that the alias `champion` names; None before the first.

        Raises:
            RegistryError: MLflow is down.
        """
        return self.aliased(task, CHAMPION)

    def aliased(self, task: str, alias: str) -> Version | None:
        """The version of an alias, or None."""
        found = self._ask("GET", "registered-models/alias", {"name": task, "alias": alias})
        return None if found is None else _version(task, found["model_version"])

    def version(self, task: str, version: str) -> Version | None:
        """A version by its number, or None."""
        found = self._ask("GET", "model-versions/get", {"name": task, "version": version})
        return None if found is None else _version(task, found["model_version"])

    def versions(self, task: str, shadow: str | None = None) -> list[Version]:
        """The latest hundred versions with their aliases, newest first; of those whose tag `SHADOW` is so."""
        chosen = f"name='{task}'" + (f" and tags.`{SHADOW}`='{shadow}'" if shadow else "")
        asked = {"filter": chosen, "max_results": "100", "order_by": "version_number DESC"}
        found = self._ask("GET", "model-versions/search", asked) or {}
        aliases = self._aliases(task)  # a search does not tell them
        versions = [_version(task, each) for each in found.get("model_versions", ())]
        named = [replace(each, aliases=aliases.get(each.version, ())) for each in versions]
        return sorted(named, key=lambda each: int(each.version), reverse=True)

    def _aliases(self, task: str) -> dict[str, tuple[str, ...]]:
        model = (self._ask("GET", "registered-models/get", {"name": task}) or {}).get("registered_model", {})
        aliases: dict[str, tuple[str, ...]] = {}
        for each in model.get("aliases", ()):
            aliases[str(each["version"])] = (*aliases.get(str(each["version"]), ()), each["alias"])
        return aliases

    def set_alias(self, task: str, alias: str, version: str) -> None:
        """Point an alias at a version."""
        self._tell("POST", "registered-models/alias", {"name": task, "alias": alias, "version": version})

    def drop_alias(self, task: str, alias: str) -> None:
        """Forget an alias; forgetting one that is not there is nothing."""
        self._ask("DELETE", "registered-models/alias", {"name": task, "alias": alias})

    def tag(self, task: str, version: str, name: str, value: str) -> None:
        """Set a tag of a version."""
        values = {"name": task, "version": version, "key": name, "value": value[:5000]}
        self._tell("POST", "model-versions/set-tag", values)

    def download(self, version: Version, folder: Path) -> None:
        """Fetch our model folder of a version's run: the card and each file it names.

        Raises:
            RegistryError: MLflow is down, or the run has no such folder.
        """
        folder.mkdir(parents=True, exist_ok=True)
        card = self._artefact(version, cards.CARD)
        (folder / cards.CARD).write_bytes(card)
        for name in json.loads(card)["files"]:
            (folder / name).write_bytes(self._artefact(version, name))

    def has_run(self, run_id: str) -> bool:
        """Whether MLflow has such a run."""
        return self._ask("GET", "runs/get", {"run_id": run_id}) is not None

    def document(self, run_id: str, path: str) -> bytes | None:
        """A file that a run left behind; None if it left none of that name."""
        asked = {"run_id": run_id, "path": path}
        reply = self._send("GET", "/get-artifact", params=asked, timeout=self._patient)
        return None if reply.is_error else reply.content

    def _artefact(self, version: Version, name: str) -> bytes:
        asked = {"run_id": version.run_id, "path": f"{MODEL_FOLDER}/{name}"}
        reply = self._send("GET", "/get-artifact", params=asked, timeout=self._patient)
        if reply.is_error:
            raise RegistryError(
                f"run {version.run_id} of {version.task} {version.version} has no {asked['path']}."
            )
        return reply.content

    def _ask(self, method: str, call: str, asked: Mapping[str, str]) -> dict[str, Any] | None:
        """The answer, None if there is no such thing."""
        body = {"json": asked} if method == "DELETE" else {"params": asked}
        reply = self._send(method, f"{_API}/{call}", **body)
        if reply.is_error and _code(reply) in _ABSENT:
            return None
        return _answer(reply, call)

    def _tell(self, method: str, call: str, values: Mapping[str, str]) -> None:
        _answer(self._send(method, f"{_API}/{call}", json=values), call)

    def _send(self, method: str, path: str, **rest: Any) -> httpx.Response:
        try:
            return self._http.request(method, path, **rest)
        except httpx.HTTPError as error:
            raise RegistryAwayError(f"expected MLflow at {self._url}: {error}; run `tollgate up`.") from None

    def close(self) -> None:
        """Disconnect."""
        self._http.close()


def _answer(reply: httpx.Response, call: str) -> dict[str, Any]:
    if reply.is_error:
        kind = RegistryAwayError if reply.is_server_error else RegistryError
        raise kind(f"MLflow refused {call}: {reply.status_code} {reply.text[:200]}")
    answer: dict[str, Any] = reply.json()
    return answer


def _code(reply: httpx.Response) -> str:
    try:
        return str(reply.json().get("error_code"))
    except ValueError:
        return ""


def _version(task: str, values: Mapping[str, Any]) -> Version:
    return Version(
        task,
        str(values["version"]),
        str(values.get("run_id", "")),
        tuple(values.get("aliases", ())),
        {tag["key"]: tag.get("value", "") for tag in values.get("tags", ())},
    )


@dataclass(frozen=True)
class Record:
    """Everything a run leaves behind, beside its model."""

    task: str
    name: str
    parameters: Mapping[str, object]
    metrics: Mapping[str, float]
    """Not a number is left out: MLflow's store cannot keep it."""
    tags: Mapping[str, str]
    headline: Mapping[str, float]
    """The few figures to show beside a version."""
    documents: Mapping[str, Any] = field(default_factory=dict)
    """JSON artefacts by file name."""
    figures: Mapping[str, bytes] = field(default_factory=dict)
    """PNG artefacts by file name."""
    beside: Mapping[str, bytes] = field(default_factory=dict)
    """Files that lie in the model's folder and are checksummed in its card."""


@dataclass(frozen=True)
class Logged:
    """Where a run can be found; no version if it was not registered."""

    run_id: str
    version: str | None


class Tracking:
    """Records runs in MLflow.

    Args:
        url: address of the MLflow server.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        for name, value in PATIENCE.items():
            os.environ.setdefault(name, value)

    def log(self, record: Record, model: Scorer, register: bool, shadow: str = ASIDE) -> Logged:
        """Record a run with its model; `register` makes the model a version with the alias `challenger`.

        The version appears last: whatever a killed run leaves is never a half-registered model. What it is to
        do (`shadow`: `IN_SHADOW`, `DIRECT` or `ASIDE`) appears with it.

        Raises:
            RegistryError: MLflow is down, or refused.
        """
        import mlflow

        try:
            with _quiet():
                mlflow.set_tracking_uri(self._url)
                return _logged(mlflow, record, model, shadow if register else None)
        except mlflow.exceptions.MlflowException as error:
            raise RegistryError(f"expected MLflow at {self._url} to keep the run: {error}") from error

    def attach(self, run_id: str, folder: str, files: Mapping[str, bytes]) -> None:
        """Put more artefacts into a folder of a run that is over; those of the same name are replaced.

        Raises:
            RegistryError: MLflow is down, or has no such run.
        """
        import mlflow

        try:
            with _quiet(), tempfile.TemporaryDirectory() as space:
                mlflow.set_tracking_uri(self._url)
                for name, content in files.items():
                    (Path(space) / name).write_bytes(content)
                mlflow.MlflowClient().log_artifacts(run_id, space, folder)
        except mlflow.exceptions.MlflowException as error:
            raise RegistryError(
                f"expected MLflow at {self._url} to take artefacts of run {run_id}: {error}"
            ) from error


def _logged(mlflow: Any, record: Record, model: Scorer, shadow: str | None) -> Logged:
    experiment = mlflow.set_experiment(record.task)
    with mlflow.start_run(
        experiment_id=experiment.experiment_id, run_name=record.name, tags=dict(record.tags)
    ) as run:
        run_id = str(run.info.run_id)
        client = mlflow.MlflowClient()
        _log_values(client, run_id, record)
        _log_files(client, run_id, record, model)
        native = _log_native(mlflow, model)
        version = _register(client, record, Source(run_id, native), shadow) if shadow else None
    return Logged(run_id, version)


def _log_values(client: Any, run_id: str, record: Record) -> None:
    """Parameters and metrics in one call."""
    from mlflow.entities import Metric, Param

    now_ms = int(time.time() * 1000)
    metrics = [Metric(key, value, now_ms, 0) for key, value in record.metrics.items() if math.isfinite(value)]
    parameters = [Param(key, str(value)[:_MAX_PARAMETER]) for key, value in record.parameters.items()]
    client.log_batch(run_id, metrics=metrics, params=parameters)


def _log_files(client: Any, run_id: str, record: Record, model: Scorer) -> None:
    """Documents, figures and our own form of the model."""
    with tempfile.TemporaryDirectory() as space:
        folder = Path(space)
        for name, document in record.documents.items():
            (folder / name).write_text(json.dumps(document, indent=1, default=str), "utf-8")
        for name, figure in record.figures.items():
            (folder / name).write_bytes(figure)
        model.card = replace(model.card, run_id=run_id)
        model.save(folder / MODEL_FOLDER)
        cards.add(folder / MODEL_FOLDER, record.beside)
        client.log_artifacts(run_id, space)


def _log_native(mlflow: Any, model: Scorer) -> str | None:
    """A booster in MLflow's own format too, for whoever loads it by `mlflow.lightgbm`; gives its id."""
    if model.native is None:
        return None
    from importlib.metadata import version

    requirements = [f"{name}=={version(name)}" for name in ("lightgbm", "mlflow", "numpy", "pandas")]
    info = mlflow.lightgbm.log_model(model.native, name="model", pip_requirements=requirements)
    return str(info.model_id)


@dataclass(frozen=True)
class Source:
    """Where the artefacts of a version are."""

    run_id: str
    native: str | None
    """Id of the booster in MLflow's own format."""


def _register(client: Any, record: Record, of: Source, shadow: str) -> str:
    """A new version of the task's model, pointed at by `challenger`; gives its number."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(record.task)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    source = f"models:/{of.native}" if of.native else f"runs:/{of.run_id}/{MODEL_FOLDER}"
    tags = {**record.tags, HEADLINE: json.dumps(record.headline), SHADOW: shadow}
    created = client.create_model_version(
        record.task, source, of.run_id, tags=tags, await_creation_for=None, model_id=of.native
    )
    client.set_registered_model_alias(record.task, CHALLENGER, created.version)
    return str(created.version)


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars, hints or warnings of MLflow's about itself for a while."""
    from mlflow.environment_variables import MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR as BARS
    from mlflow.environment_variables import MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT as ADDRESSES

    logger = logging.getLogger("mlflow")
    level = logger.level
    logger.setLevel(logging.ERROR)
    BARS.set(False)
    ADDRESSES.set(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def pyfunc(url: str, task: str) -> Any:
    """The champion as MLflow's generic model, whose `predict` takes a DataFrame: convenient, but not ours."""
    import mlflow

    with _quiet():
        mlflow.set_tracking_uri(url)
        return mlflow.pyfunc.load_model(f"models:/{task}@{CHAMPION}")
