"""Holding the stream workers still while somebody rewrites the states in Redis."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from features.connection import Connection
from infra.errors import UserError

PAUSE = b"tollgate:pause"
"""Redis key: while it exists, workers fold nothing."""
HEARTBEAT = b"tollgate:worker:"
HEARTBEATS = HEARTBEAT + b"*"
"""Keys of the workers that live; each says `running` or `paused`."""
TTL_S = 30
RENEW_S = 10.0


@contextmanager
def paused(url: str, patience_s: float = 30.0) -> Iterator[int]:
    """Workers stand still inside the block; gives how many there are. UserError if one goes on."""
    store, done = Connection(url), threading.Event()
    store.execute([("SET", PAUSE, "1", "EX", TTL_S)])
    renewing = threading.Thread(target=_renew, args=(url, done), daemon=True)
    renewing.start()
    try:
        yield _await(store, patience_s)
    finally:
        done.set()
        renewing.join()
        store.execute([("DEL", PAUSE)])
        store.close()


def _renew(url: str, done: threading.Event) -> None:
    store = Connection(url)
    while not done.wait(RENEW_S):
        store.execute([("SET", PAUSE, "1", "EX", TTL_S)])
    store.close()


def _await(store: Connection, patience_s: float) -> int:
    end = time.monotonic() + patience_s
    while b"running" in (states := _states(store)):
        if time.monotonic() > end:
            raise UserError(f"a worker did not pause within {patience_s:.0f} s; stop it and try again.")
        time.sleep(0.1)
    return len(states)


def _states(store: Connection) -> list[bytes]:
    names: list[bytes] = []
    cursor = b"0"
    while True:
        ((cursor, found),) = store.execute([("SCAN", cursor, "MATCH", HEARTBEATS, "COUNT", 10_000)])
        names += found
        if cursor == b"0":
            return [each for each in store.execute([("GET", name) for name in names]) if each]
