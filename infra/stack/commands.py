"""The verbs `up`, `down`, `status` and `doctor`."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from infra import progress, settings
from infra.stack.local import Stack, described

Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


def up(
    only: Annotated[str, typer.Option(help="Start only these parts, with commas: kafka,valkey,mlflow.")] = "",
    as_json: Json = False,
) -> None:
    """Start the local stack and return when every part is healthy; what runs already stays.

    Example: tollgate up --only kafka,valkey,mlflow
    """
    with progress.shown(silent=as_json) as display:
        states = _stack().up(only.replace(",", " ").split() or None, display)
    if as_json:
        typer.echo(json.dumps([asdict(status) for status in states]))
    else:
        typer.echo("The stack is up; `tollgate status` shows addresses, `tollgate down` stops it.")


def down(
    purge: Annotated[bool, typer.Option("--purge", help="Remove all of its data too.")] = False,
    as_json: Json = False,
) -> None:
    """Stop the local stack; its data stays, unless you ask for a purge.

    Example: tollgate down --purge
    """
    with progress.shown(silent=as_json) as display:
        _stack().down(purge, display)
    if as_json:
        typer.echo(json.dumps({"stopped": True, "purged": purge}))


def status(as_json: Json = False) -> None:
    """Show each part of the stack, its address and its log; exit code 1 if a part has failed.

    Example: tollgate status --json
    """
    stack = _stack()
    states = stack.status()
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in states]))
    else:
        for one in states:
            typer.echo(f"{one.name:<10} {described(one)}")
        typer.echo(f"{'logs':<10} {stack.folder.home / 'logs'}")
    if any(one.state == "failed" for one in states):
        raise typer.Exit(1)


def doctor(as_json: Json = False) -> None:
    """Look for what is missing or broken; each finding is a sentence with what to do; exit code 1 if one is.

    Example: tollgate doctor
    """
    from infra.stack.doctor import examine

    findings = examine(_stack())
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings]))
    else:
        for finding in findings:
            typer.echo(f"{'ok ' if finding.ok else 'BAD'} {finding.about:<10} {finding.sentence}")
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


def _stack() -> Stack:
    return Stack(settings.load().home)
