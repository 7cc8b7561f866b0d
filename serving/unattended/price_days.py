"""Quotes of a part of a day, priced one after the other as the API does, and sold in the simulated market."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from features.index import KnownQuote
from features.pricing import PRICING, PRODUCT, event_values
from features.state import Events, Floats, Ints, fold
from infra.settings import Product, Settings, policy_version
from ingestion.events import Outcome, Quote, QuoteRequest, microseconds
from ingestion.simulators.columns import take
from ingestion.simulators.market import Market, Quotes, catalogue
from ingestion.simulators.wire import encoded, outcomes, quote_requests
from ingestion.streams import PRODUCT_EVENT, batch_of, counted, encode, position
from ingestion.topics import PRODUCT_COUNTED, PRODUCT_STREAM
from serving.fraud import Current
from serving.pricing import Known, Policy, quote
from serving.router import outcome_row, quote_row
from serving.unattended.lanes import Arrived, Lane, warmed
from serving.unattended.payment_days import type_of_keep
from serving.unattended.story import Story

type_of_row = dict[str, Any]


@dataclass(frozen=True)
class SoldDay:
    """What the quotes of a day, or of a part of one, came to, in the main unit of the currency."""

    quotes: int
    earned: float
    """Margin expected of the shown prices under the market's true demand."""
    best: float
    """The same at the prices of a seller who knows it."""
    margin: float
    """Of what was truly sold."""
    forecast: float
    """That the system expected when it quoted."""
    outcomes_us: tuple[int, ...]
    """When outcomes of these quotes arrive."""

    @classmethod
    def whole(cls, parts: Sequence["SoldDay"]) -> "SoldDay":
        """All parts of a day together."""
        return cls(
            quotes=sum(each.quotes for each in parts),
            earned=sum(each.earned for each in parts),
            best=sum(each.best for each in parts),
            margin=sum(each.margin for each in parts),
            forecast=sum(each.forecast for each in parts),
            outcomes_us=tuple(time_us for each in parts for time_us in each.outcomes_us),
        )


@dataclass
class PriceDays:
    """One system's quotes, day after day.

    Args:
        settings: of the prices.
        models: knows which model decides now.
        keep: takes what the stream would write to the history.
    """

    story: Story
    settings: Settings
    models: Current
    keep: type_of_keep
    _waiting: list[tuple[int, str, float, KnownQuote]] = field(default_factory=list)
    """Outcomes that have not arrived: when, quote, units, what the quote was."""

    def __post_init__(self) -> None:
        """Fold the past."""
        market: Market = self.story.market
        self._products = {
            name: Product.model_validate({"product_id": name, **terms})
            for name, terms in catalogue(market).items()
        }
        lanes = warmed("pricing", self.story.past_of("pricing"), [list(self._products)])
        self._lane: Lane = lanes[0]
        self._row = {name: row for row, name in enumerate(self._lane.ids.to_pylist())}
        rules = self.settings.pricing
        self._policy = Policy(rules, policy_version(rules), self.settings.fraud)
        self._draws = Random(self.story.seed)

    def play(self, turn: int) -> SoldDay:
        """Price the requests until the end of a turn and take the outcomes that arrive in it."""
        quotes = self._asked(turn)
        asked = [QuoteRequest.model_validate_json(each) for each in encoded(quote_requests(quotes))]
        arrives = self.story.market.outcome_time_us(quotes)
        rows: list[type_of_row] = []
        prices, forecast = np.empty(len(asked)), np.empty(len(asked))
        for i, request in enumerate(asked):
            now_us = microseconds(request.event_time)
            self._settle(now_us, turn, rows)
            answer = self._quoted(request, turn, rows)
            prices[i], forecast[i] = answer["price"], answer["expected"]["margin"] or 0.0
            self._sell(take(quotes, slice(i, i + 1)), prices[i : i + 1], int(arrives[i]))
        self._settle(self.story.turn_us(turn + 1) - 1, turn, rows)
        self._write(rows, turn)
        return self._told(quotes, prices, forecast, arrives)

    def _asked(self, turn: int) -> Quotes:
        quotes = self.story.market.quotes(1, self.story.past_days + turn // self.story.turns)
        ends_us = [self.story.turn_us(each) for each in (turn, turn + 1)]
        return take(quotes, slice(*np.searchsorted(quotes.event_time_us, ends_us)))

    def _quoted(self, request: QuoteRequest, turn: int, rows: list[type_of_row]) -> dict[str, Any]:
        product, row = self._products[request.product_id], self._row[request.product_id]
        known = Known(product, self._lane.states.columns[row : row + 1].copy())
        answer = quote(request, known, self.models.current(PRICING.domain), self._policy, self._draws)
        now_us = microseconds(request.event_time)
        said = Quote.model_validate_json(orjson.dumps(answer))
        rows.append(quote_row(said, Arrived(PRODUCT_STREAM, turn, now_us // 1_000, b"")))
        self._fold(rows[-1], turn, len(rows) - 1)
        return answer

    def _sell(self, asked: Quotes, price: Floats, arrives_us: int) -> None:
        units = float(self.story.market.purchase(asked, price)[0])
        known = KnownQuote(str(asked.product_id[0]), float(price[0]), int(asked.event_time_us[0]))
        heapq.heappush(self._waiting, (arrives_us, str(asked.quote_id[0]), units, known))

    def _settle(self, now_us: int, turn: int, rows: list[type_of_row]) -> None:
        """Fold the outcomes that have arrived."""
        while self._waiting and self._waiting[0][0] <= now_us:
            time_us, name, units, known = heapq.heappop(self._waiting)
            (event,) = encoded(outcomes([name], np.array([time_us]), np.array([int(units)])))
            rows.append(outcome_row(Outcome.model_validate_json(event), time_us // 1_000, known))
            self._fold(rows[-1], turn, len(rows) - 1)

    def _fold(self, row: type_of_row, turn: int, number: int) -> None:
        kind, time_us = np.array([row["kind"]]), np.array([row["event_time_us"]])
        price, units = (np.array([float(row.get(name) or 0.0)]) for name in ("price", "units"))
        place = np.array([position(turn, number)])
        entity = np.array([self._row[row["product_id"]]])
        events = Events(kind, time_us, entity, place, event_values(kind, price, units, time_us))
        fold(PRODUCT, self._lane.states, events)

    def _write(self, rows: Sequence[type_of_row], turn: int) -> None:
        now_ms = self.story.turn_us(turn + 1) // 1_000
        placed = pa.Table.from_batches([batch_of(rows, PRODUCT_EVENT)])
        folded = counted(placed, 0, [position(turn, number) for number in range(len(rows))])
        self.keep([Arrived(PRODUCT_COUNTED, turn, now_ms, encode(folded))])

    def _told(self, quotes: Quotes, prices: Floats, forecast: Floats, arrives: Ints) -> SoldDay:
        market = self.story.market
        gain = prices - take(market.products, quotes.product).unit_cost
        return SoldDay(
            quotes=len(quotes),
            earned=float(gain @ market.probability(quotes, prices)),
            best=float(market.optimal(quotes, bounded=True).expected.sum()),
            margin=float(gain @ market.purchase(quotes, prices)),
            forecast=float(forecast.sum()),
            outcomes_us=tuple(arrives.tolist()),
        )
