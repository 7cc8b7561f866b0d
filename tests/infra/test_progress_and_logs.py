"""Progress without a terminal, and log lines."""

import io
import json
import logging

import pytest

from infra import logs, progress


class Clock:
    """A clock that is set by hand, in seconds."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_lines_come_now_and_then() -> None:
    out, clock = io.StringIO(), Clock()
    task = progress.Lines(out, clock).task("Reading", total=1000, unit="rows")
    for _ in range(10):
        clock.now += 1
        task.advance(100)
    assert out.getvalue().splitlines() == [
        "Reading: 500 of 1,000 rows (50 %)",
        "Reading: 1,000 of 1,000 rows (100 %)",
    ]


def test_a_note_is_told_once() -> None:
    out = io.StringIO()
    task = progress.Lines(out, Clock()).task("kafka")
    task.say("starting")
    task.say("starting")
    task.finish("healthy")
    assert out.getvalue() == "kafka: starting\nkafka: healthy\n"


def test_silence_for_machines(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.working("Reading", silent=True) as task:
        task.advance()
        task.say("half")
    assert capsys.readouterr().err == ""


def test_bars_on_a_terminal() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    out = Terminal()
    with progress.shown(out=out) as display:
        task = display.task("Reading", unit="rows")
        task.expect(10)
        task.advance(5)
        task.finish("done")
    assert "Reading" in out.getvalue()
    assert "done" in out.getvalue()


@pytest.mark.parametrize("fails", [True, False])
def test_a_record_is_one_line(fails: bool) -> None:
    record = logging.LogRecord("infra.stack", logging.INFO, "f.py", 1, "batch %s", ("done",), None)
    record.created, record.msecs = 1772366400.123, 123
    record.facts = {"events": 5}
    if fails:
        try:
            raise ValueError("two\nlines")
        except ValueError as error:
            record.exc_info = (ValueError, error, error.__traceback__)
    line = logs.OneLine().format(record)
    assert line.startswith('2026-03-01T12:00:00.123Z INFO infra.stack: batch done {"events": 5}')
    assert "\n" not in line
    assert json.loads(line[line.index("{") : line.index("}") + 1]) == {"events": 5}
