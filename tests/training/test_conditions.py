"""Conditions: what they mean, held to a slow reading of SQL's three values, and what they refuse."""

import math
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from features.fraud import FRAUD
from infra.errors import UserError
from training.conditions import MOST_CHARACTERS, MOST_DEPTH, MOST_WORDS, compiled

NAMES = ("amount", "rate", "online")
Row = Mapping[str, float]


def hits(text: str, *rows: tuple[float, float, float]) -> list[bool]:
    with np.errstate(all="ignore"):
        return np.broadcast_to(compiled(text, NAMES)(np.array(rows)), len(rows)).tolist()


def refused(text: str) -> str:
    with pytest.raises(UserError) as refusal:
        compiled(text, NAMES)
    return str(refusal.value)


nan = math.nan


@pytest.mark.parametrize(
    ("text", "row", "hit"),
    [
        ("amount > 1000 AND rate > 0.1", (1001, 0.2, 1), True),
        ("amount > 1000 and rate > 0.1", (1001, 0.1, 1), False),
        ("amount > 1 OR rate > 1 AND online = 0", (2, 0, 1), True),
        ("(amount > 1 OR rate > 1) AND online = 0", (2, 0, 1), False),
        ("amount BETWEEN 1 AND 2", (2, 0, 0), True),
        ("amount NOT BETWEEN 1 AND 2", (2, 0, 0), False),
        ("amount NOT BETWEEN 2 AND 1", (1.5, 0, 0), True),
        ("online IN (0, -1, 2.5)", (0, 0, -1), True),
        ("online NOT IN (0, 1)", (0, 0, 2), True),
        ("rate <> 0.5", (0, 0.25, 0), True),
        ("rate IS NULL", (0, nan, 0), True),
        ("rate IS NOT NULL", (0, nan, 0), False),
        ("amount - rate * 2 + -3 = 1 - amount / 2", (4, 1, 0), True),
        ("10 - 3 - 2 = 5 AND 8 / 4 / 2 = 1", (0, 0, 0), True),
        ("ABS(rate) > 1", (0, -2, 0), True),
        ("LEAST(amount, rate, 3) = 2 AND greatest(amount, rate) = 5", (5, 2, 0), True),
        ("1e3 < .5", (0, 0, 0), False),
        ("rate > 0.1", (0, nan, 0), False),
        ("NOT rate > 0.1", (0, nan, 0), False),
        ("rate <> 0.1", (0, nan, 0), False),
        ("rate NOT IN (1)", (0, nan, 0), False),
        ("rate NOT BETWEEN 1 AND 2", (0, nan, 0), False),
        ("NOT (rate > 0.1 AND amount > 5)", (4, nan, 0), True),
        ("NOT (rate > 0.1 OR amount > 5)", (4, nan, 0), False),
        ("rate > 0.1 OR amount > 5", (6, nan, 0), True),
        ("ABS(rate) >= 0 OR GREATEST(rate, amount) > 0 OR rate - rate = 0", (6, nan, 0), False),
        ("LEAST(rate, amount) > 0 OR LEAST(amount, rate) <= 6", (6, nan, 0), False),
        ("amount / rate > 0 OR NOT amount / rate > 0", (6, 0, 0), False),
        ("amount / rate IS NULL", (6, 0, 0), True),
    ],
)
def test_what_a_condition_means(text: str, row: tuple[float, float, float], hit: bool) -> None:
    assert hits(text, row) == [hit]


