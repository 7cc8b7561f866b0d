"""`tollgate watch`: what the watcher would find now, once, for people and for machines."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from infra import progress, settings
from infra.errors import UserError
from infra.settings import Settings
from training import card as cards
from training import watch_report
from training.champions import Champions
from training.commands import _moment, _shown
from training.findings import Findings, wire_time
from training.tasks import TASKS, task
from training.tracking import Tracking
from training.watcher import Looker

_ROWS = 12
"""Columns of the drift table."""


def watch(
    name: Annotated[str | None, typer.Argument(help="fraud or pricing; else both.")] = None,
    until: Annotated[
        str | None, typer.Option(help="The present, event time; else that of the newest events.")
    ] = None,
    report: Annotated[bool, typer.Option(help="Log the page and the plot at the champion's run.")] = False,
    plot: Annotated[Path | None, typer.Option(help="PNG file: matured performance over event time.")] = None,
    skew: Annotated[bool, typer.Option(help="Recompute the features of decisions; takes a replay.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Look at a champion: drift, matured and estimated performance, skew and freshness. Nobody is alerted.

    Example: tollgate watch fraud --report
    """
    chosen, told = settings.load(), []
    for each in TASKS if name is None else (task(name).name,):
        with progress.working(f"Watch {each}", silent=as_json) as working:
            found = Looker(chosen).look(task(each), None if until is None else _moment(until), skew=skew)
            working.finish("done" if found else "no events")
        if found is None:
            continue
        told.append(found)
        if report:
            _logged(chosen, found)
        if plot is not None:
            (plot if name else plot.with_stem(f"{plot.stem}-{each}")).write_bytes(watch_report.plot(found))
    if name is not None and not told:
        raise UserError(f"expected past events of {name}, got none; `tollgate backfill` a file.")
    _say(told, as_json)


def _logged(chosen: Settings, found: Findings) -> None:
    champion = Champions(chosen.home).current(found.task)
    if champion is None:
        raise UserError(f"expected a champion of {found.task} to report of, there is none; `tollgate train`.")
    files = {f"{found.task}.html": watch_report.page(found), "findings.json": _text(found).encode()}
    if found.days:
        files["performance.png"] = watch_report.plot(found)
    run_id = cards.read(champion.folder).run_id
    Tracking(chosen.addresses.mlflow).attach(run_id, watch_report.FOLDER, files)


def _text(found: Findings) -> str:
    return json.dumps(found.as_json(), indent=1, allow_nan=False)


def _say(told: list[Findings], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({each.task: each.as_json() for each in told}, allow_nan=False))
        return
    console = Console()
    for found in told:
        for line in _lines(found):
            console.print(line, highlight=False, markup=False, soft_wrap=True)
        for table in (_performance(found), _drift(found)):
            if table.row_count:
                console.print(table)


def _lines(found: Findings) -> Iterator[str]:
    who = f"version {found.version}" if found.version else "no champion yet"
    yield f"{found.task}: {who}; at {wire_time(found.at_us)}; {found.rows:,} events since it learned"
    for each in found.alerts:
        yield f"{each.severity}: {each.name}: {each.summary}. To do: {each.action}."
    if not found.alerts:
        yield "Nothing is wrong."
    if found.skew is not None:
        yield f"Features of {found.skew.compared:,} decisions recomputed: {found.skew.different:,} differ."


def _performance(found: Findings) -> Table:
    table = Table(title=f"{found.task}: performance")
    for column in ("", "test window", "matured", "estimated"):
        table.add_column(column, justify="right" if column else "left")
    tested = found.standard.figures if found.standard else {}
    columns = (tested, found.matured or {}, found.estimated or {})
    for name in dict.fromkeys(name for each in columns[1:] for name in each):
        table.add_row(name.replace("_", " "), *(_cell(each.get(name)) for each in columns))
    return table


def _drift(found: Findings) -> Table:
    table = Table(title=f"{found.task}: drift of {found.sampled:,} rows, the most moved first")
    table.add_column("", no_wrap=True)
    for column in ("PSI", "KS", "p, corrected", "drifted"):
        table.add_column(column, justify="right")
    for each in found.drift[:_ROWS]:
        drifted = "yes" if each.drifted else ""
        table.add_row(each.name, *map(_cell, (each.psi, each.statistic, each.adjusted)), drifted)
    return table


def _cell(value: float | None) -> str:
    return _shown(math.nan if value is None else value)
