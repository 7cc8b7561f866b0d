"""What looks like a card number is found in any dress; what only has many digits hardly ever."""

import hashlib
import logging
import random
import uuid
from io import StringIO

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from infra import logs
from infra.card_numbers import MASK, holds_card_number, luhn, masked, masked_bytes

ISSUERS = {
    "4": (13, 16, 19),
    "34": (15,),
    "37": (15,),
    "36": (14, 16, 19),
    "38": (14,),
    "300": (14,),
    "305": (14,),
    "51": (16,),
    "55": (16,),
    "2221": (16,),
    "2500": (16,),
    "2720": (16,),
    "2200": (16, 19),
    "2204": (16,),
    "3528": (16, 19),
    "3589": (16,),
    "6011": (16, 19),
    "644": (16,),
    "65": (16,),
    "62": (16, 17, 18, 19),
    "50": (13, 16, 19),
    "56": (13, 19),
    "58": (16,),
    "6304": (13, 16, 19),
    "6759": (16,),
    "81": (16,),
}
"""First digits and lengths, as the networks publish them."""
PUBLISHED = (
    *("4111111111111111", "4012888888881881", "4222222222222", "5555555555554444", "5105105105105100"),
    *("2223003122003222", "378282246310005", "371449635398431", "30569309025904", "38520000023237"),
    *("6011111111111117", "3530111333300000", "6200000000000005", "6304000000000000"),
)
"""Numbers that the networks and their partners publish for tests."""
BEFORE = ("", "card ", "Visa: ", "x", "12 ", "é", "a-", "PAN", "\n")
DASHES = " -\u00a0\u2010\u2013\u2212"


def completed(digits: str) -> str:
    """With the check digit, by its definition: the only one that Luhn's sum takes."""
    doubled = [int(each) * (2 - place % 2) for place, each in enumerate(reversed(digits))]
    return digits + str(-sum(each // 10 + each % 10 for each in doubled) % 10)


@st.composite
def numbers(draw: st.DrawFn) -> str:
    head, lengths = draw(st.sampled_from(sorted(ISSUERS.items())))
    missing = draw(st.sampled_from(lengths)) - len(head) - 1
    return completed(
        head + "".join(draw(st.lists(st.sampled_from("0123456789"), min_size=missing, max_size=missing)))
    )


@st.composite
def dressed(draw: st.DrawFn) -> str:
    """As people write them: whole, or in groups of two or more digits."""
    number, parts = draw(numbers()), []
    size = draw(st.sampled_from([19, 2, 3, 4, 5, 6]))
    parts = [number[at : at + size] for at in range(0, len(number), size)]
    return draw(st.sampled_from(DASHES)).join(parts)


@settings(max_examples=500, deadline=None)
@given(
    dressed(),
    st.sampled_from(["", "card ", "Visa: ", "x", "12 ", "é", "a-", "PAN", "\n"]),
    st.text(max_size=5),
)
@example("4111 1111 1111 1111", "", "")
def test_a_card_number_is_found_and_masked(number: str, before: str, after: str) -> None:
    text = before + number + " " + after
    assert holds_card_number(text)
    assert not holds_card_number(masked(text))
    hidden = masked(before + number)
    assert len(hidden) == len(before + number)
    assert sum(each == MASK for each in hidden) >= sum(each.isdecimal() for each in number)


@pytest.mark.parametrize("number", PUBLISHED)
def test_published_numbers_are_found(number: str) -> None:
    assert holds_card_number(number)
    assert masked(f"c-{number}.") == f"c-{MASK * len(number)}."
    assert not holds_card_number(number[:-1] + str((int(number[-1]) + 1) % 10))


def test_luhn_takes_one_last_digit_in_ten() -> None:
    chance = random.Random(1)
    for _ in range(1_000):
        digits = str(chance.randrange(10**12, 10**18))
        assert [luhn(digits + last) for last in "0123456789"].count(True) == 1
        assert luhn(completed(digits))


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "c-17",
            "+49 1512 3456789",
            "+491512345678901",
            "0.4111111111111111",
            "1.5",
            "-71.4111111111111111",
        ),
        *("192.168.100.100", "2001:db8:4111:1111:1111:1111", "2026-03-01T12:00:00.123456789Z"),
        *("41111111111111110000000", "4111111111111112", "1111111111111117", "9411111111111111"),
        *("20260301120000000000", "202603011200000"),
    ],
)
def test_what_is_no_card_number_is_left_alone(text: str) -> None:
    assert not holds_card_number(text)
    assert masked(text) == text
    assert masked_bytes(text.encode()) == text.encode()


