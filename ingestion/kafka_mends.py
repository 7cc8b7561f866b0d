"""What kafka-python 3.0.12 does wrong, mended from outside.

Each mend says what went wrong without it; it can go when the client no longer needs it, and its test in
`tests/streams/` tells. They reach into the client's own parts, so pyproject.toml keeps its version in bounds.
"""

import socket
import time
from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from kafka.cluster import ClusterMetadata
from kafka.net.connection import KafkaConnection
from kafka.net.inet import KafkaNetSocket
from kafka.structs import MemberState

UNREADY_MS = 20.0
"""A producer that cannot send looks again after this, or as soon as anything comes."""

# of every client

_connect = KafkaNetSocket.sock_connect
_connecting: WeakKeyDictionary[Any, set[socket.socket]] = WeakKeyDictionary()
"""Of each client's event loop the sockets that are not connected yet."""


async def _connect_or_close(self: Any, net: Any, sock: socket.socket, *rest: Any, **named: Any) -> Any:
    """Close a socket that was not connected.

    The client leaves it to the garbage collector, which ours are told to be slow: an outage of an hour, with
    a try a second, would use up what a process may open.
    """
    waiting = _connecting.setdefault(net, set())
    waiting.add(sock)
    try:
        return await _connect(self, net, sock, *rest, **named)
    except BaseException:
        sock.close()
        raise
    finally:
        waiting.discard(sock)


def hang_up(client: Any) -> None:
    """Close what a client that was closed has left half connected: its event loop goes on with nothing."""
    for sock in list(_connecting.pop(client._net, ())):
        sock.close()


_initialize = KafkaConnection.initialize


async def _initialize_or_fail(self: Any, *args: Any, **named: Any) -> None:
    """Let a connection that came to nothing be an error of who connects.

    The client takes one for made that was closed before a word was said, as a proxy does whose broker is
    away, and so tries again at once: without this, that costs a core, and the proxy a thousand calls a
    second.
    """
    await _initialize(self, *args, **named)
    await self.init_future


_request_update = ClusterMetadata.request_update


def _request_update_once(self: Any) -> Any:
    """Wake nobody when the metadata are asked for again while an answer is awaited.

    A producer asks at each turn while a partition has no leader, and each time is woken for its next turn:
    without this, a broker that shuts down in good order costs every producer half a core until it is gone.
    """
    with self._lock:
        asked = self._future
        awaited = self._need_update and asked and not asked.is_done
    return asked if awaited else _request_update(self)


KafkaNetSocket.sock_connect = _connect_or_close
KafkaConnection.initialize = _initialize_or_fail
ClusterMetadata.request_update = _request_update_once

# of a producer


def rest_while_unready(producer: Any) -> None:
    """Let a producer's sender wait for a broker that it cannot send to.

    It takes the seconds that it is told for milliseconds, and they are none while a connection is being made
    or has as many requests under way as it may: without this, a broker that hangs costs every producer that
    has something to send a core.
    """
    client = producer._sender._client
    client.connection_delay = partial(_unready_ms, client.connection_delay)


def _unready_ms(delay_s: Callable[[Any], float], node: Any) -> float:
    return max(1e3 * delay_s(node), UNREADY_MS)


# of a consumer


def rested(consumer: Any, wait_ms: int) -> int:
    """Sleep in the consumer's place while the broker says nothing; gives what is left to wait.

    It waits for records until a heartbeat is due. While that waits for the answer to the one before, it does
    not wait at all: it looks as fast as it can, and leaves a callback each time at the fetch that is under
    way. Without this a silent broker costs every reader a core and 30 MB a second.
    """
    coordinator = consumer._coordinator
    if coordinator.time_to_next_heartbeat() > 0:
        return wait_ms
    if coordinator.state is not MemberState.STABLE or coordinator.need_rejoin():
        return wait_ms  # who joins needs the time
    time.sleep(wait_ms / 1e3)
    return 0


def unpark(consumer: Any) -> None:
    """Let the consumer give out again what it put aside while a partition was paused.

    It takes that back only when its slot for the current batch is None, but leaves the batch that was used up
    in it: without this, a partition that was paused in mid-batch is silent for ever.
    """
    fetcher = consumer._fetcher
    if not fetcher._next_partition_records:
        fetcher._next_partition_records = None


def ask_afresh(consumer: Any) -> None:
    """Have the broker say of every partition again where it ends, also of those that have no news.

    The consumer forgets that of a partition that went away, but not that it has asked for it, and from then
    on is told of changes only. Without this, who gets an empty partition back before it asked again (the
    group had given it up and it rejoined at once) does not know that nothing is there.
    """
    for session in consumer._fetcher._session_handlers.values():
        session.handle_error(None)


def finish_joining(consumer: Any) -> None:
    """Let the consumer go on with a rebalance that outlasted the poll in which it began.

    It forgets one that began because the topics' metadata came or changed, once it has worked out the
    assignment: without this, the group's leader has no partitions for ever and sends no heartbeats. One that
    ends between two polls it begins anew, and all members with it: without this, a group whose members poll
    now and then may rebalance for ever.
    """
    coordinator = consumer._coordinator
    if not coordinator.rejoining:
        return
    joining = coordinator._join_task
    if joining and joining.succeeded() and coordinator.state is MemberState.REBALANCING:
        consumer._net.run(_joined, coordinator, joining.value)
    else:
        coordinator.request_rejoin()


async def _joined(coordinator: Any, assignment: bytes) -> None:
    """What the client does when a rebalance ends within a poll."""
    coordinator._join_task = None
    with coordinator._lock:
        coordinator.rejoining = coordinator.rejoin_needed = False
        coordinator.state = MemberState.STABLE
        coordinator._enable_heartbeat()
    generation = coordinator._generation
    await coordinator._on_join_complete_async(
        generation.generation_id, generation.member_id, generation.protocol, assignment
    )
