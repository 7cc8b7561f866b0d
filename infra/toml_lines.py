"""Which line of a TOML or JSON file holds a value: the parsers keep no line numbers."""

import re

_TABLE = re.compile(r"^\s*(\[\[?)\s*([^\]]+?)\s*\]\]?\s*(?:#.*)?$")
_KEY = re.compile(r"^\s*(?:\"([^\"]+)\"|([A-Za-z0-9_.-]+))\s*[=:]")


def line_of(text: str, location: tuple[str | int, ...]) -> int:
    r"""Line, from 1, of the deepest part of `location` that the file spells out; 1 if it spells out none.

    >>> line_of("a = 1\n[[b]]\nc = 2\n[[b]]\nc = 3", ("b", 1, "c"))
    5
    """
    found, depth = 1, 0
    for number, place in _places(text):
        common = _common(place, location)
        if common > depth and common == len(place):
            found, depth = number, common
    return found


def _places(text: str) -> list[tuple[int, tuple[str | int, ...]]]:
    """Line number and location of each table header and each key, in the order of the file."""
    places: list[tuple[int, tuple[str | int, ...]]] = []
    table: tuple[str | int, ...] = ()
    seen: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if header := _TABLE.match(line):
            table = _table(header[1], header[2], seen)
            places.append((number, table))
        elif key := _KEY.match(line):
            places.append((number, (*table, *(key[1] or key[2]).split("."))))
    return places


def _table(bracket: str, name: str, seen: dict[str, int]) -> tuple[str | int, ...]:
    path = tuple(part.strip().strip("\"'") for part in name.split("."))
    if bracket == "[":
        return path
    seen[name] = seen.get(name, -1) + 1
    return (*path, seen[name])


def _common(place: tuple[str | int, ...], location: tuple[str | int, ...]) -> int:
    count = 0
    for one, other in zip(place, location, strict=False):
        if one != other:
            break
        count += 1
    return count
