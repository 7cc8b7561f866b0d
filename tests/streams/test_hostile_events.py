"""Whatever comes as an event is taken or refused with a reason; nothing that a parser is given makes it fail.

`TOLLGATE_CASES` says how many events are tried; without it, few.
"""

import json
import os
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter, ValidationError

from features.index import KnownQuote, KnownTransaction
from ingestion.broker import Record
from ingestion.events import QuoteRequest, reason
from ingestion.historian import DecisionRecord, Historian
from ingestion.history import History
from ingestion.streams import FRAUD_EVENT, PRODUCT_EVENT
from ingestion.topics import (
    CUSTOMER_STREAM,
    DECISIONS,
    EVENT_TYPES,
    LABELS,
    OUTCOMES,
    PRODUCT_STREAM,
    QUOTES,
    TRANSACTIONS,
)
from serving.decision_log import Decided
from serving.problems import Problem, problem_response
from serving.reviews import Verdict
from serving.router import (
    DECISION_HEADER,
    Arrived,
    Rejected,
    dead_letter,
    label_row,
    messages,
    outcome_row,
    parse,
    payment_row,
    quote_row,
)
from serving.routes_fraud import parse_many
from tests.hostile import bodies
from tests.payments import START, payment

pytestmark = pytest.mark.slow

CASES = int(os.environ.get("TOLLGATE_CASES", "2000"))
NOW_MS = 1_780_000_000_000
PARSERS = 11
PAID, QUOTED = KnownTransaction("c", "m", 1, 2.0), KnownQuote("p", 1.0, 1)
thorough = settings(
    max_examples=max(1, CASES // PARSERS // 10),
    phases=[Phase.generate],
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
"""Ten events an example: drawing them is dear."""


def of(model: type[BaseModel]) -> st.SearchStrategy[list[bytes]]:
    schema = TypeAdapter(model).json_schema()
    return st.lists(bodies(schema, schema.get("$defs", {})), min_size=10, max_size=10)


@dataclass(frozen=True)
class Read:
    """A record as the broker gives it."""

    topic: str
    value: bytes
    headers: list[tuple[str, bytes]]
    partition: int = 0
    offset: int = 7
    timestamp: int = NOW_MS
    key: bytes = b"k"


def record(topic: str, value: bytes, decision: bytes | None = None) -> Record:
    return Read(topic, value, [] if decision is None else [(DECISION_HEADER, decision)])


def routed(arrived: Arrived) -> None:
    """Send it on as the router does."""
    topic, event = arrived.record.topic, arrived.event
    if topic in (TRANSACTIONS, LABELS):
        row = (
            payment_row(event, arrived.time_us, arrived.record)
            if topic == TRANSACTIONS
            else label_row(event, NOW_MS, PAID)
        )  # type: ignore[arg-type]
        messages(CUSTOMER_STREAM, [row], "customer_id", FRAUD_EVENT, 4)
    else:
        row = quote_row(event, arrived.record) if topic == QUOTES else outcome_row(event, NOW_MS, QUOTED)  # type: ignore[arg-type]
        messages(PRODUCT_STREAM, [row], "product_id", PRODUCT_EVENT, 4)


@pytest.mark.parametrize("topic", [TRANSACTIONS, LABELS, QUOTES, OUTCOMES])
def test_the_stream_takes_or_refuses_it(topic: str) -> None:
    seen = {Arrived: 0, Rejected: 0}

    @thorough
    @given(of(EVENT_TYPES[topic]))
    def tried(values: list[bytes]) -> None:
        for value in values:
            found = parse(record(topic, value))
            seen[type(found)] += 1
            if isinstance(found, Rejected):
                assert found.reason
                dead_letter(found)
            else:
                routed(found)

    tried()
    assert min(seen.values()) > sum(seen.values()) / 20, f"one of them was hardly tried: {seen}"


def test_a_decision_that_comes_with_its_payment_is_taken_or_refused() -> None:
    paid = json.dumps(payment("t-1", START, "c-1", "m-1", 1.0)).encode()

    @thorough
    @given(of(Decided))
    def tried(values: list[bytes]) -> None:
        for value in values:
            parse(record(TRANSACTIONS, paid, value))

    tried()


def test_the_historian_takes_or_refuses_a_decision(tmp_path_factory: pytest.TempPathFactory) -> None:
    historian = Historian(History(tmp_path_factory.mktemp("hostile")))

    @thorough
    @given(of(DecisionRecord))
    def tried(values: list[bytes]) -> None:
        historian.take([record(DECISIONS, value) for value in values])

    tried()
    assert historian.waiting
    assert historian.rejected
    assert all(each.reason for each in historian.rejected)
    historian.flush()


@pytest.mark.parametrize("name", ["Transaction", "Label", "Outcome", "QuoteRequest"])
def test_a_body_is_taken_or_a_problem(name: str) -> None:
    models = [*EVENT_TYPES.values(), QuoteRequest]
    model = next(each for each in models if each.__name__ == name)

    @thorough
    @given(of(model))
    def tried(values: list[bytes]) -> None:
        for value in values:
            try:
                parse_many(value, model)
            except Problem as problem:
                problem_response(problem.status, problem.detail, **problem.extra)

    tried()


def test_a_verdict_is_one_or_is_refused() -> None:
    @thorough
    @given(of(Verdict))
    def tried(values: list[bytes]) -> None:
        for value in values:
            try:
                Verdict.model_validate_json(value)
            except ValidationError as error:
                problem_response(422, reason(error))

    tried()
