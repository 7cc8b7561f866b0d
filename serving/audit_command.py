"""The verb `audit`: waits until nothing moves, then compares log, history and online store. It only reads."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import orjson
import typer

from features.commands import Json
from features.connection import Connection, StoreError
from features.domains import DOMAINS
from features.index import label_orphans_key, outcome_orphans_key
from features.online import Codec, entity_id
from features.replay import Replayed, final_states
from features.state import Entity, States
from infra import progress, settings
from infra.errors import UserError
from infra.progress import Task
from infra.settings import Settings
from ingestion import historian
from ingestion.broker import BrokerError, Consumer, Partition, group_offsets
from ingestion.forgotten import Forgotten
from ingestion.historian import Progress
from ingestion.history import History
from ingestion.pseudonyms import Pseudonyms
from ingestion.tables import DECISIONS as DECISIONS_TABLE
from ingestion.tables import LABELS, OUTCOMES, TRANSACTIONS
from ingestion.topics import DECISIONS, EXTERNAL, PRODUCT_COUNTED, dead_letters
from serving.audit import (
    IDENTITY,
    TABLES,
    Decisions,
    Difference,
    Sent,
    decided_once,
    each_once,
    kept_times,
    once_in_history,
    same_states,
    type_of_identity,
    type_of_place,
)
from serving.processes import GROUP, WORKERS_READ
from serving.router import parse

PATIENCE_S = 60.0
PAUSE_S = 0.5
AT_ONCE = 2_000
"""States asked for in one round trip."""
SHOWN = 20
"""Differences that are named; all are counted."""

type_of_ends = dict[Partition, int]


@dataclass(frozen=True)
class Audited:
    """What an audit found."""

    sent: dict[str, int]
    """Valid events in each topic, each once."""
    sent_again: dict[str, int]
    """Copies of them in the topic, which count as nothing."""
    rejected: dict[str, int]
    """Records that are no events; each is a dead letter."""
    waiting: dict[str, int]
    """Labels and outcomes whose transaction or quote has not come."""
    accepted: int
    """Events that the caller says were accepted."""
    decided: int
    decisions_repeated: int
    """Decisions that lie in the topic again, with the same place, decision and score: no second ones."""
    states: dict[str, int]
    """Entities whose state was compared with a replay, by kind; nothing where the history forgets by age."""
    differences: dict[str, int]
    """What is wrong, by kind: nothing, or the audit failed."""
    first: list[Difference]
    waited_s: float
    """Until nothing moved."""
    seconds: float


def audit(
    accepted: Annotated[
        Path | None,
        typer.Option(help='File of accepted events, one a line: {"topic": "transactions", "id": "t-1"}.'),
    ] = None,
    patience_s: Annotated[float, typer.Option("--patience", help="Seconds until nothing must move.")] = (
        PATIENCE_S
    ),
    as_json: Json = False,
) -> None:
    """Prove that nothing was lost, doubled or wrongly remembered; reads only, while nothing is sent.

    Every valid event in Kafka is in the history once, every transaction is decided once, every bad record is
    a dead letter, and every state in Redis is, bit for bit, what a replay of the history gives.

    Example: tollgate audit --json
    """
    chosen = settings.load()
    with progress.shown(silent=as_json) as display:
        found = run(chosen, display.task("Audit"), _listed(accepted), patience_s)
    typer.echo(json.dumps(asdict(found)) if as_json else _told(found))
    if found.differences:
        counts = ", ".join(f"{n:,} {what}" for what, n in found.differences.items())
        raise UserError(f"not as it should be: {counts}.")


def run(
    chosen: Settings,
    task: Task,
    accepted: Sequence[tuple[str, str]] = (),
    patience_s: float = PATIENCE_S,
) -> Audited:
    """Audit a system.

    Args:
        chosen: its settings.
        task: told what is done.
        accepted: topic and id of events that were accepted; a label's id is that of its transaction.
        patience_s: how long workers and history may take to catch up.

    Raises:
        UserError: Kafka or Redis is away, or something still moves when patience ends.
    """
    began = time.monotonic()
    store = Connection(chosen.addresses.redis)
    try:
        while True:
            task.say("wait until nothing moves")
            ends = _still(chosen, began + patience_s)
            waited_s = time.monotonic() - began
            found = _Look(chosen, store, accepted, task).all()
            moved, patient = _moved(chosen, ends), time.monotonic() < began + patience_s
            if moved and not patient:
                raise UserError(
                    f"events still came after {patience_s:g} s: stop what sends, or give more --patience."
                )
            if moved or (_awaits(found) and patient):
                time.sleep(PAUSE_S)
                continue
            return _audited(found, waited_s, time.monotonic() - began)
    except (BrokerError, StoreError) as error:
        raise UserError(f"{error}; an audit needs Kafka and Redis: `tollgate status`.") from error
    finally:
        store.close()


@dataclass(frozen=True)
class _Found:
    """What one look at everything found."""

    sent: Mapping[str, Sent]
    decisions: Decisions
    waiting: Mapping[str, int]
    accepted: int
    states: Mapping[str, int]
    differences: Sequence[Difference]


class _Look:
    """One look at everything, in the order of the log: what was sent, decided, kept, remembered."""

    def __init__(
        self, chosen: Settings, store: Connection, accepted: Sequence[tuple[str, str]], task: Task
    ) -> None:
        self._chosen = chosen
        self._store = store
        self._accepted = accepted
        self._task = task
        self._history = History(chosen.history)
        self._waiting: dict[str, int] = {}

    def all(self) -> _Found:
        """Read and compare."""
        self._task.say("read the log")
        sent, decisions = self._sent(), self._decisions()
        rejected = [place for each in sent.values() for place in each.rejected] + decisions.rejected
        self._task.say("read the history")
        differences = [
            *self._accepted_lost(sent),
            *self._kept(sent),
            *self._dead_letters(rejected),
            *decided_once((name for (name,) in sent[TRANSACTIONS].identities), decisions),
            *each_once("decisions in the history", decisions.places, self._kept_decisions()),
        ]
        self._task.say("replay")
        states: dict[str, int] = {}
        if not self._chosen.privacy.retention_days:
            for name in DOMAINS:
                differences += self._states(final_states(self._history, name), states)
        return _Found(sent, decisions, self._waiting, len(self._accepted), states, differences)

    def _sent(self) -> dict[str, Sent]:
        pseudonyms = Pseudonyms.by(self._chosen.privacy)
        forgotten = Forgotten(self._chosen.forgotten)
        sent = {table: Sent() for table in TABLES}
        with closing(_reader(self._chosen, TABLES)) as consumer:
            for record in consumer.to_the_end():
                sent[record.topic].take(parse(record, pseudonyms), forgotten.holds)
        return sent

    def _decisions(self) -> Decisions:
        decisions, forgotten = Decisions(), Forgotten(self._chosen.forgotten)
        with closing(_reader(self._chosen, [DECISIONS])) as consumer:
            for record in consumer.to_the_end():
                decisions.take(record, forgotten.holds)
        return decisions

    def _accepted_lost(self, sent: Mapping[str, Sent]) -> Iterator[Difference]:
        there = {table: {name[0] for name in each.identities} for table, each in sent.items()}
        for topic, name in self._accepted:
            if name not in there[topic]:
                yield Difference(f"accepted {topic} lost", name, f"expected it in topic {topic}, found none")

    def _kept(self, sent: Mapping[str, Sent]) -> Iterator[Difference]:
        for table in TABLES:
            columns = [*IDENTITY[table], "event_time_us"]
            kept = kept_times(table, self._history.read(table, columns=columns))
            yield from once_in_history(table, sent[table].identities, kept, self._waits(table))

    def _told_of(self, table: str) -> set[str]:
        """Transactions (quotes) that the history has, of which labels (outcomes) tell."""
        (told,) = [each for each in DOMAINS.values() if each.settled == table]
        found: list[str] = self._history.read(told.decided, columns=[told.key])[told.key].to_pylist()
        return set(found)

    def _waits(self, table: str) -> Callable[[type_of_identity], bool]:
        """Whether an event waits in Redis for the one that it belongs to; counts those that do.

        If that one has come long ago, nobody will let it go on: it is lost until `tollgate rebuild`.
        """
        key = {LABELS: label_orphans_key, OUTCOMES: outcome_orphans_key}.get(table)
        there = self._told_of(table) if key else set()

        def waits(name: type_of_identity) -> bool:
            found = (
                key is not None
                and name[0] not in there
                and any(
                    _same(table, name, orjson.loads(each)["event"])
                    for each in self._store.execute([("LRANGE", key(name[0]), 0, -1)])[0]
                )
            )
            self._waiting[table] = self._waiting.get(table, 0) + found
            return found

        return waits

    def _dead_letters(self, rejected: Sequence[type_of_place]) -> Iterator[Difference]:
        """Who died before it could say so sent a dead letter again: that is no harm."""
        places: list[type_of_place] = []
        with closing(_reader(self._chosen, list(map(dead_letters, EXTERNAL)))) as consumer:
            for record in consumer.to_the_end():
                told = {name: value.decode() for name, value in record.headers}
                places.append((told["topic"], int(told["partition"]), int(told["offset"])))
        return each_once("dead letters", rejected, places, complete=False)

    def _kept_decisions(self) -> list[type_of_place]:
        columns = ["decision_partition", "decision_position"]
        rows = self._history.read(DECISIONS_TABLE, columns=columns)
        places = zip(*(rows[name].to_pylist() for name in columns), strict=True)
        return [(DECISIONS, partition, offset) for partition, offset in places]

    def _states(self, replayed: Replayed, counts: dict[str, int]) -> Iterator[Difference]:
        for entity in DOMAINS[replayed.domain].features.entities:
            ids, states = replayed.states[entity.name]
            counts[entity.name] = len(ids)
            strange = self._online_ids(entity) - set(ids)
            yield from same_states(entity, ids, states, self._online(entity, ids), sorted(strange))

    def _online(self, entity: Entity, ids: Sequence[str]) -> States:
        codec, replies = Codec(entity), []
        for start in range(0, len(ids), AT_ONCE):
            replies += self._store.execute([codec.read(each) for each in ids[start : start + AT_ONCE]])
        return codec.decode(replies)

    def _online_ids(self, entity: Entity) -> set[str]:
        found, cursor = set[str](), b"0"
        while True:
            ((cursor, keys),) = self._store.execute([("SCAN", cursor, "COUNT", 10_000, "TYPE", "hash")])
            found.update(name for key in keys if (name := entity_id(entity, key)) is not None)
            if cursor == b"0":
                return found


def _same(table: str, name: type_of_identity, event: Mapping[str, str]) -> bool:
    return name == tuple(event[column] for column in IDENTITY[table])


def _reader(chosen: Settings, topics: Sequence[str]) -> Consumer:
    return Consumer(chosen.addresses.kafka, topics, group=None)


def _still(chosen: Settings, until: float) -> type_of_ends:
    """Wait until workers and history have done all that there is; gives where the topics end."""
    while True:
        done, ends = group_offsets(chosen.addresses.kafka, GROUP), _ends(chosen)
        behind = {at: end - done.get(at, 0) for at, end in ends.items() if at.topic in WORKERS_READ}
        of_history = {at: end for at, end in ends.items() if at.topic in historian.TOPICS}
        lacks = Progress(chosen.history).missing(of_history)
        waits = {at: records for at, records in behind.items() if records}
        if not waits and not lacks:
            return ends
        if time.monotonic() > until:
            raise UserError(_behind(waits, lacks))
        time.sleep(PAUSE_S)


def _behind(waits: Mapping[Partition, int], lacks: int) -> str:
    topics = ", ".join(sorted({at.topic for at in waits}))
    workers = f"the workers have {sum(waits.values()):,} records to do in {topics}" if waits else ""
    history = f"the history lacks {lacks:,} messages" if lacks else ""
    told = " and ".join(filter(None, (workers, history)))
    return f"nothing can be compared while something moves: {told}; stop what sends, or give more --patience."


def _ends(chosen: Settings) -> type_of_ends:
    with closing(_reader(chosen, [*WORKERS_READ, PRODUCT_COUNTED, DECISIONS])) as consumer:
        return consumer.ends(consumer.assignment())


def _moved(chosen: Settings, ends: type_of_ends) -> bool:
    return _ends(chosen) != ends


def _awaits(found: _Found) -> bool:
    """Whether an accepted event may still be on its way."""
    return any(each.what.startswith("accepted ") for each in found.differences)


def _listed(file: Path | None) -> list[tuple[str, str]]:
    if file is None:
        return []
    try:
        rows = [orjson.loads(line) for line in file.read_bytes().splitlines() if line.strip()]
        listed = [(str(row["topic"]), str(row["id"])) for row in rows]
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise UserError(
            f'expected lines such as {{"topic": "transactions", "id": "t-1"}} in {file}: {error}'
        ) from error
    if unknown := {topic for topic, _ in listed} - set(TABLES):
        raise UserError(f"expected topics {', '.join(TABLES)} in {file}, came {', '.join(sorted(unknown))}.")
    return listed


def _audited(found: _Found, waited_s: float, seconds: float) -> Audited:
    return Audited(
        sent={table: len(each.identities) for table, each in found.sent.items()},
        sent_again={t: each.identities.total() - len(each.identities) for t, each in found.sent.items()},
        rejected={table: len(each.rejected) for table, each in found.sent.items()},
        waiting=dict(found.waiting),
        accepted=found.accepted,
        decided=len(found.decisions.of),
        decisions_repeated=found.decisions.repeated,
        states=dict(found.states),
        differences=dict(Counter(each.what for each in found.differences)),
        first=list(found.differences[:SHOWN]),
        waited_s=round(waited_s, 3),
        seconds=round(seconds, 3),
    )


def _told(found: Audited) -> str:
    sent = ", ".join(f"{n:,} {table}" for table, n in found.sent.items())
    states = ", ".join(f"{n:,} {name}s" for name, n in found.states.items())
    lines = [
        f"{sent}; {found.decided:,} decided, {found.decisions_repeated:,} decisions repeated.",
        f"States compared with a replay: {states or 'none'}.",
        f"{found.seconds:.1f} s, of which {found.waited_s:.1f} s until nothing moved.",
        *(f"{each.what}: {each.name}: {each.told}" for each in found.first),
    ]
    return "\n".join(lines)
