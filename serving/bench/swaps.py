"""`tollgate bench-swaps`: champions promoted and rolled back under load, and every answer recomputed.

Two API processes answer a steady load of scores while the champion changes again and again. Each answer has
the vector that it used and names a version; that version's files must give its score, bit for bit.
"""

import asyncio
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import httpx
import numpy as np
import orjson
import typer

from features.fraud import FRAUD
from features.state import Floats
from infra import progress, settings
from infra.progress import Display
from infra.settings import Settings
from infra.stack.local import Stack
from ingestion.simulators.payments import Payments, simulate
from ingestion.simulators.wire import encoded, transactions
from ingestion.topics import ensure_topics
from serving.bench.command import PATH, serving
from serving.bench.http_load import request
from serving.demo.story import midnight
from training import booster, models
from training.booster import Model
from training.card import Card, Trained
from training.promotion import promote
from training.runs import Desk, finite
from training.tracking import Record

ACTIONS = ("2", "3", None, "4", "5", None, "6")
"""Versions to promote, in order; None rolls back."""
PROCESSES, CONNECTIONS = 2, 8
WHO = "bench"


@dataclass(frozen=True)
class Answer:
    """Of one request."""

    process: int
    sent_s: float
    version: str
    score: float
    features: tuple[float, ...]


@dataclass(frozen=True)
class Change:
    """A promotion or a rollback, as HTTP answered it."""

    version: str
    previous: str
    begun_s: float
    done_s: float


@dataclass(frozen=True)
class Swapped:
    """What a run came to."""

    seconds: float
    requests: int
    errors: int
    promotions: int
    rollbacks: int
    versions: int
    """That truly answered."""
    wrong: int
    """Answers that the version they name does not give, bit for bit."""
    told_apart: float
    """Share of the answers that no other version would have given."""
    slowest_swap_s: float
    """From the answer to a promotion until a process was last asked and answered by the version before.

    Infinite if it never answered by the new one until the next change.
    """


PATIENT = {"TOLLGATE_API__MAX_DELAY_MS": "10000"}
"""On a slow machine every call shall be answered; who is refused then is `bench-overload`'s subject."""


