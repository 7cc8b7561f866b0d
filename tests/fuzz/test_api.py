"""Every call of the OpenAPI document with what fits it and what does not, by schemathesis.

`TOLLGATE_CASES` says how many requests are sent at least to real servers; without it, few. What schemathesis
can't send, bytes that are no JSON and bodies that don't tell their length, is sent beside it.
"""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from serving.access import NEEDS
from serving.problems import MEDIA_TYPE, SAFE
from tests.fuzz.conftest import SEED, System
from tests.fuzz.hooks import TELLTALE
from tests.hostile import bodies

pytestmark = [pytest.mark.servers, pytest.mark.slow]

CASES = int(os.environ.get("TOLLGATE_CASES", "600"))
WALKERS = 2 if CASES > 5_000 else 1
BODIES = 10
"""Calls that take one; the others have so few inputs that they are soon through."""
KINDS = ["application/json"] * 8 + [
    "",
    "text/plain",
    "application/x-www-form-urlencoded",
    "multipart/form-data",
    "a/b;;",
]
CONFIG = Path(__file__).with_name("schemathesis.toml")
type_of_table = dict[str, Counter[str]]


def walked(system: System, folder: Path) -> tuple[str, type_of_table]:
    """Schemathesis at work; gives the faults it told of, and the answers by call and status."""
    walkers = [_walker(system, folder, SEED + i) for i in range(WALKERS)]
    told = [walker.communicate()[0] for walker in walkers]
    faults = [said for walker, said in zip(walkers, told, strict=True) if walker.returncode]
    table: type_of_table = {}
    for file in folder.glob("*.json"):
        for call, answers in json.loads(file.read_text()).items():
            table.setdefault(call, Counter()).update(answers)
    return "\n".join(faults)[-20_000:], table


def _walker(system: System, folder: Path, seed_of_it: int) -> subprocess.Popen[str]:
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "--no-color", "--config-file", str(CONFIG)),
        *("run", f"{system.address}/openapi.json", "--header", f"Authorization: Bearer {system.key}"),
        *("--seed", str(seed_of_it), "--max-examples", str(max(1, CASES // WALKERS // BODIES))),
    ]
    table = str(folder / f"{seed_of_it}.json")
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": "tests.fuzz.hooks", "TOLLGATE_FUZZ_TABLE": table}
    out = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT, text=True)


def shown(table: type_of_table) -> str:
    """Calls × answers."""
    statuses = sorted({status for answers in table.values() for status in answers})
    lines = [f"{'call':48}" + "".join(f"{status:>8}" for status in statuses)]
    for call, answers in sorted(table.items()):
        lines.append(f"{call:48}" + "".join(f"{answers[status] or '':>8}" for status in statuses))
    return "\n".join(lines)


def test_schemathesis_finds_no_fault(system: System, tmp_path: Path) -> None:
    faults, table = walked(system, tmp_path)
    print(f"\nseed {SEED}, requests {sum(map(Counter.total, table.values()))}\n{shown(table)}")  # noqa: T201
    assert not faults, faults
    assert set(table) == {" ".join(call) for call in NEEDS}
    for call in ("POST /v1/fraud/score", "POST /v1/labels", "POST /v1/prices/quote"):
        assert table[call].total() > table[call]["422"] > 0, (
            f"{call}: all was taken, or nothing: {table[call]}"
        )
    assert sum(map(Counter.total, table.values())) >= CASES
    system.unharmed()


def raw_calls(described: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """Method, path and schema of each call that takes a body."""
    filled = {"{transaction_id}": "t-1", "{product_id}": "p-1", "{task}": "fraud"}
    found = []
    for path, item in described["paths"].items():
        for method, said in item.items():
            if content := said.get("requestBody", {}).get("content"):
                for name, value in filled.items():
                    path = path.replace(name, value)
                found.append((method.upper(), path, content["application/json"]["schema"]))
    return found


def fault(answer: httpx.Response, sent: bytes) -> str:
    """What is wrong with an answer: it is JSON, or a problem that says what is wrong, and nothing of us."""
    if answer.status_code >= 500:
        return f"{answer.status_code}: {answer.text[:300]}"
    if missing := [name for name in SAFE if name not in answer.headers]:
        return f"no header {missing}"
    if (found := TELLTALE.search(answer.text)) and found[0].encode() not in sent:
        return f"it tells {found[0]!r}: {answer.text[:300]}"
    if answer.status_code >= 400 and not (
        answer.headers["content-type"] == MEDIA_TYPE and answer.json()["detail"]
    ):
        return f"no problem document: {answer.text[:300]}"
    return ""


@pytest.fixture
def client(system: System) -> Iterator[httpx.Client]:
    key = {"Authorization": f"Bearer {system.key}"}
    with httpx.Client(base_url=system.address, headers=key, timeout=30) as opened:
        yield opened


def test_no_bytes_are_answered_by_an_error_of_ours(system: System, client: httpx.Client) -> None:
    described = client.get("/openapi.json").json()
    table: type_of_table = {}
    there = raw_calls(described)
    assert len(there) == BODIES
    for method, path, schema in there:
        answers = table.setdefault(f"{method} {path}", Counter())

        @seed(SEED)
        @settings(
            max_examples=max(4, CASES // 4 // BODIES),
            phases=[Phase.generate],
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(
            body=bodies(schema, described["components"]["schemas"]),
            kind=st.sampled_from(KINDS),
            told=st.booleans(),
        )
        def sent(body: bytes, kind: str, told: bool) -> None:
            content = body if told else iter([body[:7], body[7:]])
            answer = client.request(method, path, content=content, headers={"Content-Type": kind})  # noqa: B023
            answers[str(answer.status_code)] += 1  # noqa: B023
            assert not (wrong := fault(answer, body)), f"{method} {path} {body[:500]!r}: {wrong}"  # noqa: B023

        sent()
    print(f"\nseed {SEED}, bodies as bytes {sum(map(Counter.total, table.values()))}\n{shown(table)}")  # noqa: T201
    system.unharmed()


@pytest.mark.parametrize(
    "body", [b"[" * 8_000_000, b'{"a":' * 1_600_000, b"9" * 8_000_000, b'"' + b"\\ud800" * 1_000_000]
)
def test_eight_megabytes_of_anything_are_refused(system: System, client: httpx.Client, body: bytes) -> None:
    for method, path, _ in raw_calls(client.get("/openapi.json").json()):
        answer = client.request(method, path, content=body)
        assert answer.status_code in (404, 422), f"{method} {path}: {answer.status_code} {answer.text[:300]}"
        assert len(answer.content) < 10_000
        assert not fault(answer, b"")
    system.unharmed()


TERMS = {
    "list_price": 20.0,
    "unit_cost": 9.0,
    "currency": "EUR",
    "floor": 11.0,
    "ceiling": 30.0,
    "max_step": 3.0,
}


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/v1/models/fraud/promote", {"version": "607491564458765358617774367"}, 422),
        ("PUT", "/v1/products/one%0Aother", TERMS, 422),
        ("GET", "/v1/decisions/one%0Aother", None, 404),
        ("POST", "/v1/reviews/one%0Aother/verdict", {"label": "fraud"}, 404),
    ],
)
def test_what_was_found_before(client: httpx.Client, method: str, path: str, body: Any, status: int) -> None:
    """A version that no registry can have, and ids that end a line."""
    answer = client.request(method, path, json=body)
    assert answer.status_code == status, answer.text
    assert answer.json()["detail"] != "Not Found", "no route was found"