@pytest.mark.parametrize("name", FRAUD.names)
def test_every_feature_can_be_named(name: str) -> None:
    matrix = np.arange(float(len(FRAUD.names)))[None]
    assert compiled(f"{name} = {FRAUD.names.index(name)}", FRAUD.names)(matrix).tolist() == [True]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("amuont > 1", "no feature 'amuont', did you mean `amount`"),
        ("AMOUNT > 1", "did you mean `amount`"),
        ("zzz > 1", "known are amount, rate, online"),
        ("", "came ''"),
        ("amount >", "can't read 'amount >' near '>'"),
        ("amount > 1 AND", "can't read"),
        ("amount", "expected a condition where a number stands"),
        ("amount > 1 AND rate", "expected a condition where a number stands"),
        ("amount > (rate > 1)", "expected a number where a condition stands"),
        ("0 < amount < 1", "expected a number where a condition stands"),
        ("amount > 'x'", "came `x`"),
        ("amount > NULL", "came `NULL`"),
        ("amount IS 1", "came `1`"),
        ("amount::int > 1", "came `::`"),
        ("amount % 2 = 1", "came `%`"),
        ("t.amount > 1", "came `t.amount`"),
        ("amount > 1.2.3", "came `3`"),
        ("exp(amount) > 1", "came `EXP`"),
        ("f(amount) > 1", "came `f`"),
        ("amount > (SELECT 1)", "came `SELECT`"),
        ("amount > 1; rate > 1", "came `;`"),
        ("amount > 5 --3", "came a comment"),
        ("amount BETWEEN SYMMETRIC 1 AND 2", "came `BETWEEN`"),
        ("amount IN (rate)", "came `rate`"),
        ("amount IN ()", "came `IN`"),
        ("(amount, rate) > 1", "came `TUPLE`"),
        ("amount > 1e400", "expected a number, came '1e400'"),
        ("__import__('os').system('x') > 1", "came `os`"),
    ],
)
def test_anything_else_is_refused_with_what_came(text: str, reason: str) -> None:
    assert reason in refused(text)


def test_what_is_allowed_is_said() -> None:
    assert "expected only features, numbers, + - * /, = <> < <= > >=, BETWEEN" in refused("amount ^ 2 > 1")


