"""`tollgate demo`: start everything, learn, decide live, learn again, and say what it was worth."""

import asyncio
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer

from features.commands import load as load_past
from infra import progress, settings
from infra.errors import UserError
from infra.progress import Display
from infra.settings import Settings
from infra.stack.local import Stack
from ingestion.broker import Producer
from ingestion.simulators.market import catalogue
from serving.demo import report
from serving.demo.live import Listener, Stage, Streamed
from serving.demo.probes import client, freshness_ms, score_ms
from serving.demo.story import Story, Stretch, from_file, simulated
from serving.demo.table import Result, show
from serving.demo.trainings import Trainings, trainings

SERVERS = ("kafka", "valkey", "mlflow", "history", "worker", "api")
"""Everything but the retrainer, which starts at the end: here the story says when to retrain."""
MARKER = "demo"
TASKS = ("fraud", "pricing")
TAKEN_OVER_S = 20.0


def demo(
    data: Annotated[Path | None, typer.Option(help="Your own file of payments with labels.")] = None,
    mapping: Annotated[Path | None, typer.Option(help="TOML file: which column is which field.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same events.")] = 7,
    down: Annotated[bool, typer.Option(help="Stop the stack at the end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """See all of it work: real Kafka, Feast store, MLflow, live decisions and prices, a retrained champion.

    It begins anew each time and leaves the stack running, so that you can go on with it.

    Example: tollgate demo --data tx.parquet --mapping infra/config/mappings/fraud_handbook.toml
    """
    if (data is None) != (mapping is None):
        raise UserError(
            "expected --data and --mapping together: the mapping says which column is which field."
        )
    start = time.monotonic()
    with progress.shown(silent=as_json) as display:
        _claim_home()
        with ThreadPoolExecutor(1) as aside:  # the servers take longer to start
            told = aside.submit(_story, data, mapping, seed, display)
            chosen = _fresh_stack(display)
            story = told.result()
        with trainings(len(TASKS)) as train:
            result = asyncio.run(_play(chosen, story, train, display))
        if not down:
            Stack(chosen.home).up(None, display)
    show(result, chosen, time.monotonic() - start, as_json, running=not down)
    if down:
        Stack(chosen.home).down()


def _claim_home() -> None:
    """Make the home a demonstration's. UserError if it holds events that are not."""
    home, history = settings.load().home, settings.load().history
    marker = home / MARKER
    if history.exists() and not marker.exists():
        raise UserError(
            f"{home} holds events that are not a demonstration's; choose another folder with"
            " TOLLGATE_HOME, or remove it with `tollgate down --purge`."
        )
    if marker.exists():
        Stack(home).down(purge=True)
    home.mkdir(parents=True, exist_ok=True)
    marker.touch()


def _story(data: Path | None, mapping: Path | None, seed: int, display: Display) -> Story:
    task = display.task("Story", unit="rows")
    if data and mapping:
        story = from_file(data, mapping, settings.load().currency, seed, task)
    else:
        story = simulated(seed, datetime.now(UTC))
    task.finish(story.title)
    return story


def _fresh_stack(display: Display) -> Settings:
    """The running stack's settings: its ports may have moved."""
    Stack(settings.load().home).up(SERVERS, display)
    return settings.load()


async def _play(chosen: Settings, story: Story, train: Trainings, display: Display) -> Result:
    async with client(chosen) as http:
        await _stock(http, story)
    started = time.monotonic()
    events = {"fraud": story.past, "pricing": story.prices}
    count = sum(map(len, events.values()))
    load_past(chosen, events, display)
    backfill_s = time.monotonic() - started
    first = _train(chosen, train, display, "first models")
    producer = Producer(chosen.addresses.kafka, linger_ms=5)
    with Listener(chosen.addresses.kafka) as listener:
        stage = Stage(story, producer, listener, partial(client, chosen))
        before = await _stretch(stage, story.before, display)
        second = _train(chosen, train, display, "retraining")
        after = await _stretch(stage, story.after, display)
        calm = await score_ms(chosen)
        fresh = await freshness_ms(chosen)
        async with client(chosen) as http:
            exposition = (await http.get("/metrics")).text
    producer.close()
    frauds = story.frauds()
    decisions = listener.seen.decisions
    return Result(
        title=story.title,
        backfilled=count,
        backfill_s=backfill_s,
        first=first,
        second=second,
        streamed=(before, after),
        decided_once=_decided_once(listener, before, after),
        caught=tuple(
            report.caught([decisions[name] for name in each.names], frauds, chosen.fraud)
            for each in (before, after)
        ),
        new_pattern=tuple(
            report.stopped_share([decisions[name] for name in each.names], story.new_pattern)
            for each in (before, after)
        ),
        earned=tuple(report.earned(story.market, each.sold) for each in (before, after)),
        stages=report.stages(exposition),
        calm=report.Latency.of(calm),
        freshness=report.Latency.of(fresh),
    )


def _decided_once(listener: Listener, *stretches: Streamed) -> tuple[int, int, int]:
    """Payments sent, payments decided, further copies of decisions on the topic."""
    names = [name for each in stretches for name in each.names]
    return len(names), sum(name in listener.seen.decisions for name in names), listener.seen.copies


async def _stretch(stage: Stage, stretch: Stretch, display: Display) -> Streamed:
    task = display.task(f"Live, {stretch.name}", unit="events")
    streamed = await stage.run(stretch, task)
    task.finish(f"{len(streamed.names):,} payments decided in {streamed.seconds:.0f} s")
    return streamed


async def _stock(http: httpx.AsyncClient, story: Story) -> None:
    """Put the market's products into the catalogue."""
    for name, terms in catalogue(story.market).items():
        answer = await http.put(f"/v1/products/{name}", json=terms)
        answer.raise_for_status()


def _train(chosen: Settings, train: Trainings, display: Display, why: str) -> Mapping[str, dict[str, Any]]:
    """Train both tasks side by side and wait until winners decide; here they need no shadow."""
    task = display.task(f"Train, {why}")
    task.say("fraud and pricing, on matured labels and outcomes")
    reports = train(TASKS)
    _await_champions(chosen, {name: each["version"] for name, each in reports.items() if each["promoted"]})
    task.finish(", ".join(_outcome(name, each) for name, each in reports.items()))
    return reports


def _outcome(task: str, report: dict[str, Any]) -> str:
    return f"{task} {'version ' + report['version'] if report['promoted'] else 'kept as it is'}"


def _await_champions(chosen: Settings, versions: dict[str, str]) -> None:
    """The API and the worker follow the registry by themselves, each within a second or two."""
    end = time.monotonic() + TAKEN_OVER_S
    while _deciding(chosen, versions) != versions:
        if time.monotonic() > end:
            raise UserError(f"the API did not take over {versions} within {TAKEN_OVER_S:.0f} s; see its log.")
        time.sleep(0.2)
    time.sleep(2.0)


def _deciding(chosen: Settings, wanted: dict[str, str]) -> dict[str, str]:
    models = httpx.get(f"{chosen.addresses.api}/readyz", timeout=10).json()["models"]
    return {task: models[task] for task in wanted}
