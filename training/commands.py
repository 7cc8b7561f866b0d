"""The command line of training: train, evaluate, promote, rollback, backtest."""

import getpass
import json
import math
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from infra import progress, settings
from infra.errors import UserError
from infra.settings import RuleOutcome, Settings
from ingestion.events import microseconds
from training import promotion, runs
from training.dataset import Span
from training.repeat import Repeated, repeat
from training.runs import Desk, Reason, Report, finite
from training.tasks import BacktestOptions, EvaluateOptions, EventFile, Task, backtest_of, task

TaskName = Annotated[str, typer.Argument(help="fraud or pricing")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Data = Annotated[Path | None, typer.Option(help="File of past events, Parquet or CSV; needs no stack.")]
Mapping = Annotated[Path | None, typer.Option(help="TOML file that says which column is which field.")]
Why = Annotated[str, typer.Option(help="Kept in the history.")]


def train(
    name: TaskName,
    promote: Annotated[bool, typer.Option(help="Let a winner take over.")] = True,
    until: Annotated[
        str | None, typer.Option(help="Label cut-off, event time; else the newest event.")
    ] = None,
    days: Annotated[float | None, typer.Option(help="Learn from so many days; else the settings'.")] = None,
    data: Data = None,
    mapping: Mapping = None,
    record: Annotated[bool, typer.Option(help="With --data: keep the run in MLflow, for --like.")] = False,
    like: Annotated[
        str | None,
        typer.Option(help="Make the model of this MLflow run again, and compare it byte for byte."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="With --like: write the model to this folder.")] = None,
    as_json: Json = False,
) -> None:
    """Train a challenger on matured labels and compare it with the champion, or with the baselines.

    Example: tollgate train fraud --days 60

    Example: tollgate train fraud --like 1f0c6c6f3a8e4a7c9a51f4f1f0b7c111
    """
    chosen, found = settings.load(), task(name)
    found.check(chosen)
    if like is not None:
        _repeat(chosen, found, like, None if data is None else _file(data, mapping), out, as_json)
        return
    span = Span(None if until is None else _moment(until), days or chosen.retraining.window_days)
    with progress.working(f"Train {name}", silent=as_json) as told:
        if data is not None:
            report = _rehearsed(chosen, found, _file(data, mapping), span, record, told)
        else:
            report = runs.train_newest(found, chosen, span, _by_hand(), promote, told)
        told.finish(f"{report.seconds:.0f} s")
    _say(report.as_json(), as_json, lambda: _table(report))


def evaluate(
    name: TaskName,
    data: Annotated[Path, typer.Option(help="File of past events, Parquet or CSV.")],
    mapping: Annotated[Path, typer.Option(help="TOML file that says which column is which field.")],
    train_start: Annotated[str | None, typer.Option(help="Fraud: first day of the training week.")] = None,
    train_days: Annotated[int, typer.Option(min=1, help="Fraud: days of training.")] = 7,
    delay_days: Annotated[int, typer.Option(min=0, help="Fraud: days until labels are known.")] = 7,
    test_days: Annotated[int, typer.Option(min=1, help="Fraud: days of test.")] = 7,
    history_days: Annotated[int | None, typer.Option(min=1, help="Fraud: train on so many days.")] = None,
    by: Annotated[
        str | None,
        typer.Option(help="Fraud: tell what was caught by this column's values. Pricing: elasticity by it."),
    ] = None,
    test_from: Annotated[
        str | None, typer.Option(help="Pricing: forecast sales from this period or date on.")
    ] = None,
    objective: Annotated[str | None, typer.Option(help="Pricing: revenue, margin, growth or a mix.")] = None,
    candidates: Annotated[str, typer.Option(help="Pricing: prices to choose from, 0.8,0.9,1.0.")] = "",
    out: Annotated[Path | None, typer.Option(help="Pricing: write recommended prices here, Parquet.")] = None,
    as_json: Json = False,
) -> None:
    """Measure a task's model on a file of past events; for fraud by the Fraud Detection Handbook's protocol.

    Example: tollgate evaluate fraud --data tx.parquet --mapping handbook.toml --train-start 2018-07-25 --json
    """
    options = EvaluateOptions(
        file=EventFile(data, mapping),
        train_start=train_start,
        train_days=train_days,
        delay_days=delay_days,
        test_days=test_days,
        history_days=history_days,
        by=by,
        test_from=test_from,
        objective=objective,
        candidates=_numbers(candidates),
        out=out,
    )
    chosen, found = settings.load(), task(name)
    found.check(chosen)
    with progress.working(f"Evaluate {name}", silent=as_json) as told:
        result = found.evaluate(chosen, options)
        told.finish("done")
    _say(result, as_json, lambda: _lines(result))


def promote(
    name: TaskName,
    version: Annotated[str, typer.Argument(help="Registered version.")],
    why: Why = "asked for",
    as_json: Json = False,
) -> None:
    """Make a registered version the champion; serving follows within seconds.

    Example: tollgate promote fraud 3 --why "better on the new terminals"
    """
    desk = Desk.of(settings.load())
    done = promotion.promote(desk.registry, desk.champions, task(name).name, version, _person(), why)
    _say(
        vars(done),
        as_json,
        lambda: typer.echo(f"{name}: version {done.version} decides; before: {done.previous}"),
    )


def rollback(name: TaskName, why: Why = "asked for", as_json: Json = False) -> None:
    """Bring the previous champion back; serving follows within seconds.

    Example: tollgate rollback fraud --why "declines too much"
    """
    desk = Desk.of(settings.load())
    done = promotion.rollback(desk.registry, desk.champions, task(name).name, _person(), why)
    _say(vars(done), as_json, lambda: typer.echo(f"{name}: version {done.version} decides again"))


def backtest(
    name: TaskName = "fraud",
    rule: Annotated[str | None, typer.Option(help="Fraud: a condition over features.")] = None,
    outcome: Annotated[RuleOutcome, typer.Option(help="Fraud: what the rule would have said.")] = "review",
    policy: Annotated[
        Path | None, typer.Option(help="Pricing: TOML file with what differs in the settings' [pricing].")
    ] = None,
    days: Annotated[float | None, typer.Option(min=0, help="Look at so many days; else at all.")] = None,
    until: Annotated[
        str | None, typer.Option(help="Label cut-off, event time; else the newest event.")
    ] = None,
    data: Data = None,
    mapping: Mapping = None,
    as_json: Json = False,
) -> None:
    """Try a fraud rule, or another pricing policy, on what is known of the past, and say what it was worth.

    Example: tollgate backtest --rule 'amount > 500 AND terminal_fraud_rate_30d > 0.1' --days 60

    Example: tollgate backtest pricing --policy bolder.toml --days 30
    """
    run = backtest_of(name)
    options = BacktestOptions(
        span=Span(None if until is None else _moment(until), days),
        file=None if data is None else _file(data, mapping),
        rule=rule,
        outcome=outcome,
        policy=policy,
    )
    with progress.working(f"Backtest {name}", silent=as_json) as told:
        found = run(settings.load(), options, told)
        told.finish("done")
    _say(found.as_json(), as_json, lambda: Console().print(*found.told(), sep="\n", soft_wrap=True))


def search(
    data: Annotated[Path, typer.Option(help="File of past payments with labels, Parquet or CSV.")],
    mapping: Annotated[Path, typer.Option(help="TOML file that says which column is which field.")],
    until: Annotated[str, typer.Option(help="Nothing from here on is looked at, event time.")],
    weeks: Annotated[int, typer.Option(min=1, help="How many matured weeks before it are judged by.")] = 3,
    trials: Annotated[int, typer.Option(min=1, help="How many are tried; the first is today's.")] = 30,
    as_json: Json = False,
) -> None:
    """Search the fraud trees' parameters in order of time: each trial learns a week and is judged two later.

    Example: tollgate search --data tx.parquet --mapping handbook.toml --until 2018-06-27
    """
    from training.fraud import search_parameters

    with progress.working("Search", silent=as_json) as told:
        found = search_parameters(
            settings.load(), EventFile(data, mapping), _moment(until), weeks, trials, told
        ).as_json()
        told.finish("done")
    _say(found, as_json, lambda: _lines({**found.pop("parameters"), **found}))


def _rehearsed(
    chosen: Settings, found: Task, file: EventFile, span: Span, record: bool, told: progress.Task
) -> Report:
    told.say("reading the file")
    rows = found.from_file(chosen, file, span)
    told.say(f"learning from {len(rows):,} events")
    if record:
        with Desk.opened(chosen) as desk, runs.alone(chosen.home, found.name):
            return runs.train(found, rows, chosen, desk, _by_hand(), promoting=False)
    return runs.rehearse(found, rows, chosen)


def _repeat(
    chosen: Settings, found: Task, run_id: str, file: EventFile | None, out: Path | None, as_json: bool
) -> None:
    with progress.working(f"Repeat {found.name}", silent=as_json) as told:
        done = repeat(found, run_id, chosen, file, out, told)
        told.finish(f"{done.seconds:.0f} s")
    _say(done.as_json(), as_json, lambda: _told_again(done))
    if not done.same:
        raise typer.Exit(1)


def _told_again(done: Repeated) -> None:
    said = "the same, byte for byte" if done.same else "not the same"
    typer.echo(f"The model of run {done.run_id} ({done.rows:,} rows, data {done.data_version}): {said}.")
    for name, checksum in done.files.items():
        typer.echo(f"  {name:<14}{checksum}")
    for line in done.differences:
        typer.echo(f"  {line}")


def _moment(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UserError(f"--until: expected a time such as 2026-03-01T12:00:00Z, came {text!r}.") from None
    return microseconds(moment if moment.tzinfo else moment.replace(tzinfo=UTC))


def _file(data: Path, mapping: Path | None) -> EventFile:
    if mapping is None:
        raise UserError("expected --mapping FILE beside --data, to say which column is which field.")
    return EventFile(data, mapping)


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise UserError(f"--candidates: expected numbers such as 0.8,0.9,1.0, came {text!r}.") from None


def _by_hand() -> Reason:
    return Reason(_person(), "asked for by `tollgate train`")


def _person() -> str:
    """Name of the user, for the history."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"


def _say(result: dict[str, Any], as_json: bool, for_people: Callable[[], None]) -> None:
    if as_json:
        typer.echo(json.dumps(finite(result), default=str))
    else:
        for_people()


def _table(report: Report) -> None:
    """Figures beside the rivals', and what the gate said."""
    table = Table(title=f"{report.task}: {report.rows_test:,} events from {report.test_start}, never seen")
    for column in ("", "challenger", *report.rivals):
        table.add_column(column, justify="right" if column else "left")
    for name in report.headline:
        cells = [figures.get(name, math.nan) for figures in (report.metrics, *report.rivals.values())]
        table.add_row(name.replace("_", " "), *map(_shown, cells))
    console = Console()
    console.print(table)
    for line in _conclusion(report):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _conclusion(report: Report) -> list[str]:
    said = "The gate passed it" if report.verdict.passed else "The gate refused it"
    lines = [f"{said}: {'; '.join(report.verdict.reasons)}.", *(f"Note: {note}." for note in report.notes)]
    if report.promoted:
        lines.append(f"Version {report.version} is the champion.")
    elif report.in_shadow:
        lines.append(
            f"Version {report.version} is in shadow: the retrainer lets it take over when live traffic has"
            f" proven it; `tollgate promote {report.task} {report.version}` does so now."
        )
    elif report.version:
        lines.append(
            f"Version {report.version} is the challenger; `tollgate promote {report.task} {report.version}`."
        )
    return lines + ([f"MLflow run {report.run_id}."] if report.run_id else [])


def _shown(value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.4g}"


def _lines(result: dict[str, Any]) -> None:
    for name, value in result.items():
        typer.echo(f"{name.replace('_', ' '):<30}{_shown(value) if isinstance(value, float) else value}")
