"""Settings: layers, and the sentence that a wrong value gets."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from infra import settings
from infra.errors import UserError
from infra.toml_lines import line_of

RULES = """\
currency = "EUR"

[fraud]
review_cost = 4.5

[[fraud.rules]]
name = "first"
when = "amount > 10"
outcome = "review"

[[fraud.rules]]
name = "second"
when = "amount > 20"
outcome = "decline"
"""


@pytest.fixture
def chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration file that is read after the defaults."""
    path = tmp_path / "mine.toml"
    path.write_text(RULES)
    monkeypatch.setenv("TOLLGATE_CONFIG", str(path))
    return path


def refused() -> str:
    with pytest.raises(UserError) as refusal:
        settings.load()
    return str(refusal.value)


def test_every_field_has_its_value_in_the_file_of_defaults() -> None:
    loaded = settings.load()
    assert loaded.currency == "EUR"
    assert loaded.addresses.kafka == "127.0.0.1:9092"
    assert loaded.catalogue


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        settings.load().fraud.review_cost = 0  # type: ignore[misc]


def test_a_chosen_file_holds_only_what_differs(chosen: Path) -> None:
    fraud = settings.load().fraud
    assert fraud.review_cost == 4.5
    assert [rule.name for rule in fraud.rules] == ["first", "second"]
    assert fraud.chargeback_fee == 15.0


@pytest.mark.usefixtures("chosen")
def test_the_environment_wins_over_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOLLGATE_FRAUD__REVIEW_COST", "7")
    monkeypatch.setenv("TOLLGATE_FRAUD__RULES", "[]")
    assert settings.load().fraud.review_cost == 7
    assert settings.load().fraud.rules == ()


def test_the_running_stack_says_where_servers_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = settings.addresses_file(tmp_path / "home")
    file.parent.mkdir()
    file.write_text('{"kafka": "127.0.0.1:9999", "redis": "redis://127.0.0.1:6666/0"}')
    monkeypatch.setenv("TOLLGATE_ADDRESSES__REDIS", "redis://elsewhere/0")
    addresses = settings.load().addresses
    assert addresses.kafka == "127.0.0.1:9999"
    assert addresses.redis == "redis://elsewhere/0"
    assert addresses.mlflow == "http://127.0.0.1:5001"


@pytest.mark.parametrize(
    ("old", "new", "line", "reason"),
    [
        ("review_cost = 4.5", 'review_cost = "much"', 4, "expected a valid number"),
        ("review_cost = 4.5", "review_cost = -1", 4, "expected greater than or equal to 0, got -1"),
        ("review_cost = 4.5", "reviw_cost = 1", 4, "no such setting, did you mean `review_cost`"),
        ('outcome = "decline"', 'outcome = "reject"', 14, "expected 'review', 'decline' or 'allow'"),
        ('when = "amount > 20"', "above = 20.0", 11, "fraud.rules.1.when: expected a value, nothing came"),
        ('when = "amount > 20"', 'when = ""', 13, "at least 1 character"),
        ('name = "second"\n', "", 11, "expected a value, nothing came"),
        ('name = "second"', 'name = "first"', 3, "a name of its own for each rule, two are called 'first'"),
        ('currency = "EUR"', 'currency = "Euro"', 1, "got 'Euro'"),
        ("[fraud]", "[fraud", 3, "expected TOML"),
    ],
)
def test_a_wrong_value_is_refused_with_its_line(
    chosen: Path, old: str, new: str, line: int, reason: str
) -> None:
    chosen.write_text(RULES.replace(old, new))
    sentence = refused()
    assert f"{chosen}:{line}:" in sentence or f"line {line}," in sentence
    assert reason in sentence


MIXED = (
    RULES
    + """
[pricing]
objective = {margin = 0.7, revenue = 0.3}

[[catalogue]]
product_id = "p-1"
list_price = 49.0
unit_cost = 28.0
currency = "EUR"
floor = 32.0
ceiling = 79.0
max_step = 8.0
category = "shoes"
objective = {growth = 1, margin = 1}
"""
)


