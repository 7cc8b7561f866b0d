"""Silence of a neighbour is told from our own."""

import asyncio
import socket
import time

import uvloop

from infra.patience import Patience

PATIENCE_S = 0.2


def overdue_after(busy_s: float) -> tuple[float, bool]:
    """Seconds until something is overdue, and whether what had come by then had been read."""

    async def wait() -> tuple[float, bool]:
        loop, found = asyncio.get_running_loop(), loop_event()
        ours, theirs = socket.socketpair()
        read: list[bytes] = []
        loop.add_reader(ours, lambda: read.append(ours.recv(1)))
        loop.add_reader(theirs, lambda: theirs.send(theirs.recv(1)))  # it takes the loop two turns to answer

        def look(overdue: int) -> bool:
            if overdue >= since and not found.done():
                found.set_result(bool(read))
            return not found.done()

        start = loop.time()
        since = Patience(PATIENCE_S, look).stamp()
        await asyncio.sleep(0)
        ours.send(b"x")
        time.sleep(busy_s)
        was_read = await found
        loop.remove_reader(ours)
        loop.remove_reader(theirs)
        ours.close()
        theirs.close()
        return loop.time() - start, was_read

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # its timers go before what has come
        return runner.run(wait())


def loop_event() -> "asyncio.Future[bool]":
    return asyncio.get_running_loop().create_future()


def test_what_is_silent_is_overdue_in_time() -> None:
    seconds, _ = overdue_after(0)
    assert 0.7 * PATIENCE_S < seconds < 2


def test_a_loop_that_was_busy_for_longer_reads_first_what_came() -> None:
    _, read = overdue_after(3 * PATIENCE_S)
    assert read
