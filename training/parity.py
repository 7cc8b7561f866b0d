"""How groups of persons fare where the policy lets prices know of them.

For each group of each personal attribute the mean price shown as a share of the list price, the share of
quotes that were bought, and the mean margin of a quote as a share of the list price. Without permission there
is nothing to report: no price depends on what tells of a person.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import orjson
import pandas as pd

from features.pricing import PRICING
from features.state import Ints
from training.dataset import Dataset, Objects

MOST = 12
"""Groups of an attribute that are told apart; the rarer ones are `other`."""

_GROUP = "group:"
_PRICE, _COST = (PRICING.names.index(name) for name in ("price_to_list", "cost_share"))


def groups_of(said: pd.DataFrame, personal: Sequence[str]) -> dict[str, Objects]:
    """Columns of a data set, each of shape (n,): the group that each quote belongs to by each attribute.

    Args:
        said: `segment`, and `context` as a JSON object, of each quote.
        personal: `segment` or names of fields of the context.
    """
    if not personal:
        return {}
    contexts = [orjson.loads(each or "{}") for each in said["context"].fillna("")]
    return {
        _GROUP + name: _told(said["segment"] if name == "segment" else [each.get(name) for each in contexts])
        for name in personal
    }


def parity(rows: Dataset) -> dict[str, dict[str, dict[str, float]]]:
    """Figures by attribute and group; nothing where no price may know of a person."""
    return {
        name.removeprefix(_GROUP): {
            group: _figures(rows, np.flatnonzero(common(groups) == group))
            for group in sorted(set(common(groups)))
        }
        for name, groups in rows.columns.items()
        if name.startswith(_GROUP)
    }


def common(values: Objects) -> Objects:
    """The most frequent values, and `other` for the rest; `unknown` where there is none."""
    known = pd.Series(values, dtype=object).fillna("unknown")
    frequent = known.value_counts().index[:MOST]
    return known.where(known.isin(frequent), "other").to_numpy(object)


def _figures(rows: Dataset, at: Ints) -> dict[str, float]:
    price, cost = rows.matrix[at, _PRICE], rows.matrix[at, _COST]
    return {
        "rows": float(len(at)),
        "price_to_list": float(price.mean()),
        "conversion": float(rows.target[at].mean()),
        "margin_to_list": float(((price - cost) * rows.columns["units"][at]).mean()),
    }


def _told(values: Iterable[object]) -> Objects:
    return pd.Series(list(values), dtype=object).map(str, na_action="ignore").to_numpy(object)
