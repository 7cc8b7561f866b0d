"""Conditions of rules: SQL's boolean expressions over feature names, as numpy over a feature matrix.

A text is read by sqlglot's parser; of its syntax tree a short list of nodes is taken, anything else is
refused, and no text is ever run as code. A value not known (NaN) is SQL's NULL: a comparison with it is
unknown, and so is NOT of that; what is not known to be true is no hit. Division by zero is unknown, too, and
so are ABS, LEAST and GREATEST of anything unknown.
"""

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from sqlglot import Token, Tokenizer, TokenType, exp
from sqlglot.errors import SqlglotError
from sqlglot.parser import Parser

from features.state import Flags, Floats
from infra.errors import UserError

ALLOWED = (
    "features, numbers, + - * /, = <> < <= > >=, BETWEEN, IN (numbers), IS NULL, AND, OR, NOT, ABS, LEAST,"
    " GREATEST and parentheses"
)
MOST_CHARACTERS, MOST_WORDS, MOST_DEPTH = 2_000, 250, 20
"""Of a condition; depth counts parentheses, NOT and minus signs inside one another."""

Condition = Callable[[Floats], Flags]
"""From a feature matrix, shape (n, features), to the rows for which it is known to be true, shape (n,)."""
type_of_number = Callable[[Floats], Floats]
"""From a feature matrix to a number of each row, shape (n,) or (); NaN where it is not known."""

_OPERANDS = {TokenType.VAR, TokenType.NUMBER, TokenType.R_PAREN}
_WORDS = _OPERANDS | {
    TokenType.L_PAREN, TokenType.COMMA, TokenType.DOT,
    TokenType.PLUS, TokenType.DASH, TokenType.STAR, TokenType.SLASH,
    TokenType.EQ, TokenType.NEQ, TokenType.LT, TokenType.LTE, TokenType.GT, TokenType.GTE,
    TokenType.AND, TokenType.OR, TokenType.NOT, TokenType.BETWEEN, TokenType.IN, TokenType.IS, TokenType.NULL,
}  # fmt: skip
_PARTS = {"this", "expression", "expressions", "low", "high", "typed", "safe", "ignore_nulls"}
"""Of a node; another one, such as a column's table, would mean more than we compute."""
_SHOWN = 80


def compiled(text: str, names: Sequence[str]) -> Condition:
    """The condition over a matrix whose columns have these names.

    >>> hit = compiled("amount > 100 AND NOT rate <= 0.5", ("amount", "rate"))
    >>> hit(np.array([[200.0, 0.9], [200.0, 0.1], [200.0, np.nan]])).tolist()
    [True, False, False]

    Raises:
        UserError: it can't be read, names no feature, or holds more than a rule may; without a full stop.
    """
    scope = _Scope(text, {name: column for column, name in enumerate(names)})
    return scope.condition(_parsed(text), negated=False)


def _parsed(text: str) -> exp.Expr:
    try:
        words = Tokenizer().tokenize(text[: MOST_CHARACTERS + 1])
        _bounded(text, words)
        found = Parser().parse_into(exp.Condition, words, text)
    except SqlglotError as error:
        raise _unreadable(text, error) from None
    if len(found) != 1 or not isinstance(found[0], exp.Expr):
        raise UserError(f"expected one condition over {ALLOWED}, came {_shown(text)}")
    return found[0]


def _bounded(text: str, words: Sequence[Token]) -> None:
    """Refuse what the parser would give a meaning that we don't know, or descend into too deeply."""
    for word in words:
        if word.token_type not in _WORDS or word.comments:
            came = f"`{word.text}`" if word.token_type not in _WORDS else "a comment"
            raise _refused(text, f"{came:.{_SHOWN}}")
    depth = _depth(words)
    if len(text) > MOST_CHARACTERS or len(words) > MOST_WORDS or depth > MOST_DEPTH:
        raise UserError(
            f"expected at most {MOST_CHARACTERS:,} characters, {MOST_WORDS} words and {MOST_DEPTH} levels in"
            f" one another, came {len(text):,}, {len(words)} and {depth}: {_shown(text)}"
        )


