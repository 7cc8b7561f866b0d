"""The stack with its real servers: what is up, what moves, what comes back, and that nothing is left."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from infra import settings
from infra.errors import UserError
from infra.stack import board, probes, processes
from infra.stack.doctor import examine
from infra.stack.local import Stack

pytestmark = pytest.mark.servers


def until(true: Callable[[], object], limit_s: float = 30) -> None:
    deadline = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < deadline, "that took too long"
        time.sleep(0.05)


def nothing_runs(stack: Stack) -> bool:
    return not processes.marked(stack.folder.home)


def command(stack: Stack, *words: str) -> list[str]:
    return [sys.executable, "-m", "infra.cli", *words]


def send(port: int, line: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), 5) as connection:
        connection.sendall(line + b"\r\n")
        return connection.recv(100)


def test_up_status_down_and_nothing_is_left(stack: Stack) -> None:
    started = {status.name: status for status in stack.up(["kafka", "valkey", "mlflow"])}
    addresses = settings.load().addresses
    assert addresses.kafka == started["kafka"].address
    assert addresses.redis == started["valkey"].address
    assert addresses.mlflow == started["mlflow"].address
    assert probes.kafka_answers(started["kafka"].port)
    assert probes.http_answers(started["mlflow"].port, "/health")
    assert all(finding.ok for finding in examine(stack) if finding.about in started)
    stack.down()
    assert nothing_runs(stack)
    assert not settings.addresses_file(stack.folder.home).exists()
    assert {status.state for status in stack.status()} == {"stopped"}
    again = stack.up(["kafka"])
    assert again[0].state == "healthy"


def test_data_survives_down_but_not_a_purge(stack: Stack) -> None:
    port = stack.up(["valkey"])[0].port
    assert send(port, b"SET fish 1") == b"+OK\r\n"
    stack.down()
    port = stack.up(["valkey"])[0].port
    assert send(port, b"GET fish") == b"$1\r\n1\r\n"
    stack.down(purge=True)
    assert not stack.folder.home.exists()


def test_a_killed_server_comes_back_with_its_data(stack: Stack) -> None:
    before = stack.up(["valkey"])[0]
    assert before.process
    send(before.port, b"SET fish 1")
    os.kill(before.process.pid, signal.SIGKILL)

    def back() -> bool:
        now = stack.status()[1]
        return now.state == "healthy" and now.restarts == 1 and now.port == before.port

    until(back)
    assert send(before.port, b"GET fish") == b"$1\r\n1\r\n"


def test_nothing_outlives_a_killed_supervisor(stack: Stack) -> None:
    stack.up(["valkey"])
    report = stack.report()
    assert report
    os.kill(report.supervisor.pid, signal.SIGKILL)
    if sys.platform == "linux":
        until(lambda: nothing_runs(stack))
    until(lambda: stack.report() is None)
    assert stack.up(["valkey"])[0].state == "healthy"
    stack.down()
    assert nothing_runs(stack)


def test_down_finds_what_a_killed_supervisor_left(stack: Stack) -> None:
    """A part that the kernel did not end together with its supervisor, as on a system that cannot."""
    stack.folder.home.mkdir()
    stack.folder.lock.touch()
    marks = {**os.environ, processes.STACK: str(stack.folder.home)}
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], env=marks) as stray:
        until(lambda: stack.leftovers() == [stray.pid])
        assert any("tollgate down" in finding.sentence for finding in examine(stack) if not finding.ok)
        stack.down()
        stray.wait(5)


def test_a_second_up_adds_parts_and_keeps_the_first(stack: Stack) -> None:
    valkey = stack.up(["valkey"])[0]
    both = stack.up(["valkey", "kafka"])
    assert valkey in both
    assert {status.name for status in both} == {"kafka", "valkey"}


def test_a_taken_port_moves_and_status_says_so(stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    from infra import cli

    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind(("127.0.0.1", 6379))
            taken.listen()
        except OSError:
            pass  # somebody has it already: as good
        valkey = stack.up(["valkey"])[0]
        assert valkey.port > 6379
        assert cli.run(["status"]) == 0
    assert "(port 6379 was taken)" in capsys.readouterr().out


def test_two_stacks_live_side_by_side(stack: Stack, tmp_path: Path) -> None:
    other = Stack(tmp_path / "other")
    try:
        one, two = stack.up(["valkey"])[0], other.up(["valkey"])[0]
        assert one.port != two.port
        other.down()
        assert send(one.port, b"PING") == b"+PONG\r\n"
    finally:
        other.down(purge=True)


def hear_ctrl_c() -> None:
    """What a shell starts in the background ignores it, and so does all that it starts."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_ctrl_c_during_up_takes_all_of_it_down(stack: Stack) -> None:
    asked = command(stack, "up", "--only", "mlflow,valkey")
    with subprocess.Popen(asked, stderr=subprocess.PIPE, preexec_fn=hear_ctrl_c) as up:
        until(lambda: stack.status()[2].state == "starting")
        up.send_signal(signal.SIGINT)
        _, error = up.communicate(timeout=30)
    assert up.returncode == 130
    assert error.endswith(b"tollgate: interrupted\n")
    assert b"Traceback" not in error
    assert nothing_runs(stack)


def test_a_part_that_cannot_start_is_named_with_its_log(stack: Stack) -> None:
    stack.folder.data("valkey").mkdir(parents=True)
    (stack.folder.data("valkey") / "appendonlydir").write_text("in the way")
    with pytest.raises(UserError, match=r"(?s)valkey did not start.*valkey\.log ends with"):
        stack.up(["valkey"])
    assert nothing_runs(stack)


def test_the_stack_ends_when_its_folder_is_removed(stack: Stack) -> None:
    import shutil

    stack.up(["valkey"])
    shutil.rmtree(stack.folder.home)
    until(lambda: nothing_runs(stack))


def test_a_foreign_folder_is_never_purged(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(UserError, match="not removed"):
        Stack(tmp_path).down(purge=True)
    assert (tmp_path / "precious.txt").exists()


def test_json_for_machines(stack: Stack) -> None:
    up = subprocess.run(command(stack, "up", "--only", "valkey", "--json"), capture_output=True, check=True)
    assert json.loads(up.stdout)[0]["state"] == "healthy"
    assert up.stderr == b""
    assert board.read(stack.folder)
    down = subprocess.run(command(stack, "down", "--json"), capture_output=True, check=True)
    assert json.loads(down.stdout) == {"stopped": True, "purged": False}
