"""Our own processes as parts of the stack: each is `tollgate run NAME`."""

import sys

from infra.stack.part import Part, Place
from infra.stack.probes import http_answers

API_PORT = 8000
A_TRAINING_MAY_BE_CUT_S = 2.0
"""Nobody waits at the end for a training that is under way: it begins anew, and nothing of it is kept."""


def command(place: Place) -> list[str]:
    """Start the process with this Python, whatever is in PATH."""
    return [sys.executable, "-m", "infra.cli", "run", place.name]


def told_ready(place: Place) -> bool:
    """Whether the process called `infra.ready.tell`."""
    return place.folder.ready(place.name).exists()


HISTORY = Part("history", command, told_ready, needs=("kafka",))
WORKER = Part("worker", command, told_ready, needs=("kafka", "valkey"))
RETRAINER = Part("retrainer", command, told_ready, needs=("kafka", "mlflow"), grace_s=A_TRAINING_MAY_BE_CUT_S)
API = Part(
    "api",
    command,
    lambda place: http_answers(place.port, "/readyz"),
    needs=("kafka", "valkey"),
    port=API_PORT,
    server="api",
    address="http://127.0.0.1:{port}",
)
