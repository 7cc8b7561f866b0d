"""The life of one part, shown with small programs in place of servers."""

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from infra.errors import UserError
from infra.stack import processes
from infra.stack.board import Board, Status
from infra.stack.folder import Folder, rotate, tail
from infra.stack.ours import told_ready
from infra.stack.part import Part, Place, Say
from infra.stack.ports import answers, free_from, is_free
from infra.stack.processes import Identity, identify
from infra.stack.runner import Runner

pytestmark = pytest.mark.slow  # it waits for processes

READY = "import os, pathlib, time; pathlib.Path(os.environ['TOLLGATE_READY']).touch(); time.sleep(60)"
Run = Callable[[Part], Runner]


def python(script: str) -> Callable[[Place], list[str]]:
    return lambda _place: [sys.executable, "-S", "-c", script]


LIVELY = Part("lively", python(READY), told_ready)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    for name in ("logs", "run"):
        (tmp_path / name).mkdir()
    return Folder(tmp_path)


@pytest.fixture
def board(folder: Folder) -> Board:
    me = identify(os.getpid())
    assert me
    return Board(folder, me)


@pytest.fixture
def run(folder: Folder, board: Board) -> Iterator[Run]:
    """Starts runners, and stops them in the end."""
    runners: list[Runner] = []

    def start(part: Part) -> Runner:
        board.add(part)
        runners.append(Runner(part, folder, board))
        runners[-1].start()
        return runners[-1]

    yield start
    for runner in runners:
        runner.ask_to_stop()
    for runner in runners:
        runner.join(10)
    assert not processes.marked(folder.home)


def until(board: Board, name: str, true: Callable[[Status], bool]) -> Status:
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        status = board.of(name)
        if status and true(status):
            return status
        time.sleep(0.02)
    raise AssertionError(f"{name} is {board.of(name)}")


def is_healthy(status: Status) -> bool:
    return status.state == "healthy"


def has_failed(status: Status) -> bool:
    return status.state == "failed"


def test_a_part_that_is_killed_starts_again(run: Run, board: Board) -> None:
    run(LIVELY)
    first = until(board, "lively", is_healthy).process
    assert first
    os.kill(first.pid, signal.SIGKILL)
    again = until(board, "lively", lambda status: is_healthy(status) and status.process != first)
    assert again.restarts == 1


def test_what_a_dead_part_left_behind_ends_too(run: Run, board: Board, folder: Folder) -> None:
    child = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"
    run(replace(LIVELY, command=python(f"{child}; {READY}")))
    first = until(board, "lively", is_healthy).process
    assert first
    assert len(processes.marked(folder.home, "lively")) == 2
    os.kill(first.pid, signal.SIGKILL)
    until(board, "lively", lambda status: is_healthy(status) and status.process != first)
    assert len(processes.marked(folder.home, "lively")) == 2


def test_a_part_that_never_gets_healthy_fails_with_its_code(run: Run, board: Board, folder: Folder) -> None:
    run(replace(LIVELY, command=python("print('no luck'); raise SystemExit(7)")))
    assert "ended with code 7" in until(board, "lively", has_failed).note
    assert "no luck" in tail(folder.log("lively"))


def test_a_part_that_does_not_answer_fails(run: Run, board: Board) -> None:
    run(replace(LIVELY, answers=lambda _place: False, patience_s=0.3))
    assert "did not answer within 0 s" in until(board, "lively", has_failed).note


def test_a_part_that_cannot_be_prepared_says_why(run: Run, board: Board) -> None:
    def prepare(_place: Place, _say: Say) -> None:
        raise UserError("no jars.")

    run(replace(LIVELY, prepare=prepare))
    assert until(board, "lively", has_failed).note == "no jars."


def test_a_part_waits_for_what_it_needs(run: Run, board: Board) -> None:
    board.add(LIVELY)
    run(replace(LIVELY, name="eager", needs=("lively", "nobody")))
    assert until(board, "eager", lambda status: bool(status.note)).note == "waits for lively"
    run(LIVELY)
    until(board, "eager", is_healthy)


def test_a_part_that_ignores_the_polite_signal_is_killed(run: Run, board: Board) -> None:
    deaf = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {READY}"
    runner = run(replace(LIVELY, command=python(deaf), grace_s=0.3))
    until(board, "lively", is_healthy)
    runner.ask_to_stop()
    runner.join(5)
    assert not runner.is_alive()


def test_a_taken_port_moves() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert not is_free(port)
        moved = free_from(port)
    assert moved > port
    assert free_from(moved, frozenset({moved})) > moved


def test_the_answer_of_another_stack_is_not_taken_for_its_own(run: Run, board: Board) -> None:
    foreign: list[socket.socket] = []

    def lose_the_port(place: Place, _say: Say) -> None:
        if not foreign:
            foreign.append(socket.create_server(("127.0.0.1", place.port)))

    listen = (
        "import socket, sys, time; _ = socket.create_server(('127.0.0.1', int(sys.argv[1]))); time.sleep(60)"
    )
    second = Part(
        "second",
        lambda place: [sys.executable, "-S", "-c", listen, str(place.port)],
        lambda place: answers(place.port),
        port=free_from(23_000),
        prepare=lose_the_port,
    )
    run(second)
    try:
        assert until(board, "second", is_healthy).port > second.port
    finally:
        foreign[0].close()


def test_a_process_is_not_mistaken_for_a_later_one_of_its_id() -> None:
    me = identify(os.getpid())
    assert me
    assert processes.find(me)
    assert processes.find(Identity(me.pid, me.started - 100)) is None


def test_logs_rotate(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infra.stack.folder.LOG_BYTES", 3)
    log = folder.log("part")
    for number in range(6):
        log.write_text(f"run {number}")
        rotate(log)
    assert [path.read_text() for path in sorted(log.parent.iterdir())] == ["run 5", "run 4", "run 3"]
