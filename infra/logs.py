"""One line a log record: time in UTC, level, who, what, and the facts as JSON."""

import json
import logging
import sys
import time
from typing import TextIO

from infra.card_numbers import masked


class OneLine(logging.Formatter):
    """Writes `2026-03-01T12:00:00.123Z INFO serving.worker: batch done {"events": 5}`.

    The facts are what the call passed as `extra={"facts": {...}}`; an exception is folded into the line.
    A card number, wherever it came from, is masked.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Give the record's line, without line breaks."""
        stamp = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{record.msecs:03.0f}Z"
        parts = [f"{stamp} {record.levelname} {record.name}: {record.getMessage()}"]
        if facts := getattr(record, "facts", None):
            parts.append(json.dumps(facts, default=str))
        if record.exc_info:
            parts.append(self.formatException(record.exc_info))
        return masked(" ".join(parts)).replace("\n", "\\n")


def setup(level: str = "INFO", out: TextIO | None = None) -> None:
    """Send every log record of this process to `out` (stderr), one line each; a process does it once."""
    handler = logging.StreamHandler(out or sys.stderr)
    handler.setFormatter(OneLine())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for chatty in ("kafka", "httpx", "httpcore", "uvicorn.access", "feast", "matplotlib"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
