"""The outbox keeps what it said it would, and nothing that it did not."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.outbox import MOST_RECORD_BYTES, Kept, Outbox, OutboxFullError, frame, frames
from serving.stage import Outgoing

MB = 2**20

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
records = st.builds(
    Kept,
    texts,
    st.builds(
        Outgoing,
        texts,
        st.none() | st.binary(max_size=50),
        st.none() | st.binary(max_size=10),
        st.lists(st.tuples(texts, st.binary(max_size=20)), max_size=3),
        st.none(),
    ),
)


def named(n: int, size: int = 10) -> Kept:
    return Kept(f"t:{n}", Outgoing("transactions", b"v" * size, b"c-1", [("decision", b"%d" % n)]))


def of(folder: Path) -> list[Kept]:
    """What lies in the files of a folder."""
    return [kept for file in sorted(folder.iterdir()) for _, _, kept in frames(file.read_bytes())]


def names(box: Outbox) -> list[str]:
    return [entry.name for entry, _ in box.first(10**6, 10**9)]


@given(st.lists(records, max_size=5), st.data())
def test_a_torn_tail_takes_only_itself(kept: Sequence[Kept], data: st.DataObject) -> None:
    whole = [frame(each) for each in kept]
    cut = data.draw(st.integers(0, len(b"".join(whole))))
    ends = [sum(map(len, whole[: i + 1])) for i in range(len(whole))]
    found = [each for _, _, each in frames(b"".join(whole)[:cut])]
    assert found == list(kept[: sum(end <= cut for end in ends)])


@given(st.lists(records, min_size=1, max_size=4), st.data())
def test_a_frame_that_was_changed_is_none(kept: Sequence[Kept], data: st.DataObject) -> None:
    raw = bytearray(b"".join(map(frame, kept)))
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    found = [each for _, _, each in frames(bytes(raw))]
    assert found == list(kept[: len(found)])
    assert len(found) < len(kept)


@given(st.binary(max_size=200))
def test_any_bytes_can_be_read(raw: bytes) -> None:
    list(frames(raw))


def test_what_is_put_is_on_disk_in_order_and_found_by_its_name(tmp_path: Path) -> None:
    async def put() -> None:
        box = Outbox(tmp_path, MB)
        await asyncio.gather(*(box.put([named(2 * n), named(2 * n + 1)]) for n in range(50)))
        assert names(box) == [f"t:{n}" for n in range(100)]
        assert [each.name for each in of(tmp_path)] == names(box)
        assert box.find("t:7") == named(7).record
        box.drop(8)
        assert (box.find("t:7"), box.find("t:8")) == (None, named(8).record)
        box.drop(92)
        assert (len(box), of(tmp_path)) == (0, [])
        await box.put([named(200)])
        assert [each.name for each in of(tmp_path)] == ["t:200"]
        (file,) = tmp_path.iterdir()
        assert file.stat().st_mode & 0o777 == 0o600
        box.close()

    asyncio.run(put())


def test_it_takes_no_more_than_it_may(tmp_path: Path) -> None:
    size = len(frame(named(0)))

    async def put() -> None:
        box = Outbox(tmp_path, 5 * size)
        puts = await asyncio.gather(*(box.put([named(n)]) for n in range(8)), return_exceptions=True)
        assert [type(each) for each in puts] == [type(None)] * 5 + [OutboxFullError] * 3
        with pytest.raises(OutboxFullError, match="full: 5 records"):
            await box.put([named(9)])
        box.drop(5)
        with pytest.raises(OutboxFullError, match="full"):
            await box.put([named(n) for n in range(6)])
        await box.put([named(9)])
        assert names(box) == ["t:9"]
        with pytest.raises(OutboxFullError, match="too large"):
            await box.put([named(0, MOST_RECORD_BYTES)])
        box.close()

    asyncio.run(put())


DIES = """
import asyncio, os, signal, sys
from pathlib import Path
from serving.outbox import Outbox
from tests.serving.test_outbox import named
async def put():
    box = Outbox(Path(sys.argv[1]), 2**30)
    await asyncio.gather(*(box.put([named(n, 2000)]) for n in range(3000)))
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(put())
"""


def test_the_next_process_takes_over_from_a_dead_one_but_not_from_a_living(tmp_path: Path) -> None:
    died = subprocess.run(
        [sys.executable, "-c", DIES, str(tmp_path)], check=False, cwd=Path(__file__).parents[2]
    )
    assert died.returncode == -9
    (left,) = tmp_path.iterdir()
    with left.open("ab") as file:
        file.write(frame(named(3_000))[:-1])

    async def take() -> None:
        first, second = Outbox(tmp_path, 2**30), Outbox(tmp_path, 2**30)
        taken = await asyncio.gather(first.take_over(), second.take_over())
        assert sorted(taken) == [0, 3_000]
        assert names(first) + names(second) == [f"t:{n}" for n in range(3_000)]
        assert not left.exists()
        assert await first.take_over() == await second.take_over() == 0
        first.close()
        second.close()
        assert len(of(tmp_path)) == 3_000, "the empty one is gone, the other waits for the next process"
        third = Outbox(tmp_path, MB)
        assert await third.take_over() == 0
        assert len(third) == 0, "a part of it would take the room and go out twice"
        assert len(of(tmp_path)) == 3_000, "what has no room stays where it is"
        third.close()

    asyncio.run(take())


def test_a_full_disk_refuses_and_tears_nothing(tmp_path: Path) -> None:
    async def put() -> None:
        box = Outbox(tmp_path, MB)
        await box.put([named(0)])
        mine, full = box._file._handle, os.open("/dev/full", os.O_RDWR)
        box._file._handle = full
        with pytest.raises(OutboxFullError, match="No space left"):
            await box.put([named(1)])
        box._file._handle = mine
        await box.put([named(2)])
        assert names(box) == ["t:0", "t:2"]
        assert [each.name for each in of(tmp_path)] == ["t:0", "t:2"]
        box.close()
        os.close(full)

    asyncio.run(put())
