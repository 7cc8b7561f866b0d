"""`tollgate unattended`: sixty simulated days in minutes, during which nobody looks after the system."""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from infra import progress, settings
from infra.progress import Display
from infra.stack.local import Stack
from serving.unattended.account import account, plot
from serving.unattended.run import Day, Unattended
from serving.unattended.story import Story
from training import card as cards
from training.runs import finite

FOLDER = "unattended"
"""Of the home, for its own servers and history; and of the champion's run, for the plot."""


def unattended(
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same events.")] = 1,
    plot_file: Annotated[
        Path | None, typer.Option("--plot", help="PNG file: recall and margin by day, and what happened.")
    ] = None,
    home: Annotated[
        Path | None, typer.Option(help="Folder of its own servers; what is there is removed first.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines, with every day.")] = False,
) -> None:
    """Let the system learn by itself from a new fraud and a fall of demand, and compare with none retrained.

    The plot is kept at the newest fraud champion's run, in an MLflow of its own that stays in the folder.

    Example: tollgate unattended --seed 1 --plot unattended.png
    """
    os.environ["TOLLGATE_HOME"] = str((home or settings.load().home / FOLDER).absolute())
    stack, story = Stack(settings.load().home), Story(seed)
    with progress.shown(silent=as_json) as display:
        stack.down(purge=True)
        stack.up(("mlflow",), display)
        try:
            days, picture = played(story, display)
        finally:
            stack.down()
    if plot_file is not None:
        plot_file.write_bytes(picture)
    figures: dict[str, Any] = finite(asdict(account(story, days)))
    if as_json:
        typer.echo(json.dumps({"figures": figures, "days": [finite(asdict(each)) for each in days]}))
    else:
        _print(days, figures)


def played(story: Story, display: Display) -> tuple[list[Day], bytes]:
    """Run the story on home and MLflow of the settings; gives its days and the plot, which MLflow keeps."""
    run = Unattended(story, settings.load())
    task = display.task("Days unattended", total=story.days, unit="days")
    days = []
    for day in run.run():
        days.append(day)
        task.advance()
    picture = plot(story, days)
    champion = run.desk.champions.current("fraud")
    if champion is not None:
        run.desk.tracking.attach(cards.read(champion.folder).run_id, FOLDER, {"unattended.png": picture})
    return days, picture


def _print(days: list[Day], figures: dict[str, Any]) -> None:
    console = Console()
    for line in _lines(days):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    table = Table(title="Unattended")
    table.add_column("")
    table.add_column("", justify="right")
    for name in figures:
        value = figures[name]
        shown = "-" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)
        table.add_row(name.replace("_", " "), shown)
    console.print(table)


def _lines(days: list[Day]) -> Iterator[str]:
    """What happened, day by day."""
    for day in days:
        for alarm in day.alarms:
            yield f"day {alarm.at:g}: alarm, {alarm.task}: {alarm.summary}"
        for each in day.trainings:
            outcome = f"version {each.version} goes into shadow" if each.passed else "; ".join(each.reasons)
            yield f"day {each.at:g}: trained {each.task}, {each.why}: {outcome}"
        for shadowed in day.shadow:
            if shadowed.state.startswith("refused"):
                yield f"day {shadowed.at:g}: {shadowed.task} {shadowed.version} is {shadowed.state}"
        for done in day.promotions:
            new = done.promotion
            yield f"day {done.at:g}: {new.task} {new.version} takes over from {new.previous}: {new.why}"
