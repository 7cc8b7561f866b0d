"""`tollgate bench`: score requests, the stream worker and the backfill, on real servers of its own."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console
from rich.table import Table

from features.commands import load as load_past
from infra import progress, settings
from infra.errors import UserError
from infra.progress import Display
from infra.settings import Settings
from infra.stack.local import Stack
from infra.stack.ports import free_from
from ingestion.file_source import PastEvents
from ingestion.simulated import past_payments, past_prices
from ingestion.simulators.bench import speeds
from ingestion.simulators.market import Market, MarketProcess, catalogue
from ingestion.simulators.payments import Payments, simulate
from ingestion.simulators.wire import encoded, quote_requests, transactions
from ingestion.topics import ensure_topics
from serving.bench.guardrails import Guarded, guard
from serving.bench.http_load import Load, in_turn, send
from serving.bench.stream import Streamed, stream
from serving.champions_watch import FEATURE_SETS, ChampionsWatch
from serving.demo.story import midnight
from serving.fraud import FraudDecider
from training.champions import Champions
from training.rule_book import rule_book
from training.tracking import Registry

PAST_DAYS, QUOTE_DAYS = 90, 5
CONNECTIONS = 32
PATH, QUOTE_PATH = "/v1/fraud/score", "/v1/prices/quote"


@dataclass(frozen=True)
class Contender:
    """A call of a server under a load."""

    title: str
    requests: int = 1_000
    """In a round: so many that it takes a second or more."""
    path: str = PATH
    server: str = "tollgate"


CONTENDERS = {
    "floor": Contender("FastAPI parses, constant answer", 10_000, server="floor"),
    "tollgate": Contender("Tollgate: scored and published", 5_000),
    "tutorial": Contender("Feast SDK, DataFrame, pyfunc", 300, server="tutorial"),
}
"""Each alone on the machine with the load, over all connections."""
IN_TURN = {
    "alone": Contender("Tollgate, one connection"),
    "explained": Contender("the same, each with its reasons", path=f"{PATH}?explain=true"),
    "quoted": Contender("the same, prices quoted", path=QUOTE_PATH),
}
"""One server, one connection, a request to each in turn."""


@dataclass(frozen=True)
class Benched:
    """All figures of one run; loads have one entry a round."""

    loads: dict[str, list[Load]]
    streamed: Streamed
    backfill_rows_per_s: float
    simulated_per_s: dict[str, float]
    guarded: Guarded

    def ratio(self, name: str, to: str) -> float:
        """Median over the rounds of requests a second against another contender's, in the same round."""
        pairs = zip(self.loads[name], self.loads[to], strict=True)
        return median(mine.requests_per_s / theirs.requests_per_s for mine, theirs in pairs)

    def slower(self, name: str, than: str) -> float:
        """Median over the rounds of p99 against another contender's, in the same round."""
        pairs = zip(self.loads[name], self.loads[than], strict=True)
        return median(mine.p99_ms / theirs.p99_ms for mine, theirs in pairs)