def _depth(words: Sequence[Token]) -> int:
    """Most parentheses and prefixes that are open at once; a prefix reaches over the name after it."""
    opened = [0]
    here = deepest = 0
    before = TokenType.COMMA
    for word in words:
        match word.token_type:
            case TokenType.L_PAREN:
                here += 1
                opened.append(here)
            case TokenType.R_PAREN:
                here = opened.pop() if len(opened) > 1 else 0
            case TokenType.NOT | TokenType.DASH if before not in _OPERANDS:
                here += 1
            case kind if kind is not TokenType.VAR:
                here = opened[-1]
        before, deepest = word.token_type, max(deepest, here)
    return deepest


def _unreadable(text: str, error: SqlglotError) -> UserError:
    details = getattr(error, "errors", None) or [{}]
    near = details[0].get("highlight") or ""
    where = f" near {near!r:.{_SHOWN}}" if near.strip() else ""
    return UserError(f"expected a condition over {ALLOWED}; can't read {_shown(text)}{where}")


def _refused(text: str, came: str) -> UserError:
    return UserError(f"expected only {ALLOWED}; came {came} in {_shown(text)}")


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…")


@dataclass(frozen=True)
class _Scope:
    """Compiles the nodes of one text."""

    text: str
    columns: Mapping[str, int]

    def condition(self, node: exp.Expr, negated: bool) -> Condition:
        """What is true or false of a row; with `negated`, where it is known to be false.

        Passing NOT down to the comparisons keeps three values exact with one array: a comparison and its
        opposite are both no hit where something is not known, and AND and OR ask for nothing else.
        """
        build = _CONDITIONS.get(type(node))
        if build is None:
            raise self._misplaced(node, "a condition", "a number", type(node) in _NUMBERS)
        self._plain(node)
        return build(self, node, negated)

    def number(self, node: exp.Expr) -> type_of_number:
        """What has a value in each row."""
        build = _NUMBERS.get(type(node))
        if build is None:
            raise self._misplaced(node, "a number", "a condition", type(node) in _CONDITIONS)
        self._plain(node)
        return build(self, node)

    def column(self, name: str) -> type_of_number:
        """A feature's values."""
        at = self.columns.get(name)
        if at is None:
            raise UserError(f"there is no feature {_shown(name)}{self._near(name)}")
        return lambda matrix: matrix[:, at]

    def constant(self, node: exp.Expr) -> float:
        """A number that is written out, perhaps with its sign."""
        if isinstance(node, exp.Neg):
            return -self.constant(node.this)
        if not isinstance(node, exp.Literal) or node.is_string:
            raise self.refused(node)
        try:
            value = float(node.this)
        except ValueError:
            value = math.inf
        if not math.isfinite(value):
            raise UserError(f"expected a number, came {_shown(node.this)} in {_shown(self.text)}")
        return value

    def refused(self, node: exp.Expr) -> UserError:
        """The error of what a rule may not hold."""
        name = ".".join(part.name for part in node.parts) if isinstance(node, exp.Column) else node.name
        return _refused(self.text, f"`{name or type(node).__name__.upper()}`")

    def _plain(self, node: exp.Expr) -> None:
        if {part for part, value in node.args.items() if value} - _PARTS:
            raise self.refused(node)

    def _misplaced(self, node: exp.Expr, wanted: str, came: str, known: bool) -> UserError:
        if not known:
            return self.refused(node)
        return UserError(f"expected {wanted} where {came} stands in {_shown(self.text)}")

    def _near(self, name: str) -> str:
        near = difflib.get_close_matches(name[:_SHOWN].lower(), self.columns, n=3)
        if near:
            return ", did you mean " + " or ".join(f"`{each}`" for each in near)
        return f"; known are {', '.join(self.columns)}"


def _inside(scope: _Scope, node: exp.Expr, negated: bool) -> Condition:
    return scope.condition(node.this, negated)


def _not(scope: _Scope, node: exp.Expr, negated: bool) -> Condition:
    return scope.condition(node.this, not negated)


def _joined(scope: _Scope, node: exp.Binary, negated: bool) -> Condition:
    """AND and OR; NOT makes one of the other (De Morgan)."""
    join = np.logical_or if isinstance(node, exp.Or) != negated else np.logical_and
    left, right = scope.condition(node.left, negated), scope.condition(node.right, negated)
    return lambda matrix: join(left(matrix), right(matrix))


