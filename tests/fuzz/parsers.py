"""Run as a process: gives one parser mutated input, in little memory; a crash ends this process alone.

`python -m tests.fuzz.parsers NAME EXAMPLES SEED FOLDER` prints how often it was taken and refused.
"""

import resource
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from features.connection import StoreError
from features.fraud import CUSTOMER
from features.online import Codec
from infra import settings as our_settings
from infra.errors import UserError
from ingestion import file_source, mapping
from ingestion.streams import FRAUD_EVENT, batch_of, decode, encode
from tests.fuzz.mutated import mutated
from training.conditions import compiled

MEMORY = 6 * 1024**3
"""Address space; Arrow and numba have most of it before they do anything."""
N = 200
Parse = Callable[[bytes], object]

MAPPING = """[transactions]
transaction_id = "id"
event_time = "at"
customer_id = "who"
terminal_id = "where"
amount = "amount"
[labels]
label = "fraud"
delay_days = 7
"""


def table() -> pa.Table:
    """Payments of every kind of column that a file may have."""
    at = [datetime(2026, 3, 1, 12, i % 60, tzinfo=UTC) for i in range(N)]
    return pa.table(
        {
            "id": [f"t-{i}" for i in range(N)],
            "at": pa.array(at, pa.timestamp("us", "UTC")),
            "who": pa.array([f"c-{i % 7}" for i in range(N)]).dictionary_encode(),
            "where": np.arange(N) % 5,
            "amount": np.linspace(0.0, 500.0, N),
            "fraud": [i % 9 == 0 for i in range(N)],
            "unused": [[i] for i in range(N)],
        }
    )


def parquet(folder: Path) -> list[bytes]:
    """Small files of several layouts."""
    made = []
    options = ({}, {"compression": "zstd", "version": "1.0"}, {"use_dictionary": False, "row_group_size": 50})
    for each in options:
        pq.write_table(table(), folder / "seed.parquet", **each)
        made.append((folder / "seed.parquet").read_bytes())
    return made


def csvs(folder: Path) -> list[bytes]:
    """One file as text, in two ways."""
    plain = table().drop_columns(["unused"]).set_column(2, "who", table()["who"].cast(pa.string()))
    csv.write_csv(plain, folder / "seed.csv")
    written = (folder / "seed.csv").read_bytes()[:3_000].rpartition(b"\n")[0]
    return [written, written.replace(b"\n", b"\r\n").replace(b'"', b"")]


def read_file(folder: Path, suffix: str) -> Parse:
    """Payments and labels of a file."""
    (folder / "mapping.toml").write_text(MAPPING)
    read, file = mapping.load(folder / "mapping.toml"), folder / f"hostile{suffix}"

    def parse(raw: bytes) -> object:
        file.write_bytes(raw)
        return file_source.payments(file, read, "EUR")

    return parse


def toml(folder: Path, load: Callable[[Path], object]) -> Parse:
    """A file of settings or of a mapping."""
    file = folder / "hostile.toml"

    def parse(raw: bytes) -> object:
        file.write_bytes(raw)
        return load(file)

    return parse


def state(raw: bytes) -> object:
    """A state of Redis, its fields cut at the same places for all."""
    codec = Codec(CUSTOMER)
    reply = [raw[i * 9 : (i + 1) * 9] or None for i in range(len(CUSTOMER.columns))]
    rest = raw[len(CUSTOMER.columns) * 9 :]
    return codec.decode([[*reply, rest[:8] or None, rest[8:] or None]])


def rule(raw: bytes) -> object:
    """A condition, and what it gives."""
    with np.errstate(all="ignore"):
        return compiled(raw.decode("utf-8", "replace"), ("amount", "rate"))(np.array([[1.0, np.nan]]))


RULES = [
    b"amount > 100 AND NOT rate <= 0.5",
    b"amount BETWEEN 1 AND 2 OR rate IN (1, -2, 3e5) OR rate IS NOT NULL",
    b"NOT " * 30 + b"amount = 1",
    b"(" * 500 + b"amount" + b")" * 500 + b" > 1",
    b"LEAST(amount, ABS(rate), GREATEST(1, amount / rate)) <> - - - 3",
]
DEEP = [
    b"a = " + b"[" * 50_000,
    b"a = " + b"{b=" * 20_000,
    b"a = " + b"9" * 5_000,
    b"[" + b"a." * 5_000 + b"b]",
]


def parsers(name: str, folder: Path) -> tuple[Sequence[bytes], Parse]:
    """What it is given at first, and the parser."""
    rows = [{"kind": 0, "transaction_id": f"t-{i}", "amount": float(i), "decision": b"{}"} for i in range(9)]
    match name:
        case "parquet":
            return parquet(folder), read_file(folder, ".parquet")
        case "csv":
            return csvs(folder), read_file(folder, ".csv")
        case "stream":
            message = encode(batch_of(rows, FRAUD_EVENT))
            return [message, encode(pa.record_batch({"a": [1]}))], lambda raw: decode(raw, FRAUD_EVENT)
        case "state":
            good = (
                (b"\x29" + bytes(8)) * len(CUSTOMER.columns)
                + b"\x20\x05"
                + bytes(6)
                + b"\x08\x80\xd8\xdc\xb2\x06"
            )
            return [good, good[:9] * 3, b"\xff" * 2_000], state
        case "rule":
            return RULES, rule
        case "mapping":
            return [MAPPING.encode(), *DEEP], toml(folder, mapping.load)
        case "settings":
            return [our_settings.DEFAULTS.read_bytes(), *DEEP], toml(folder, our_settings.load)
    raise ValueError(name)


def main(name: str, examples: int, seed_of_it: int, folder: Path) -> None:
    """Try it; whatever the parser raises beside its own errors ends the process with a traceback."""
    seeds, parse = parsers(name, folder)
    for raw in seeds:
        told(parse, raw)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    seen: Counter[str] = Counter()

    @seed(seed_of_it)
    @settings(
        max_examples=examples,
        phases=[Phase.generate],
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(mutated(seeds), min_size=5, max_size=5))
    def tried(raws: list[bytes]) -> None:
        for raw in raws:
            seen[told(parse, raw)] += 1

    tried()
    print(f"taken {seen['taken']} refused {seen['refused']}")  # noqa: T201


def told(parse: Parse, raw: bytes) -> str:
    """`taken`, or `refused` by one of our own errors, which is a short sentence."""
    try:
        parse(raw)
    except (UserError, StoreError) as error:
        said = str(error)
    else:
        return "taken"
    assert 10 < len(said) < 2_000, said[:3_000]
    assert "Traceback" not in said
    return "refused"


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
