"""Kafka for an event loop: publish and wait for the acknowledgement without blocking other requests."""

import asyncio
from collections.abc import Sequence

from ingestion.broker import BrokerError, Producer, Sent
from serving.stage import Outgoing

ACKNOWLEDGE_TIMEOUT_S = 10.0


class Publisher:
    """Publishes records of concurrent requests through one producer."""

    def __init__(self, producer: Producer) -> None:
        self._producer = producer

    async def publish(self, records: Sequence[Outgoing]) -> None:
        """Return when the broker has all of them; raises BrokerError when one is not acknowledged in time."""
        sent = [
            self._producer.publish(out.topic, out.value or b"", out.key or b"", out.headers)
            for out in records
        ]
        try:
            async with asyncio.timeout(ACKNOWLEDGE_TIMEOUT_S):
                await _all_done(sent)
        except TimeoutError as error:
            raise BrokerError(f"no acknowledgement within {ACKNOWLEDGE_TIMEOUT_S:g} s") from error

    def close(self) -> None:
        """Send what is queued and disconnect."""
        self._producer.close()


async def _all_done(sent: Sequence[Sent]) -> None:
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    missing = len(sent)

    def one_done(result: object) -> None:
        nonlocal missing
        missing -= 1
        if done.done():
            return
        if isinstance(result, Exception):
            done.set_exception(BrokerError(f"the broker did not take a record: {result}"))
        elif missing == 0:
            done.set_result(None)

    def told(result: object) -> None:
        loop.call_soon_threadsafe(one_done, result)

    for each in sent:
        each.add_both(told)
    if sent:
        await done
