"""Kafka for an event loop: publish without blocking other requests, whether the broker answers or not.

What must be acknowledged is published, or fails soon. What was decided is delivered: it is acknowledged, or
on disk in the outbox, from where it goes out in order as soon as the broker acknowledges again. A broker that
leaves records unacknowledged for longer than the patience is away until it acknowledges one; meanwhile
nothing waits for it. A record that was late may go out twice: every event counts once by its id.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple, Protocol

from infra.patience import Patience
from ingestion.broker import BrokerError, Producer, Sent
from ingestion.topics import LABELS, OUTCOMES, QUOTES, TRANSACTIONS
from serving.micro_batch import portions
from serving.outbox import Kept, Outbox
from serving.stage import Outgoing

log = logging.getLogger(__name__)

TOPICS = (TRANSACTIONS, LABELS, QUOTES, OUTCOMES)
"""What the API publishes to."""
SENT_AT_ONCE = 50
"""Records of a list; then others have their turn. Each costs kafka-python 50 µs."""
MOST_UNACKNOWLEDGED_BYTES = 64 * 1024 * 1024
DRAIN_RECORDS, DRAIN_BYTES = 500, 1024 * 1024
"""Of the outbox that go out at a time."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 1.0
"""Between two tries of the outbox, or of a connection."""
TAKE_OVER_EVERY_S = 10.0
CLOSE_S = 1.0
SETTLE_S = 3.0
"""What the outbox sends is acknowledged within this, or the producer is replaced."""
TELL_EVERY_S = 10.0
"""A broker that is late again and again is told of once in so long."""


class Waits(NamedTuple):
    """How long the broker may leave records unacknowledged, in seconds."""

    acknowledge_s: float = 0.15
    """Then it is away."""
    accept_s: float = 2.0
    """Then what must be acknowledged has failed."""


class Watcher(Protocol):
    """Told how it is."""

    def away(self, neighbour: str, away: bool) -> None:
        """A neighbour went away, or is back."""
        ...

    def outbox(self, records: int) -> None:
        """So many wait."""
        ...


class Sending:
    """Records under way together.

    Args:
        producer: that has them.
        missing: how many must be acknowledged.
        size: of them in bytes.
        stamp: since when they are under way, by the publisher's patience.
    """

    def __init__(self, producer: Producer, missing: int, size: int, stamp: int) -> None:
        loop = asyncio.get_running_loop()
        self.producer, self.size, self.stamp = producer, size, stamp
        self.in_time: asyncio.Future[bool] = loop.create_future()
        """Whether they are acknowledged, as soon as that is known or has taken too long."""
        self.settled: asyncio.Future[BrokerError | None] = loop.create_future()
        """None: acknowledged; else why not."""
        self._missing = missing

    def one_done(self, result: object) -> bool:
        """One record was acknowledged or failed; says whether that settles all of them."""
        self._missing -= 1
        if self.settled.done():
            return False
        if isinstance(result, Exception):
            self.settled.set_result(BrokerError(f"the broker did not take a record: {result}"))
            self.late()
        elif self._missing == 0:
            self.settled.set_result(None)
            if not self.in_time.done():
                self.in_time.set_result(True)
        return self.settled.done()

    def late(self) -> None:
        """Who can do without waits no longer."""
        if not self.in_time.done():
            self.in_time.set_result(False)

    async def error(self) -> BrokerError | None:
        """Why they were not acknowledged, once that is known; None if they were."""
        return await asyncio.shield(self.settled)

    async def arrived(self) -> bool:
        """Whether they were acknowledged, once that is known."""
        return await self.error() is None


