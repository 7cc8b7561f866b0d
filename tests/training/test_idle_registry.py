import threading
import time
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from training import tracking
from training.tracking import Registry


class Impatient(BaseHTTPRequestHandler):
    """Answers once, and closes a connection at its second request, as when its patience ends just then."""

    protocol_version = "HTTP/1.1"
    asked = 0

    def do_GET(self) -> None:
        self.asked += 1
        if self.asked > 1:
            self.close_connection = True
            return
        answer = b'{"model_version": {"version": "1"}}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def address() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Impatient) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_connection_is_given_up_before_the_server_does(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "KEPT_S", 0.05)
    with closing(Registry(address)) as registry:
        for _ in range(3):
            found = registry.champion("fraud")
            assert found is not None
            assert found.version == "1"
            time.sleep(0.1)
