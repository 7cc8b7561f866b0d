"""The verb `supply`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from infra.errors import UserError
from infra.licences import LOCK, NOT_HERE, POLICY, Locked, allows, licence, locked, policy
from infra.vulnerabilities import known as known_of

NOT_LOOKED_UP = "Vulnerabilities were not looked up: give an export of osv.dev's data by --osv FILE."


def supply(
    lock: Annotated[Path, typer.Option(help="The locked packages.")] = LOCK,
    osv: Annotated[
        Path | None, typer.Option(help="OSV documents: a JSON file, a folder of them, or a ZIP.")
    ] = None,
    allowed: Annotated[Path, typer.Option(help="Licences that may be, with reasons.")] = POLICY,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """List the locked packages with their licences, and known vulnerabilities from an OSV export.

    Exit code 1 if a licence is not allowed (infra/config/licences.toml) or a vulnerability is known.

    Example: tollgate supply --osv all.zip
    """
    packages = _locked(lock)
    rules = policy(allowed)
    licences = [licence(package, rules.said) for package in packages]
    refused = [
        f"{package.name} {package.version}: {told}"
        for package, told in zip(packages, licences, strict=True)
        if told != NOT_HERE and not allows(told, rules.allowed)
    ]
    known = None if osv is None else [asdict(each) for each in known_of(packages, osv)]
    if as_json:
        rows = [asdict(each) | {"licence": told} for each, told in zip(packages, licences, strict=True)]
        typer.echo(json.dumps({"packages": rows, "refused": refused, "vulnerabilities": known}))
    else:
        _print(packages, licences, known)
    if refused:
        raise UserError(
            f"licences that are not allowed: {'; '.join(refused)}. "
            "Do without the package, or allow it in infra/config/licences.toml with a reason."
        )
    if known:
        raise UserError(f"{len(known)} known vulnerabilities; update these packages in the lock.")


def _locked(lock: Path) -> list[Locked]:
    try:
        return locked(lock.read_text("utf-8"))
    except OSError as error:
        raise UserError(f"{lock}: cannot be read: {error.strerror}; run it where the lock is.") from None


def _print(packages: list[Locked], licences: list[str], known: list[dict[str, str]] | None) -> None:
    for package, told in zip(packages, licences, strict=True):
        typer.echo(f"{package.name:<36}{package.version:<16}{told}")
    typer.echo(
        f"{len(packages)} packages, {licences.count(NOT_HERE)} of them not for this Python or platform."
    )
    if known is None:
        typer.echo(NOT_LOOKED_UP)
        return
    for each in known:
        typer.echo(f"{each['package']:<36}{each['version']:<16}{each['id']}: {each['summary']}")
    typer.echo(f"{len(known)} known vulnerabilities.")
