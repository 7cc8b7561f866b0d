"""Finding a free port on the loopback interface."""

import socket

from infra.errors import UserError

TRIES = 200


def is_free(port: int) -> bool:
    """Whether a server could listen on 127.0.0.1:`port` now."""
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind(("127.0.0.1", port))
        except OSError:
            return False
    return not answers(port)


def answers(port: int) -> bool:
    """Whether somebody accepts connections on 127.0.0.1:`port`."""
    with socket.socket() as client:
        client.settimeout(0.5)
        return client.connect_ex(("127.0.0.1", port)) == 0


def free_from(port: int, taken: frozenset[int] = frozenset()) -> int:
    """First free port from `port` on that is not in `taken`."""
    for candidate in range(port, port + TRIES):
        if candidate not in taken and is_free(candidate):
            return candidate
    raise UserError(f"all ports from {port} to {port + TRIES - 1} are taken; end some server.")
