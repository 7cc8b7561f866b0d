"""The demonstration's result, for people and for machines."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from infra.settings import Settings
from serving.demo.live import Streamed
from serving.demo.report import Caught, Earned, Latency


@dataclass(frozen=True)
class Result:
    """Everything that the demonstration measured; pairs are before and after retraining."""

    title: str
    backfilled: int
    """Past events: payments, labels, quotes and outcomes."""
    backfill_s: float
    first: Mapping[str, Mapping[str, Any]]
    second: Mapping[str, Mapping[str, Any]]
    streamed: tuple[Streamed, Streamed]
    decided_once: tuple[int, int, int]
    """Payments sent, payments decided, further copies of decisions."""
    caught: tuple[Caught, ...]
    new_pattern: tuple[tuple[int, float], ...]
    """Payments of the new fraud pattern, and the share of them that was stopped."""
    earned: tuple[Earned, ...]
    stages: Mapping[str, Latency]
    calm: Latency
    """A score that is decided and published, one at a time."""
    freshness: Latency

    @property
    def payments_per_s(self) -> float:
        """Payments decided a second, from the first event sent to the last decision."""
        return sum(len(each.names) for each in self.streamed) / sum(each.seconds for each in self.streamed)

    def calls(self) -> dict[str, Latency]:
        """Times of HTTP calls as the client saw them."""
        return {
            "POST /v1/fraud/score, one at a time": self.calm,
            "POST /v1/fraud/score, beside the full stream": Latency.of(
                [ms for each in self.streamed for ms in each.score_ms]
            ),
            "POST /v1/prices/quote, beside the full stream": Latency.of(
                [ms for each in self.streamed for ms in each.quote_ms]
            ),
        }


def show(result: Result, chosen: Settings, seconds: float, as_json: bool, running: bool) -> None:
    """Print the result."""
    if as_json:
        print(json.dumps(as_values(result) | {"seconds": round(seconds, 1)}))  # noqa: T201
        return
    console = Console()
    console.print(_money(result, chosen.currency))
    console.print(_speed(result))
    console.print(_models(result))
    if running:
        console.print(_next(chosen))
    console.print(f"Done in {seconds:.0f} s.")


def as_values(result: Result) -> dict[str, Any]:
    """Plain values."""
    sent, decided, copies = result.decided_once
    return {
        "story": result.title,
        "backfill": {"events": result.backfilled, "seconds": round(result.backfill_s, 2)},
        "payments_per_s": round(result.payments_per_s, 1),
        "decided": {"sent": sent, "decided": decided, "copies": copies},
        "caught": [asdict(each) for each in result.caught],
        "new_pattern": [{"payments": count, "stopped": share} for count, share in result.new_pattern],
        "earned": [asdict(each) for each in result.earned],
        "calls_ms": {name: asdict(each) for name, each in result.calls().items()},
        "stages_ms": {name: asdict(each) for name, each in result.stages.items()},
        "freshness_ms": asdict(result.freshness),
        "models": {"first": dict(result.first), "second": dict(result.second)},
    }


def _money(result: Result, currency: str) -> Table:
    table = Table(title=f"What it was worth, in {currency}", title_justify="left")
    for heading in ("", "before retraining", "after retraining"):
        table.add_column(heading, justify="left" if not heading else "right")
    table.add_row("fraud that was tried", *(f"{each.fraud:,.0f}" for each in result.caught))
    table.add_row(
        "  stopped by the model and policy", *(_part(each, each.by_system) for each in result.caught)
    )
    table.add_row("  stopped by rules alone", *(_part(each, each.by_rules) for each in result.caught))
    if any(count for count, _ in result.new_pattern):
        table.add_row(
            "  payments of the new pattern stopped",
            *(f"{share:.0%} of {count:,}" for count, share in result.new_pattern),
        )
    table.add_section()
    table.add_row("margin with our prices", *(f"{each.shown:,.0f}" for each in result.earned))
    table.add_row(
        "  against the list price", *(f"{each.shown / each.at_list - 1:+.1%}" for each in result.earned)
    )
    table.add_row(
        "  of what an all-knowing seller earns",
        *(f"{each.shown / each.at_best:.1%}" for each in result.earned),
    )
    return table


def _part(caught: Caught, amount: float) -> str:
    return f"{amount:,.0f} ({caught.share(amount):.0%})"


def _speed(result: Result) -> Table:
    sent, decided, copies = result.decided_once
    once = (
        "each exactly once" if sent == decided and not copies else f"{decided:,} decided, {copies:,} copies"
    )
    table = Table(
        title=f"How fast: {result.payments_per_s:,.0f} payments/s live ({sent:,} sent, {once}); "
        f"{result.backfilled / result.backfill_s:,.0f} past events/s",
        title_justify="left",
    )
    for heading in ("milliseconds", "p50", "p95", "p99"):
        table.add_column(heading, justify="left" if heading == "milliseconds" else "right")
    for name, latency in result.calls().items():
        table.add_row(name, *_figures(latency))
    table.add_section()
    for name, latency in sorted(result.stages.items()):
        table.add_row(f"  {name}", *_figures(latency))
    table.add_section()
    table.add_row("event accepted until it counts in a score", *_figures(result.freshness))
    return table


def _figures(latency: Latency) -> tuple[str, str, str]:
    return f"{latency.p50:.2f}", f"{latency.p95:.2f}", f"{latency.p99:.2f}"


def _models(result: Result) -> Table:
    table = Table(title="What was learned", title_justify="left")
    for heading in ("task", "training", "version", "learned from", "verdict of the gate"):
        table.add_column(heading)
    for name in result.first:
        for when, reports in (("first", result.first), ("retraining", result.second)):
            each = reports[name]
            verdict = "; ".join(each["verdict"]["reasons"])
            table.add_row(name, when, each["version"] or "refused", f"{each['rows_train']:,} rows", verdict)
    return table


def _next(chosen: Settings) -> str:
    api, mlflow = chosen.addresses.api, chosen.addresses.mlflow
    return "\n".join(
        (
            "The stack goes on running. Try next:",
            f"  API and its docs   {api}/docs",
            f"  experiments        {mlflow}",
            f"  what to review     curl {api}/v1/reviews?limit=3",
            f"  which models       curl {api}/v1/models",
            "  more events        tollgate simulate payments --days 1",
            "  how it is          tollgate status",
            "  stop it            tollgate down",
        )
    )
