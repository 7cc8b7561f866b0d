"""MLflow's server on SQLite, artefacts in a folder, one worker."""

import sys

from infra.stack.part import Part, Place, Say
from infra.stack.probes import http_answers

PORT = 5001


def _prepare(place: Place, _say: Say) -> None:
    (place.folder.data("mlflow") / "artifacts").mkdir(parents=True, exist_ok=True)


def _command(place: Place) -> list[str]:
    data = place.folder.data("mlflow")
    options = {
        "backend-store-uri": f"sqlite:///{data / 'mlflow.db'}",
        "artifacts-destination": str(data / "artifacts"),
        "host": "127.0.0.1",
        "port": str(place.port),
        "workers": "1",
    }
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    return [sys.executable, "-m", "mlflow", "server", "--serve-artifacts", *words]


MLFLOW = Part(
    name="mlflow",
    command=_command,
    answers=lambda place: http_answers(place.port, "/health"),
    port=PORT,
    server="mlflow",
    address="http://127.0.0.1:{port}",
    prepare=_prepare,
    environment=(
        ("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false"),
        ("MLFLOW_DISABLE_TELEMETRY", "true"),
        ("DO_NOT_TRACK", "true"),
    ),
    patience_s=240,
)
