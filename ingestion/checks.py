"""Columns of a file as fields of events: the rules of `ingestion.events`, for a million rows at once.

Every function takes a column as it lies in the file and gives its values, null where there is none, and which
rows hold something else. Text is taken for numbers and times too, as CSV has nothing else.
"""

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from infra.card_numbers import SHORTEST, holds_card_number
from infra.errors import UserError
from ingestion.events import EARLIEST, LATEST, microseconds

_NUMBER = r"^\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d{1,3})?\s*$"
_ZONE = r":\d\d.*(Z|[+-]\d\d(:?\d\d)?)$"
_FRACTION = r"(\.\d{1,6})\d*"
MAX_MONEY = 1e9


@dataclass(frozen=True)
class Column:
    """A field of all rows."""

    values: pa.Array
    wrong: pa.BooleanArray
    """Rows that hold something, but not what was expected."""
    expected: str

    def required(self) -> "Column":
        """The same, wrong where it is empty too."""
        return Column(self.values, pc.or_(self.wrong, self.values.is_null()), self.expected)


def text(raw: pa.Array) -> pa.Array:
    """Any column as text; a whole number has no decimal point, an empty text is null.

    >>> text(pa.array([5.0, None])).to_pylist()
    ['5', None]
    """
    if pa.types.is_floating(raw.type):
        whole = pc.equal(pc.floor(raw), raw)
        numbers = pc.if_else(pc.and_(whole, pc.less(pc.abs(raw), 2.0**63)), raw, None).cast(pa.int64())
        raw = pc.coalesce(numbers.cast(pa.string()), raw.cast(pa.string()))
    try:
        words = raw.cast(pa.string())
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        raise UserError(f"expected a column of text or numbers, came one of {raw.type}.") from None
    return pc.if_else(pc.equal(words, ""), None, words)


NO_CARD_NUMBER = "no card number, but a token or a hash of it"


def words(raw: pa.Array, longest: int) -> Column:
    """Printable text without spaces at the ends, and without a card number."""
    values = text(raw)
    cards = card_numbers(values)
    if pa.types.is_integer(raw.type):
        return Column(values, cards, NO_CARD_NUMBER)
    bad = pc.or_(
        pc.or_(pc.invert(pc.utf8_is_printable(values)), pc.greater(pc.utf8_length(values), longest)),
        pc.not_equal(pc.utf8_trim_whitespace(values), values),
    )
    expected = f"1 to {longest} printable characters without spaces at the ends, and {NO_CARD_NUMBER}"
    return Column(values, pc.or_(bad.fill_null(False), cards), expected)


def matching(raw: pa.Array, pattern: str, expected: str) -> Column:
    """Text of a pattern."""
    values = text(raw)
    return Column(values, pc.invert(pc.match_substring_regex(values, pattern)).fill_null(False), expected)


def numbers(raw: pa.Array, low: float, high: float, expected: str, low_too: bool = True) -> Column:
    """Finite numbers from `low` (or above it) up to `high`."""
    given = text(raw) if _is_text(raw.type) else raw
    values = _floats(given)
    floor = pc.less(values, low) if low_too else pc.less_equal(values, low)
    bad = pc.or_(pc.or_(floor, pc.greater(values, high)), pc.invert(pc.is_finite(values)))
    return Column(values, pc.or_(bad.fill_null(False), _lost(given, values)), expected)


def amounts(raw: pa.Array) -> Column:
    """Amounts from zero: a payment of 0 only checks the card."""
    return numbers(raw, 0.0, MAX_MONEY, "a number from 0 up to 1e9")


def money(raw: pa.Array) -> Column:
    """Amounts above zero."""
    return numbers(raw, 0.0, MAX_MONEY, "a number above 0 and at most 1e9", low_too=False)


def times(raw: pa.Array) -> Column:
    """Microseconds since 1970 UTC; a time without a zone is UTC."""
    given = text(raw) if _is_text(raw.type) else raw
    values = _microseconds(given)
    low, high = microseconds(EARLIEST), microseconds(LATEST)
    bad = pc.or_(pc.less(values, low), pc.greater_equal(values, high)).fill_null(False)
    expected = f"a time from {EARLIEST.year} up to {LATEST.year}, such as 2026-03-01T12:00:00Z"
    return Column(values, pc.or_(bad, _lost(given, values)), expected)


def labels(raw: pa.Array) -> Column:
    """`fraud` or `legitimate`."""
    given = pc.utf8_lower(text(raw))
    fraud = pc.is_in(given, pa.array(["1", "true", "fraud"]))
    legitimate = pc.is_in(given, pa.array(["0", "false", "legitimate"]))
    values = pc.if_else(fraud, "fraud", pc.if_else(legitimate, "legitimate", pa.scalar(None, pa.string())))
    return Column(values, _lost(given, values), "1, true or fraud; 0, false or legitimate")


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def card_numbers(values: pa.Array) -> pa.BooleanArray:
    """Which texts hold what looks like a card number; only long ones are looked at one by one."""
    long = pc.fill_null(pc.greater_equal(pc.utf8_length(values), SHORTEST), False)
    found = np.zeros(len(values), np.bool_)
    at = np.flatnonzero(long.to_numpy(zero_copy_only=False))
    found[at] = [holds_card_number(each) for each in values.take(pa.array(at)).to_pylist()]
    return pa.array(found)


def _lost(given: pa.Array, values: pa.Array) -> pa.BooleanArray:
    return pc.and_(given.is_valid(), values.is_null())


def _floats(raw: pa.Array) -> pa.Array:
    if pa.types.is_string(raw.type):
        trimmed = pc.utf8_trim_whitespace(raw)
        return pc.if_else(pc.match_substring_regex(raw, _NUMBER), trimmed, None).cast(pa.float64())
    try:
        return raw.cast(pa.float64(), safe=False)
    except pa.ArrowNotImplementedError:
        raise UserError(f"expected a column of numbers, came one of {raw.type}.") from None


def _microseconds(raw: pa.Array) -> pa.Array:
    if pa.types.is_string(raw.type):
        return _parsed(raw)
    if pa.types.is_timestamp(raw.type):
        return raw.cast(pa.timestamp("us", raw.type.tz), safe=False).cast(pa.int64())
    if pa.types.is_date(raw.type):
        return raw.cast(pa.timestamp("us")).cast(pa.int64())
    raise UserError(f"expected a column of times, came one of {raw.type}.")


def _parsed(raw: pa.Array) -> pa.Array:
    """All at once if all are times; else one by one."""
    short = pc.replace_substring_regex(raw, _FRACTION, r"\1")
    zoned = pc.match_substring_regex(short, _ZONE)
    try:
        aware = pc.if_else(zoned, short, None).cast(pa.timestamp("us", "UTC")).cast(pa.int64())
        naive = pc.if_else(zoned, None, short).cast(pa.timestamp("us")).cast(pa.int64())
        return pc.coalesce(aware, naive)
    except pa.ArrowInvalid:
        return pa.array([_parsed_alone(each) for each in short.to_pylist()], pa.int64())


def _parsed_alone(word: str | None) -> int | None:
    try:
        moment = datetime.fromisoformat(word or "")
    except ValueError:
        return None
    return microseconds(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
