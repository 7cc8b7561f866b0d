"""Live payments made for the tests of shadowing: decided with vectors, labelled a week later."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from features.fraud import FRAUD, LIVES
from features.state import Flags, Floats, Ints
from ingestion.history import History
from ingestion.tables import DAY_US, DECISIONS, LABELS, TRANSACTIONS, completed
from tests.training.made import MIDNIGHT_US
from training import booster
from training.booster import Model
from training.card import Card, Trained

COLUMN = {name: place for place, name in enumerate(FRAUD.names)}
DAYS, LEARNED_DAYS, A_DAY = 30, 16, 800
type_of_deciders = Callable[[Sequence[str]], Sequence[str]]
"""Of customers, which version decides for each."""
SMALL = {**booster.CLASSIFIER, "num_iterations": 60}


@dataclass(frozen=True)
class Live:
    """Payments in order of time; what is risky is the terminal, and the amount beside what is usual."""

    matrix: Floats
    fraud: Flags
    time_us: Ints

    @property
    def learned(self) -> Flags:
        """Payments of the first days, from which every model here learns."""
        flags: Flags = self.time_us < MIDNIGHT_US + LEARNED_DAYS * DAY_US
        return flags

    @property
    def online(self) -> Flags:
        """Which were made online."""
        flags: Flags = self.matrix[:, COLUMN["online"]] == 1
        return flags

    def model(
        self, fraud: Flags | None = None, matrix: Floats | None = None, rows: Flags | None = None,
        parameters: Mapping[str, float | int | str | bool] = SMALL,
    ) -> Model:  # fmt: skip
        """A model of the first days, or of some of their rows, with these labels and features if given."""
        chosen = self.learned if rows is None else self.learned & rows
        target = (self.fraud if fraud is None else fraud)[chosen].astype(np.float64)
        seen = (self.matrix if matrix is None else matrix)[chosen]
        end_us = int(self.time_us[self.learned].max())
        trained = Trained(MIDNIGHT_US, end_us, end_us + 7 * DAY_US, len(target))
        card = Card("fraud", "", FRAUD.names, FRAUD.hash, trained)
        learned = booster.train(seen, target, card, parameters)
        return Plain(learned.text, learned.card)

    def without(self, *features: str) -> Floats:
        """The matrix as it is known to who does not know these features."""
        found = self.matrix.copy()
        found[:, [COLUMN[name] for name in features]] = np.nan
        return found


def live(seed: int = 3) -> Live:
    """Thirty days of payments."""
    draw, n = np.random.default_rng(seed), DAYS * A_DAY
    matrix = draw.normal(size=(n, len(FRAUD.names)))
    amount, usual = np.round(draw.gamma(2.0, 40.0, n) + 1.0, 2), draw.gamma(4.0, 20.0, n) + 5.0
    bad = draw.random(n) < 0.06
    rates = np.where(bad, draw.beta(4, 3, n), draw.beta(0.3, 9, n))
    matrix[:, COLUMN["amount"]], matrix[:, COLUMN["online"]] = amount, draw.random(n) < 0.25
    matrix[:, COLUMN["customer_amount_ratio_90d"]] = amount / usual
    for life in LIVES:
        matrix[:, COLUMN[f"customer_amount_mean_{life}"]] = usual
        matrix[:, COLUMN[f"customer_amount_zscore_{life}"]] = (amount - usual) / 21.0
        matrix[:, COLUMN[f"terminal_fraud_rate_{life}"]] = rates
    log_odds = -8.0 + 9.0 * rates + 1.2 * np.minimum(amount / usual, 5.0)
    fraud = draw.random(n) < 1.0 / (1.0 + np.exp(-log_odds))
    return Live(matrix, fraud, MIDNIGHT_US + np.sort(draw.integers(0, DAYS * DAY_US, n)))


def write(
    history: History,
    found: Live,
    decided_by: str | type_of_deciders = "1",
    until_day: float = DAYS,
    from_day: float = 0,
) -> None:
    """Payments and labels of days, and decisions with their vectors, as the historian writes them."""
    from_us, until_us = (MIDNIGHT_US + day * DAY_US for day in (from_day, until_day))
    start, n = (int((found.time_us < moment_us).sum()) for moment_us in (from_us, until_us))
    shared = {name: pa.array([f"{letter}-{i % count}" for i in range(n)]) for name, letter, count in _IDS}
    shared |= {"amount": found.matrix[:n, COLUMN["amount"]]}
    history.append(
        TRANSACTIONS, completed(TRANSACTIONS, pa.table(shared | _described(found, n)).slice(start))
    )
    arrived = found.time_us[:n] + 7 * DAY_US - 1
    words = pa.array(np.where(found.fraud[:n], "fraud", "legitimate"))
    said = {"event_time_us": arrived, "label": words, "source": pa.array(["settlement"] * n)} | _places(n)
    known = (arrived >= from_us) & (arrived < until_us)
    history.append(LABELS, completed(LABELS, pa.table(shared | said).filter(pa.array(known))))
    history.append(DECISIONS, decisions(found, slice(start, n), decided_by))


def decisions(
    found: Live, rows: slice, decided_by: str | type_of_deciders = "1", n_partitions: int = 2
) -> pa.Table:
    """Rows of the history's decisions, all approved."""
    at = np.arange(len(found.time_us))[rows]
    customers = [f"c-{i % 900}" for i in at]
    versions = [decided_by] * len(at) if isinstance(decided_by, str) else decided_by(customers)
    columns = {
        "transaction_id": pa.array([f"t-{i}" for i in at]),
        "event_time_us": found.time_us[at],
        "customer_id": pa.array(customers),
        "decision": pa.array(["approve"] * len(at)),
        "policy_decision": pa.array(["approve"] * len(at)),
        "propensity": np.ones(len(at)),
        "model_version": pa.array(versions, pa.string()),
        "feature_names": pa.array([list(FRAUD.names)] * len(at)),
        "features": pa.ListArray.from_arrays(
            np.arange(len(at) + 1, dtype=np.int32) * len(FRAUD.names), found.matrix[at].ravel()
        ),
        "decision_partition": pa.array(at % n_partitions, pa.int32()),
        "decision_position": at // n_partitions,
    }
    return completed(DECISIONS, pa.table(columns))


_IDS: Sequence[tuple[str, str, int]] = (
    ("transaction_id", "t", 10**9),
    ("customer_id", "c", 900),
    ("terminal_id", "m", 300),
)


def _described(found: Live, n: int) -> dict[str, pa.Array]:
    channel = np.where(found.online[:n], "online", "in_store")
    return {"event_time_us": pa.array(found.time_us[:n]), "channel": pa.array(channel)} | _places(n)


def _places(n: int) -> dict[str, pa.Array]:
    names = ("customer", "terminal")
    return {f"{name}_partition": pa.array([0] * n, pa.int32()) for name in names} | {
        f"{name}_position": pa.array(np.arange(n)) for name in names
    }


def padded(found: Live) -> Model:
    """Thousands of trees, where dozens do."""
    some = np.arange(len(found.fraud)) % 40 == 0
    many = {**SMALL, "num_iterations": 12_000, "num_leaves": 6, "learning_rate": 0.001, "max_bin": 31}
    return found.model(rows=some, parameters=many)


class Plain(Model):
    """Logged without MLflow's own form of a booster, which takes it seconds."""

    @property
    def native(self) -> None:  # type: ignore[override]
        """None."""


def with_other_features(model: Model) -> Model:
    """The same, as if it had learned from other definitions of the features."""
    return Plain(model.text, replace(model.card, feature_hash="0123456789ab"))
