"""The verb `compare-updates`."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import pyarrow.compute as pc
import typer
from rich.console import Console
from rich.table import Table

from features.fraud import FRAUD
from infra import progress, settings
from infra.errors import UserError
from infra.settings import Settings
from ingestion import file_source, mapping
from ingestion.events import microseconds
from ingestion.file_source import PastEvents
from ingestion.simulated import past_payments
from ingestion.simulators.payments import Payments, simulate
from ingestion.simulators.scenarios import Fraud
from training.runs import finite
from training.updates import Compared, compare


def compare_updates(
    data: Annotated[
        Path | None, typer.Option(help="File of past payments with labels; else simulated ones.")
    ] = None,
    mapping_file: Annotated[
        Path | None, typer.Option("--mapping", help="TOML file that says which column is which field.")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Nothing from here on is looked at, event time.")] = None,
    weeks: Annotated[int, typer.Option(min=2, help="Weeks that are decided, the first without a match.")] = 9,
    days: Annotated[float | None, typer.Option(min=7, help="From scratch: look back so many days.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of simulated payments.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Write a plot of the weeks here, PNG.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Keep a fraud model up to date in three ways, week by week: from scratch, more trees, refitted leaves.

    Without a file: payments of a seed in which a gang begins to steal cards half way.

    Example: tollgate compare-updates --seed 1 --weeks 9

    Example: tollgate compare-updates --data tx.parquet --mapping handbook.toml --until 2018-06-27 --json
    """
    chosen = settings.load()
    with progress.working("Compare updates", silent=as_json) as told:
        told.say("reading the payments")
        tables = _tables(chosen, data, mapping_file, until, weeks, seed)
        found = compare(chosen, tables, weeks, days or chosen.retraining.window_days, told.say)
        told.finish("done")
    if out is not None:
        out.write_bytes(_plot(found))
    if as_json:
        typer.echo(json.dumps(finite(found.as_json())))
    else:
        Console().print(_table(found))


def _tables(
    chosen: Settings, data: Path | None, mapping_file: Path | None, until: str | None, weeks: int, seed: int
) -> tuple[pa.Table, pa.Table]:
    events = _simulated(weeks, seed) if data is None else _of_file(chosen, data, mapping_file)
    if until is not None:
        moment = datetime.fromisoformat(until)
        end_us = microseconds(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
        events = events.between(None, end_us)
    events = file_source.placed(events, [entity.name for entity in FRAUD.entities], start=0)
    if not pc.count(events.settled["label"]).as_py():
        raise UserError(
            "expected payments with labels, got none; look at --until and the mapping's [labels]."
        )
    return events.decided, events.settled


def _of_file(chosen: Settings, data: Path, mapping_file: Path | None) -> PastEvents:
    if mapping_file is None:
        raise UserError("expected --mapping FILE beside --data, to say which column is which field.")
    return file_source.payments(data, mapping.load(mapping_file), chosen.currency)


def _simulated(weeks: int, seed: int) -> PastEvents:
    """Six weeks to learn from, the weeks that are decided, and two for the last labels."""
    days = 7 * (6 + weeks + 2)
    fraud = Fraud(ring_first_day=7 * (6 + weeks // 2 - 1))
    return past_payments(simulate(Payments(seed, fraud=fraud), days))


def _table(found: Compared) -> Table:
    table = Table(
        title=f"Fraud, {len(found.of('scratch'))} weeks, each learned from what was known before it"
    )
    for column in ("", "cost", "above scratch, a week", "average precision", "seconds an update"):
        table.add_column(column, justify="right" if column else "left")
    for way, each in found.summary().items():
        low, high = each["cost_above_scratch_low"], each["cost_above_scratch_high"]
        above = f"{each['cost_above_scratch']:,.0f} ({low:,.0f} to {high:,.0f})" if way != "scratch" else "-"
        figures = (
            f"{each['cost']:,.0f}",
            above,
            f"{each['average_precision']:.4f}",
            f"{each['seconds']:.2f}",
        )
        table.add_row(way, *figures)
    return table


def _plot(found: Compared) -> bytes:
    from training import plots

    ways = dict.fromkeys(week.way for week in found.weeks)
    return plots.weekly_costs({way: [week.cost for week in found.of(way)] for way in ways})
