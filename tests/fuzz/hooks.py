"""Loaded by schemathesis (`SCHEMATHESIS_HOOKS`): counts the answers, and looks for what no answer may hold.

`TOLLGATE_FUZZ_TABLE` names the file that is told how often each call was answered with each status.
"""

import atexit
import json
import os
import re
import threading
from collections import Counter
from pathlib import Path

import schemathesis

from serving.problems import SAFE

TELLTALE = re.compile(
    r"Traceback \(most recent|\bline \d+, in |site-packages|\w\.py\b|/tmp/|/home/|object at 0x"
    r"|127\.0\.0\.1:\d"
)
"""Of a stack trace, a path or an address of ours."""
_lock = threading.Lock()
_answers: dict[str, Counter[str]] = {}


@schemathesis.hook
def after_call(ctx, case, response):  # type: ignore[no-untyped-def]  # noqa: ANN201, ANN001
    with _lock:
        told = _answers.setdefault(f"{case.operation.method.upper()} {case.operation.path}", Counter())
        told[str(response.status_code)] += 1


@schemathesis.check
def tells_nothing_of_us(ctx, response, case) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    """No stack trace, path or address, unless the caller sent it."""
    sent = str(case.as_curl_command())
    for found in TELLTALE.finditer(response.text or ""):
        assert found[0] in sent, f"an answer tells {found[0]!r}: {response.text[:500]}"


@schemathesis.check
def safe_headers(ctx, response, case) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    """Every answer says how little a browser may do with it."""
    for name in SAFE:
        assert response.headers.get(name.lower()), f"no header {name} on {response.status_code}"
    assert "server" not in response.headers


@atexit.register
def _tell() -> None:
    if place := os.environ.get("TOLLGATE_FUZZ_TABLE"):
        Path(place).write_text(json.dumps(_answers))
