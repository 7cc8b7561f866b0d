"""How long an event loop has waited for somebody, in its own time.

A timer alone can't tell a neighbour's silence from ours: while the loop is busy with something else for long,
an answer that has come lies unread, and the timer is due first. So silence is counted in looks of the loop:
between two of them it has read whatever came.
"""

import asyncio
from collections.abc import Callable

LOOKS = 4
"""Looks of the loop in a patience."""


class Patience:
    """Looks, as long as something is waited for, who has waited too long.

    Args:
        seconds: what is waited for so long is overdue; it is found out within a quarter of that before.
        look: given the newest stamp that is overdue; says whether anything is still waited for.
    """

    def __init__(self, seconds: float, look: Callable[[int], bool]) -> None:
        self._step_s = seconds / LOOKS
        self._look = look
        self._now = 0
        self._timer: asyncio.TimerHandle | None = None

    def stamp(self) -> int:
        """Of what is waited for from now on. Call it inside the event loop."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._step_s, self._turn)
        return self._now

    def _turn(self) -> None:
        self._now += 1
        self._timer = None
        if self._look(self._now - LOOKS) and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._step_s, self._turn)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
