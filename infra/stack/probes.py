"""Does a server answer? Asked in its own protocol, without its client library."""

import http.client
import socket
import struct

TIMEOUT_S = 2.0


def kafka_answers(port: int) -> bool:
    """Whether the broker names at least one live broker (Metadata, version 1, of no topics)."""
    request = struct.pack(">hhihi", 3, 1, 1, -1, 0)
    reply = _exchange(port, struct.pack(">i", len(request)) + request, 12)
    return len(reply) >= 12 and struct.unpack_from(">i", reply, 8)[0] >= 1


def redis_answers(port: int) -> bool:
    """Whether the server has its data loaded and says PONG."""
    return _exchange(port, b"PING\r\n", 5).startswith(b"+PONG")


def http_answers(port: int, path: str) -> bool:
    """Whether `GET path` gives 200."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _exchange(port: int, request: bytes, enough: int) -> bytes:
    """Send `request`, give at least `enough` bytes of the reply; fewer if the server hung up."""
    reply = b""
    try:
        with socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as connection:
            connection.sendall(request)
            while len(reply) < enough and (more := connection.recv(4096)):
                reply += more
    except OSError:
        return b""
    return reply
