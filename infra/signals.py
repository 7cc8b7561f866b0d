"""How one of our processes is told to stop."""

import signal
import threading
from collections.abc import Sequence

ENDING = (signal.SIGTERM, signal.SIGINT)


def stop_signal(numbers: Sequence[signal.Signals] = ENDING) -> threading.Event:
    """An event that is set when one of these signals comes; to be called in the main thread."""
    stop = threading.Event()
    for number in numbers:
        signal.signal(number, lambda *_: stop.set())
    return stop
