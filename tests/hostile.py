"""What strangers send: JSON of the right and of wrong shapes, and bytes that are no JSON, for hypothesis."""

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from hypothesis import strategies as st

Strategy = st.SearchStrategy
type_of_schema = Mapping[str, Any]

NAMES = ("t-1", "t-2", "c-1", "m-1", "q-1", "p-1", "p-2", "p-3", "web", "1", "fraud")
"""So few that requests meet what others have left."""
LONG = 2_000
NUMBERS: tuple[Any, ...] = (
    *(0, -0.0, -1, 1, 1e9, 1e9 + 1, 5e-324, 1.7976931348623157e308, -1e308),
    *(2**31, 2**53 + 1, 2**63, 2**64, -(2**63) - 1, 10**40, 10**400),
    *(float("nan"), float("inf"), float("-inf")),
)
TIMES = (
    *(
        "2026-03-01T12:00:00Z",
        "2026-03-01",
        "12:00",
        "0001-01-01T00:00:00+10:00",
        "9999-12-31T23:59:59-10:00",
    ),
    *("2026-02-30T00:00:00Z", "2026-03-01T12:00:00+24:00", "1e400", "-1", "2026-03-01T12:00:00.123456789Z"),
)
WORDS = (
    "",
    " ",
    "\0",
    "\x1f",
    "\ud800",
    "\udfff",
    "\u202e",
    "\ufeff",
    "é" * 64,
    "𝔘" * 40,
    "x" * LONG,
    "%00",
    "../..",
)
WHOLE = (
    *(b"", b"\0", b"{", b"[", b'"', b"\xff\xfe", b"\xef\xbb\xbf{}", "{}".encode("utf-16"), b"<x/>", b"nul"),
    *(b"[" * 100_000, b'{"a":' * 50_000, b"[" * 150 + b"]" * 150, b"1" * 5_000, b"-", b"1e999999", b"NaN"),
    *(b'{"a":1,"a":2}', b"[{}]" * 2, b"{}" + b" " * 5_000, b'{"\xff":1}', b'"\\ud800"', b'{"\\ud800":1}'),
)

words: Strategy[str] = st.sampled_from(NAMES) | st.sampled_from(WORDS + TIMES) | st.text(max_size=20)
scalars: Strategy[Any] = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(NUMBERS) | words
)
anything: Strategy[Any] = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)
"""Any JSON, small; numbers and words that hurt are often among it."""


def of_schema(schema: type_of_schema, known: type_of_schema) -> Strategy[Any]:
    """Values that fit a JSON schema; `known` are the schemas that others refer to by name."""
    if "$ref" in schema:
        return of_schema(known[schema["$ref"].rpartition("/")[2]], known)
    if several := schema.get("anyOf") or schema.get("oneOf"):
        return st.one_of([of_schema(each, known) for each in several])
    if "const" in schema or "enum" in schema:
        return st.sampled_from(schema.get("enum") or [schema["const"]])
    kinds: Mapping[Any, Callable[[], Strategy[Any]]] = {
        "string": lambda: _text(schema),
        "number": lambda: _number(schema),
        "integer": lambda: _number(schema),
        "boolean": st.booleans,
        "null": st.none,
        "array": lambda: st.lists(of_schema(schema.get("items", {}), known), min_size=1, max_size=3),
        "object": lambda: _object(schema, known),
    }
    return kinds.get(schema.get("type"), lambda: anything)()


def _text(schema: type_of_schema) -> Strategy[str]:
    if schema.get("format") == "date-time":
        low, high = datetime(2000, 1, 1), datetime(2026, 1, 1)
        return st.datetimes(low, high).map(lambda moment: moment.replace(tzinfo=UTC).isoformat())
    if "pattern" in schema:
        return st.from_regex(schema["pattern"], fullmatch=True)
    return st.sampled_from(NAMES) | st.text(min_size=schema.get("minLength", 0), max_size=12)


def _number(schema: type_of_schema) -> Strategy[Any]:
    low = schema.get("minimum", schema.get("exclusiveMinimum", -1e6))
    high = schema.get("maximum", schema.get("exclusiveMaximum", 1e6))
    if schema["type"] == "integer":
        return st.integers(int(low), int(high))
    return st.floats(low, high, exclude_min="exclusiveMinimum" in schema)


def _object(schema: type_of_schema, known: type_of_schema) -> Strategy[Any]:
    fields = {name: of_schema(each, known) for name, each in schema.get("properties", {}).items()}
    must = set(schema.get("required", ()))
    if not fields:
        more = schema.get("additionalProperties")
        values = of_schema(more, known) if isinstance(more, Mapping) else anything
        return st.dictionaries(st.sampled_from(NAMES), values, max_size=3)
    return st.fixed_dictionaries(
        {name: each for name, each in fields.items() if name in must},
        optional={name: each for name, each in fields.items() if name not in must},
    )


@st.composite
def _bent(draw: st.DrawFn, good: Strategy[Any]) -> Any:
    """Something that fits, with one field that does not, lacks or is too many."""
    value = draw(good)
    event = value[0] if isinstance(value, list) and value else value
    if not isinstance(event, dict):
        return draw(anything)
    name = draw(st.sampled_from([*event, "unheard of"]) | words)
    if draw(st.booleans()):
        event.pop(name, None)
    else:
        event[name] = draw(anything)
    return value


def bodies(schema: type_of_schema, known: type_of_schema) -> Strategy[bytes]:
    """Bodies for a schema: half of them fit, the others are bent, of other shapes or no JSON."""
    good = of_schema(schema, known)
    fit = good.map(_encoded)
    return (
        fit | fit | _bent(good).map(_encoded) | anything.map(_encoded) | _spoilt(fit) | st.sampled_from(WHOLE)
    )


@st.composite
def _spoilt(draw: st.DrawFn, good: Strategy[bytes]) -> bytes:
    """Bytes of JSON, some of them others."""
    raw = bytearray(draw(good))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(raw)))
        raw[at : at + draw(st.integers(0, 2))] = draw(st.binary(max_size=3))
    return bytes(raw)


def _encoded(value: Any) -> bytes:
    return json.dumps(value).encode()
