"""Questions of concurrent requests, answered together: throughput without making a lone request wait."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Q = TypeVar("Q")
A = TypeVar("A")


class MicroBatch(Generic[Q, A]):
    """Gathers what is asked within one turn of the event loop and answers it in one call.

    The busier the loop, the more comes within a turn, so batches grow with the load by themselves.

    Args:
        answer: gives the answers to some questions, in order; what it raises, all who asked get.
        most: questions in a call.
    """

    def __init__(self, answer: Callable[[Sequence[Q]], Awaitable[Sequence[A]]], most: int = 256) -> None:
        self._answer = answer
        self._most = most
        self._waiting: list[tuple[Q, asyncio.Future[A]]] = []
        self._running: set[asyncio.Task[None]] = set()

    async def ask(self, question: Q) -> A:
        """The question's own answer."""
        loop = asyncio.get_running_loop()
        if not self._waiting:
            loop.call_soon(self._start)
        answered: asyncio.Future[A] = loop.create_future()
        self._waiting.append((question, answered))
        return await answered

    def _start(self) -> None:
        asked, self._waiting = self._waiting, []
        for at in range(0, len(asked), self._most):
            task = asyncio.create_task(self._run(asked[at : at + self._most]))
            self._running.add(task)  # the loop itself holds tasks weakly
            task.add_done_callback(self._running.discard)

    async def _run(self, asked: Sequence[tuple[Q, "asyncio.Future[A]"]]) -> None:
        try:
            answers = await self._answer([question for question, _ in asked])
        except Exception as error:  # noqa: BLE001 – each who asked gets it
            for _, answered in asked:
                if not answered.done():
                    answered.set_exception(error)
        else:
            for (_, answered), answer in zip(asked, answers, strict=True):
                if not answered.done():  # its client may have gone
                    answered.set_result(answer)
