"""Past quotes as another pricing policy can be judged by: what was known, shown, how likely, and bought."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import pandas as pd
from numpy.typing import NDArray

from features.pricing import day_price, last_price
from features.state import MICROSECONDS, Flags, Floats, Ints
from infra.settings import Product
from ingestion.events import FRAUD_PROBABILITY
from training.dataset import Dataset, Objects
from training.pricing_policy import Terms

NUMBERS = ("price", "propensity", "list_price", "unit_cost", FRAUD_PROBABILITY)
WORDS = ("objective", "model_version")
LOGGED = (*NUMBERS, *WORDS, "held")
"""Columns of the history's quotes that a policy is judged by."""


@dataclass(frozen=True)
class Past:
    """Past quotes whose outcome is known, in order of time, each of shape (n,) but `matrix`."""

    time_us: Ints
    matrix: Floats
    """Features of `PRICING` at the price shown, shape (n, features)."""
    price: Floats
    units: Floats
    propensity: Floats
    last_price: Floats
    """Price that the product showed before; NaN if none."""
    day_price: Floats
    """Price that the product's day began with; NaN if none."""
    product: Objects
    objective: Objects
    own_objective: Flags
    """Whether the product states an objective of its own, which no policy changes."""
    version: Objects
    """Of the model that quoted."""
    fraud_probability: Floats
    """That the payment of a sale is fraud, as the price knew it; NaN if it did not."""
    shopper_probability: Floats
    """The same of this shopper, as the request told; NaN if it did not."""
    terms: Terms

    def __len__(self) -> int:
        return len(self.price)

    def rows(self, chosen: Flags | Ints) -> "Past":
        """The same of some rows."""
        columns = {name: each[chosen] for name, each in vars(self).items() if name != "terms"}
        terms = Terms(*(each[chosen] for each in vars(self.terms).values()))
        return Past(**columns, terms=terms)


def logged(quotes: pd.DataFrame, states: Floats, time_us: Ints) -> dict[str, NDArray[Any]]:
    """Columns of a data set that `past_of` reads, each of shape (n,).

    Args:
        quotes: `LOGGED` and `context` of each quote.
        states: of each quote's product before it, shape (n, columns of `PRODUCT`).
        time_us: when each was asked for.
    """
    return {
        **{name: quotes[name].to_numpy(np.float64) for name in NUMBERS},
        **{name: quotes[name].fillna("").to_numpy(object) for name in WORDS},
        "held": quotes["held"].eq(True).to_numpy(np.bool_),
        "last_price": last_price(states),
        "day_price": day_price(states, time_us / MICROSECONDS),
        "shopper_probability": _told(quotes["context"]),
    }


def drawn(data: Dataset) -> Flags:
    """Quotes whose price was drawn with a known chance, shape (n,)."""
    found: Flags = data.columns["propensity"] > 0
    return found


def past_of(data: Dataset, catalogue: Mapping[str, Product]) -> tuple[Past, dict[str, int]]:
    """The quotes that a policy can be judged by, and how many others there are, by reason.

    Args:
        data: matured quotes, as `training.pricing` makes them.
        catalogue: products by id.
    """
    known = np.isin(data.columns["product_name"].astype(str), list(catalogue))
    reasons = {
        "without a propensity": ~drawn(data),
        "that repeat a price for the same context": data.columns["held"],
        "without a unit cost": np.isnan(data.columns["unit_cost"]),
        "of products that are not in the catalogue": ~known,
    }
    left_out, usable = _parted(reasons, len(data))
    return _past(data.rows(usable), catalogue), left_out


def _parted(reasons: Mapping[str, Flags], n: int) -> tuple[dict[str, int], Flags]:
    """How many rows each reason takes of those that earlier ones left, and which rows are left in the end."""
    usable, left_out = np.ones(n, np.bool_), {}
    for reason, wrong in reasons.items():
        left_out[reason] = int((usable & wrong).sum())
        usable &= ~wrong
    return left_out, usable


def _past(data: Dataset, catalogue: Mapping[str, Product]) -> Past:
    column = data.columns
    products = [catalogue[name] for name in column["product_name"]]
    limits = [
        np.array([getattr(each, name) for each in products]) for name in ("floor", "ceiling", "max_step")
    ]
    return Past(
        time_us=data.time_us,
        matrix=data.matrix,
        price=column["price"],
        units=column["units"],
        propensity=column["propensity"],
        last_price=column["last_price"],
        day_price=column["day_price"],
        product=column["product_name"],
        objective=column["objective"],
        own_objective=np.array([each.objective is not None for each in products], np.bool_),
        version=column["model_version"],
        fraud_probability=column[FRAUD_PROBABILITY],
        shopper_probability=column["shopper_probability"],
        terms=Terms(column["list_price"], column["unit_cost"], *limits),
    )


def _told(contexts: "pd.Series[str]") -> Floats:
    """Probability of fraud that each request told of its shopper."""
    given = [orjson.loads(each or "{}").get(FRAUD_PROBABILITY) for each in contexts.fillna("")]
    return np.array([each if isinstance(each, float) else np.nan for each in given], np.float64)
