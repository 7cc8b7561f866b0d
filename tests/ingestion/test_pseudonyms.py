"""Pseudonyms: the same everywhere, nobody's without the key, and turned into new ones by a new key."""

import re
import subprocess
import sys
from pathlib import Path

import orjson
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from features.fraud import codes_of_payments
from infra.card_numbers import holds_card_number
from infra.settings import Privacy
from ingestion.events import Id, QuoteRequest, Transaction, Word
from ingestion.pseudonyms import PERSONAL, Pseudonyms
from ingestion.tables import DECISIONS, QUOTES, TRANSACTIONS, completed

OLD, NEW = "o" * 43, "n" * 43
PAID = {
    "transaction_id": "t-1",
    "event_time": "2026-03-01T12:00:00Z",
    "customer_id": "c-17",
    "terminal_id": "m-4",
    "amount": 129.9,
    "currency": "EUR",
    "device_id": "d-1",
    "ip": "203.0.113.7",
    "attributes": {"email": "ada@example.org", "phone": 491701234567.0, "colour": "red", "card_id": None},
}
names = st.text(min_size=1, max_size=128).filter(lambda name: name.isprintable() and name == name.strip())


def of(*keys: str) -> Pseudonyms:
    return Pseudonyms(keys, ["email", "phone", "card_id"])


def paid(**changes: object) -> Transaction:
    return Transaction.model_validate_json(orjson.dumps({**PAID, **changes}))


@given(names, st.sampled_from(PERSONAL))
def test_a_pseudonym_is_an_id_and_passes_a_second_time(name: str, kind: str) -> None:
    made = of(OLD).of(kind, name)
    assert made != name
    assert TypeAdapter(Id).validate_python(made) == TypeAdapter(Word).validate_python(made) == made
    assert not holds_card_number(made)
    assert name not in made or len(name) < 4
    assert of(OLD).of(kind, made) == made


def test_it_is_the_same_in_another_process_and_for_ever() -> None:
    code = (
        f"from ingestion.pseudonyms import Pseudonyms; print(Pseudonyms(['{OLD}']).of('customer_id', 'c-17'))"
    )
    root = Path(__file__).parents[2]
    told = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == of(OLD).of("customer_id", "c-17") == "ps_cb73c7_1NelEGs0jgq8MNFlwUh9"


def test_what_it_is_of_and_the_key_make_another() -> None:
    made = {of(key).of(kind, "x") for key in (OLD, NEW) for kind in PERSONAL}
    assert len(made) == 2 * len(PERSONAL)
    many = {of(OLD).of("customer_id", f"c-{i}") for i in range(20_000)}
    assert len(many) == 20_000


@given(names, st.sampled_from(PERSONAL))
def test_a_new_key_turns_old_pseudonyms_into_new_ones(name: str, kind: str) -> None:
    before, after = of(OLD), of(OLD, NEW)
    assert after.of(kind, before.of(kind, name)) == after.of(kind, name) != before.of(kind, name)
    assert after.chain(kind, name) == [name, before.of(kind, name), after.of(kind, name)]
    assert after.chain(kind, after.of(kind, name)) == [after.of(kind, name)]


def test_what_only_looks_like_one_is_made_one() -> None:
    for name in ("ps_", "ps_000000_AAAAAAAAAAAAAAAAAAAA", "ps_x", of(OLD).of("ip", "c") + "x"):
        assert of(OLD).of("customer_id", name) != name


def test_an_event_carries_pseudonyms_where_it_told_of_a_person() -> None:
    event, made = paid(), of(OLD).event(paid())
    assert {name for name in PAID if getattr(made, name) != getattr(event, name)} == {*PERSONAL, "attributes"}
    assert {name for name, value in made.attributes.items() if value != event.attributes[name]} == {
        "email",
        "phone",
    }
    assert made.attributes["phone"] == of(OLD).of("phone", "491701234567")
    assert made.model_fields_set == event.model_fields_set
    assert of(OLD).event(made) == made
    assert Transaction.model_validate_json(made.model_dump_json(exclude_unset=True)) == made
    assert of().event(event) is event
    assert not of()


def test_a_context_names_nobody() -> None:
    asked = {
        "quote_id": "q",
        "event_time": "2026-03-01T12:00:00Z",
        "product_id": "p",
        "context": {"email": "a@b"},
    }
    made = of(OLD).event(QuoteRequest.model_validate_json(orjson.dumps(asked)))
    assert made.context == {"email": of(OLD).of("email", "a@b")}


def test_who_pays_from_the_same_network_is_still_known_to() -> None:
    addresses = [
        "203.0.113.7",
        "203.0.113.99",
        "203.0.114.7",
        "2001:db8:1::7",
        "2001:db8:1:0:5::8",
        "2001:db8:2::7",
    ]
    plain, made = (
        [{"ip": each(ip)} for ip in addresses] for each in (str, lambda ip: of(OLD, NEW).of("ip", ip))
    )
    assert len({each["ip"] for each in made}) == len(addresses)
    networks = [codes_of_payments(each)["network"].tolist() for each in (plain, made)]
    alike = [[one == other for one in codes for other in codes] for codes in networks]
    assert alike[0] == alike[1]


def test_rows_of_files_get_the_same_as_events() -> None:
    event = of(OLD).event(paid())
    attributes = orjson.dumps(PAID["attributes"]).decode()
    fields = {name: [PAID[name], None] for name in PERSONAL} | {"attributes": [attributes, None]}
    made = of(OLD).rows(completed(TRANSACTIONS, pa.table(fields)))
    assert [made[name][0].as_py() for name in PERSONAL] == [getattr(event, name) for name in PERSONAL]
    assert orjson.loads(made["attributes"][0].as_py()) == event.attributes
    assert made.schema == completed(TRANSACTIONS, pa.table(fields)).schema
    assert all(made[name][1].as_py() is None for name in (*PERSONAL, "attributes"))
    context = completed(QUOTES, pa.table({"context": ['{"email":"a@b"}', '{"n":1}']}))
    assert orjson.loads(of(OLD).rows(context)["context"][0].as_py()) == {"email": of(OLD).of("email", "a@b")}
    assert of(OLD).rows(context)["context"][1].as_py() == '{"n":1}'


def test_keys_are_secret_and_differ() -> None:
    chosen = Privacy.model_validate({"pseudonym_keys": [OLD], "attributes": ["email"]})
    assert Pseudonyms.by(chosen).of("email", "a@b") == of(OLD).of("email", "a@b")
    assert OLD not in f"{chosen!r}{chosen.model_dump(mode='json')}{Pseudonyms.by(chosen)!r}"
    for keys in (["short"], [OLD, OLD], ["x" * 65]):
        with pytest.raises(ValidationError) as refused:
            Privacy.model_validate({"pseudonym_keys": keys})
        assert not re.search("short|" + OLD, str(refused.value.errors(include_input=False)))


def test_rows_that_have_the_newest_pseudonyms_are_not_touched() -> None:
    rows = completed(DECISIONS, pa.table({"customer_id": ["a", "b"], "json": ['{"customer_id":"a"}', "{}"]}))
    first = of(OLD).rows(rows)
    assert first["customer_id"].to_pylist() == [of(OLD).of("customer_id", name) for name in "ab"]
    assert orjson.loads(first["json"][0].as_py()) == {"customer_id": of(OLD).of("customer_id", "a")}
    assert of(OLD).rows(first) is first
    second = of(OLD, NEW).rows(first)
    assert second.equals(of(OLD, NEW).rows(rows))
    assert not second.equals(first)
    assert of().rows(rows) is rows
