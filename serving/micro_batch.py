"""Questions of concurrent requests, answered together: throughput without making a lone request wait."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Generic, TypeVar

Q = TypeVar("Q")
A = TypeVar("A")


def portions(items: Sequence[Q], most: int) -> Iterator[Sequence[Q]]:
    """A list in parts, between which others may have their turn.

    >>> list(portions("abcde", 2))
    ['ab', 'cd', 'e']
    """
    return (items[start : start + most] for start in range(0, len(items), most))


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
        self._gathering: list[Q] = []
        self._answers: asyncio.Task[Sequence[A]] | None = None

    async def ask(self, question: Q) -> A:
        """The question's own answer."""
        if self._answers is None or len(self._gathering) == self._most:
            self._gathering = []
            self._answers = asyncio.create_task(self._run(self._gathering))
        self._gathering.append(question)
        mine = len(self._gathering) - 1
        answers = await asyncio.shield(self._answers)  # whose client has gone does not stop the others'
        return answers[mine]

    async def _run(self, questions: Sequence[Q]) -> Sequence[A]:
        """Begins in the next turn of the loop: nothing more is gathered from then on."""
        if self._gathering is questions:
            self._answers = None
        return await self._answer(questions)