def bench(
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of every contender, in turn.")] = 3,
    events: Annotated[
        int, typer.Option(min=1_000, help="Payments a round through the stream worker.")
    ] = 20_000,
    quotes: Annotated[int, typer.Option(min=1, help="Random quotes through the guardrails.")] = 10_000_000,
    home: Annotated[Path | None, typer.Option(help="Folder for its own servers; removed at the end.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Measure on this machine: scores against FastAPI's floor and the tutorial way, stream, backfill, prices.

    Example: tollgate bench --rounds 5
    """
    os.environ["TOLLGATE_HOME"] = str((home or settings.load().home / "bench").absolute())
    stack = Stack(settings.load().home)
    with progress.shown(silent=as_json) as display:
        guarded = _guarded(quotes, display)  # before any server takes a core
        stack.up(("kafka", "valkey", "mlflow"), display)
        try:
            result = _measured(settings.load(), rounds, events, guarded, display)
        finally:
            stack.down(purge=True)
    if as_json:
        typer.echo(json.dumps(_values(result)))
    else:
        _print(result)


def _guarded(quotes: int, display: Display) -> Guarded:
    task = display.task("Guardrails", total=quotes, unit="quotes")
    result = guard(quotes, task)
    task.finish(f"{result.guardrail_breaches} breaches")
    return result


def _measured(chosen: Settings, rounds: int, events: int, guarded: Guarded, display: Display) -> Benched:
    ensure_topics(chosen)
    past, market = _past(), _market()
    started = time.perf_counter()
    load_past(chosen, {"fraud": past}, display)
    rows_per_s = past.decided.num_rows / (time.perf_counter() - started)
    load_past(chosen, {"pricing": past_prices(market, market.simulate(PAST_DAYS))}, display)
    for name in FEATURE_SETS:
        _train(name, display)
    streamed = _stream(chosen, rounds, events, display)  # first: scores over HTTP are events too
    return Benched(_loads(rounds, display), streamed, rows_per_s, speeds(1, 20), guarded)


def _past() -> PastEvents:
    start = midnight(datetime.now(UTC)) - timedelta(days=2 * PAST_DAYS)
    return past_payments(simulate(Payments(seed=1, start=start), PAST_DAYS))


def _market() -> Market:
    start = midnight(datetime.now(UTC)) - timedelta(days=PAST_DAYS + QUOTE_DAYS)
    return Market(MarketProcess(seed=1, start=start))


def _train(name: str, display: Display) -> None:
    task = display.task(f"Train {name}")
    done = subprocess.run(
        [sys.executable, "-m", "infra.cli", "train", name, "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode or not json.loads(done.stdout)["promoted"]:
        raise UserError(f"no model to bench: {done.stderr.strip() or done.stdout}")
    task.finish("champion")


def _loads(rounds: int, display: Display) -> dict[str, list[Load]]:
    task = display.task("Scores over HTTP", total=rounds * (len(CONTENDERS) + 1), unit="loads")
    loads: dict[str, list[Load]] = {name: [] for name in (*CONTENDERS, *IN_TURN)}
    key = settings.load().api.headers
    for each in range(rounds):
        for name, one in CONTENDERS.items():
            with serving(one.server) as port:
                send(port, one.path, _bodies(f"warm-{name}-{each}", one.requests // 5), CONNECTIONS, key)
                bodies = _bodies(f"{name}-{each}", one.requests)
                loads[name].append(send(port, one.path, bodies, CONNECTIONS, key))
            task.advance()
        with serving("tollgate") as port:
            _sell(port)
            _in_turn(port, f"warm-{each}", share=5)
            for name, load in zip(IN_TURN, _in_turn(port, f"{each}"), strict=True):
                loads[name].append(load)
        task.advance()
    return loads


def _in_turn(port: int, run: str, share: int = 1) -> list[Load]:
    paths = [one.path for one in IN_TURN.values()]
    bodies = [
        (_quotes if one.path == QUOTE_PATH else _bodies)(f"{name}-{run}", one.requests // share)
        for name, one in IN_TURN.items()
    ]
    return in_turn(port, paths, bodies, settings.load().api.headers)


def _sell(port: int) -> None:
    """Put the market's products into the catalogue."""
    key = settings.load().api.headers
    for name, terms in catalogue(_market()).items():
        url = f"http://127.0.0.1:{port}/v1/products/{name}"
        httpx.put(url, json=terms, headers=key).raise_for_status()


def _quotes(run: str, count: int) -> list[bytes]:
    """Requests for prices after the past ones, with ids of their own."""
    asked = _market().quotes(QUOTE_DAYS, PAST_DAYS)
    return encoded(
        [each | {"quote_id": f"{run}-{i}"} for i, each in enumerate(quote_requests(asked))][:count]
    )


@contextmanager
def serving(name: str, **environment: str) -> Iterator[int]:
    """A server of that name in a process of its own, with these variables besides; gives its port."""
    port = free_from(18_000)
    own = ["-m", "infra.cli", "run", "api", "--port", str(port)]
    command = own if name == "tollgate" else ["-m", "serving.bench.rivals", name, str(port)]
    process = subprocess.Popen(
        [sys.executable, *command],
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        _await(process, port)
        yield port
    finally:
        process.terminate()
        process.communicate()


def _await(process: "subprocess.Popen[bytes]", port: int) -> None:
    end = time.monotonic() + 90
    while time.monotonic() < end and process.poll() is None:
        try:
            httpx.get(f"http://127.0.0.1:{port}/docs", timeout=1)
            time.sleep(2)
            return
        except httpx.HTTPError:
            time.sleep(0.2)
    raise UserError(f"the server on port {port} did not answer")


def _payments(run: str, count: int) -> list[dict[str, Any]]:
    """New payments of customers and terminals that are known, with ids of their own."""
    today = midnight(datetime.now(UTC))
    days = count // 4_000 + 2
    process = Payments(seed=1, start=today - timedelta(days=PAST_DAYS + days))
    log = simulate(process, days, first_day=PAST_DAYS)
    return [each | {"transaction_id": f"{run}-{i}"} for i, each in enumerate(transactions(log))][:count]


def _bodies(run: str, count: int) -> list[bytes]:
    return encoded(_payments(run, count))


def _stream(chosen: Settings, rounds: int, events: int, display: Display) -> Streamed:
    count = (rounds + 1) * events
    task = display.task("Stream", total=count, unit="payments")
    models = ChampionsWatch(Champions(chosen.home), Registry(chosen.addresses.mlflow), FEATURE_SETS)
    models.start()
    models.refresh()  # the first look imports MLflow, for seconds, once in a worker's life
    book = rule_book(chosen.fraud)
    streamed = stream(chosen, FraudDecider(models, lambda: book), _payments("stream", count), rounds, task)
    models.stop()
    return streamed


def _values(result: Benched) -> dict[str, Any]:
    return {
        "ratio_to_floor": result.ratio("tollgate", "floor"),
        "ratio_to_tutorial": result.ratio("tollgate", "tutorial"),
        "explained_p99_ratio": result.slower("explained", "alone"),
        "quoted_p99_ratio": result.slower("quoted", "alone"),
        "loads": {name: [asdict(each) for each in loads] for name, loads in result.loads.items()},
        "stream": {"events_per_s": result.streamed.events_per_s, **asdict(result.streamed)},
        "backfill_rows_per_s": result.backfill_rows_per_s,
        "simulated_per_s": result.simulated_per_s,
        "guardrail_breaches": result.guarded.guardrail_breaches,
        "guarded_quotes_per_s": result.guarded.guarded_quotes_per_s,
    }


def _print(result: Benched) -> None:
    console = Console()
    table = Table(
        title=f"Scores over HTTP, {CONNECTIONS} connections but where told, medians of rounds side by side"
    )
    for heading in ("", "requests/s", "p50 ms", "p99 ms", "of the floor", "of the tutorial way"):
        table.add_column(heading, justify="left" if not heading else "right")
    for name, loads in result.loads.items():
        ratios = f"{result.ratio(name, 'floor'):.2f}", f"{result.ratio(name, 'tutorial'):.1f}"
        title = (CONTENDERS | IN_TURN)[name].title
        table.add_row(title, *_medians(loads), *(ratios if name in CONTENDERS else ()))
    console.print(table)
    console.print(f"With reasons p99 is {result.slower('explained', 'alone'):.2f} times that without.")
    console.print(f"A quote's p99 is {result.slower('quoted', 'alone'):.2f} times a score's.")
    stream_table = Table(
        title=f"Stream: {result.streamed.events_per_s:,.0f} payments/s decided by one worker"
    )
    stream_table.caption = "rounds: " + ", ".join(
        f"{each.events_per_s:,.0f}/s ({each.stolen:.0%} stolen)" for each in result.streamed.rounds
    )
    stream_table.add_column("stage")
    stream_table.add_column("share of time", justify="right")
    stream_table.add_column("µs a payment", justify="right")
    for stage, share in result.streamed.shares().items():
        stream_table.add_row(stage, f"{share:.0%}", f"{share * 1e6 / result.streamed.events_per_s:.1f}")
    console.print(stream_table)
    console.print("Stolen: share of the cores' time that a virtual machine's host gave to others.")
    console.print(f"Backfill: {result.backfill_rows_per_s:,.0f} payments/s, each with its label.")
    console.print(
        f"Guardrails: {result.guarded.guardrail_breaches:,} breaches in {result.guarded.quotes:,} random"
        f" quotes, {result.guarded.guarded_quotes_per_s:,.0f} quotes/s."
    )
    console.print(
        "Simulators: " + ", ".join(f"{step} {rate:,.0f}/s" for step, rate in result.simulated_per_s.items())
    )


def _medians(loads: Sequence[Load]) -> tuple[str, str, str]:
    rate, p50, p99 = (
        median(getattr(each, name) for each in loads) for name in ("requests_per_s", "p50_ms", "p99_ms")
    )
    return f"{rate:,.0f}", f"{p50:.1f}", f"{p99:.1f}"
