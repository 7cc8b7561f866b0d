"""The Fraud Detection Handbook's own 15 features (chapter 3), as sums over exact windows.

Only the tests have them, to prove that our protocol is the book's: its models give its figures.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from features.state import Flags, Floats, Ints

DAY_S = 86_400
WINDOWS_DAYS = (1, 7, 30)
DELAY_DAYS = 7
NIGHT_ENDS_H = 6


def payments(file: Path) -> pd.DataFrame:
    """The published transactions in their order, with `at_s`, seconds since 1970 UTC."""
    names = ["TRANSACTION_ID", "TX_DATETIME", "CUSTOMER_ID", "TERMINAL_ID", "TX_AMOUNT", "TX_FRAUD"]
    rows = pq.read_table(file, columns=names).to_pandas()
    return rows.assign(at_s=rows["TX_DATETIME"].to_numpy().astype("datetime64[s]").astype(np.int64))


def features(rows: pd.DataFrame) -> Floats:
    """Shape (n, 15), in the order of the published files."""
    at_s = rows["at_s"].to_numpy()
    amount, fraud = rows["TX_AMOUNT"].to_numpy(), rows["TX_FRAUD"].to_numpy(float)
    ones = np.ones(len(rows))
    columns = [amount, _weekend(at_s), _night(at_s)]
    customer = _Windows(rows["CUSTOMER_ID"].to_numpy(), at_s)
    for days in WINDOWS_DAYS:
        count = customer.sums(ones, days)
        columns += [count, customer.sums(amount, days) / count]
    terminal = _Windows(rows["TERMINAL_ID"].to_numpy(), at_s)
    for days in WINDOWS_DAYS:
        count, frauds = (
            terminal.sums(each, days + DELAY_DAYS) - terminal.sums(each, DELAY_DAYS) for each in (ones, fraud)
        )
        columns += [count, np.divide(frauds, count, out=np.zeros(len(rows)), where=count > 0)]
    return np.column_stack(columns)


def published(file: Path) -> tuple[Ints, Floats]:
    """Transaction ids and features of a published week."""
    rows = pq.read_table(file).to_pandas()
    names = [name for name in rows.columns if name.endswith("WINDOW")]
    chosen = ["TX_AMOUNT", "TX_DURING_WEEKEND", "TX_DURING_NIGHT", *names]
    return rows["TRANSACTION_ID"].to_numpy(), rows[chosen].to_numpy(float)


def _weekend(at_s: Ints) -> Flags:
    weekend: Flags = (at_s // DAY_S + 3) % 7 >= 5  # 1970-01-01 was a Thursday, Monday = 0
    return weekend


def _night(at_s: Ints) -> Flags:
    night: Flags = at_s % DAY_S // 3_600 <= NIGHT_ENDS_H
    return night


class _Windows:
    """Sums over the last days of each key's rows, the row itself included."""

    def __init__(self, key: Ints, at_s: Ints) -> None:
        self._order = np.lexsort((np.arange(len(key)), at_s, key))
        line = key[self._order] * (2 * int(at_s.max()))  # every key a stretch of its own on one time line
        self._at = line + at_s[self._order]

    def sums(self, values: Floats, days: int) -> Floats:
        """Of `values` in (time - days, time], shape (n,)."""
        running = np.concatenate([[0.0], np.cumsum(values[self._order])])
        first = np.searchsorted(self._at, self._at - days * DAY_S, side="right")
        found = np.empty(len(self._at))
        found[self._order] = running[1:] - running[first]
        return found
