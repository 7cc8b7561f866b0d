"""The command line: the list, wrong calls, failures, Ctrl-C."""

import os
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import pytest
import typer

from infra import cli
from infra.errors import UserError

Give = Callable[[Callable[..., object]], None]


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> Give:
    """Makes a function the verb `act`."""

    def give(function: Callable[..., object]) -> None:
        module = types.ModuleType("acting")
        module.act = function  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "acting", module)
        monkeypatch.setitem(cli.VERBS, "act", cli.Verb("acting:act", "Act."))

    return give


def test_help_lists_every_verb_fast_and_without_heavy_imports() -> None:
    script = "import sys; from infra import cli; cli.run(['--help']); sys.stderr.write(' '.join(sys.modules))"
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert time.perf_counter() - started < 2
    assert all(f"\n  {name} " in done.stdout for name in cli.VERBS)
    assert not {"numpy", "mlflow", "feast", "typer"} & set(done.stderr.split())


def test_an_unknown_verb_suggests_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["evalute"]) == 1
    error = capsys.readouterr().err
    assert "Did you mean `evaluate`?" in error
    assert error.count("\n") == 1


def test_run_names_the_processes(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["run"]) == 1
    assert "worker, history, api, retrainer" in capsys.readouterr().err
    assert cli.run(["run", "wrker"]) == 1
    assert "Did you mean `worker`?" in capsys.readouterr().err


def test_arguments_and_options_reach_the_function(verb: Give, capsys: pytest.CaptureFixture[str]) -> None:
    def act(task: str, as_json: Annotated[bool, typer.Option("--json")] = False) -> None:
        typer.echo(f"{task} {as_json}")

    verb(act)
    assert cli.run(["act", "fraud", "--json"]) == 0
    assert capsys.readouterr().out == "fraud True\n"


def test_a_wrong_option_is_code_2(verb: Give) -> None:
    verb(lambda: None)
    assert cli.run(["act", "--nonsense"]) == 2


def test_an_exit_keeps_its_code(verb: Give) -> None:
    def act() -> None:
        raise typer.Exit(3)

    verb(act)
    assert cli.run(["act"]) == 3


def test_a_failure_is_one_sentence_and_code_1(verb: Give, capsys: pytest.CaptureFixture[str]) -> None:
    def act() -> None:
        raise UserError("expected a fish, got a bicycle.")

    verb(act)
    assert cli.run(["act"]) == 1
    assert capsys.readouterr().err == "tollgate: expected a fish, got a bicycle.\n"


def test_ctrl_c_is_code_130_and_one_line(verb: Give, capsys: pytest.CaptureFixture[str]) -> None:
    def act() -> None:
        raise KeyboardInterrupt

    verb(act)
    assert cli.run(["act"]) == 130
    assert capsys.readouterr().err == "tollgate: interrupted\n"


def test_a_bug_is_a_crash(verb: Give) -> None:
    def act() -> None:
        raise ZeroDivisionError

    verb(act)
    with pytest.raises(ZeroDivisionError):
        cli.run(["act"])


@pytest.mark.parametrize("name", ["up", "down", "status", "doctor"])
def test_every_verb_of_the_stack_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([name, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"Example: tollgate {name}" in text
    assert "--json" in text


def test_nothing_calls_home_unless_somebody_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY")
    monkeypatch.setenv("DO_NOT_TRACK", "false")
    assert cli.run(["--version"]) == 0
    assert (os.environ["MLFLOW_DISABLE_TELEMETRY"], os.environ["DO_NOT_TRACK"]) == ("true", "false")


def test_nobody_is_forgotten_while_redis_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TOLLGATE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TOLLGATE_ADDRESSES__REDIS", "redis://127.0.0.1:1/0")
    assert cli.run(["forget", "c-17"]) == 1
    assert "nobody is forgotten while Redis is away" in capsys.readouterr().err
