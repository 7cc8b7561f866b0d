"""The verb `forget`."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Annotated

import typer

from features.commands import Json, complete_history
from features.connection import Connection, StoreError
from features.fraud import FRAUD
from features.pause import paused
from infra import progress, settings
from infra.errors import UserError
from infra.progress import Display
from infra.settings import Settings
from ingestion.broker import SEGMENTS_KEPT
from ingestion.forgotten import Forgotten
from ingestion.pseudonyms import Pseudonyms
from ingestion.topics import DECISIONS, PRODUCT_COUNTED, TERMINAL_STREAM
from serving import forgetting
from serving.forgetting import Found, Person
from serving.outbox import SUFFIX
from training import shadow

SHADOW_PATIENCE_S = 120.0
REWRITE_PATIENCE_S = 120.0
"""How long Redis may take to write its append-only file anew."""


@dataclass(frozen=True)
class Done:
    """What was taken out, and what the search afterwards went through."""

    payments: int
    """How many payments of theirs were known."""
    removed: dict[str, int]
    """Rows and entries, by what they were."""
    searched: dict[str, int]
    """Files, rows of Parquet files and keys of Redis."""
    found: list[str]
    """Where they still are: nowhere, or it failed."""
    kafka_forgets_after_days: float
    """The broker's log can't be edited; what is in it is passed over, and gone after so long."""
    seconds: float


def forget(
    customer: Annotated[str, typer.Argument(help="The identifier as it was sent, or its pseudonym.")],
    as_json: Json = False,
) -> None:
    """Take a person out of history, states, decisions and reviews, then search everything for them.

    Workers stand still meanwhile; scores are answered. What was interrupted is finished by calling it again.

    Example: tollgate forget c-17
    """
    chosen = settings.load()
    with progress.shown(silent=as_json) as display:
        done = run(chosen, customer, display)
    typer.echo(json.dumps(asdict(done)) if as_json else _told(done))
    if done.found:
        raise UserError(
            f"still found in {len(done.found)} places: {', '.join(done.found[:5])}; call it again."
        )


def _refuse_waiting(chosen: Settings) -> None:
    """What lies in an outbox would be published later, as of somebody who came after."""
    if waiting := [file for file in chosen.outbox.glob(f"*{SUFFIX}") if file.stat().st_size]:
        raise UserError(
            f"expected an empty outbox, {waiting[0]} is not; try again when Kafka and the API are up."
        )


def run(chosen: Settings, customer: str, display: Display) -> Done:
    """Forget a person.

    Raises:
        UserError: Redis is away, a worker goes on, the history lacks what the workers have folded, or the API
            has not published all that it has decided.
    """
    _refuse_waiting(chosen)
    began, task = time.monotonic(), display.task("Forget")
    person = Person(tuple(Pseudonyms.by(chosen.privacy).chain("customer_id", customer)))
    store = Connection(chosen.addresses.redis)
    try:
        with paused(chosen.addresses.redis), _unshadowed(chosen):
            task.say("wait for the history")
            history = complete_history(chosen, (TERMINAL_STREAM, PRODUCT_COUNTED, DECISIONS))
            Forgotten(chosen.forgotten).add(_listed(person), time.time_ns() // 1_000_000)
            task.say("look for payments")
            ids = sorted(forgetting.payments_of(person, history, store))
            task.say("take out")
            removed = {"redis": forgetting.out_of_redis(person, ids, store)}
            removed["texts"] = forgetting.out_of_texts(person, chosen.home)
            removed |= forgetting.out_of_files(person, ids, chosen.home, history)
            _rewrite_log(store)
            task.say("search")
            found = forgetting.search(person, ids, chosen.home, store)
    except StoreError as error:
        raise UserError(f"{error}; nobody is forgotten while Redis is away: `tollgate status`.") from error
    finally:
        store.close()
    task.finish("nowhere found" if not found.places else "still found")
    kafka_days = chosen.topics.retention_days * (1 + 1 / SEGMENTS_KEPT)
    return _done(len(ids), removed, found, kafka_days, time.monotonic() - began)


def _done(payments: int, removed: dict[str, int], found: Found, kafka_days: float, seconds: float) -> Done:
    searched = {"files": found.files, "rows": found.rows, "keys": found.keys}
    return Done(payments, removed, searched, found.places, kafka_days, round(seconds, 3))


def _listed(person: Person) -> tuple[str, ...]:
    """What they are listed as: pseudonyms, or, if there are none, the identifier."""
    return person.names[1:] or person.names


@contextmanager
def _unshadowed(chosen: Settings) -> Iterator[None]:
    """Challengers score no decision of theirs meanwhile."""
    end = time.monotonic() + SHADOW_PATIENCE_S
    while time.monotonic() < end:
        with shadow.alone(chosen.home, FRAUD.domain) as mine:
            if mine:
                yield
                return
        time.sleep(0.1)
    raise UserError(f"a challenger was scored for longer than {SHADOW_PATIENCE_S:.0f} s; try again later.")


def _rewrite_log(store: Connection) -> None:
    """Let Redis write its append-only file anew, which has the past in it otherwise."""
    (kept,) = store.execute([("CONFIG", "GET", "appendonly")])
    if list(kept[1:]) != [b"yes"]:
        return
    end = time.monotonic() + REWRITE_PATIENCE_S
    _await_rewrite(store, end)  # it refuses a second one, and the one under way may have begun before
    store.execute([("BGREWRITEAOF",)])
    _await_rewrite(store, end)


def _await_rewrite(store: Connection, end: float) -> None:
    while b"aof_rewrite_in_progress:1" in (state := store.execute([("INFO", "persistence")])[0]) or (
        b"aof_rewrite_scheduled:1" in state
    ):
        if time.monotonic() > end:
            raise UserError(f"Redis did not rewrite its file within {REWRITE_PATIENCE_S:.0f} s; try again.")
        time.sleep(0.1)


def _told(done: Done) -> str:
    removed = ", ".join(f"{n:,} {name.replace('_', ' ')}" for name, n in done.removed.items() if n)
    through = ", ".join(f"{n:,} {name}" for name, n in done.searched.items())
    return (
        f"{done.payments:,} payments; taken out: {removed or 'nothing'}. Searched {through}: "
        f"found in {len(done.found)} places. Kafka's log is passed over, and forgets by itself within "
        f"{done.kafka_forgets_after_days:g} days."
    )
