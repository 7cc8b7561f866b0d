"""Objectives of a price and mixes of them: from what a person writes to one word that says the same.

The word of a plain objective is its name. That of a mix is `0.7 margin + 0.3 revenue`: shares of the whole
to four decimals, in the order of `NAMES`. A word read again is the same word, so it can be logged and used
later.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any

NAMES = ("margin", "revenue", "growth")
MIX = "mix"
"""What all mixes are called where only a few words are possible."""

_WHOLE = 10_000
"""Shares are counted in parts of it."""
_MOST = 1e9
"""No weight is above it."""
_TERM = re.compile(r"(\d{1,12}(?:\.\d{1,30})?)\s+([a-z]+)")
_EXPECTED = (
    "expected 'margin', 'revenue' or 'growth', or weights of them such as {margin = 0.7, revenue = 0.3}"
)
_SHOWN = 60

SCHEMA: dict[str, Any] = {
    "description": "A name, weights by name, or a mix as answers tell it, `0.7 margin + 0.3 revenue`.",
    "anyOf": [
        {"enum": list(NAMES)},
        {"type": "string", "pattern": r"^[0-9.]+ [a-z]+( \+ [0-9.]+ [a-z]+)*$"},
        {
            "type": "object",
            "properties": {name: {"type": "number", "minimum": 0, "maximum": _MOST} for name in NAMES},
            "additionalProperties": False,
            "minProperties": 1,
        },
    ],
}
"""Of what `canonical` takes, as JSON schema; it can't say that a weight must be above 0."""


def canonical(given: object) -> str:
    """The word of a name, of weights by name, or of a word.

    >>> canonical({"revenue": 3, "margin": 7}), canonical("7 margin + 3 revenue"), canonical({"growth": 2})
    ('0.7 margin + 0.3 revenue', '0.7 margin + 0.3 revenue', 'growth')

    Raises:
        ValueError: unknown names, weights that are no numbers from 0 to a thousand million, none above 0.
    """
    if isinstance(given, str) and given in NAMES:
        return given
    shares = {name: share for name, share in _shares(_weights(given)).items() if share}
    if len(shares) == 1:
        return next(iter(shares))
    return " + ".join(f"{share / _WHOLE:g} {name}" for name, share in shares.items())


@lru_cache(maxsize=1024)
def weights(objective: str) -> Mapping[str, float]:
    """Share of each name that a word holds, above 0; they add up to 1.

    >>> dict(weights("0.7 margin + 0.3 revenue")), dict(weights("growth"))
    ({'margin': 0.7, 'revenue': 0.3}, {'growth': 1.0})

    Raises:
        ValueError: it is no word of an objective.
    """
    found = {objective: 1.0} if objective in NAMES else _weights(objective)
    return MappingProxyType(
        {name: share / _WHOLE for name, share in _shares(found).items() if share},
    )


def label(objective: str) -> str:
    """One of four words: a plain objective's name, or `mix`."""
    return objective if objective in NAMES else MIX


def _weights(given: object) -> dict[str, float]:
    """Weights by name, at least one of them above 0."""
    named = _terms(given) if isinstance(given, str) else given
    if not isinstance(named, Mapping):
        raise ValueError(f"{_EXPECTED}, came {_short(given)}")
    if unknown := [name for name in named if name not in NAMES]:
        raise ValueError(f"{_EXPECTED}, came a weight of {_short(unknown[0])}")
    for name, weight in named.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight <= _MOST:
            raise ValueError(f"expected a weight of {name} from 0 to {_MOST:g}, came {_short(weight)}")
    if not any(named.values()):
        raise ValueError("expected a weight above 0, came none")
    return {name: float(named.get(name, 0)) for name in NAMES}


def _terms(text: str) -> Mapping[str, float] | None:
    """Weights of a mix's word; None if it is none."""
    terms = [_TERM.fullmatch(part.strip()) for part in text.split("+")]
    found = {term[2]: float(term[1]) for term in terms if term}
    return found if len(found) == len(terms) else None


def _shares(given: Mapping[str, float]) -> dict[str, int]:
    """Parts of `_WHOLE` by name that add up to it, the largest remainders rounded up (Hamilton's method)."""
    whole = sum(given.values())
    exact = {name: _WHOLE * (given.get(name, 0.0) / whole) for name in NAMES}
    found = {name: int(share) for name, share in exact.items()}
    nearest = sorted(NAMES, key=lambda name: found[name] - exact[name])
    for name in nearest[: _WHOLE - sum(found.values())]:
        found[name] += 1
    return found


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= _SHOWN else shown[: _SHOWN - 3] + "..."
