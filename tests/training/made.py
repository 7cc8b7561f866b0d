"""Past events made for the tests of training."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from features.state import Flags, Floats, Ints
from ingestion.file_source import merged_order
from ingestion.tables import DAY_US, LABELS, TRANSACTIONS, completed

PastEvents = tuple[pa.Table, pa.Table]

MIDNIGHT_US = 20_000 * DAY_US


def past_events(seed: int = 1, n: int = 8_000, days: int = 40) -> PastEvents:
    """Payments and labels a week later; every high amount is fraud, as are some others."""
    draw = np.random.default_rng(seed)
    time_us = MIDNIGHT_US + np.sort(draw.integers(0, days * DAY_US, n))
    amount = np.round(draw.gamma(2.0, 25.0, n) + 1.0, 2)
    fraud = (amount > 160) | (draw.random(n) < 0.002)
    amount[fraud] += 50
    ids = pa.array([f"t-{number}" for number in range(n)])
    customers = pa.array([f"c-{number}" for number in draw.integers(0, 60, n)])
    terminals = pa.array([f"m-{number}" for number in draw.integers(0, 30, n)])
    shared = {"transaction_id": ids, "customer_id": customers, "terminal_id": terminals, "amount": amount}
    arrived = time_us + 7 * DAY_US
    number = merged_order(time_us, arrived)
    transactions = pa.table(
        shared | {"event_time_us": time_us, "channel": pa.array(["store"] * n)} | _places(number[:n])
    )
    words = pa.array(np.where(fraud, "fraud", "legitimate"))
    source = pa.array(np.where(fraud, "chargeback", "settlement"))
    labels = pa.table(
        shared
        | {"event_time_us": arrived, "paid_at_us": time_us, "label": words, "source": source}
        | _places(number[n:])
    )
    return completed(TRANSACTIONS, transactions), completed(LABELS, labels)


def _places(position: Ints) -> dict[str, Ints]:
    backfilled = np.full(len(position), -1)
    return {
        "customer_partition": backfilled,
        "terminal_partition": backfilled,
        "customer_position": position,
        "terminal_position": position,
    }


MAPPING = """
[transactions]
transaction_id = "id"
event_time = "at"
customer_id = "customer"
terminal_id = "terminal"
amount = "amount"
[labels]
label = "fraud"
delay_days = 7
"""


def payments_file(
    folder: Path, every_minutes: int, customers: int, amount: Floats, fraud: Flags
) -> list[str]:
    """Options that name a file of one payment every so often from 2024-03-01 on, and its mapping."""
    n = np.arange(len(amount))
    rows = pa.table(
        {
            "id": pa.array([f"t-{i}" for i in n]),
            "at": pa.array(np.datetime64("2024-03-01", "us") + n * np.timedelta64(every_minutes, "m")),
            "customer": pa.array([f"c-{i % customers}" for i in n]),
            "terminal": pa.array([f"m-{i % 5}" for i in n]),
            "amount": amount,
            "fraud": fraud.astype(np.int64),
        }
    )
    pq.write_table(rows, folder / "past.parquet")
    (folder / "mapping.toml").write_text(MAPPING)
    return ["--data", str(folder / "past.parquet"), "--mapping", str(folder / "mapping.toml")]