def test_objectives_may_be_mixed(chosen: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen.write_text(MIXED)
    loaded = settings.load()
    assert loaded.pricing.objective == "0.7 margin + 0.3 revenue"
    assert loaded.catalogue[0].objective == "0.5 margin + 0.5 growth"
    over = chosen.with_name("over.toml")
    over.write_text("[pricing]\nobjective = {growth = 3, revenue = 1}\n")
    assert settings.load(over).pricing.objective == "0.25 revenue + 0.75 growth", "not merged with the other"
    monkeypatch.setenv("TOLLGATE_PRICING__OBJECTIVE", "0.9 margin + 0.1 growth")
    assert settings.load().pricing.objective == "0.9 margin + 0.1 growth"


@pytest.mark.parametrize(
    ("old", "new", "line", "reason"),
    [
        ("margin = 0.7", "margin = -1", 17, "pricing.objective: expected a weight of margin from 0"),
        ("margin = 0.7", "glory = 0.7", 17, "pricing.objective: expected 'margin', 'revenue' or 'growth'"),
        ("{margin = 0.7, revenue = 0.3}", "{margin = 0}", 17, "pricing.objective: expected a weight above 0"),
        ("{growth = 1, margin = 1}", '"glory"', 28, "catalogue.0.objective: expected 'margin', 'revenue'"),
        (
            "[pricing]\nobjective =",
            "[pricing]\nfraud_loss =",
            17,
            "pricing.fraud_loss: expected a valid bool",
        ),
    ],
)
def test_a_wrong_mix_is_refused_with_its_line(
    chosen: Path, old: str, new: str, line: int, reason: str
) -> None:
    assert old in MIXED
    chosen.write_text(MIXED.replace(old, new))
    sentence = refused()
    assert sentence.startswith(f"{chosen}:{line}: {reason}")


def test_who_pays_is_a_persons_matter_unless_the_policy_says_otherwise() -> None:
    asks = settings.load().pricing.model_copy(update={"fraud_loss": True})
    assert not asks.asks_who_pays
    assert asks.model_copy(update={"use_personal": True}).asks_who_pays
    open_to_all = asks.model_copy(update={"fraud_probability_personal": False})
    assert open_to_all.asks_who_pays
    assert not open_to_all.model_copy(update={"personal": ("fraud_probability",)}).asks_who_pays
    assert not open_to_all.model_copy(update={"fraud_loss": False}).asks_who_pays


def test_what_only_its_user_can_refuse_is_told_with_its_line(
    chosen: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = str(settings.refusal(("fraud", "rules", 1, "when"), "expected a fish"))
    assert told == f"{chosen}:13: fraud.rules.1.when: expected a fish."
    monkeypatch.setenv("TOLLGATE_FRAUD__RULES", '[{"name": "x", "when": "1 > 2", "outcome": "allow"}]')
    told = str(settings.refusal(("fraud", "rules", 0, "when"), "expected a fish"))
    assert told.startswith("TOLLGATE_FRAUD__RULES__0__WHEN: ")


def test_stamps_change_when_a_file_is_written_replaced_or_removed(chosen: Path) -> None:
    seen = [settings.stamps()]
    assert settings.stamps() == seen[0]
    chosen.write_text(RULES + "\n")
    seen.append(settings.stamps())
    other = chosen.with_name("other.toml")
    other.write_text(RULES)
    other.replace(chosen)
    seen.append(settings.stamps())
    chosen.unlink()
    seen.append(settings.stamps())
    assert len(set(seen)) == 4


def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOLLGATE_PRICING__OBJECTIVE", "glory")
    assert "TOLLGATE_PRICING__OBJECTIVE: pricing.objective: expected 'margin'" in refused()


def test_a_variable_that_is_no_json_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOLLGATE_CATALOGUE", "[{")
    assert "catalogue" in refused()


def test_a_missing_file_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOLLGATE_CONFIG", "nowhere.toml")
    assert "nowhere.toml: no such file" in refused()


def test_policy_version_follows_content_not_order(chosen: Path) -> None:
    before = settings.policy_version(settings.load().fraud)
    chosen.write_text(
        RULES.replace('name = "first"\nwhen = "amount > 10"', 'when = "amount > 10"\nname = "first"')
    )
    assert settings.policy_version(settings.load().fraud) == before
    chosen.write_text(RULES.replace("4.5", "4.6"))
    assert settings.policy_version(settings.load().fraud) != before
    assert len(before) == 12


def test_lines_are_found_under_dotted_and_quoted_names() -> None:
    text = '[a.b]\n"c" = 1\n[a]\nd.e = 2\n'
    assert line_of(text, ("a", "b", "c")) == 2
    assert line_of(text, ("a", "d", "e")) == 4
    assert line_of(text, ("x",)) == 1


def test_a_secret_is_neither_shown_nor_part_of_what_everybody_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    before = settings.policy_version(settings.load().fraud)
    monkeypatch.setenv("TOLLGATE_FRAUD__CONTROL_GROUP_SALT", "of this house")
    fraud = settings.load().fraud
    assert fraud.control_group_salt.get_secret_value() == "of this house"
    assert "of this house" not in f"{fraud!r} {fraud.model_dump(mode='json')}"
    assert settings.policy_version(fraud) == before


@pytest.mark.parametrize("name", ["redis", "registry"])
def test_a_password_becomes_part_of_its_address_and_is_never_shown(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    server = {"redis": "redis", "registry": "postgres"}[name]
    password = "p@ss/w:rd+%" + "x" * 32
    monkeypatch.setenv(f"TOLLGATE_ADDRESSES__{name.upper()}", "scheme://me@there:1234/0")
    monkeypatch.setenv(f"TOLLGATE_ADDRESSES__{server.upper()}_PASSWORD", password)
    addresses = settings.load().addresses
    parts = urlsplit(getattr(addresses, name))
    assert (parts.hostname, parts.port, parts.username) == ("there", 1234, "me")
    assert unquote(parts.password or "") == password
    for shown in (repr(addresses), str(addresses.model_dump(mode="json")), addresses.model_dump_json()):
        assert "xxxx" not in shown
    assert addresses.model_dump()[name] == "scheme://me:***@there:1234/0"


@pytest.mark.parametrize("word", ["changeme", "short", "with,comma" + "x" * 32])
def test_a_password_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    monkeypatch.setenv("TOLLGATE_ADDRESSES__REDIS_PASSWORD", word)
    with pytest.raises(UserError, match="expected a password such as `tollgate secrets` makes") as refusal:
        settings.load()
    assert word not in str(refusal.value)


def test_a_registry_at_home_needs_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOLLGATE_ADDRESSES__POSTGRES_PASSWORD", "x" * 40)
    assert settings.load().addresses.registry == ""
