"""The API's description: what every call answers, which problems it may tell of, and where to go on.

The routes write JSON straight to bytes, so that FastAPI can't see what they answer; it is said here, for
every call there is, and schemathesis holds the answers to it (`make fuzz`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, RootModel
from pydantic.json_schema import models_json_schema

from infra.settings import Product
from serving.access import NEEDS, PUBLIC
from serving.reviews import Given, Word

KEY = "key"
"""Name of the way to give a key."""
PROBLEM_TYPE = "application/problem+json"
SCHEMAS = "#/components/schemas/"

Number = float | None
"""Null where it is not known."""


class Told(BaseModel):
    """A JSON object that may have more fields than these."""

    model_config = ConfigDict(extra="allow")


class ProblemDocument(Told):
    """RFC 9457: what was expected, what came, what to do."""

    type: str
    title: str
    status: int
    detail: str


class Accepted(Told):
    """So many events were taken."""

    accepted: int


class Judged(Accepted):
    """A verdict as it is kept."""

    verdict: Given


class Cost(Told):
    """Expected cost of each choice, in the policy's currency."""

    approve: float
    review: float
    decline: float


class By(Told):
    """The model that decided."""

    name: str
    version: str
    alias: str


class Reason(Told):
    """Why: `contribution` to the log odds."""

    code: str
    feature: str
    value: Number
    contribution: float
    text: str


class Hit(Told):
    """A rule, and what came of it."""

    name: str
    outcome: str


class Decision(Told):
    """A decision with what it was made of."""

    transaction_id: str
    decision: Literal["approve", "review", "decline"]
    score: float
    risk_score: int
    expected_cost: Cost
    reasons: list[Reason]
    rules: list[Hit]
    model: By
    policy_version: str
    control_group: bool
    degraded: bool
    missing_features: list[str]
    latency_ms: dict[str, float]


class Decisions(RootModel[list[Decision]]):
    """In the order of the transactions."""


class Heard(Told):
    """A label as it came."""

    label: Word
    source: str
    label_time: datetime | None


class Evidence(Decision):
    """A decision, its labels since, and what analysts said."""

    labels: list[Heard]
    verdicts: list[Given]


class Queued(Told):
    """A payment of the queue; of one whose decision has expired nothing else is known."""

    transaction_id: str
    labels: list[Heard]
    verdicts: list[Given]


class Queue(RootModel[list[Queued]]):
    """A page of the queue."""


class Point(Told):
    """Of a demand curve, with its interval."""

    price: float
    purchase_probability: float
    low: float
    high: float


class Interval(Told):
    """A value with its interval."""

    value: Number
    low: Number
    high: Number


class Expected(Told):
    """Of this price."""

    units: Number
    revenue: Number
    margin: Number


class Guardrail(Told):
    """A limit that changed the price."""

    code: str
    before: float
    after: float


class Quoted(Told):
    """A price with what it was made of."""

    quote_id: str
    price: float
    currency: str
    raw_price: float
    objective: str
    guardrails: list[Guardrail]
    demand_curve: list[Point]
    elasticity: Interval
    expected: Expected
    exploration: bool
    propensity: float
    model: By
    policy_version: str
    degraded: bool
    latency_ms: dict[str, float]


class Catalogue(RootModel[list[Product]]):
    """Every product, by id."""


class TaskModels(Told):
    """What a task's models are and were."""

    deciding: str
    registry: str
    challengers: list[dict[str, Any]]
    refused: list[dict[str, Any]]
    history: list[dict[str, Any]]


class Models(Told):
    """Of each task."""

    fraud: TaskModels
    pricing: TaskModels


class Promoted(Told):
    """An entry of the promotion history."""


class Alive(Told):
    """The process answers."""

    status: Literal["alive"]


class Ready(Told):
    """Whether each part is usable."""

    ready: bool
    models: dict[str, str]


@dataclass(frozen=True)
class Answers:
    """What a call answers when all is well (None: text for Prometheus), and its own problems."""

    model: type[BaseModel] | None
    status: int = 200
    problems: tuple[int, ...] = ()
    links: Mapping[str, tuple[tuple[str, str], dict[str, str]]] = field(default_factory=dict)
    """Name: the call to go on with, and its parameters (OpenAPI's runtime expressions)."""