class Publisher:
    """Publishes records of concurrent requests through one producer.

    Args:
        connect: makes a producer that knows `TOPICS`; takes its time, so it is called in a thread. Raises
            BrokerError while there is no broker.
        outbox: keeps what was decided while the broker is away.
    """

    def __init__(
        self, connect: Callable[[], Producer], outbox: Outbox, waits: Waits, watcher: Watcher
    ) -> None:
        self._connect = connect
        self._outbox = outbox
        self._waits = waits
        self._watcher = watcher
        self._producer: Producer | None = None
        self._broken = False
        self._tell_at, self._told = 0.0, False
        self._under_way: deque[Sending] = deque()
        self._bytes = 0
        self._patience = Patience(waits.acknowledge_s, self._look)
        self._work = asyncio.Event()
        self._here = asyncio.Event()
        """Set unless the broker is away."""
        self._here.set()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, patience_s: float = 3.0) -> None:
        """Connect, for at most so long; if there is no broker, go on trying beside what else is done."""
        self._broken = True
        self._work.set()
        self._tasks = [asyncio.create_task(self._drain()), asyncio.create_task(self._take_over())]
        deadline = asyncio.get_running_loop().time() + patience_s
        while self._producer is None and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.01)
        if self._producer is None:
            self._went_away("it does not answer")

    @property
    def away(self) -> bool:
        """Whether the broker leaves records unacknowledged."""
        return not self._here.is_set()

    def kept(self, name: str) -> Outgoing | None:
        """The record of this name, if it waits in the outbox."""
        return self._outbox.find(name) if len(self._outbox) else None

    async def publish(self, records: Sequence[Outgoing]) -> None:
        """Return when the broker has all of them.

        Raises:
            BrokerError: one was not acknowledged in time, though it may be yet; or the broker stays away.
        """
        if self.away:
            await self._return()
        under_way: list[Sending] = []
        for portion in portions(records, SENT_AT_ONCE):
            if under_way:
                await asyncio.sleep(0)
            under_way.append(self._send(portion))
        try:
            async with asyncio.timeout(self._waits.accept_s):
                errors = [await sending.error() for sending in under_way]
        except TimeoutError:
            errors = [BrokerError(f"no acknowledgement within {self._waits.accept_s:g} s")]
        for error in errors:
            if error is not None:
                raise error

    async def _return(self) -> None:
        """Wait a little for a broker that may only be late. BrokerError if it does not come back."""
        try:
            async with asyncio.timeout(self._waits.acknowledge_s):
                await self._here.wait()
        except TimeoutError:
            raise BrokerError("the broker is away") from None

    async def deliver(self, kept: Sequence[Kept]) -> None:
        """Return when the broker has all of them, or the outbox.

        Raises:
            BrokerError: neither takes them.
        """
        under_way: list[tuple[Sequence[Kept], Sending | None]] = []
        for portion in portions(kept, SENT_AT_ONCE):
            if under_way:
                await asyncio.sleep(0)
            under_way.append((portion, self._tried(portion)))
        for portion, sending in under_way:
            if sending is None or not await sending.in_time:
                await self._outbox.put(portion, sending)
                self._watcher.outbox(len(self._outbox))
                self._work.set()

    def _tried(self, kept: Sequence[Kept]) -> Sending | None:
        """None where the broker is away."""
        if self.away:
            return None
        with suppress(BrokerError):
            return self._send([each.record for each in kept])
        return None

    async def answers(self, patience_s: float = 0.5) -> bool:
        """Whether the broker answers something small just now."""
        if self._producer is None:
            return False
        loop = asyncio.get_running_loop()
        asked: asyncio.Future[object] = loop.create_future()

        def keep(result: object) -> None:
            if not asked.done():
                asked.set_result(result)

        def told(result: object) -> None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(keep, result)

        self._producer.ask().add_both(told)
        try:
            async with asyncio.timeout(patience_s):
                return not isinstance(await asked, Exception)
        except TimeoutError:
            return False

    def _send(self, records: Sequence[Outgoing]) -> Sending:
        """Queue records; never waits for the broker."""
        producer, size = self._producer, sum(map(_size, records))
        if producer is None or not all(map(producer.knows, {each.topic for each in records})):
            self._broken = True
            self._went_away("it does not tell of its topics")
            raise BrokerError("the broker is away")
        if self._bytes + size > MOST_UNACKNOWLEDGED_BYTES and self._bytes:
            raise BrokerError(f"{self._bytes} bytes are not acknowledged yet, {size} more are too many")
        sending = Sending(producer, len(records), size, self._patience.stamp())
        sent: list[Sent] = [
            producer.publish(out.topic, out.value or b"", out.key or b"", out.headers) for out in records
        ]
        self._bytes += size
        self._under_way.append(sending)
        self._await(sending, sent)
        return sending

    def _await(self, sending: Sending, sent: Sequence[Sent]) -> None:
        """Let the event loop know when the producer's thread does."""
        loop = asyncio.get_running_loop()

        def one_done(result: object) -> None:
            if sending.one_done(result):
                self._settled(sending)

        def told(result: object) -> None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(one_done, result)

        for each in sent:
            each.add_both(told)

    def _settled(self, sending: Sending) -> None:
        self._bytes -= sending.size
        while self._under_way and self._under_way[0].settled.done():
            self._under_way.popleft()
        error = sending.settled.result()
        if error is None:
            self._came_back()
        elif sending.producer is self._producer:
            self._broken = True
            self._went_away(str(error))

    def _look(self, overdue: int) -> bool:
        """Nobody who can do without the broker waits for it any longer than this."""
        for sending in self._under_way:
            if sending.stamp > overdue:
                break
            if not sending.settled.done():
                self._went_away(f"no acknowledgement within {self._waits.acknowledge_s:g} s")
                sending.late()
        return bool(self._under_way)

    def _went_away(self, why: str) -> None:
        if not self.away:
            self._here.clear()
            self._tell("Kafka is away: %s; what is decided waits in the outbox", why)
            self._watcher.away("broker", True)
        self._work.set()

    def _came_back(self) -> None:
        if self.away:
            self._here.set()
            self._tell("Kafka acknowledges again; %s records wait in the outbox", str(len(self._outbox)))
            self._watcher.away("broker", False)

    def _tell(self, text: str, fact: str) -> None:
        now = time.monotonic()
        if self.away and now >= self._tell_at:
            self._tell_at, self._told = now + TELL_EVERY_S, True
        elif self.away:
            self._told = False
        log.log(logging.WARNING if self._told else logging.DEBUG, text, fact)

    async def _drain(self) -> None:
        """Connect when there is no connection that works, and send what waits, in order, for ever."""
        pause_s = FIRST_PAUSE_S
        while True:
            await self._work.wait()
            try:
                if self._broken:
                    await self._reconnect()
                await self._send_waiting()
            except (BrokerError, OSError, ValueError) as error:  # the disk may fail, too
                log.log(logging.DEBUG if isinstance(error, BrokerError) else logging.WARNING, "%s", error)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            else:
                pause_s = FIRST_PAUSE_S
                if not len(self._outbox) and not self._broken:
                    self._work.clear()

    async def _reconnect(self) -> None:
        """A new producer: the old one may have lost its way for good."""
        old, self._producer = self._producer, None
        if old is not None:
            await asyncio.to_thread(old.close, CLOSE_S)
        self._producer = await asyncio.to_thread(self._connect)
        self._broken = False
        if not len(self._outbox):
            self._came_back()

    async def _send_waiting(self) -> None:
        """Empty the outbox; of what is still under way wait for the end first.

        A producer that has lost its connection may wait for the broker for ever though it is back: who gets
        no acknowledgement for long is replaced, and the new one is made when the broker answers.
        """
        while not self._broken and (found := self._outbox.first(DRAIN_RECORDS, DRAIN_BYTES)):
            try:
                async with asyncio.timeout(SETTLE_S):
                    missing = [each for entry, each in found if not (entry.way and await entry.way.arrived())]
                    error = await self._send(missing).error() if missing and not self._broken else None
            except TimeoutError:
                self._broken = True
                raise BrokerError(f"no acknowledgement within {SETTLE_S:g} s") from None
            if error is not None:
                raise error
            if not self._broken or not missing:
                self._outbox.drop(len(found))
                self._watcher.outbox(len(self._outbox))

    async def _take_over(self) -> None:
        while True:
            try:
                await self._outbox.take_over()
            except (OSError, ValueError) as error:
                log.warning("the outbox of others could not be looked at: %s", error)
            if len(self._outbox):
                self._watcher.outbox(len(self._outbox))
                self._work.set()
            await asyncio.sleep(TAKE_OVER_EVERY_S)

    async def close(self) -> None:
        """Send what is queued and disconnect; what waits in the outbox is for the next process."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._patience.stop()
        if self._producer is not None:
            await asyncio.to_thread(self._producer.close, CLOSE_S)
        self._outbox.close()


def _size(record: Outgoing) -> int:
    return len(record.value or b"") + sum(len(value) for _, value in record.headers)
