"""MLflow's server over a database that wants a password: `tollgate run mlflow`."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from infra.errors import UserError
from infra.settings import with_password


def mlflow(
    backend: Annotated[str, typer.Option(help="SQLAlchemy address of the database, without its password.")],
    password_file: Annotated[Path, typer.Option(help="File that holds the password.")],
    artifacts: Annotated[Path, typer.Option(help="Folder of models, plots and other files.")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 5001,
) -> None:
    """Serve MLflow; the password shows neither in its arguments nor in what Docker tells of it.

    Example: tollgate run mlflow --backend postgresql://me@db/mlflow --password-file /run/pw --artifacts /srv
    """
    try:
        password = password_file.read_text("utf-8").strip()
    except OSError as error:
        raise UserError(f"{password_file}: expected a file with a password: {error.strerror}.") from None
    environment = {**os.environ, "MLFLOW_BACKEND_STORE_URI": with_password(backend, password)}
    options = {"host": host, "port": str(port), "workers": "1", "artifacts-destination": str(artifacts)}
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    command = [sys.executable, "-m", "mlflow", "server", "--serve-artifacts", *words]
    os.execve(sys.executable, command, environment)  # noqa: S606 - this process becomes the server
