"""`tollgate secrets`: what must be secret, made once into a file that only its owner can read.

Of the keys of others the file has hashes; the one of our own programs is there in full, as they must send it.
"""

import json
import os
import secrets as random
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from infra import files, keys, server_secrets, settings
from infra.errors import UserError

OWN = "tollgate"
"""Name of the key of our own programs: demo, bench, the retrainer's look into the catalogue."""
SCOPES_OF: Mapping[str, tuple[keys.Scope, ...]] = {
    OWN: ("ingest", "score", "admin", "metrics"),
    server_secrets.PROMETHEUS: ("metrics",),
}
"""Of keys that are not called after their scope."""
PSEUDONYMS = "pseudonyms"
"""Name of the keys by which identifiers become pseudonyms; renewing adds one, as the old ones stay in use."""
HEAD = "# Made by `tollgate secrets`. For its owner only (mode 0600), never for git.\n"
SALT_BYTES = 32


@dataclass(frozen=True)
class Made:
    """What was done: where the secrets are, and new keys by name, which are told once."""

    file: str
    keys: Mapping[str, str]


def secrets(
    renew: Annotated[
        str,
        typer.Option(
            help=f"A new key for a name: {', '.join(keys.SCOPES)}, {OWN}; for {PSEUDONYMS}, beside the old."
        ),
    ] = "",
    servers: Annotated[
        Path | None,
        typer.Option(
            help="Folder for what Redis, Postgres and Prometheus read; makes their passwords and key too."
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Don't print keys; renew one to see it.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Make API keys, the control group's salt and the key of pseudonyms, once; API keys are printed only now.

    The API wants keys from its next start on. What is there already stays, unless you renew a key.

    Example: tollgate secrets --renew score
    """
    home = settings.load().home  # refuses a file that is there and wrong
    made = renewed(home, renew) if renew else made_once(home)
    if servers is not None:
        serve(home, servers)
    told = Made(made.file, {}) if quiet else made
    typer.echo(json.dumps(asdict(told)) if as_json else _told(told))


def made_once(home: Path) -> Made:
    """Make all secrets, unless they are there.

    Raises:
        UserError: what is there has a placeholder.
    """
    path = settings.secrets_file(home)
    if path.exists():
        refuse_placeholders(path)
        return Made(str(path), {})
    new = {name: keys.new_key() for name in (*keys.SCOPES, OWN)}
    kept = Kept(
        hashes={name: keys.digest(key) for name, key in new.items()},
        own=new[OWN],
        salt=random.token_urlsafe(SALT_BYTES),
        pseudonyms=(random.token_urlsafe(SALT_BYTES),),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        files.written_privately(path, kept.text())
    except FileExistsError:  # somebody else was faster, and has told the keys
        return Made(str(path), {})
    return Made(str(path), {name: new[name] for name in keys.SCOPES})


def renewed(home: Path, name: str) -> Made:
    """Replace the key of that name; the old one counts until the API is started again.

    Raises:
        UserError: there is no such key, or there are no secrets yet.
    """
    path = settings.secrets_file(home)
    if not path.exists():
        raise UserError(f"{path}: no such file; run `tollgate secrets` without --renew first.")
    kept = Kept.read(path)
    if name not in (*kept.hashes, PSEUDONYMS):
        raise UserError(f"there is no key `{name}`; expected one of {', '.join((*kept.hashes, PSEUDONYMS))}.")
    key = keys.new_key()
    if name == PSEUDONYMS:
        kept = replace(kept, pseudonyms=(*kept.pseudonyms, random.token_urlsafe(SALT_BYTES)))
    else:
        own = key if name == OWN else kept.own
        kept = replace(kept, own=own, hashes={**kept.hashes, name: keys.digest(key)})
    _rewritten(path, kept)
    return Made(str(path), {} if name in (OWN, PSEUDONYMS) else {name: key})


def serve(home: Path, folder: Path) -> None:
    """Make the passwords of the servers beside ours, unless they are there, and write what these read."""
    path = settings.secrets_file(home)
    kept = Kept.read(path)
    passwords = {name: kept.passwords.get(name) or keys.new_key() for name in server_secrets.PASSWORDS}
    metrics_key = server_secrets.metrics_key(folder)
    if keys.digest(metrics_key) != kept.hashes.get(server_secrets.PROMETHEUS):
        metrics_key = keys.new_key()
    hashes = {**kept.hashes, server_secrets.PROMETHEUS: keys.digest(metrics_key)}
    served = replace(kept, passwords=passwords, hashes=hashes)
    if served != kept:
        _rewritten(path, served)
    server_secrets.write(folder, passwords, metrics_key)


def refuse_placeholders(path: Path) -> None:
    """Raise UserError for the first secret of the file that is none."""
    there = tomllib.loads(path.read_text("utf-8"))
    for name, value in _words(there):
        if keys.is_placeholder(value):
            raise UserError(
                f"{path}: {name}: expected a secret, came a placeholder; remove the file, make anew."
            )


@dataclass(frozen=True)
class Kept:
    """What the file says."""

    hashes: Mapping[str, str]
    """SHA-256 of each API key, by its name."""
    own: str
    salt: str
    pseudonyms: tuple[str, ...]
    """The oldest first."""
    passwords: Mapping[str, str] = field(default_factory=dict)
    """Of Redis and Postgres; none where they want none."""

    @classmethod
    def read(cls, path: Path) -> "Kept":
        """Of a file that was made before."""
        there = tomllib.loads(path.read_text("utf-8"))
        passwords = there.get("addresses", {})
        return cls(
            hashes={each["name"]: each["sha256"] for each in there["api"]["keys"]},
            own=there["api"]["key"],
            salt=there["fraud"]["control_group_salt"],
            pseudonyms=tuple(there.get("privacy", {}).get("pseudonym_keys", ())),
            passwords={name.removesuffix("_password"): word for name, word in passwords.items()},
        )

    def text(self) -> str:
        """The file; all words are of URL-safe characters, so that JSON's quotes are TOML's."""
        parts = [HEAD, f'[api]\nkey = "{self.own}"', f'[fraud]\ncontrol_group_salt = "{self.salt}"']
        if self.pseudonyms:
            parts.append(f"[privacy]\npseudonym_keys = {json.dumps(self.pseudonyms)}")
        if self.passwords:
            lines = [f'{name}_password = "{word}"' for name, word in self.passwords.items()]
            parts.append("\n".join(["[addresses]", *lines]))
        for name, sha256 in self.hashes.items():
            scopes = json.dumps(SCOPES_OF.get(name, (name,)))
            parts.append(f'[[api.keys]]\nname = "{name}"\nscopes = {scopes}\nsha256 = "{sha256}"')
        return "\n\n".join(parts) + "\n"


def _rewritten(path: Path, kept: Kept) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.unlink(missing_ok=True)  # of a process that died here
    files.written_privately(beside, kept.text())
    beside.replace(path)


def _words(there: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
    pseudonyms, passwords = there.get("privacy", {}).get("pseudonym_keys", ()), there.get("addresses", {})
    return (
        ("fraud.control_group_salt", str(there.get("fraud", {}).get("control_group_salt", ""))),
        ("api.key", str(there.get("api", {}).get("key", ""))),
        *(("privacy.pseudonym_keys", str(each)) for each in pseudonyms),
        *((f"addresses.{name}", str(word)) for name, word in passwords.items()),
    )


def _told(made: Made) -> str:
    if not made.keys:
        return f"Secrets are in {made.file}; `tollgate secrets --renew NAME` shows a new key."
    lines = [f"  {name:<8} {key}" for name, key in made.keys.items()]
    head = "API keys, by scope. They are shown now and never again:"
    use = "Send one as `Authorization: Bearer KEY`. The API wants them from its next start on."
    return "\n".join(
        [head, *lines, f"Their hashes and the other secrets are in {made.file} (mode 0600).", use]
    )
