"""The command line: a table of verbs, each started by name, so that `--help` imports nothing heavy."""

import difflib
import functools
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from infra.errors import UserError


class InterruptedByUserError(Exception):
    """Ctrl-C came while a verb was at work."""


Function = Callable[..., Any]


@dataclass(frozen=True)
class Verb:
    """A command: the function that does it ("package.module:function") and its line in the list."""

    target: str
    help: str


VERBS = {
    "demo": Verb("serving.demo.command:demo", "See all of it work: stack, models, live stream, retraining."),
    "up": Verb("infra.stack.commands:up", "Start the local stack; needs no Docker, Java or root."),
    "down": Verb("infra.stack.commands:down", "Stop the local stack; --purge forgets its data too."),
    "status": Verb("infra.stack.commands:status", "Show each part of the stack and its address."),
    "secrets": Verb("infra.secrets_command:secrets", "Make API keys and other secrets, once."),
    "supply": Verb("infra.supply_command:supply", "List packages, licences and known vulnerabilities."),
    "doctor": Verb("infra.stack.commands:doctor", "Look for what is missing or broken, and say what to do."),
    "simulate": Verb("ingestion.commands:simulate", "Send seeded, made-up events to Kafka."),
    "replay": Verb("ingestion.commands:replay", "Send a file of past events to Kafka."),
    "replay-dlq": Verb("ingestion.commands:replay_dlq", "Send a topic's dead letters again."),
    "backfill": Verb("features.commands:backfill", "Load a file of past events into history and features."),
    "forget": Verb("serving.forget_command:forget", "Take a person out of everything, and prove it."),
    "rebuild": Verb("features.commands:rebuild", "Compute the feature store anew from history."),
    "audit": Verb("serving.audit_command:audit", "Prove that no event was lost, doubled or misremembered."),
    "features": Verb("features.commands:features", "Write every feature of a file's events to a file."),
    "train": Verb("training.commands:train", "Train a challenger for a task, fraud or pricing."),
    "evaluate": Verb("training.commands:evaluate", "Measure a task's model on a file of past events."),
    "promote": Verb("training.commands:promote", "Make a version the champion."),
    "rollback": Verb("training.commands:rollback", "Bring the previous champion back."),
    "watch": Verb("training.watch_command:watch", "Look at a champion: drift, performance, skew, alerts."),
    "rehearse": Verb("training.rehearsal_command:rehearse", "Price simulated markets from nothing."),
    "unattended": Verb(
        "serving.unattended.command:unattended", "Let it learn by itself for 60 simulated days."
    ),
    "search": Verb("training.commands:search", "Search the fraud model's parameters on past weeks."),
    "compare-updates": Verb(
        "training.updates_command:compare_updates", "Retrain from scratch, continue or refit, week by week."
    ),
    "backtest": Verb("training.commands:backtest", "Try a fraud rule or a pricing policy on the past."),
    "bench": Verb("serving.bench.command:bench", "Measure throughput and latency on this machine."),
    "bench-swaps": Verb(
        "serving.bench.swaps:bench_swaps", "Promote and roll back under load; check each answer."
    ),
    "bench-overload": Verb(
        "serving.bench.overload:bench_overload",
        "Send twice what can be answered; count what is late or lost.",
    ),
    "soak": Verb("serving.bench.soak:soak", "Run for long at half the capacity; see whether anything grows."),
}

PROCESSES = {
    "worker": Verb("serving.processes:worker", "Decide and fold the events of the stream."),
    "history": Verb("ingestion.processes:history", "Write the stream to the Parquet history."),
    "api": Verb("serving.api_process:api", "Answer over HTTP."),
    "retrainer": Verb("training.processes:retrainer", "Retrain when labels, time or drift ask for it."),
    "mlflow": Verb("infra.mlflow_process:mlflow", "Serve MLflow over a database with a password."),
}


NO_TELEMETRY = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "FEAST_USAGE": "False"}
"""Nothing of ours calls home. Where nobody answers, MLflow's thread for it takes its variable out of the
environment at any moment, and who copies the environment just then fails."""


def main() -> None:
    """Run the command line with this process's arguments and exit with its code."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one verb and give its exit code: 0 done, 1 failed, 2 called wrongly, 130 interrupted."""
    for name, value in NO_TELEMETRY.items():
        os.environ.setdefault(name, value)
    try:
        return _dispatch(list(arguments))
    except UserError as error:
        sys.stderr.write(f"tollgate: {error}\n")
        return 1
    except (KeyboardInterrupt, InterruptedByUserError):
        sys.stderr.write("tollgate: interrupted\n")
        return 130


def listing() -> str:
    """What `tollgate --help` prints."""
    width = max(map(len, VERBS)) + 2
    lines = [f"  {name:<{width}}{verb.help}" for name, verb in VERBS.items()]
    head = "Usage: tollgate VERB [OPTIONS]\n\nFraud decisions and prices over one stream of events.\n"
    return "\n".join([head, *lines, "", "tollgate VERB --help tells more, with an example.\n"])


def _dispatch(arguments: list[str]) -> int:
    match arguments:
        case [] | ["-h" | "--help" | "help"]:
            sys.stdout.write(listing())
            return 0
        case ["--version"]:
            sys.stdout.write(_version() + "\n")
            return 0
        case ["run", name, *rest]:
            return _call(PROCESSES, name, f"run {name}", rest)
        case ["run"]:
            raise UserError(f"expected the process to run: {', '.join(PROCESSES)}.")
        case _:
            return _call(VERBS, arguments[0], arguments[0], arguments[1:])


def _call(table: dict[str, Verb], name: str, shown: str, arguments: list[str]) -> int:
    if name not in table:
        raise UserError(f"{_unknown(name, table)} `tollgate --help` lists the verbs.")
    return _run_typer(_function(table[name]), f"tollgate {shown}", arguments)


def _run_typer(function: Function, shown: str, arguments: list[str]) -> int:
    import typer

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(_guarded(function))
    try:
        app(arguments, prog_name=shown)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    return 0


def _guarded(function: Function) -> Function:
    """Let Ctrl-C pass through typer, which would make an exit code of its own of it."""

    @functools.wraps(function)
    def guarded(*arguments: object, **options: object) -> object:
        try:
            return function(*arguments, **options)
        except KeyboardInterrupt:
            raise InterruptedByUserError from None

    return guarded


def _function(verb: Verb) -> Function:
    module, _, name = verb.target.partition(":")
    function: Function = getattr(importlib.import_module(module), name)
    return function


def _unknown(name: str, known: dict[str, Verb]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"there is no `{name}`." + (f" Did you mean `{near[0]}`?" if near else "")


def _version() -> str:
    from importlib.metadata import version

    return version("tollgate")


if __name__ == "__main__":
    main()
