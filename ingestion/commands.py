"""The verbs `simulate`, `replay` and `replay-dlq`."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import typer

from infra import progress, ready, settings
from infra.errors import UserError
from infra.files import replaced
from ingestion import file_source, mapping, simulated, topics
from ingestion.broker import Consumer, Partition, Producer, Record, answers
from ingestion.file_source import PastEvents
from ingestion.forgotten import Forgotten
from ingestion.playback import Message, Pace, messages, play
from ingestion.pseudonyms import Pseudonyms
from ingestion.simulators.market import Market, MarketProcess
from ingestion.simulators.payments import PaymentLog, Payments, each_day
from ingestion.simulators.population import Population
from ingestion.simulators.scenarios import Fraud
from ingestion.times import moment_us

Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Speed = Annotated[str, typer.Option(help="Seconds of event time a second, or max for as fast as possible.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Stop after so many events.")]
From = Annotated[str | None, typer.Option("--from", help="First event time, such as 2018-08-13; inclusive.")]
Until = Annotated[str | None, typer.Option(help="Last event time, exclusive.")]
LINGER_MS = 20
ENDLESS_DAYS = 36_500


class Simulated(StrEnum):
    """What can be simulated."""

    PAYMENTS = "payments"
    PRICES = "prices"


def simulate(
    what: Annotated[Simulated, typer.Argument(help="Payments with labels, or prices with outcomes.")] = (
        Simulated.PAYMENTS
    ),
    days: Annotated[int, typer.Option(min=1, help="How many days.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same events.")] = 7,
    start: Annotated[
        str | None, typer.Option(help="Midnight UTC of day 0, such as 2026-01-01; default: DAYS ago.")
    ] = None,
    first_day: Annotated[int, typer.Option(min=0, help="Begin with this day of the process.")] = 0,
    ring_day: Annotated[
        int | None, typer.Option(help="Day on which a new fraud pattern begins; default: never.")
    ] = None,
    customers: Annotated[int, typer.Option(min=1, help="Who make two payments a day each.")] = 2_500,
    out: Annotated[Path | None, typer.Option(help="Write Parquet instead of sending to Kafka.")] = None,
    endless: Annotated[
        bool,
        typer.Option("--endless", help="Payments until stopped; the next time goes on with the day it was."),
    ] = False,
    speed: Speed = "max",
    limit: Limit = None,
    as_json: Json = False,
) -> None:
    """Send seeded, made-up events to Kafka, or write them to a file.

    Labels and outcomes that would arrive after the last day are left out of Kafka, not of a file.

    Example: tollgate simulate payments --days 90 --start 2026-01-01 --out payments.parquet

    Example: tollgate simulate payments --endless --days 365 --speed 600
    """
    midnight = _midnight(start, days + first_day)
    diary = None
    if endless:
        _refuse_ends(what, out)
        diary = Diary.opened(settings.load().home / "simulated.json", midnight, first_day)
        midnight, first_day, days = diary.start, diary.day, ENDLESS_DAYS
    market = Market(MarketProcess(seed=seed, start=midnight))
    process = Payments(
        seed=seed,
        start=midnight,
        population=Population(customers=customers),
        fraud=Fraud(ring_first_day=ring_day),
    )
    if out is not None:
        written = (
            simulated.write_payments(each_day(process, days, first_day), out)
            if what is Simulated.PAYMENTS
            else simulated.write_prices(market, market.simulate(days, first_day), out)
        )
        _say(as_json, {"file": str(out), "rows": written}, f"{written:,} {what.value} written to {out}.")
        return
    end_us = moment_us((midnight + timedelta(days=days + first_day)).isoformat())
    logs = each_day(process, days, first_day)
    logs = logs if diary is None else diary.kept(logs)
    events = (
        _payments_by_day(logs, end_us)
        if what is Simulated.PAYMENTS
        else messages(simulated.past_prices(market, market.simulate(days, first_day)).between(None, end_us))
    )
    _send(events, speed, limit, as_json)


@dataclass
class Diary:
    """Which day an endless simulation has come to, in a file."""

    path: Path
    start: datetime
    """Midnight of day 0."""
    day: int

    @classmethod
    def opened(cls, path: Path, start: datetime, day: int) -> "Diary":
        """What an earlier run wrote; else as given."""
        if path.exists():
            found = json.loads(path.read_text("utf-8"))
            start, day = datetime.fromisoformat(found["start"]), found["day"]
        return cls(path, start, day)

    def kept(self, logs: Iterator[PaymentLog]) -> Iterator[PaymentLog]:
        """The same days, each written down when it begins."""
        for log in logs:
            replaced(self.path, json.dumps({"start": self.start.isoformat(), "day": self.day}))
            ready.tell()
            yield log
            self.day += 1


def _refuse_ends(what: Simulated, out: Path | None) -> None:
    if what is not Simulated.PAYMENTS or out is not None:
        raise UserError("--endless: expected payments and no --out; a file, and a table of prices, end.")


def replay(
    file: Annotated[Path, typer.Argument(help="Parquet or CSV file of past events.")],
    mapping_file: Annotated[Path, typer.Option("--mapping", help="TOML file: which column is which field.")],
    speed: Speed = "max",
    limit: Limit = None,
    start: From = None,
    until: Until = None,
    as_json: Json = False,
) -> None:
    """Send a file of past events to Kafka, payments and labels in the order of their times.

    Example: tollgate replay tx.parquet --mapping handbook.toml --from 2018-08-13 --speed 3600
    """
    chosen, found = settings.load(), mapping.load(mapping_file)
    with progress.working("Read", unit="rows", silent=as_json) as task:
        events = read_past(file, found, chosen.currency, task).between(moment_us(start), moment_us(until))
        events = without_forgotten(chosen, events)
    _send(messages(events, limit), speed, limit, as_json, rejected=events.rejects.num_rows)


def read_past(
    file: Path, found: mapping.Mapping, currency: str, task: progress.Task | None = None
) -> PastEvents:
    """Payments and labels, or quotes and outcomes: what the mapping describes."""
    read = file_source.payments if found.transactions else file_source.prices
    return read(file, found, currency, task)


def without_forgotten(chosen: settings.Settings, events: PastEvents) -> PastEvents:
    """Past events with pseudonyms for identifiers, without those of who was forgotten since they happened."""
    pseudonyms, forgotten = Pseudonyms.by(chosen.privacy), Forgotten(chosen.forgotten)
    chain = partial(pseudonyms.chain, "customer_id")

    def kept(rows: pa.Table) -> pa.Table:
        if "customer_id" in rows.column_names:
            at_ms = rows["event_time_us"].to_numpy() // 1_000
            staying = forgotten.stay(at_ms, rows["customer_id"].to_pylist, chain)
            rows = rows if staying is None else rows.filter(pa.array(staying))
        return pseudonyms.rows(rows)

    return replace(events, decided=kept(events.decided), settled=kept(events.settled))


def replay_dlq(
    topic: Annotated[str, typer.Argument(help="The topic, such as transactions.")], as_json: Json = False
) -> None:
    """Send a topic's dead letters to it again, each once, as they came; those with a masked card number stay.

    Example: tollgate replay-dlq transactions
    """
    name = topic.removesuffix(".dlq")
    if name not in topics.EXTERNAL:
        near = mapping.did_you_mean(name, topics.EXTERNAL)
        raise UserError(f"expected one of {', '.join(topics.EXTERNAL)}; came {topic!r}.{near}")
    address = _kafka()
    producer = Producer(address, LINGER_MS)
    consumer = Consumer(address, [topics.dead_letters(name)], f"tollgate-replay-dlq-{name}")
    try:
        sent = send_again(consumer, producer, name)
    finally:
        consumer.close()
        producer.close()
    _say(as_json, {"topic": name, "sent": sent}, f"{sent:,} dead letters sent to {name} again.")


def send_again(consumer: Consumer, producer: Producer, topic: str) -> int:
    """Send what lies in the dead-letter topic now; letters that these cause are left for another time."""
    held = consumer.poll(500)
    while not consumer.assignment():
        held += consumer.poll(500)
    ends, sent = consumer.ends(consumer.assignment()), 0
    while True:
        due = [each for each in held if each.offset < ends[_partition(each)]]
        whole = [each for each in due if topics.MASKED not in dict(each.headers)]
        for record in whole:
            producer.send(topic, record.value, record.key)
        producer.flush()
        if due:
            consumer.commit({_partition(each): each.offset + 1 for each in due})
        sent += len(whole)
        if all(consumer.position(partition) >= end for partition, end in ends.items()):
            return sent
        held = consumer.poll(500)


def _partition(record: Record) -> Partition:
    return Partition(record.topic, record.partition)


def _payments_by_day(logs: Iterator[PaymentLog], end_us: int | None) -> Iterator[Message]:
    """Messages in order of time, in the memory of a few days: labels of past days wait for theirs."""
    waiting: PastEvents | None = None
    for log in logs:
        day_end = int(log.event_time_us[-1]) + 1 if len(log) else 0
        events = simulated.past_payments(log)
        both = events if waiting is None else waiting.joined(events)
        yield from messages(both.between(None, day_end))
        waiting = both.between(day_end, end_us)
    if waiting is not None:
        yield from messages(waiting)


def _send(events: Iterator[Message], speed: str, limit: int | None, as_json: bool, rejected: int = 0) -> None:
    pace = Pace(_speed(speed), time.monotonic, time.sleep)
    producer = Producer(_kafka(), LINGER_MS)
    began = time.monotonic()
    try:
        with progress.working("Send", unit="events", silent=as_json) as task:
            sent = play(islice(events, limit), producer, pace, task)
    finally:
        producer.close()
    seconds = time.monotonic() - began
    told = {"sent": sent, "rejected": rejected, "seconds": round(seconds, 3)}
    counts = ", ".join(f"{n:,} {topic}" for topic, n in sent.items()) or "nothing"
    _say(as_json, told, f"Sent {counts} in {seconds:.1f} s ({rejected:,} rows rejected).")


def _speed(text: str) -> float | None:
    if text == "max":
        return None
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0 < speed < float("inf"):
        raise UserError(f"--speed: expected a number above 0 or max, came {text!r}.")
    return speed


def _midnight(start: str | None, days: int) -> datetime:
    if start is None:
        today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        return today - timedelta(days=days)
    chosen = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=moment_us(start) or 0)
    if (chosen.hour, chosen.minute, chosen.second, chosen.microsecond) != (0, 0, 0, 0):
        raise UserError(f"--start: expected midnight UTC, such as 2026-01-01; came {start!r}.")
    return chosen


def _kafka() -> str:
    address = settings.load().addresses.kafka
    if not answers(address):
        raise UserError(f"no Kafka answers at {address}; `tollgate up` starts one.")
    return address


def _say(as_json: bool, facts: dict[str, object], sentence: str) -> None:
    typer.echo(json.dumps(facts) if as_json else sentence)
