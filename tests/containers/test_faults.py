"""The short set of `make faults`: the very compose stack is disturbed under load, and loses nothing."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.containers.composed import left_over
from tests.containers.conftest import free_ports
from tests.faults.__main__ import tried
from tests.faults.faults import FAULTS, SHORT
from tests.faults.report import BEGIN, END, line, written
from tests.faults.stack import PORTS, Stack
from tests.faults.trial import Observed

SEED = int(os.environ.get("TOLLGATE_FAULTS_SEED", "0")) or time.time_ns() % 10**6
SEEN = Observed(
    "kill -9 redis",
    20.0,
    {"200": 3, "200 degraded": 1},
    {"503 with Retry-After": 2},
    p99_s=0.1,
    slowest_s=0.25,
    late=[],
    in_budget=True,
    back_s=4.0,
    caught_up_s=1.0,
    audited=9,
    repeated=0,
    differences={},
    first=[],
    unexpected={},
)


@pytest.fixture(scope="module")
def stack(engine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The whole system with two workers, under a name and on ports of its own."""
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    mine = Stack(f"tollgate-faults-{os.getpid()}", ports, tmp_path_factory.mktemp("faults"))
    try:
        mine.up()
        yield mine
    finally:
        mine.down()
    assert left_over(mine.project) == []


@pytest.mark.containers
@pytest.mark.timeout(1500)
def test_nothing_is_lost_when_something_fails(stack: Stack) -> None:
    seen = tried(stack, SHORT, SEED)
    told = f"seed {SEED} (TOLLGATE_FAULTS_SEED repeats it): {seen}"
    assert [each.fault for each in seen if each.lost or each.error] == [], told
    assert all(each.scores.get("200") for each in seen), told
    assert seen[-1].audited > 100, told


def test_every_fault_has_a_name_of_its_own() -> None:
    names = [each.name for each in FAULTS]
    assert len(set(names)) == len(names)
    assert {each.name for each in SHORT if each.lasts_s == 5.0} <= set(names)


def test_the_table_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    file = tmp_path / "reliability.md"
    file.write_text(f"# Before\n{BEGIN}\nold\n{END}\nafter\n", "utf-8")
    written(file, [SEEN], "Made today.")
    text = file.read_text("utf-8")
    assert text.startswith(f"# Before\n{BEGIN}\nMade today.\n\n| fault |")
    assert text.endswith(f"{line(SEEN)}\n{END}\nafter\n")
    assert "old" not in text
    assert "| 3 × 200, 1 × 200 degraded | 2 × 503 with Retry-After | 25% | 100, 250 ms | 4 s | 0 |" in text
