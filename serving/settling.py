"""A process that has loaded everything settles, so that nothing stops its work later."""

import gc

GARBAGE_OBJECTS = 50_000
"""The collector looks when there are so many more objects than at its last look."""


def settle() -> None:
    """Take what was loaded at the start out of the collector's sight, and let it look less often.

    It lives as long as the process; looking through it for garbage stops everything for a tenth of a second.
    What comes after has few cycles: a batch of decisions is tens of thousands of objects, and no garbage.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_OBJECTS)
