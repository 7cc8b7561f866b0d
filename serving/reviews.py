"""The analysts' desk: the queue of payments to review, and the verdicts on them.

A verdict becomes a label of source `analyst`. Kafka acknowledges the label first, then Redis keeps the
verdict, then the queue lets the payment go: whatever dies in between leaves it pending, and the verdict can
be given again. A payment is pending as long as its decision is kept and it has neither a verdict nor a label;
the desk shows no other, whatever a crashed worker put back, and takes others out when it meets them.

Verdicts are kept as long as a decision is, counted from the last one, and the decision with them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal, NamedTuple, Protocol

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from features.connection import AsyncConnection, type_of_command
from ingestion.events import EPOCH, Event, EventTime, Id, Label, no_card_number
from serving.decision_log import decision_key
from serving.label_log import Told, label_keys, outgoing, told
from serving.review_queue import DONE, PENDING, TOP, Spot, asking, following, leaving
from serving.stage import Outgoing

CLAIM_S = 60
"""So long nobody else's contrary verdict is taken unless it says that it revises; longer than one takes."""
SWEPT_AT_ONCE = 100

Word = Literal["fraud", "legitimate"]


class Verdict(Event):
    """What an analyst found.

    The contrary of an analyst's earlier verdict is refused unless `revise` is true. `label_time` is when the
    label counts from, by default now; give it where event time is not the clock's, as in a replay.
    """

    label: Word
    note: Annotated[str, Field(max_length=2_000), AfterValidator(no_card_number)] = ""
    analyst: Id | None = None
    revise: bool = False
    label_time: EventTime | None = None

    def label_of(self, transaction_id: str, now: datetime) -> Label:
        """The label that it becomes."""
        since = self.label_time or now
        return Label(transaction_id=transaction_id, label=self.label, label_time=since, source="analyst")


class Given(BaseModel):
    """A verdict as it is kept."""

    model_config = ConfigDict(frozen=True)

    label: Word
    note: str
    analyst: str | None
    at: datetime
    """When it was given, or the `label_time` that it came with."""


class ContraryVerdict(Exception):  # noqa: N818 – a fact, not a failure
    """There is a contrary verdict of an analyst already; `earlier` is it, if it was given here."""

    def __init__(self, label: str, earlier: Given | None) -> None:
        super().__init__(label)
        self.label = label
        self.earlier = earlier


class NotLater(Exception):  # noqa: N818
    """A verdict must count from later than the one it revises; `than` is when that one counts from."""

    def __init__(self, than: datetime) -> None:
        super().__init__(than)
        self.than = than


class Page(NamedTuple):
    """Some of a queue."""

    items: list[dict[str, Any]]
    last: Spot | None
    """Where the next page goes on; None at the end."""


@dataclass(frozen=True)
class Case:
    """What is known of a transaction."""

    name: bytes
    decision: bytes | None
    """JSON; None if there was none, or it has expired."""
    labels: Sequence[Told]
    verdicts: Sequence[Given]
    """Oldest first."""

    @property
    def pending(self) -> bool:
        """Whether it still waits for an analyst, if it is in the queue at all."""
        return self.decision is not None and not self.labels and not self.verdicts

    @property
    def word(self) -> tuple[datetime, str] | None:
        """The analysts' last word and since when it counts, whichever way it came; None before the first."""
        words: list[tuple[datetime, str]] = [(each.at, each.label) for each in self.verdicts]
        words += [
            (_moment(each.time_us or 0), each.label) for each in self.labels if each.source == "analyst"
        ]
        return max(words, default=None)

    def described(self) -> dict[str, Any]:
        """The decision with what became of it; of a decision that has expired only its transaction."""
        fields = orjson.loads(self.decision) if self.decision else {"transaction_id": self.name.decode()}
        return {
            **fields,
            "labels": [_label_fields(each) for each in self.labels],
            "verdicts": [each.model_dump(mode="json") for each in self.verdicts],
        }


class Publishes(Protocol):
    """Publishes records; raises BrokerError when one is not acknowledged."""

    async def publish(self, records: Sequence[Outgoing]) -> None:
        """Return when the broker has all of them."""
        ...


