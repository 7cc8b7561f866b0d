"""The real HTTP server, in a thread, over the test's servers."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import uvicorn

from infra.settings import Settings
from serving.app import create_app
from tests.servers import until


@contextmanager
def serving(settings: Settings) -> Iterator[httpx.Client]:
    """A client of the application of these settings."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        host, port = listening.getsockname()
        server = uvicorn.Server(uvicorn.Config(create_app(settings), log_config=None, access_log=False))
        thread = threading.Thread(target=asyncio.run, args=(server.serve([listening]),), name="api")
        thread.start()
        try:
            until(lambda: server.started or not thread.is_alive())
            with httpx.Client(base_url=f"http://{host}:{port}", timeout=30) as client:
                yield client
        finally:
            server.should_exit = True
            thread.join(20)
