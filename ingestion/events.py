"""What arrives: one frozen type per topic, parsed once at the edge.

A value that does not fit raises `pydantic.ValidationError`; `reason()` turns that into one sentence.
"""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
)

from infra.card_numbers import holds_card_number, masked
from infra.settings import Objective

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
LATEST = datetime(2100, 1, 1, tzinfo=UTC)
"""Event times outside [EARLIEST, LATEST) are a broken clock, not a late event."""
MAX_AHEAD_US = 86_400 * 1_000_000
"""So far may an event's time be ahead of the clock that receives it; one beyond would age all after it."""


def _plausible(value: datetime) -> datetime:
    """Aware time in UTC; a time without a zone is UTC."""
    aware = value.replace(tzinfo=UTC) if value.tzinfo is None else value
    if not EARLIEST <= aware < LATEST:  # before it becomes UTC, which the ends of the calendar can't
        raise ValueError(
            f"expected a time from {EARLIEST.year} up to {LATEST.year}, came {aware.isoformat()}"
        )
    return aware.astimezone(UTC)


def no_card_number(value: str) -> str:
    """The text; ValueError, which does not repeat it, if it looks like the full number of a card."""
    if holds_card_number(value):
        raise ValueError("expected no card number, came what looks like one; send a token or a hash of it")
    return value


def _no_card_numbers(content: Any) -> Any:
    """The same of a JSON object's keys and values, numbers too, and of objects in it."""
    if isinstance(content, str):
        no_card_number(content)
    elif isinstance(content, int) and not LEAST_INTEGER <= content < BEYOND_INTEGERS:
        raise ValueError("expected whole numbers of at most 64 bits, came a longer one")
    elif isinstance(content, int | float) and LEAST_CARD_NUMBER < abs(content) < BEYOND_CARD_NUMBERS:
        no_card_number(f"{content:.0f}")
    elif isinstance(content, dict):
        for name, value in content.items():
            no_card_number(name)
            _no_card_numbers(value)
    elif isinstance(content, list):
        for value in content:
            _no_card_numbers(value)
    return content


def _printable(value: str) -> str:
    no_card_number(value)
    if not value.isprintable() or value != value.strip():
        raise ValueError("expected printable characters without spaces at the ends")
    return value


LEAST_CARD_NUMBER, BEYOND_CARD_NUMBERS = 10**12, 10**19
LEAST_INTEGER, BEYOND_INTEGERS = -(2**63), 2**64
"""A smaller number has fewer digits than a card's."""
NoCardNumbers = BeforeValidator(_no_card_numbers)
Id = Annotated[str, Field(min_length=1, max_length=128), AfterValidator(_printable)]
Word = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_printable)]
Money = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]
"""Decimal number in the currency's main unit, above zero."""
Amount = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
"""Decimal number in the currency's main unit; 0 is a payment that only checks the card."""
EventTime = Annotated[datetime, AfterValidator(_plausible)]
Text = Annotated[str, Field(max_length=1_024)]
"""Of an attribute; `Attributes` looks for card numbers."""
Attributes = Annotated[dict[Word, Text | float | bool | None], Field(max_length=64), NoCardNumbers]
QuotedContext = Annotated[dict[Word, Text | float | bool | None], Field(max_length=65), NoCardNumbers]
"""What a request gave, and the product's category."""


FRAUD_PROBABILITY = "fraud_probability"
"""Field of a request's context."""


class Event(BaseModel):
    """A fact that arrived. Unknown fields are refused unless they are under `attributes`.

    A number in quotes, or a time that is a number, is none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)


class Transaction(Event):
    """A payment to be decided; `transaction_id` is its idempotency key."""

    transaction_id: Id
    event_time: EventTime
    customer_id: Id
    terminal_id: Id
    amount: Amount
    currency: Annotated[str, Field(pattern="^[A-Z]{3}$")]
    channel: Word | None = None
    country: Annotated[str, Field(pattern="^[A-Z]{2}$")] | None = None
    device_id: Id | None = None
    ip: Word | None = None
    merchant_category: Word | None = None
    latitude: Annotated[float, Field(ge=-90, le=90)] | None = None
    longitude: Annotated[float, Field(ge=-180, le=180)] | None = None
    attributes: Attributes = {}


class Label(Event):
    """What a payment turned out to be, known from `label_time` on."""

    transaction_id: Id
    label: Literal["fraud", "legitimate"]
    label_time: EventTime
    source: Literal["chargeback", "analyst", "customer", "settlement"]


class Outcome(Event):
    """What became of a quote: `units` bought, 0 = not bought."""

    quote_id: Id
    event_time: EventTime
    units: Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
    attributes: Attributes = {}


class Quote(BaseModel):
    """A price that was shown: what `POST /v1/prices/quote` answered, of which history needs these fields."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    quote_id: Id
    event_time: EventTime
    product_id: Id
    price: Annotated[float, Field(ge=0, le=1e9)]
    currency: Annotated[str, Field(pattern="^[A-Z]{3}$")]
    list_price: Money
    unit_cost: Annotated[float, Field(ge=0, le=1e9)]
    segment: Word | None = None
    objective: Word | None = None
    context: QuotedContext = {}
    exploration: bool = False
    propensity: Annotated[float, Field(ge=0, le=1)] | None = None
    held: bool = False
    fraud_probability: Annotated[float, Field(ge=0, le=1)] | None = None
    model: Annotated[dict[str, Any], NoCardNumbers] = {}
    features: dict[Annotated[str, AfterValidator(no_card_number)], float | None] = {}


class QuoteRequest(Event):
    """A request for a price; `context` values are numbers or words known when asked."""

    quote_id: Id
    event_time: EventTime
    product_id: Id
    segment: Word | None = None
    context: Attributes = {}
    objective: Objective | None = None

    @field_validator("context")
    @classmethod
    def _likely(cls, context: dict[str, Any]) -> dict[str, Any]:
        """Refuse a probability that is none."""
        given = context.get(FRAUD_PROBABILITY)
        if given is not None and not (type(given) is float and 0.0 <= given <= 1.0):
            raise ValueError(f"expected {FRAUD_PROBABILITY} from 0 to 1, came {given!r}")
        return context

    @property
    def fraud_probability(self) -> float | None:
        """That a payment of this shopper is fraud, as whoever asks has scored it; None if not given."""
        given: float | None = self.context.get(FRAUD_PROBABILITY)  # type: ignore[assignment]
        return given


def event_time(event: Event | Quote) -> datetime:
    """When it counts from: a label from its arrival, anything else from when it happened."""
    moment: datetime = event.label_time if isinstance(event, Label) else event.event_time  # type: ignore[union-attr]
    return moment


def microseconds(moment: datetime) -> int:
    """Microseconds since 1970-01-01 UTC, exact.

    >>> microseconds(datetime(1970, 1, 1, 0, 0, 1, 5, tzinfo=UTC))
    1000005
    """
    since = moment - EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def reason(error: ValidationError) -> str:
    """One sentence for each thing wrong: where, what was expected, what came; a card's number is masked."""
    return "; ".join(_sentence(dict(item)) for item in error.errors(include_url=False)[:5])


def _sentence(item: dict[str, Any]) -> str:
    where = ".".join(str(part) for part in item["loc"]) or "event"
    came = masked(repr(item.get("input")))
    shown = came if len(came) <= 60 else came[:57] + "..."
    return masked(f"{where}: {item['msg']}") + f" (came {shown})"
