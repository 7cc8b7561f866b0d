"""Card numbers where none belong: found by length, issuer and check digit, and masked.

A number is taken for a card's if it has 13 to 19 digits, begins as the issuers' numbers do (ISO/IEC 7812-1;
ranges as the networks publish them) and its last digit is right (Luhn 1960, US patent 2,950,048). Spaces and
dashes between groups of digits do not hide it. What is no card's by its looks is left alone: a telephone
number (`+`), the digits behind a decimal point, a UUID, digits among the letters of a hexadecimal digest.
"""

import re
from collections.abc import Iterator

SHORTEST, LONGEST = 13, 19
FEWEST_PARTS = 3
"""Groups of digits that touch a letter are a number only if there are so many."""
MOST_TRIED = 64
"""Stretches of one run that begin as a card number does; who has more is refused without a closer look."""
MASK = "*"

_BETWEEN = r"\s\-\u2010-\u2015\u2212"
_RUN = re.compile(rf"\d(?:[{_BETWEEN}]{{0,3}}\d){{12,}}")
_LIKELY = b"0" * SHORTEST
"""In every ASCII text with a `_RUN`, once digits and what may be between them are zeros."""
_TO_ZEROS = bytes(48 if chr(each) in "0123456789- \t\n\r\v\f\x1c\x1d\x1e\x1f" else 120 for each in range(256))
_GROUP = re.compile(r"\d+")
_UUID = re.compile(r"(?<![0-9a-fA-F])[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}(?![0-9a-fA-F])")
_ISSUED = re.compile(
    r"4\d{12,}|5[0-8]\d{11,}|6\d{12,}"  # Visa; Mastercard, Maestro; Maestro, Discover, UnionPay, RuPay
    r"|30[0-5]\d{11,}|3[689]\d{12,}|3[47]\d{13}|35\d{14,}"  # Diners Club; American Express; JCB
    r"|22(?:0[0-4]|2[1-9]|[3-9]\d)\d{12,}|2(?:[3-6]\d|7[01])\d{13,}|2720\d{12,}"  # Mir, Mastercard
    r"|8[12]\d{14,}"  # UnionPay, RuPay
)
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|[ntr])")
_DOUBLED = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)

type_of_span = tuple[int, int]


def holds_card_number(text: str) -> bool:
    """Whether a text holds what looks like a full card number.

    >>> holds_card_number("4111 1111-1111 1111"), holds_card_number("4111111111111112")
    (True, False)
    """
    return _likely(text) and next(_spans(text), None) is not None


def masked(text: str) -> str:
    """The text with a star for every digit of a card number.

    >>> masked("paid by 4111 1111 1111 1111")
    'paid by **** **** **** ****'
    """
    spans = list(_spans(text)) if _likely(text) else []
    letters = list(text) if spans else []
    for start, end in spans:
        letters[start:end] = [MASK if each.isdecimal() else each for each in letters[start:end]]
    return "".join(letters) if spans else text


def masked_bytes(raw: bytes) -> bytes:
    r"""The same of bytes that may be JSON; digits that are written as `\u0034` are found too.

    What holds no number comes back as it was, bit for bit.
    """
    text = raw.decode("utf-8", "surrogateescape").replace("\0", "")
    plain = _ESCAPE.sub(lambda found: chr(int(found[1], 16)) if found[1] else " ", text)
    return masked(plain).encode("utf-8", "replace") if holds_card_number(plain) else raw


def luhn(digits: str) -> bool:
    """Whether the last digit is the right one for those before it.

    >>> luhn("79927398713"), luhn("79927398710")
    (True, False)
    """
    total = sum(
        _DOUBLED[int(each)] if place % 2 else int(each) for place, each in enumerate(reversed(digits))
    )
    return total % 10 == 0


def _likely(text: str) -> bool:
    """False for nearly all texts without a card number, in less than a microsecond."""
    return len(text) >= SHORTEST and (not text.isascii() or _LIKELY in text.encode().translate(_TO_ZEROS))


def _spans(text: str) -> Iterator[type_of_span]:
    """First character and the one after the last of every card number."""
    text = _UUID.sub(lambda found: "-" * len(found[0]), text)
    for run in _RUN.finditer(text):
        yield from _spans_of(text, run)


def _spans_of(text: str, run: re.Match[str]) -> Iterator[type_of_span]:
    groups = [found.span() for found in _GROUP.finditer(text, *run.span())]
    tried = 0
    for first, last in _stretches(groups):
        digits = _plain(text[groups[first][0] : groups[last][1]])
        if _ISSUED.fullmatch(digits) is None:
            continue
        tried += 1
        if tried > MOST_TRIED:
            yield run.span()
            return
        if luhn(digits) and _stands_alone(text, groups, first, last):
            yield groups[first][0], groups[last][1]


def _plain(text: str) -> str:
    """Its digits, in ASCII."""
    if text.isascii() and text.isdecimal():
        return text
    return "".join(str(int(each)) for each in text if each.isdecimal())


def _stretches(groups: list[type_of_span]) -> Iterator[tuple[int, int]]:
    """First and last of the groups that have as many digits together as a card number."""
    for first in range(len(groups)):
        digits = 0
        for last in range(first, len(groups)):
            digits += groups[last][1] - groups[last][0]
            if digits > LONGEST:
                break
            if digits >= SHORTEST:
                yield first, last


def _stands_alone(text: str, groups: list[type_of_span], first: int, last: int) -> bool:
    """Whether what surrounds the digits lets them be a number of their own."""
    start, end = groups[first][0], groups[last][1]
    before, after = text[max(start - 2, 0) : start], text[end : end + 1]
    if before.endswith("+") or (before.endswith(".") and before[:1].isdecimal()):
        return False
    if not (before[-1:].isalpha() or after.isalpha()):
        return True
    if last > first:
        return last - first + 1 >= FEWEST_PARTS
    return not any(each.isdecimal() for each in _word_around(text, start, end))


def _word_around(text: str, start: int, end: int) -> str:
    """Letters and digits that touch the stretch, without it."""
    left, right = start, end
    while left > 0 and text[left - 1].isalnum():
        left -= 1
    while right < len(text) and text[right].isalnum():
        right += 1
    return text[left:start] + text[end:right]
