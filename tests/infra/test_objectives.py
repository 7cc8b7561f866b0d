"""One word for every objective, whoever writes it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.objectives import NAMES, canonical, label, weights

any_weights = st.dictionaries(
    st.sampled_from(NAMES), st.floats(0, 1e9) | st.integers(0, 10**9), min_size=1
).filter(lambda given: any(given.values()))


@given(any_weights)
def test_a_mix_has_one_word_that_says_its_shares(given: dict[str, float]) -> None:
    word = canonical(given)
    assert canonical(word) == word
    shares = weights(word)
    assert sum(shares.values()) == pytest.approx(1.0, abs=1e-12)
    assert list(shares) == [name for name in NAMES if name in shares], "always in the same order"
    whole = sum(given.values())
    for name in NAMES:
        assert shares.get(name, 0.0) == pytest.approx(given.get(name, 0.0) / whole, abs=1e-4)
    assert canonical(shares) == word
    assert len(word) <= 64, "the log's words are no longer"


@pytest.mark.parametrize("name", NAMES)
def test_a_plain_name_stays_a_plain_name(name: str) -> None:
    nothing = dict.fromkeys(NAMES, 0.0)
    assert canonical(name) == canonical({name: 3}) == canonical(nothing | {name: 0.2})
    assert canonical(name) == label(name) == name
    assert weights(name) == {name: 1.0}


def test_only_the_ratio_of_weights_counts() -> None:
    assert canonical({"revenue": 3, "margin": 7}) == canonical({"margin": 0.07, "revenue": 0.03})
    assert canonical({"growth": 1, "margin": 1, "revenue": 1}) == (
        "0.3334 margin + 0.3333 revenue + 0.3333 growth"
    )
    assert label("0.5 margin + 0.5 growth") == "mix"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("glory", "expected 'margin', 'revenue' or 'growth', or weights"),
        ("", "expected 'margin'"),
        ("0.7 margin + 0.3 glory", "came a weight of 'glory'"),
        ("-0.7 margin + 1 revenue", "expected 'margin'"),
        ("0.7 margin 0.3 revenue", "expected 'margin'"),
        ("0 margin + 0 growth", "expected a weight above 0"),
        ({"margin": -0.1, "revenue": 1}, "expected a weight of margin from 0 to 1e+09, came -0.1"),
        ({"margin": 0, "revenue": 0.0}, "expected a weight above 0"),
        ({}, "expected a weight above 0"),
        ({"margins": 1}, "came a weight of 'margins'"),
        ({"margin": True}, "expected a weight of margin from 0"),
        ({"margin": "1"}, "expected a weight of margin from 0"),
        ({"margin": float("nan")}, "expected a weight of margin from 0"),
        ({"margin": 10**400}, "expected a weight of margin from 0"),
        ({"margin": None}, "expected a weight of margin from 0"),
        (["margin"], "expected 'margin'"),
        (None, "expected 'margin'"),
    ],
)
def test_what_is_no_objective_is_refused(given: Any, says: str) -> None:
    with pytest.raises(ValueError, match=r"^expected ") as refusal:
        canonical(given)
    assert says in str(refusal.value)
    assert len(str(refusal.value)) < 200


@given(st.text("0123456789.+ margineuow", max_size=40))
def test_any_text_is_an_objective_or_refused(text: str) -> None:
    try:
        word = canonical(text)
    except ValueError:
        return
    assert canonical(word) == word
