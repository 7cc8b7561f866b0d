"""`tollgate secrets`: made once, told once, for the owner's eyes, and what the settings make of it."""

import json
import stat
import subprocess
from pathlib import Path

import pytest

from infra import cli, keys, settings
from infra.errors import UserError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TOLLGATE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def made(capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, str]:
    """Keys as they were told."""
    assert cli.run(["secrets", "--json", *options]) == 0
    told: dict[str, str] = json.loads(capsys.readouterr().out)["keys"]
    return told


def test_they_are_made_and_told_once(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = made(capsys)
    assert tuple(told) == keys.SCOPES
    text = settings.secrets_file(home).read_text("utf-8")
    assert not any(key in text for key in told.values())
    assert made(capsys) == {}
    assert settings.secrets_file(home).read_text("utf-8") == text


def test_only_their_owner_can_read_them(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(capsys)
    file = settings.secrets_file(home)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [each.name for each in home.iterdir()] == [file.name]
    file.chmod(0o640)
    assert cli.run(["secrets"]) == 1
    assert "chmod 600" in capsys.readouterr().err


def test_the_settings_take_them(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = settings.load()
    assert before.api.keys == ()
    assert before.api.headers == {}
    told, chosen = made(capsys), settings.load()
    accepted = {key.name: key for key in chosen.api.keys}
    for scope, key in told.items():
        assert (accepted[scope].scopes, accepted[scope].sha256) == ((scope,), keys.digest(key))
    assert accepted["tollgate"].sha256 == keys.digest(
        chosen.api.headers["Authorization"].removeprefix("Bearer ")
    )
    assert "review" not in accepted["tollgate"].scopes
    salt = chosen.fraud.control_group_salt.get_secret_value()
    assert len(salt) >= 32
    assert salt not in f"{chosen!r} {chosen.model_dump(mode='json')}"
    assert chosen.api.key.get_secret_value() not in f"{chosen!r} {chosen.model_dump(mode='json')}"


def test_a_key_is_renewed_and_the_others_stay(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(capsys)
    before = settings.load()
    told = made(capsys, "--renew", "score")
    after = settings.load()
    old, new = ({key.name: key.sha256 for key in each.api.keys} for each in (before, after))
    assert new == old | {"score": keys.digest(told["score"])} != old
    assert after.fraud.control_group_salt == before.fraud.control_group_salt
    assert made(capsys, "--renew", "tollgate") == {}
    assert settings.load().api.key != after.api.key
    assert stat.S_IMODE(settings.secrets_file(home).stat().st_mode) == 0o600


def test_a_key_of_pseudonyms_is_added_to_those_in_use(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(capsys)
    before = settings.load()
    (first,) = before.privacy.pseudonym_keys
    assert len(first.get_secret_value()) >= 32
    assert first.get_secret_value() not in f"{before!r} {before.model_dump(mode='json')}"
    assert made(capsys, "--renew", "pseudonyms") == {}
    made(capsys, "--renew", "score")
    after = settings.load()
    assert after.privacy.pseudonym_keys[0] == first
    assert len(set(after.privacy.pseudonym_keys)) == 2
    assert stat.S_IMODE(settings.secrets_file(home).stat().st_mode) == 0o600


def test_secrets_of_the_time_before_pseudonyms_stay_and_get_a_key(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made(capsys)
    file = settings.secrets_file(home)
    (key,) = settings.load().privacy.pseudonym_keys
    older = file.read_text("utf-8").replace(f'[privacy]\npseudonym_keys = ["{key.get_secret_value()}"]', "")
    file.write_text(older, "utf-8")
    assert settings.load().privacy.pseudonym_keys == ()
    made(capsys, "--renew", "score")
    assert settings.load().privacy.pseudonym_keys == ()
    made(capsys, "--renew", "pseudonyms")
    assert len(settings.load().privacy.pseudonym_keys) == 1


def test_what_can_not_be_renewed_is_told(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["secrets", "--renew", "score"]) == 1
    assert "without --renew first" in capsys.readouterr().err
    made(capsys)
    assert cli.run(["secrets", "--renew", "glory"]) == 1
    assert "no key `glory`" in capsys.readouterr().err


@pytest.mark.parametrize("word", ["tollgate", "change-me", "<a salt>"])
def test_a_placeholder_is_refused(home: Path, capsys: pytest.CaptureFixture[str], word: str) -> None:
    made(capsys)
    file = settings.secrets_file(home)
    salt = settings.load().fraud.control_group_salt.get_secret_value()
    file.write_text(file.read_text("utf-8").replace(salt, word), "utf-8")
    assert cli.run(["secrets"]) == 1
    assert "control_group_salt: expected a secret, came a placeholder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [
        ("KEY", "change-me", "expected a key such as `tollgate secrets` makes"),
        ("KEYS", '[{"name": "a", "scopes": ["score"], "sha256": "%s"}]' % ("0" * 64), "a placeholder's"),
        (
            "KEYS",
            '[{{"name": "a", "scopes": ["score"], "sha256": "{}"}}]'.format(keys.digest("secret")),
            "a placeholder's",
        ),
        ("KEYS", '[{"name": "a", "scopes": ["score"], "sha256": "mine"}]', "string expected to match"),
        (
            "KEYS",
            '[{{"name": "a", "scopes": ["glory"], "sha256": "{}"}}]'.format(keys.digest("k")),
            "'ingest', 'score'",
        ),
        (
            "KEYS",
            '[{{"name": "a", "scopes": [], "sha256": "{}"}}]'.format(keys.digest("k")),
            "at least 1 item",
        ),
    ],
)
def test_a_wrong_key_is_refused(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, reason: str
) -> None:
    monkeypatch.setenv(f"TOLLGATE_API__{variable}", value)
    with pytest.raises(UserError) as refusal:
        settings.load()
    assert reason in str(refusal.value).replace("String should", "string expected to")


def test_keys_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    one = {"name": "a", "scopes": ["score"], "sha256": keys.digest("k")}
    for other in ({"name": "a", "sha256": keys.digest("l")}, {"name": "b"}):
        monkeypatch.setenv("TOLLGATE_API__KEYS", json.dumps([one, one | other]))
        with pytest.raises(UserError, match="of its own for each key"):
            settings.load()


@pytest.fixture
def served(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """Folder of what the servers read, made with all the rest."""
    folder = tmp_path / "servers"
    made(capsys, "--servers", str(folder))
    return folder


def contents(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_text("utf-8") for path in files}


def test_servers_and_settings_have_the_same_passwords(served: Path) -> None:
    read, addresses = contents(served), settings.load().addresses
    redis, postgres = read["redis/password"], read["postgres/password"]
    assert read["redis/redis.conf"] == f"requirepass {redis}\n"
    assert addresses.redis_password.get_secret_value() == redis != postgres
    assert addresses.postgres_password.get_secret_value() == postgres
    assert addresses.redis == f"redis://:{redis}@127.0.0.1:6379/0"
    (prometheus,) = [key for key in settings.load().api.keys if key.name == "prometheus"]
    assert (prometheus.scopes, prometheus.sha256) == (
        ("metrics",),
        keys.digest(read["prometheus/metrics_key"]),
    )


def test_who_runs_a_server_can_read_but_not_change(served: Path) -> None:
    assert {stat.S_IMODE(path.stat().st_mode) for path in served.rglob("*") if path.is_file()} == {0o444}


def test_servers_keep_their_passwords(home: Path, served: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, kept = contents(served), settings.secrets_file(home).read_text("utf-8")
    made(capsys, "--servers", str(served))
    assert (contents(served), settings.secrets_file(home).read_text("utf-8")) == (before, kept)
    made(capsys, "--renew", "score")
    assert settings.load().addresses.redis_password.get_secret_value() == before["redis/password"]


def test_what_a_server_lost_is_written_again(
    home: Path, served: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(served)
    for path in served.rglob("*"):
        if path.is_file():
            path.unlink()
    made(capsys, "--servers", str(served))
    after = contents(served)
    assert after["prometheus/metrics_key"] != before.pop("prometheus/metrics_key"), "nobody kept the old one"
    assert after.items() >= before.items()
    (prometheus,) = [key for key in settings.load().api.keys if key.name == "prometheus"]
    assert prometheus.sha256 == keys.digest(after["prometheus/metrics_key"])


def test_secrets_of_the_time_before_passwords_stay(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made(capsys)
    before = settings.load()
    made(capsys, "--servers", str(tmp_path / "servers"))
    after = settings.load()
    assert after.api.key == before.api.key
    assert {key.name for key in after.api.keys} - {key.name for key in before.api.keys} == {"prometheus"}
    assert not before.addresses.redis_password.get_secret_value()
    assert after.addresses.redis_password.get_secret_value()


@pytest.mark.usefixtures("served")
def test_a_placeholder_of_a_password_is_refused(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = settings.secrets_file(home)
    password = settings.load().addresses.postgres_password.get_secret_value()
    file.write_text(file.read_text("utf-8").replace(password, "change-me"), "utf-8")
    assert cli.run(["secrets"]) == 1
    assert "postgres_password: expected a password such as" in capsys.readouterr().err


def test_git_never_takes_them() -> None:
    file = settings.secrets_file(Path(".tollgate"))
    asked = ["git", "-C", str(ROOT), "check-ignore", "--quiet", str(file)]
    assert subprocess.run(asked, check=False).returncode in (0, 128), "128: there is no git here"
