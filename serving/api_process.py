"""The HTTP API as a process, or several behind one port: `tollgate run api`.

Several share one listening socket. What they must know of each other is in Redis, Kafka and the home folder;
limits of calls count in each of them, and `/metrics` of any is the sum of all. The process that watches over
them loads nothing of the rest: one that dies is replaced, and all end with it.
"""

import os
import sys
import tempfile
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra import logs
from infra.errors import UserError
from infra.settings import Settings, load
from serving.access import refuse_open

if TYPE_CHECKING:
    from fastapi import FastAPI

TOGETHER = "PROMETHEUS_MULTIPROC_DIR"
"""Variable that makes `prometheus_client`, before it is imported, keep its figures in files of a folder."""
HUNG_S = 120
"""A process that does not answer its watcher for so long, from its start on, is replaced."""
GRACE_S = 10
FILES_BESIDE = 256
"""Open files of a process that are no clients."""


def api(host: str = "127.0.0.1", port: int = 0) -> None:
    """Serve HTTP until told to stop."""
    logs.setup()
    settings = load()
    refuse_open(settings, host)
    port = port or int(settings.addresses.api.rpartition(":")[2])
    (_alone if settings.api.workers == 1 else _together)(settings, host, port)


def application() -> "FastAPI":
    """The application of one process among several; uvicorn calls it in each."""
    from serving.app import create_app
    from serving.settling import settle

    logs.setup()
    try:
        return create_app(load(), settle, Path(os.environ[TOGETHER]))
    except UserError as error:
        sys.exit(f"tollgate: {error}")


def _alone(settings: Settings, host: str, port: int) -> None:
    from serving.app import create_app
    from serving.settling import settle

    app = create_app(settings, settle)  # before anything waits: it refuses a wrong rule
    _serve(settings, app, host, port)


def _together(settings: Settings, host: str, port: int) -> None:
    with tempfile.TemporaryDirectory(prefix="tollgate-metrics-") as folder:
        _refuse_wrong_rules()
        os.environ[TOGETHER] = folder
        hear_of_deaths()
        _serve(settings, "serving.api_process:application", host, port, factory=True)


def _refuse_wrong_rules() -> None:
    """End with the sentence if a rule is wrong: each process would, and be replaced for ever.

    It is found out by a process of its own: what compiles rules is large, and who watches lives long.
    """
    check = get_context("spawn").Process(target=_compile_rules)
    check.start()
    check.join()
    if check.exitcode:
        sys.exit(check.exitcode)


def _compile_rules() -> None:
    from training.rule_book import rule_book

    try:
        rule_book(load().fraud)
    except UserError as error:
        sys.exit(f"tollgate: {error}")


def hear_of_deaths() -> None:
    """Let uvicorn's watcher hear at once of a process that dies before it has answered.

    Uvicorn 0.54 keeps the process's end of their pipe open in the watcher, too, so that the pipe does not end
    with the process: the watcher would wait for the answer for `HUNG_S`.
    """
    from uvicorn.supervisors.multiprocess import Process

    start = Process.start

    def started(process: Process) -> None:
        start(process)
        process.child_conn.close()

    Process.start = started  # type: ignore[assignment,method-assign]


def _serve(settings: Settings, app: Any, host: str, port: int, factory: bool = False) -> None:
    import uvicorn

    from serving.connections import allow_files, server_options

    allow_files(settings.api.max_connections + FILES_BESIDE)  # those that it starts may, too
    uvicorn.run(
        app,
        factory=factory,
        host=host,
        port=port,
        workers=settings.api.workers,
        timeout_worker_healthcheck=HUNG_S,
        loop="uvloop",
        log_config=None,
        timeout_graceful_shutdown=GRACE_S,
        **server_options(settings.api),
    )