class Reviews:
    """Reads the queue, takes verdicts.

    Args:
        keep_s: how long a verdict is kept, and its decision with it.
    """

    def __init__(self, store: AsyncConnection, publisher: Publishes, keep_s: int) -> None:
        self._store = store
        self._publisher = publisher
        self._keep_s = keep_s

    async def case(self, transaction_id: str) -> Case | None:
        """What is known of a transaction; None if no decision on it is."""
        (case,) = await self._cases([transaction_id.encode()])
        return case if case.decision is not None else None

    async def pending(self, after: Spot, limit: int) -> Page:
        """Payments that wait for an analyst, dearest first, with their `expected_loss`."""
        items: list[dict[str, Any]] = []
        while len(items) < limit and (spots := await self._following(PENDING, after, limit - len(items))):
            cases = await self._cases([each.name for each in spots])
            waiting = [case.pending for case in cases]
            items += [
                case.described() | {"expected_loss": each.score}
                for case, each, waits in zip(cases, spots, waiting, strict=True)
                if waits
            ]
            if not all(waiting):
                await self._store.execute(leaving([case.name for case in cases if not case.pending]))
            after = spots[-1]
        return Page(items, after if len(items) == limit else None)

    async def done(self, after: Spot, limit: int) -> Page:
        """Payments with a verdict, the latest verdict first; what has expired is left out."""
        spots = await self._following(DONE, after, limit)
        cases = await self._cases([each.name for each in spots])
        items = [case.described() for case in cases if case.verdicts]
        return Page(items, spots[-1] if len(spots) == limit else None)

    async def judge(self, case: Case, verdict: Verdict, now: datetime) -> Given:
        """Publish a verdict as a label, keep it, and take its payment out of the queue.

        A verdict that says what the last one said, in label, note and analyst, changes nothing; one with the
        same label and another note is kept beside it, and is no new label.

        Raises:
            ContraryVerdict: an analyst said the contrary, and the verdict does not say that it revises it.
            NotLater: it would count from no later than what it revises.
            BrokerError: the label was not acknowledged; the payment stays in the queue.
        """
        label = verdict.label_of(case.name.decode(), now)
        if case.word is None or case.word[1] != label.label:
            _refuse(case, label, verdict.revise)
            await self._claim(case.name, verdict)
            await self._publisher.publish([outgoing(label)])
        given = Given(label=label.label, note=verdict.note, analyst=verdict.analyst, at=label.label_time)
        last = case.verdicts[-1] if case.verdicts else None
        repeated = last is not None and last.model_copy(update={"at": given.at}) == given
        await self._store.execute(self._keeping(case.name, None if repeated else given, now))
        return last if last is not None and repeated else given

    async def sweep(self) -> None:
        """Take out of the whole queue what is no longer pending, though nobody looks so far down."""
        page = Page([], TOP)
        while page.last is not None:
            page = await self.pending(page.last, SWEPT_AT_ONCE)

    async def _following(self, queue: bytes, after: Spot, n: int) -> list[Spot]:
        return following(await self._store.execute(asking(queue, after, n)), after, n)

    async def _cases(self, names: Sequence[bytes]) -> list[Case]:
        """What is known of transactions, in one round trip."""
        if not names:
            return []
        commands: list[type_of_command] = []
        for name in names:
            key = name.decode()
            commands += [("GET", decision_key(key)), ("MGET", *label_keys(key))]
            commands.append(("LRANGE", _verdicts_key(name), 0, -1))
        replies = await self._store.execute(commands)
        return [
            Case(name, decision, told(entries), [Given.model_validate_json(each) for each in verdicts])
            for name, decision, entries, verdicts in zip(
                names, replies[::3], replies[1::3], replies[2::3], strict=True
            )
        ]

    async def _claim(self, name: bytes, verdict: Verdict) -> None:
        """Of two analysts who judge the same payment at the same moment the first is heard."""
        key = _claim_key(name)
        unless_taken = () if verdict.revise else ("NX", "GET")
        (taken,) = await self._store.execute([("SET", key, verdict.label, "EX", CLAIM_S, *unless_taken)])
        if not verdict.revise and taken not in (None, verdict.label.encode()):
            raise ContraryVerdict(taken.decode(), None)

    def _keeping(self, name: bytes, given: Given | None, now: datetime) -> list[type_of_command]:
        """Commands that keep a verdict; those that a crash left undone when it is None, as it is kept."""
        key, now_s = _verdicts_key(name), now.timestamp()
        kept: list[type_of_command] = [("ZADD", DONE, "NX", now_s, name)]
        if given is not None:
            kept = [("RPUSH", key, given.model_dump_json()), ("ZADD", DONE, now_s, name)]
        return [
            *kept,
            ("EXPIRE", key, self._keep_s),
            ("EXPIRE", decision_key(name.decode()), self._keep_s),
            ("ZREMRANGEBYSCORE", DONE, "-inf", now_s - self._keep_s),
            *leaving([name]),
        ]


def _refuse(case: Case, label: Label, revise: bool) -> None:
    """Raise what `Reviews.judge` says of a verdict that is the contrary of the last word."""
    if case.word is None:
        return
    since, word = case.word
    if not revise:
        raise ContraryVerdict(word, case.verdicts[-1] if case.verdicts else None)
    if label.label_time <= since:
        raise NotLater(since)


def keys_of(transaction_id: str) -> list[bytes]:
    """Redis keys of what analysts said of a transaction."""
    name = transaction_id.encode()
    return [_verdicts_key(name), _claim_key(name)]


def _claim_key(name: bytes) -> bytes:
    return b"verdict:claim:" + name


def _verdicts_key(name: bytes) -> bytes:
    return b"verdicts:" + name


def _label_fields(each: Told) -> dict[str, Any]:
    since = None if each.time_us is None else _moment(each.time_us).isoformat().replace("+00:00", "Z")
    return {"label": each.label, "source": each.source, "label_time": since}


def _moment(time_us: int) -> datetime:
    return EPOCH + timedelta(microseconds=time_us)