_BODY = (413, 422)
_THE_DECISION = ("GET", "/v1/decisions/{transaction_id}")
_A_VERDICT = ("POST", "/v1/reviews/{transaction_id}/verdict")
_SCORED = {"transaction_id": "$response.body#/transaction_id"}
ANSWERS: Mapping[tuple[str, str], Answers] = {
    ("POST", "/v1/transactions"): Answers(Accepted, 202, _BODY),
    ("POST", "/v1/labels"): Answers(Accepted, 202, _BODY),
    ("POST", "/v1/prices/outcomes"): Answers(Accepted, 202, _BODY),
    ("POST", "/v1/fraud/score"): Answers(
        Decision, 200, _BODY, {"evidence": (_THE_DECISION, _SCORED), "verdict": (_A_VERDICT, _SCORED)}
    ),
    ("POST", "/v1/fraud/score/batch"): Answers(Decisions, 200, _BODY),
    ("POST", "/v1/prices/quote"): Answers(Quoted, 200, (404, *_BODY)),
    ("GET", "/v1/decisions/{transaction_id}"): Answers(
        Evidence, 200, (404,), {"verdict": (_A_VERDICT, _SCORED)}
    ),
    ("GET", "/v1/reviews"): Answers(Queue, 200, (422,)),
    ("POST", "/v1/reviews/{transaction_id}/verdict"): Answers(
        Judged,
        202,
        (404, 409, *_BODY),
        {"evidence": (_THE_DECISION, {"transaction_id": "$request.path.transaction_id"})},
    ),
    ("GET", "/v1/products"): Answers(Catalogue),
    ("PUT", "/v1/products/{product_id}"): Answers(Product, 200, _BODY),
    ("GET", "/v1/models"): Answers(Models),
    ("POST", "/v1/models/{task}/promote"): Answers(Promoted, 200, (404, 409, *_BODY)),
    ("POST", "/v1/models/{task}/rollback"): Answers(Promoted, 200, (404, 409, *_BODY)),
    ("GET", "/metrics"): Answers(None),
    ("GET", "/healthz"): Answers(Alive),
    ("GET", "/readyz"): Answers(Ready),
}
"""Of every call; a test compares it with the routes."""
_UNDESCRIBED = {"HTTPValidationError", "ValidationError"}
"""FastAPI's own error documents, which never leave us."""


def completed(schema: dict[str, Any]) -> dict[str, Any]:
    """FastAPI's description with keys, answers, problems and links."""
    models = sorted({each.model for each in ANSWERS.values() if each.model} | {ProblemDocument}, key=str)
    _, told = models_json_schema(
        [(model, "serialization") for model in models], ref_template=SCHEMAS + "{model}"
    )
    parts = schema.setdefault("components", {})
    kept = {name: each for name, each in parts.get("schemas", {}).items() if name not in _UNDESCRIBED}
    parts |= {"schemas": kept | told["$defs"], "securitySchemes": {KEY: {"type": "http", "scheme": "bearer"}}}
    for (method, path), answers in ANSWERS.items():
        call = schema["paths"][path][method.lower()]
        call["responses"] = dict(_responses(schema, (method, path), answers))
        if scopes := NEEDS[method, path]:
            call["security"] = [{KEY: []}]
            call["description"] += f"\n\nScope of the key: {' or '.join(sorted(scopes))}."
    return schema


def _responses(
    schema: dict[str, Any], call: tuple[str, str], answers: Answers
) -> Iterator[tuple[str, dict[str, Any]]]:
    yield str(answers.status), _good(schema, answers)
    everywhere = (401, 403, 429) if NEEDS[call] != PUBLIC else ()
    for status in sorted({*answers.problems, *everywhere, 503}):
        if call == ("GET", "/readyz") and status == 503:
            yield "503", {"description": "Something is not.", **_json("Ready")}
        else:
            yield str(status), _problem(status)


def _good(schema: dict[str, Any], answers: Answers) -> dict[str, Any]:
    if answers.model is None:
        return {"description": "Prometheus", "content": {"text/plain": {"schema": {"type": "string"}}}}
    links = {
        name: {"operationId": schema["paths"][path][method.lower()]["operationId"], "parameters": parameters}
        for name, ((method, path), parameters) in answers.links.items()
    }
    said = (answers.model.__doc__ or "").partition("\n")[0]
    return {"description": said, **_json(answers.model.__name__), **({"links": links} if links else {})}


def _json(model: str) -> dict[str, Any]:
    return {"content": {"application/json": {"schema": {"$ref": SCHEMAS + model}}}}


_SAID = {
    401: "No key, or none that is known.",
    403: "The key is for other calls.",
    404: "There is no such thing.",
    409: "Not as things are.",
    413: "The body is too large.",
    422: "What came is not what was expected.",
    429: "Too many calls; Retry-After says when to try again.",
    503: "A neighbour is away; Retry-After says when to try again.",
}


def _problem(status: int) -> dict[str, Any]:
    retry = {"Retry-After": {"description": "Seconds.", "required": True, "schema": {"type": "string"}}}
    headers = {"headers": retry} if status in (429, 503) else {}
    content = {PROBLEM_TYPE: {"schema": {"$ref": SCHEMAS + "ProblemDocument"}}}
    return {"description": _SAID[status], "content": content, **headers}
