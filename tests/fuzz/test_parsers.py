"""Files, messages and stored states that were changed on the way: taken or refused, never a crash.

`TOLLGATE_MUTATIONS` says how many are tried of each kind; without it, few.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.errors import UserError
from ingestion import file_source, mapping
from tests.fuzz.conftest import SEED
from tests.fuzz.parsers import MAPPING, csvs, parquet, table

pytestmark = pytest.mark.slow
MUTATIONS = int(os.environ.get("TOLLGATE_MUTATIONS", "500"))
AT_ONCE = 5


@pytest.mark.parametrize("name", ["parquet", "csv", "stream", "state", "rule", "mapping", "settings"])
def test_a_parser_takes_or_refuses_what_was_changed(name: str, tmp_path: Path) -> None:
    size = str(max(1, MUTATIONS // AT_ONCE))
    command = [sys.executable, "-m", "tests.fuzz.parsers", name, size, str(SEED), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{name}, seed {SEED}, exit {done.returncode}: {done.stderr[-4_000:]}"
    print(f"{name:10} seed {SEED} {done.stdout.strip()}")  # noqa: T201
    _, taken, _, refused = done.stdout.split()
    assert int(taken) + int(refused) >= MUTATIONS // AT_ONCE * AT_ONCE
    assert int(taken) > 0, "nothing was taken: is the seed right?"
    assert int(refused) > 0


@pytest.fixture
def read(tmp_path: Path) -> mapping.Mapping:
    (tmp_path / "mapping.toml").write_text(MAPPING)
    return mapping.load(tmp_path / "mapping.toml")


def written(folder: Path, changed: pa.Table, **options: object) -> Path:
    pq.write_table(changed, folder / "hostile.parquet", **options)
    return folder / "hostile.parquet"


def refusal(file: Path, read: mapping.Mapping) -> str:
    with pytest.raises(UserError) as refused:
        file_source.payments(file, read, "EUR")
    return str(refused.value)


def test_repeated_long_values_of_a_small_file_are_not_spelled_out_at_once(
    tmp_path: Path, read: mapping.Mapping
) -> None:
    """In one batch 1,600 x 60 kB would be 96 MB; on disk it is next to nothing."""
    n = 1_600
    who = pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, np.int32)), pa.array(["x" * 60_000]))
    rows = pa.concat_tables([table()] * (n // len(table()))).set_column(2, "who", who)
    file = written(tmp_path, rows, compression="zstd")
    assert file.stat().st_size < 1_000_000
    parts = [part.nbytes for part in file_source._batches(file, ["who", "id"])]
    assert len(parts) > 1
    assert max(parts) <= file_source.CHUNK_BYTES
    found = file_source.payments(file, read, "EUR")
    assert len(found.decided) == 0
    assert set(file_source.reasons(found.rejects)) == {"customer_id"}


def test_values_that_nobody_needs_so_long_are_refused(tmp_path: Path, read: mapping.Mapping) -> None:
    rows = table().set_column(2, "who", pa.array(["x" * (file_source.MOST_TEXT_BYTES + 1)] * len(table())))
    assert "bytes a value at most" in refusal(written(tmp_path, rows), read)


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_more_rows_than_memory_has_room_for_are_refused(
    tmp_path: Path, read: mapping.Mapping, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / f"hostile{suffix}"
    file.write_bytes((parquet if suffix == ".parquet" else csvs)(tmp_path)[0])
    rows = len(file_source.payments(file, read, "EUR").decided)
    monkeypatch.setattr(file_source, "MOST_ROWS", rows - 1)
    assert "split the file" in refusal(file, read)


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.int8()), pa.struct({"a": pa.string()}), pa.map_(pa.string(), pa.int8())]
)
@pytest.mark.parametrize("name", ["id", "at", "amount", "fraud"])
def test_a_nested_column_is_refused(
    tmp_path: Path, read: mapping.Mapping, name: str, kind: pa.DataType
) -> None:
    at = table().column_names.index(name)
    assert name in refusal(
        written(tmp_path, table().set_column(at, name, pa.nulls(len(table()), kind))), read
    )


@pytest.mark.parametrize(
    "kind",
    [
        *(pa.binary(), pa.time64("us"), pa.duration("us"), pa.decimal128(38, 4), pa.decimal256(60, 2)),
        *(pa.bool_(), pa.null(), pa.float16(), pa.uint64(), pa.date32(), pa.large_string()),
        pa.timestamp("ns", "Mars/Base"),
    ],
)
@pytest.mark.parametrize("name", ["id", "at", "amount", "fraud"])
def test_a_column_of_another_type_is_read_or_refused(
    tmp_path: Path, read: mapping.Mapping, name: str, kind: pa.DataType
) -> None:
    at = table().column_names.index(name)
    file = written(tmp_path, table().set_column(at, name, pa.nulls(len(table()), kind)))
    try:
        found = file_source.payments(file, read, "EUR")
    except UserError as error:
        told = str(error)
    else:
        told = "expected" if len(found.decided) + found.rejects.num_rows == len(table()) else "rows were lost"
    assert "expected" in told


def test_two_columns_of_one_name_are_refused(tmp_path: Path, read: mapping.Mapping) -> None:
    assert "several of that name" in refusal(
        written(tmp_path, table().append_column("id", table()["id"])), read
    )


def test_text_that_is_no_utf8_is_refused(tmp_path: Path, read: mapping.Mapping) -> None:
    bad = pa.Array.from_buffers(
        pa.string(), len(table()), pa.array([b"\xff"] * len(table()), pa.binary()).buffers()
    )
    assert "expected" in refusal(written(tmp_path, table().set_column(2, "who", bad)), read)