@pytest.mark.parametrize(
    ("within", "beyond"),
    [
        ("(" * MOST_DEPTH + "amount > 1" + ")" * MOST_DEPTH, "(" * 21 + "amount > 1" + ")" * 21),
        ("NOT " * MOST_DEPTH + "amount > 1", "NOT " * 500 + "amount > 1"),
        ("amount > " + "- " * MOST_DEPTH + "1", "amount > " + "-(" * 11 + "1" + ")" * 11),
        ("amount" + "-1" * ((MOST_WORDS - 3) // 2) + " > 1", "amount" + "-1" * (MOST_WORDS // 2) + " > 1"),
        ("amount" + " " * (MOST_CHARACTERS - 10) + " > 1", "amount" + " " * MOST_CHARACTERS + " > 1"),
    ],
    ids=["parentheses", "NOT", "minus", "words", "characters"],
)
def test_length_and_depth_are_bounded(within: str, beyond: str) -> None:
    compiled(within, NAMES)
    assert "expected at most 2,000 characters, 250 words and 20 levels" in refused(beyond)


def test_only_a_condition_needs_sqlglot() -> None:
    modules = "infra.cli, infra.settings, features.fraud, training.commands"
    script = f"import sys, {modules}; print('sqlglot' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@dataclass(frozen=True)
class Slow:
    """A text, and what it is in a row: a number (NaN unknown), or True, False or None (unknown)."""

    text: str
    value: Callable[[Row], float]


@dataclass(frozen=True)
class SlowTruth:
    text: str
    value: Callable[[Row], bool | None]


def _both(left: float, right: float, what: Callable[[float, float], float]) -> float:
    return nan if math.isnan(left) or math.isnan(right) else what(left, right)


def _divided(left: float, right: float) -> float:
    return nan if right == 0 else left / right


ARITHMETIC = {"+": float.__add__, "-": float.__sub__, "*": float.__mul__, "/": _divided}
COMPARISONS = {
    "=": float.__eq__,
    "<>": float.__ne__,
    "!=": float.__ne__,
    "<": float.__lt__,
    "<=": float.__le__,
    ">": float.__gt__,
    ">=": float.__ge__,
}
literals = st.integers(0, 5) | st.sampled_from([0.5, 1e3, 0.1])


def _calculated(left: Slow, sign: str, right: Slow) -> Slow:
    what = ARITHMETIC[sign]
    return Slow(
        f"({left.text} {sign} {right.text})", lambda row: _both(left.value(row), right.value(row), what)
    )


def _extreme(name: str, parts: list[Slow]) -> Slow:
    choose = min if name == "LEAST" else max

    def value(row: Row) -> float:
        found = [part.value(row) for part in parts]
        return nan if any(map(math.isnan, found)) else choose(found)

    return Slow(f"{name}({', '.join(part.text for part in parts)})", value)


numbers = st.recursive(
    st.sampled_from(NAMES).map(lambda name: Slow(name, lambda row: row[name]))
    | literals.map(lambda number: Slow(str(number), lambda _: float(number))),
    lambda inner: (
        st.builds(_calculated, inner, st.sampled_from(sorted(ARITHMETIC)), inner)
        | st.builds(_extreme, st.sampled_from(["LEAST", "GREATEST"]), st.lists(inner, min_size=1, max_size=3))
        | inner.map(lambda each: Slow(f"- {each.text}", lambda row: -each.value(row)))
        | inner.map(lambda each: Slow(f"ABS({each.text})", lambda row: abs(each.value(row))))
    ),
    max_leaves=5,
)


def _compared(left: Slow, sign: str, right: Slow) -> SlowTruth:
    def value(row: Row) -> bool | None:
        one, other = left.value(row), right.value(row)
        return None if math.isnan(one) or math.isnan(other) else bool(COMPARISONS[sign](one, other))

    return SlowTruth(f"{left.text} {sign} {right.text}", value)


def _between(this: Slow, low: Slow, high: Slow, word: str) -> SlowTruth:
    inside = _joined(_compared(this, ">=", low), "AND", _compared(this, "<=", high))
    text = f"{this.text} {word} {low.text} AND {high.text}"
    return SlowTruth(text, _not(inside).value if "NOT" in word else inside.value)


def _in(this: Slow, wanted: list[float], word: str) -> SlowTruth:
    def value(row: Row) -> bool | None:
        found = this.value(row)
        return None if math.isnan(found) else (found in wanted) != ("NOT" in word)

    return SlowTruth(f"{this.text} {word} ({', '.join(map(str, wanted))})", value)


def _null(this: Slow, word: str) -> SlowTruth:
    return SlowTruth(f"{this.text} {word}", lambda row: math.isnan(this.value(row)) != ("NOT" in word))


def _not(this: SlowTruth) -> SlowTruth:
    def value(row: Row) -> bool | None:
        known = this.value(row)
        return None if known is None else not known

    return SlowTruth(f"NOT ({this.text})", value)


def _joined(left: SlowTruth, word: str, right: SlowTruth) -> SlowTruth:
    """Kleene's tables: AND is false as soon as one side is, OR true."""

    def value(row: Row) -> bool | None:
        sides = {left.value(row), right.value(row)}
        decisive = word == "OR"
        return decisive if decisive in sides else None if None in sides else not decisive

    return SlowTruth(f"({left.text}) {word} ({right.text})", value)


truths = st.recursive(
    st.builds(_compared, numbers, st.sampled_from(sorted(COMPARISONS)), numbers)
    | st.builds(_between, numbers, numbers, numbers, st.sampled_from(["BETWEEN", "NOT BETWEEN"]))
    | st.builds(
        _in, numbers, st.lists(literals.map(float), min_size=1, max_size=3), st.sampled_from(["IN", "NOT IN"])
    )
    | st.builds(_null, numbers, st.sampled_from(["IS NULL", "IS NOT NULL"])),
    lambda inner: inner.map(_not) | st.builds(_joined, inner, st.sampled_from(["AND", "OR"]), inner),
    max_leaves=5,
)
values = st.integers(-3, 6).map(float) | st.sampled_from([nan, 0.5, 1e3, 1e308, -0.0])


@given(truths, st.lists(st.tuples(values, values, values), min_size=1, max_size=8))
def test_a_condition_is_sql_in_every_row(slow: SlowTruth, rows: list[tuple[float, float, float]]) -> None:
    expected = [slow.value(dict(zip(NAMES, row, strict=True))) is True for row in rows]
    assert hits(slow.text, *rows) == expected


WORDS = """
amount rate online 1 2.5 1e 1.2.3 ( ) , + - * / . = < >= != ! BETWEEN IN IS NULL AND OR NOT ABS( LEAST( IN(
CASE SELECT SYMMETRIC OVER INTERVAL DATE ' " ; -- /* :: [ { $$ @ \\ amount>1 rate<=2 online=amount
"""


@pytest.mark.slow
@given(st.text(max_size=60) | st.lists(st.sampled_from(WORDS.split()), max_size=40).map(" ".join))
@example("(" * 2_500)
@example("NOT " * 250)
@example("amount > " + "1 + " * 120 + "1")
@example("\x00")
@example("\ud800")
def test_no_text_is_more_than_refused(text: str) -> None:
    with suppress(UserError), np.errstate(all="ignore"):
        assert np.asarray(compiled(text, NAMES)(np.ones((2, 3)))).dtype == np.bool_
