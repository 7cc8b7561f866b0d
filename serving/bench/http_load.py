"""A load of HTTP requests on a loopback port, over several connections, one request at a time on each."""

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from infra.errors import UserError


@dataclass(frozen=True)
class Load:
    """What a load came to."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float


type_of_headers = Mapping[str, str] | None


def send(
    port: int, path: str, bodies: list[bytes], connections: int, headers: type_of_headers = None
) -> Load:
    """Send every body once, and wait for its answer. UserError if one is refused."""
    return asyncio.run(_send(port, path, bodies, connections, headers))


def in_turn(
    port: int, paths: Sequence[str], bodies: Sequence[Sequence[bytes]], headers: type_of_headers = None
) -> list[Load]:
    """The same of several paths on one connection, a request to each in turn: what disturbs one disturbs all.

    Each path has as many bodies; its requests a second are those of its own time.
    """
    return asyncio.run(_in_turn(port, paths, bodies, headers))


async def _send(
    port: int, path: str, bodies: list[bytes], connections: int, headers: type_of_headers
) -> Load:
    spent: list[float] = []
    requests = iter([request(path, body, headers) for body in bodies])
    start = time.perf_counter()
    await asyncio.gather(*(_connection(port, requests, spent) for _ in range(connections)))
    return _load(spent, time.perf_counter() - start)


async def _in_turn(
    port: int, paths: Sequence[str], bodies: Sequence[Sequence[bytes]], headers: type_of_headers
) -> list[Load]:
    turns = zip(*bodies, strict=True)
    mixed = [request(*each, headers) for turn in turns for each in zip(paths, turn, strict=True)]
    spent: list[float] = []
    await _connection(port, iter(mixed), spent)
    return [_load(own := spent[first :: len(paths)], sum(own)) for first in range(len(paths))]


def _load(spent: list[float], seconds: float) -> Load:
    p50, p99 = np.percentile(spent, (50, 99)) * 1e3
    return Load(len(spent) / seconds, float(p50), float(p99))


def request(path: str, body: bytes, headers: type_of_headers = None) -> bytes:
    """An HTTP request as it goes over the wire; `headers` beside the usual ones."""
    lines = (
        f"POST {path} HTTP/1.1",
        "Host: bench",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *(f"{name}: {value}" for name, value in (headers or {}).items()),
    )
    return "\r\n".join((*lines, "", "")).encode() + body


async def _connection(port: int, requests: Iterator[bytes], spent: list[float]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for request in requests:
        start = time.perf_counter()
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        body = await reader.readexactly(int(head.split(b"content-length:")[1].split(b"\r\n")[0]))
        spent.append(time.perf_counter() - start)
        if not head.startswith(b"http/1.1 200"):
            raise UserError(f"the server on port {port} answered {head[:40]!r} {body[:200]!r}")
    writer.close()
