"""Randomness that depends on the seed, the concern and the day only, never on what was drawn before."""

from collections.abc import Iterable
from hashlib import blake2b
from math import floor

import numpy as np

from ingestion.simulators.columns import Floats

_DAY_ZERO = 1_000_000
"""Shifts days before the start of a run, which seeds cannot hold, above zero."""


def generator(seed: int, concern: int, day: int = 0) -> np.random.Generator:
    """An independent generator for one concern on one day; `day` may be negative."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, concern, day + _DAY_ZERO))))


def starts(per_day: float, day: int) -> range:
    """Running numbers of what begins on a day, when `per_day` of them begin evenly spaced.

    >>> [len(starts(0.5, day)) for day in range(4)]
    [0, 1, 0, 1]
    """
    return range(floor(per_day * day), floor(per_day * (day + 1)))


def draws(seed: int, keys: Iterable[str]) -> Floats:
    """Two independent uniform numbers in [0, 1) for each key, shape (2, n); seed and key decide."""
    digest = b"".join(blake2b(f"{seed}/{key}".encode(), digest_size=16).digest() for key in keys)
    words = np.frombuffer(digest, dtype="<u8").reshape(-1, 2)
    return (words >> np.uint64(11)).T.astype(np.float64) * 2.0**-53
