"""Past quotes as another pricing policy can be judged by: what was known, shown, how likely, and bought."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import orjson
import pandas as pd
import pyarrow as pa

from features import replay
from features.pricing import PRICING, PRODUCT, day_price, last_price
from features.state import MICROSECONDS, Flags, Floats, Ints
from infra.settings import Product
from ingestion.events import FRAUD_PROBABILITY
from training import pricing
from training.dataset import Dataset, Objects, Span
from training.pricing_policy import Terms


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


def past_of(
    quotes: pa.Table, outcomes: pa.Table, span: Span, catalogue: Mapping[str, Product]
) -> tuple[Past, dict[str, int]]:
    """Matured quotes that a policy can be judged by, and how many others there are, by reason.

    Args:
        quotes: rows of the history, with their places in the log.
        outcomes: rows of the history.
        span: which of them are asked for.
        catalogue: products by id.

    Raises:
        UserError: there are no quotes or no outcomes at all.
    """
    data = pricing.from_tables(quotes, outcomes, span)
    states = replay.states_before(PRICING, quotes, outcomes)[PRODUCT.name]
    wanted = [
        "quote_id",
        "price",
        "propensity",
        "objective",
        "model_version",
        "held",
        "list_price",
        "unit_cost",
        "context",
        FRAUD_PROBABILITY,
    ]
    described = (
        quotes.select(wanted)
        .to_pandas()
        .assign(
            last_price=last_price(states),
            day_price=day_price(states, quotes["event_time_us"].to_numpy() / MICROSECONDS),
        )
    )
    described = described.drop_duplicates("quote_id").set_index("quote_id").reindex(data.ids)
    products = data.columns["product_name"]
    reasons = {
        "without a propensity": ~(described["propensity"].to_numpy(np.float64) > 0),
        "that repeat a price for the same context": described["held"].eq(True).to_numpy(),
        "without a unit cost": described["unit_cost"].isna().to_numpy(),
        "of products that are not in the catalogue": ~np.isin(products.astype(str), list(catalogue)),
    }
    left_out, usable = _parted(reasons, len(data))
    chosen = data.rows(usable)
    return _past(chosen, described[usable], catalogue), left_out


def _parted(reasons: Mapping[str, Flags], n: int) -> tuple[dict[str, int], Flags]:
    """How many rows each reason takes of those that earlier ones left, and which rows are left in the end."""
    usable, left_out = np.ones(n, np.bool_), {}
    for reason, wrong in reasons.items():
        left_out[reason] = int((usable & wrong).sum())
        usable &= ~wrong
    return left_out, usable


def _past(data: Dataset, described: pd.DataFrame, catalogue: Mapping[str, Product]) -> Past:
    products = [catalogue[name] for name in data.columns["product_name"]]
    column = {name: described[name].to_numpy(np.float64) for name in ("list_price", "unit_cost")}
    limits = [
        np.array([getattr(each, name) for each in products]) for name in ("floor", "ceiling", "max_step")
    ]
    return Past(
        time_us=data.time_us,
        matrix=data.matrix,
        price=described["price"].to_numpy(np.float64),
        units=data.columns["units"],
        propensity=described["propensity"].to_numpy(np.float64),
        last_price=described["last_price"].to_numpy(np.float64),
        day_price=described["day_price"].to_numpy(np.float64),
        product=data.columns["product_name"],
        objective=described["objective"].fillna("").to_numpy(object),
        own_objective=np.array([each.objective is not None for each in products], np.bool_),
        version=described["model_version"].fillna("").to_numpy(object),
        fraud_probability=described[FRAUD_PROBABILITY].to_numpy(np.float64),
        shopper_probability=_told(described["context"]),
        terms=Terms(column["list_price"], column["unit_cost"], *limits),
    )


def _told(contexts: "pd.Series[str]") -> Floats:
    """Probability of fraud that each request told of its shopper."""
    given = [orjson.loads(each or "{}").get(FRAUD_PROBABILITY) for each in contexts.fillna("")]
    return np.array([each if isinstance(each, float) else np.nan for each in given], np.float64)
