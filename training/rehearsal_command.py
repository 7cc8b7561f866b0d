"""`tollgate rehearse`: continual pricing of simulated markets, several at a time, and what it earned."""

import json
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

from features.state import Floats
from infra import progress, settings
from infra.errors import UserError
from infra.settings import PricingPolicy
from ingestion.simulators.demand import FAMILIES
from training import plots
from training.rehearsal import Rehearsed, Scenario, played

BLOCK = 1_000
"""Quotes of one point of the plot, and of one figure after a shift."""
RECOVERED, AIM = 0.94, 0.96
"""Shares of the best: of a block after a shift, and of the newest quotes."""


def rehearse(
    family: Annotated[
        str, typer.Option(help="True demand: logit, linear, constant_elasticity, or all.")
    ] = "all",
    seeds: Annotated[int, typer.Option(min=1, help="Markets of each family.")] = 2,
    quotes: Annotated[int, typer.Option(min=4_000, help="In each market.")] = 40_000,
    shift_day: Annotated[int | None, typer.Option(help="Demand changes on this day.")] = None,
    shift_factor: Annotated[
        float, typer.Option(min=0.1, help="What buyers are willing to pay from then on, of before.")
    ] = 2 / 3,
    plot: Annotated[Path | None, typer.Option(help="PNG file: what was not earned, quote by quote.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Price simulated markets continually, from nothing, and compare with a seller who knows their demand.

    Example: tollgate rehearse --family logit --seeds 4 --plot regret.png
    """
    families = FAMILIES if family == "all" else (family,)
    if not set(families) <= set(FAMILIES):
        raise UserError(f"--family: expected all or one of {', '.join(FAMILIES)}; came {family!r}.")
    scenarios = [
        Scenario(name, seed, quotes, shift_day, shift_factor)  # type: ignore[arg-type]
        for name in families
        for seed in range(1, seeds + 1)
    ]
    done = _all_played(scenarios, settings.load().pricing, as_json)
    by_family = {name: [each for one, each in done if one.family == name] for name in families}
    if plot is not None:
        lines = {name: [_blocks(each) for each in runs] for name, runs in by_family.items()}
        plot.write_bytes(plots.regret(lines, BLOCK, AIM))
    figures = {name: _figures(runs, shift_day) for name, runs in by_family.items()}
    typer.echo(json.dumps(figures)) if as_json else _print(figures)


def _all_played(
    scenarios: Sequence[Scenario], policy: PricingPolicy, silent: bool
) -> list[tuple[Scenario, Rehearsed]]:
    """In the order of the scenarios; a process a core."""
    with progress.shown(silent=silent) as display:
        task = display.task("Rehearse", total=len(scenarios), unit="markets")
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(os.cpu_count(), context, _in_one_thread) as pool:
            runs = [pool.submit(played, each, policy) for each in scenarios]
            for _ in as_completed(runs):
                task.advance()
            return [(each, run.result()) for each, run in zip(scenarios, runs, strict=True)]


def _in_one_thread() -> None:
    """The processes have all the cores between them; numpy is loaded, or nothing would be limited."""
    threadpool_limits(1)


def _figures(runs: Sequence[Rehearsed], shift_day: int | None) -> dict[str, Any]:
    """Means over the runs; every share is of what the all-knowing seller earns."""
    last = [each.last_quarter for each in runs]
    found = {
        "last_quarter": _mean([each.share(part) for each, part in zip(runs, last, strict=True)]),
        "last_quarter_worst": min(each.share(part) for each, part in zip(runs, last, strict=True)),
        "quarters": np.mean([each.quarters() for each in runs], axis=0).tolist(),
        "list_price_last_quarter": _mean([_list(each, part) for each, part in zip(runs, last, strict=True)]),
        "gain_where_list_price_is_off": _mean([each.gain_where_off for each in runs]),
        "exploration_cost": _mean([each.exploration_cost for each in runs]),
    }
    if shift_day is None:
        return found
    return found | {"quotes_until_recovered": [each.recovery(shift_day, BLOCK, RECOVERED) for each in runs]}


def _list(each: Rehearsed, part: slice) -> float:
    return float(each.at_list_price[part].sum() / each.best[part].sum())


def _blocks(each: Rehearsed) -> Floats:
    count = len(each.earned) // BLOCK
    return np.array([each.share(slice(i * BLOCK, (i + 1) * BLOCK)) for i in range(count)])


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _print(figures: dict[str, dict[str, Any]]) -> None:
    table = Table(title="Margin earned, of an all-knowing seller's; means of the markets")
    table.add_column("")
    for name in figures:
        table.add_column(name, justify="right")
    for figure in next(iter(figures.values())):
        table.add_row(figure.replace("_", " "), *(_told(each[figure]) for each in figures.values()))
    Console().print(table)


def _told(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_told, value))
    return f"{value:.3f}" if isinstance(value, float) else str(value)