def bench_swaps(
    seconds: Annotated[float, typer.Option(min=5, help="Of load.")] = 60.0,
    rate: Annotated[float, typer.Option(min=1, help="Requests a second, over both processes.")] = 200.0,
    home: Annotated[Path | None, typer.Option(help="Folder for its own servers; removed at the end.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Promote five champions and roll back two under load, and recompute every answer from its vector.

    Example: tollgate bench-swaps --seconds 60 --rate 200
    """
    os.environ["TOLLGATE_HOME"] = str((home or settings.load().home / "bench").absolute())
    stack = Stack(settings.load().home)
    with progress.shown(silent=as_json) as display:
        stack.up(("kafka", "valkey", "mlflow"), display)
        try:
            found = swapped(settings.load(), seconds, rate, display)
        finally:
            stack.down(purge=True)
    typer.echo(json.dumps(finite(asdict(found))) if as_json else _told(found))


def swapped(chosen: Settings, seconds: float, rate: float, display: Display) -> Swapped:
    """Run the load on the servers of the settings, which are also those of the environment."""
    ensure_topics(chosen)
    with Desk.opened(chosen) as desk:
        return _swapped(desk, seconds, rate, display)


def _swapped(desk: Desk, seconds: float, rate: float, display: Display) -> Swapped:
    task = display.task("Champions to swap")
    for number in range(1, 1 + max(int(each) for each in ACTIONS if each)):
        desk.tracking.log(noise_record(number), noise(number), register=True)
    promote(desk.registry, desk.champions, "fraud", "1", WHO, "the first")
    task.finish("registered")
    task = display.task("Swaps under load")
    with ExitStack() as running:
        ports = [running.enter_context(serving("tollgate", **PATIENT)) for _ in range(PROCESSES)]
        answers, errors, changes = asyncio.run(_run(ports, seconds, rate))
    task.finish(f"{len(answers):,} answers")
    return _judged(desk, seconds, answers, errors, changes)


class _Ours(Model):
    """Registered in our own form alone: MLflow's own takes seconds, and nothing here reads it."""

    @property
    def native(self) -> None:
        return None


def noise(seed: int) -> Model:
    """Trees that learned from noise, so that each version says something else."""
    draw, n = np.random.default_rng(seed), 3_000
    matrix = np.abs(draw.normal(0.0, 30.0, (n, len(FRAUD.names))))
    matrix[draw.random(matrix.shape) < 0.2] = np.nan
    target = (draw.random(n) < 0.1).astype(np.float64)
    card = Card("fraud", "", FRAUD.names, FRAUD.hash, Trained(0, 0, 0, n))
    found = booster.train(matrix, target, card, {**booster.CLASSIFIER, "max_bin": 255, "bagging_seed": seed})
    return _Ours(found.text, found.card)


def noise_record(number: int) -> Record:
    """The record of the run that would have made it."""
    return Record("fraud", f"swap {number}", {"seed": number}, {}, {}, {})


async def _run(
    ports: Sequence[int], seconds: float, rate: float
) -> tuple[list[Answer], list[str], list[Change]]:
    answers: list[Answer] = []
    errors: list[str] = []
    start = time.perf_counter()
    bodies = list(enumerate(_bodies(round(seconds * rate))))
    slots = [iter(bodies[process::PROCESSES]) for process in range(PROCESSES)]
    callers = [
        _caller(process, ports[process], slots[process], start, rate, answers, errors)
        for process in range(PROCESSES)
        for _ in range(CONNECTIONS)
    ]
    changing = asyncio.create_task(_changing(ports[0], start, seconds))
    await asyncio.gather(*callers, changing)
    return answers, errors, changing.result()


def _bodies(count: int) -> list[bytes]:
    days = count // 4_000 + 2
    process = Payments(seed=2, start=midnight(datetime.now(UTC)) - timedelta(days=days))
    return encoded(transactions(simulate(process, days)))[:count]


async def _caller(
    process: int,
    port: int,
    slots: Iterator[tuple[int, bytes]],
    start: float,
    rate: float,
    answers: list[Answer],
    errors: list[str],
) -> None:
    """Send each request of a process at its moment, or at once if that has passed."""
    key = settings.load().api.headers
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for number, body in slots:
        await asyncio.sleep(max(0.0, start + number / rate - time.perf_counter()))
        sent_s = time.perf_counter()
        writer.write(request(PATH, body, key))
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        content = await reader.readexactly(int(head.split(b"content-length:")[1].split(b"\r\n")[0]))
        if head.startswith(b"http/1.1 200"):
            answers.append(_answer(process, sent_s, content))
        else:
            errors.append(content[:200].decode(errors="replace"))
    writer.close()


def _answer(process: int, sent_s: float, content: bytes) -> Answer:
    said = orjson.loads(content)
    values = (said["features"][name] for name in FRAUD.names)
    features = tuple(np.nan if value is None else float(value) for value in values)
    return Answer(process, sent_s, said["model"]["version"], said["score"], features)


async def _changing(port: int, start: float, seconds: float) -> list[Change]:
    """Promote and roll back at even distances."""
    changes = []
    key = settings.load().api.headers
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=key, timeout=30) as http:
        for number, version in enumerate(ACTIONS):
            moment = start + seconds * (number + 1) / (len(ACTIONS) + 1)
            await asyncio.sleep(max(0.0, moment - time.perf_counter()))
            begun_s = time.perf_counter()
            action, body = ("promote", {"version": version}) if version else ("rollback", {})
            reply = await http.post(f"/v1/models/fraud/{action}", json={**body, "who": WHO})
            reply.raise_for_status()
            said = reply.json()
            changes.append(Change(said["version"], said["previous"], begun_s, time.perf_counter()))
    return changes


def _judged(
    desk: Desk, seconds: float, answers: Sequence[Answer], errors: Sequence[str], changes: Sequence[Change]
) -> Swapped:
    matrix = np.array([each.features for each in answers])
    said = np.array([each.score for each in answers])
    named = np.array([each.version for each in answers])
    scores = {
        each: _recomputed(desk, each, matrix) for each in sorted(set(named) | {c.version for c in changes})
    }
    own = np.array([scores[version][i] for i, version in enumerate(named)])
    others = np.array([(score == said) & (named != version) for version, score in scores.items()])
    return Swapped(
        seconds=seconds,
        requests=len(answers) + len(errors),
        errors=len(errors),
        promotions=sum(each is not None for each in ACTIONS),
        rollbacks=sum(each is None for each in ACTIONS),
        versions=len(set(named)),
        wrong=int((own != said).sum()),
        told_apart=float(1.0 - others.any(axis=0).mean()),
        slowest_swap_s=max(_swap_s(answers, each, later) for each, later in _stretches(changes)),
    )


def _recomputed(desk: Desk, version: str, matrix: Floats) -> Floats:
    """What the version's files say of the vectors."""
    return models.load(desk.champions.folder("fraud", version)).predict(matrix)


def _stretches(changes: Sequence[Change]) -> Iterator[tuple[Change, float]]:
    """Each change, and when the next one was asked for: from then on a process may be ahead of its answer."""
    ends = [*(each.begun_s for each in changes[1:]), np.inf]
    yield from zip(changes, ends, strict=True)


def _swap_s(answers: Sequence[Answer], change: Change, until_s: float) -> float:
    """Of the slowest process."""
    mine = [each for each in answers if change.done_s <= each.sent_s < until_s]
    return max(_taken_over_s(mine, change, process) for process in range(PROCESSES))


def _taken_over_s(answers: Sequence[Answer], change: Change, process: int) -> float:
    mine = [each for each in answers if each.process == process]
    if all(each.version != change.version for each in mine):
        return float("inf")
    old = [each.sent_s - change.done_s for each in mine if each.version != change.version]
    return max(old, default=0.0)


def _told(found: Swapped) -> str:
    return (
        f"{found.requests:,} requests in {found.seconds:.0f} s with {found.promotions} promotions and"
        f" {found.rollbacks} rollbacks: {found.errors} errors; {found.versions} versions answered,"
        f" {found.wrong} answers differ from what the version they name gives; {found.told_apart:.1%} of them"
        f" no other version would have given. The slowest process took a change over after"
        f" {found.slowest_swap_s:.1f} s."
    )
