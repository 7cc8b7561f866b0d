"""Where values come from: files and the environment, one over the other, and where a person finds each."""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from infra.errors import UserError
from infra.toml_lines import line_of

Tree = dict[str, Any]
Location = tuple[str | int, ...]

_ONE_VALUE = {"objective"}
"""Names of values that may be written as a table."""


class Layer:
    """One source of values: a file, or the environment."""

    def __init__(self, path: Path | None, values: Tree, text: str = "") -> None:
        self.path, self.values, self.text = path, values, text

    def holds(self, location: Location) -> bool:
        """Whether a value, or a value inside it, comes from here."""
        node: Any = self.values
        for key in location:
            if not _has(node, key):
                return False
            node = node[key]
        return True

    def place(self, location: Location) -> str:
        """Where a person finds the value: `file:line`, or the name of the variable."""
        if self.path is None:
            return "TOLLGATE_" + "__".join(str(key) for key in location).upper()
        return f"{self.path}:{line_of(self.text, location)}"


def from_file(path: Path, lacking: str = "TOLLGATE_CONFIG must name a TOML file") -> Layer:
    """What a TOML file says.

    Raises:
        UserError: it cannot be read; a sentence, with `lacking` if there is none.
    """
    try:
        text = path.read_text("utf-8")
        return Layer(path, tomllib.loads(text), text)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {lacking}.") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}.") from None
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path}: expected TOML: {error}.") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: expected TOML in UTF-8.") from None
    except (RecursionError, ValueError) as error:
        raise UserError(f"{path}: expected TOML of less depth and shorter numbers: {error}.") from None


def merged(layers: Sequence[Layer]) -> Tree:
    """All values; later layers win."""
    found: Tree = {}
    for layer in layers:
        found = _over(found, layer.values)
    return found


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> Tree:
    """Tables merge key by key; anything else, lists and mixed objectives too, is replaced whole."""
    both = (below.keys() & above.keys()) - _ONE_VALUE
    tables = [key for key in both if _is_table(below[key]) and _is_table(above[key])]
    return {**below, **above, **{key: _over(below[key], above[key]) for key in tables}}


def _is_table(value: object) -> bool:
    return isinstance(value, Mapping)


def _has(node: object, key: str | int) -> bool:
    if isinstance(node, list):
        return isinstance(key, int) and key < len(node)
    return isinstance(node, dict) and key in node


def told(location: Location, found: Location, reason: str, layers: Sequence[Layer]) -> str:
    """The reason with the value's name, after the place of `found`: it, or the table that lacks it."""
    source = next(layer for layer in reversed(layers) if layer.holds(found) or layer is layers[0])
    return f"{source.place(found)}: {'.'.join(str(key) for key in location)}: {reason}."