def _compared(scope: _Scope, node: exp.Binary, negated: bool) -> Condition:
    compare = _COMPARISONS[type(node)][negated]
    left, right = scope.number(node.left), scope.number(node.right)
    return lambda matrix: compare(left(matrix), right(matrix))


def _between(scope: _Scope, node: exp.Expr, negated: bool) -> Condition:
    value, low, high = (scope.number(node.args[part]) for part in ("this", "low", "high"))
    return lambda matrix: _is_between(value(matrix), low(matrix), high(matrix), negated)


def _is_between(value: Floats, low: Floats, high: Floats, negated: bool) -> Flags:
    return (value < low) | (value > high) if negated else (value >= low) & (value <= high)


def _in(scope: _Scope, node: exp.Expr, negated: bool) -> Condition:
    value = scope.number(node.this)
    wanted = np.array([scope.constant(each) for each in node.expressions])
    if not len(wanted):
        raise scope.refused(node)
    return lambda matrix: _is_in(value(matrix), wanted, negated)


def _is_in(value: Floats, wanted: Floats, negated: bool) -> Flags:
    found = np.asarray(np.equal.outer(value, wanted).any(axis=-1))
    return ~found & ~np.isnan(value) if negated else found


def _is_null(scope: _Scope, node: exp.Binary, negated: bool) -> Condition:
    if not isinstance(node.right, exp.Null):
        raise scope.refused(node.right)
    value = scope.number(node.left)
    return lambda matrix: np.isnan(value(matrix)) != negated


def _literal(scope: _Scope, node: exp.Expr) -> type_of_number:
    value = np.asarray(scope.constant(node))
    return lambda _: value


def _column(scope: _Scope, node: exp.Expr) -> type_of_number:
    return scope.column(node.name)


def _grouped(scope: _Scope, node: exp.Expr) -> type_of_number:
    return scope.number(node.this)


def _one(scope: _Scope, node: exp.Expr) -> type_of_number:
    """Minus and ABS."""
    change = np.negative if isinstance(node, exp.Neg) else np.abs
    value = scope.number(node.this)
    return lambda matrix: change(value(matrix))


def _two(scope: _Scope, node: exp.Binary) -> type_of_number:
    combine = _ARITHMETIC[type(node)]
    left, right = scope.number(node.left), scope.number(node.right)
    return lambda matrix: combine(left(matrix), right(matrix))


def _extreme(scope: _Scope, node: exp.Expr) -> type_of_number:
    choose = np.minimum if isinstance(node, exp.Least) else np.maximum
    values = [scope.number(each) for each in (node.this, *node.expressions)]
    return lambda matrix: reduce(choose, [value(matrix) for value in values])


def _quotient(left: Floats, right: Floats) -> Floats:
    return left / np.where(right == 0, np.nan, right)


def _differs(left: Floats, right: Floats) -> Flags:
    """Not `!=`, which NaN is from everything."""
    return (left < right) | (left > right)


_COMPARISONS: dict[type, tuple[Callable[[Floats, Floats], Flags], Callable[[Floats, Floats], Flags]]] = {
    exp.GT: (np.greater, np.less_equal),
    exp.GTE: (np.greater_equal, np.less),
    exp.LT: (np.less, np.greater_equal),
    exp.LTE: (np.less_equal, np.greater),
    exp.EQ: (np.equal, _differs),
    exp.NEQ: (_differs, np.equal),
}
"""Each comparison and its opposite."""
_ARITHMETIC: dict[type, Callable[[Floats, Floats], Floats]] = {
    exp.Add: np.add,
    exp.Sub: np.subtract,
    exp.Mul: np.multiply,
    exp.Div: _quotient,
}
_CONDITIONS: dict[type, Callable[[_Scope, Any, bool], Condition]] = {
    exp.Paren: _inside,
    exp.Not: _not,
    exp.And: _joined,
    exp.Or: _joined,
    exp.Between: _between,
    exp.In: _in,
    exp.Is: _is_null,
    **dict.fromkeys(_COMPARISONS, _compared),
}
_NUMBERS: dict[type, Callable[[_Scope, Any], type_of_number]] = {
    exp.Paren: _grouped,
    exp.Literal: _literal,
    exp.Column: _column,
    exp.Neg: _one,
    exp.Abs: _one,
    exp.Least: _extreme,
    exp.Greatest: _extreme,
    **dict.fromkeys(_ARITHMETIC, _two),
}
