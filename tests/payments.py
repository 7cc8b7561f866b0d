"""Streams of payments and labels for the tests: real ones, simulated ones, and nasty ones."""

import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from ingestion.topics import LABELS, TRANSACTIONS

type_of_event = Mapping[str, Any]
type_of_sent = tuple[str, type_of_event]

HANDBOOK = "fraud_handbook/transactions_2018-04-01_2018-08-14.parquet"
HANDBOOK_FEATURES = "fraud_handbook/features_2018-07-25_2018-07-31.parquet"
START = datetime(2024, 3, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Stream:
    """Events by topic, in the order in which they are sent."""

    sent: Sequence[type_of_sent]

    def of(self, topic: str) -> list[type_of_event]:
        """Events of one topic."""
        return [event for name, event in self.sent if name == topic]

    @property
    def transaction_ids(self) -> list[str]:
        """Each once, in order of first appearance."""
        return list(dict.fromkeys(each["transaction_id"] for each in self.of(TRANSACTIONS)))


def wire_time(moment: datetime) -> str:
    """RFC 3339 in UTC."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def payment(
    name: str, at: datetime, customer: str, terminal: str, amount: float, **more: Any
) -> type_of_event:
    """A transaction as JSON carries it."""
    fixed = {"transaction_id": name, "event_time": wire_time(at), "customer_id": customer}
    return {**fixed, "terminal_id": terminal, "amount": amount, "currency": "EUR", **more}


def label(name: str, at: datetime, fraud: bool, source: str = "chargeback") -> type_of_event:
    """A label as JSON carries it."""
    told = "fraud" if fraud else "legitimate"
    return {"transaction_id": name, "label": told, "label_time": wire_time(at), "source": source}


def real_payments(n: int, label_delay: timedelta) -> Stream:
    """The first `n` payments of the Fraud Detection Handbook's data, or simulated ones where it is away."""
    file = data_folder() / HANDBOOK
    rows = _handbook(file, n) if file.exists() else _simulated(n)
    paid = [payment(f"t-{i}", at, f"c-{c}", f"m-{m}", x) for i, at, c, m, x, _ in rows]
    told = [label(f"t-{i}", at + label_delay, fraud) for i, at, _, _, _, fraud in rows]
    return Stream([*((TRANSACTIONS, each) for each in paid), *((LABELS, each) for each in told)])


def data_folder() -> Path:
    """Published data for tests; `TOLLGATE_TEST_DATA` names another folder."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    return Path(os.environ.get("TOLLGATE_TEST_DATA", beside))


type_of_row = tuple[Any, datetime, Any, Any, float, bool]


def _handbook(file: Path, n: int) -> list[type_of_row]:
    import pyarrow.parquet as pq

    names = ["TRANSACTION_ID", "TX_DATETIME", "CUSTOMER_ID", "TERMINAL_ID", "TX_AMOUNT", "TX_FRAUD"]
    rows = next(pq.ParquetFile(file).iter_batches(n, columns=names))
    number, at, customer, terminal, amount, fraud = (column.to_pylist() for column in rows.columns)
    moments = [each.to_pydatetime().replace(tzinfo=UTC) for each in at]
    return list(zip(number, moments, customer, terminal, amount, map(bool, fraud), strict=True))


def _simulated(n: int) -> list[type_of_row]:
    from ingestion.simulators.payments import Payments, simulate
    from ingestion.simulators.population import Population

    log = simulate(Payments(seed=7, population=Population(customers=5_000, terminals=10_000)), days=8)
    at = [datetime.fromtimestamp(each / 1e6, UTC) for each in log.event_time_us[:n].tolist()]
    columns = [
        log.transaction_id[:n].tolist(),
        at,
        *(column[:n].tolist() for column in (log.customer_id, log.terminal_id, log.amount, log.is_fraud)),
    ]
    return list(zip(*columns, strict=True))


def nasty(seed: int, n: int = 1_500, customers: int = 40, terminals: int = 25) -> Stream:
    """Everything that makes streams differ from one another: see the functions that it is made of."""
    chance = random.Random(seed)
    moments = _moments(chance, n)
    paid = [_any_payment(chance, i, at, customers, terminals) for i, at in enumerate(moments)]
    sent: list[tuple[float, type_of_sent]] = [(i, (TRANSACTIONS, each)) for i, each in enumerate(paid)]
    for i, each in enumerate(paid):
        sent += [(at, (LABELS, told)) for at, told in _labels(chance, i, moments, each)]
        sent += [(i + chance.uniform(0, 300), (TRANSACTIONS, copy)) for copy in _copies(chance, each)]
    return Stream([each for _, each in sorted(sent, key=lambda pair: pair[0])])


def _moments(chance: random.Random, n: int) -> list[datetime]:
    """Times with ties in the same second, long silences, and late events."""
    now, moments = START, []
    for _ in range(n):
        now += timedelta(seconds=chance.choice([0, 0, 0, 1, 7, 3_600]))
        now += timedelta(days=chance.choice([0] * 400 + [45]), microseconds=chance.choice([0, 0, 1, 999_999]))
        late = timedelta(seconds=chance.choice([0] * 8 + [1, 86_400, 9 * 86_400]))
        moments.append(now - late)
    return moments


def _any_payment(
    chance: random.Random, i: int, at: datetime, customers: int, terminals: int
) -> type_of_event:
    """Some customers and terminals are busy, some come once; amounts from a cent to a million."""
    customer = f"c-{min(int(chance.expovariate(8 / customers)), customers)}" if i % 13 else f"c-cold-{i}"
    terminal = f"m-{min(int(chance.expovariate(8 / terminals)), terminals)}" if i % 17 else f"m-cold-{i}"
    more = chance.choice(
        [{}, {"channel": "online"}, {"channel": "store"}, {"attributes": {"note": "é\u2028"}}]
    )
    return payment(f"t-{i}", at, customer, terminal, round(10 ** chance.uniform(-2, 6), 2), **more)


def _labels(
    chance: random.Random, i: int, moments: Sequence[datetime], paid: type_of_event
) -> list[tuple[float, type_of_event]]:
    """Labels before and after their transaction, at another payment's time, twice, from several sources."""
    name, others = paid["transaction_id"], moments[max(i - 3, 0) : i + 40]
    told = [
        label(name, chance.choice(others), chance.random() < 0.3, source)
        for source in chance.sample(["chargeback", "analyst", "customer", "settlement"], chance.randint(0, 2))
    ]
    placed = [(i + chance.uniform(-20, 200), each) for each in told]
    again = [(at + chance.uniform(0, 100), each) for at, each in placed if chance.random() < 0.2]
    return placed + again


def _copies(chance: random.Random, paid: type_of_event) -> list[type_of_event]:
    """The same again, with its fields in another order, or saying something else: only the first counts."""
    same, turned = dict(paid), dict(reversed(paid.items()))
    other = {**paid, "amount": 1.0, "event_time": wire_time(START)}
    return [chance.choice([same, turned, other]) for _ in range(chance.choice([0] * 6 + [1, 2]))]


def shuffled_bursts(stream: Stream, seed: int, bursts: int) -> list[Stream]:
    """The stream in pieces of random length."""
    cuts = sorted(random.Random(seed).sample(range(1, len(stream.sent)), bursts - 1))
    return [Stream(stream.sent[a:b]) for a, b in zip([0, *cuts], [*cuts, len(stream.sent)], strict=True)]


def same_bits(left: "np.ndarray[Any, Any]", right: "np.ndarray[Any, Any]") -> bool:
    """Equal bit for bit, any NaN like any other."""
    left, right = np.ascontiguousarray(left, np.float64), np.ascontiguousarray(right, np.float64)
    left, right = np.where(np.isnan(left), np.nan, left), np.where(np.isnan(right), np.nan, right)
    return left.shape == right.shape and bool((left.view(np.int64) == right.view(np.int64)).all())