@pytest.mark.slow
def test_how_often_other_ids_are_taken_for_one() -> None:
    """Of random ids of 13 to 19 digits 3 to 5 in 100; of the usual kinds none in many thousand."""
    chance, n = random.Random(7), 20_000
    for length in range(13, 20):
        ids = (str(chance.randrange(10 ** (length - 1), 10**length)) for _ in range(n))
        assert 0.02 < sum(map(holds_card_number, ids)) / n < 0.055, length
    names = [uuid.UUID(int=chance.getrandbits(128), version=4) for _ in range(n)]
    usual = {
        "uuid": map(str, names),
        "uuid without dashes": (each.hex for each in names),
        "digest": (hashlib.sha256(each.bytes).hexdigest() for each in names),
        "microseconds until 2033": (str(chance.randrange(10**15, 2 * 10**15)) for _ in range(n)),
        "date and time": (f"202{chance.randrange(10)}0301{chance.randrange(10**6):06}" for _ in range(n)),
        "date, time and number": (f"20260301{chance.randrange(10**8):08}" for _ in range(n)),
        "12 digits": (str(chance.randrange(10**11, 10**12)) for _ in range(n)),
        "20 digits": (str(chance.randrange(10**19, 10**20)) for _ in range(n)),
    }
    assert {kind: sum(map(holds_card_number, ids)) for kind, ids in usual.items()} == dict.fromkeys(usual, 0)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_bytes_without_a_number_stay_as_they_are(raw: bytes) -> None:
    if not holds_card_number(raw.decode("utf-8", "surrogateescape")):
        assert masked_bytes(raw) == raw


@pytest.mark.parametrize(
    "raw",
    [
        b'{"customer_id": "4111111111111111"}',
        b'{"customer_id": "4\\u0031111111111111\\u00311"}',
        b'{"note": "4111\\t1111\\t1111\\t1111"}',
        b"\xff\xfe4111111111111111",
        "4111111111111111".encode("utf-16"),
        b'{"amount": 4111111111111111}',
    ],
)
def test_no_digit_of_it_is_left_in_bytes(raw: bytes) -> None:
    hidden = masked_bytes(raw)
    assert b"*" * 4 in hidden
    assert b"4" not in hidden
    assert b"0031" not in hidden


@pytest.mark.parametrize("text", ["40 " * 340, "4 " * 510, "4" * 1_024, "41111-" * 170, "2 4 " * 255])
def test_a_text_made_to_take_long_is_answered(text: str) -> None:
    """Many groups of digits are looked at no more often than it takes; too many are refused."""
    holds_card_number(text)
    masked(text)


def test_no_card_number_reaches_a_log() -> None:
    out = StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(logs.OneLine())
    log = logging.getLogger("test of card numbers")
    log.propagate = False
    log.addHandler(handler)
    try:
        try:
            raise ValueError("bad card 4111-1111-1111-1111")
        except ValueError:
            log.exception("of %s", "4111111111111111", extra={"facts": {"who": "4111 1111 1111 1111"}})
    finally:
        log.removeHandler(handler)
    assert "1111" not in out.getvalue()
    assert out.getvalue().count("****") > 3
