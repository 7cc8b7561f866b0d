"""Licences and known vulnerabilities of what is locked."""

import json
from collections.abc import Sequence
from email.message import Message
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import pytest
from packaging.version import Version

from infra import cli, licences, vulnerabilities
from infra.errors import UserError
from infra.licences import NOT_HERE, UNKNOWN, Locked, allows, declared
from infra.vulnerabilities import Affected, is_affected, known

ALLOWED = licences.policy().allowed


GIT = {"type": "GIT", "events": [{"introduced": "0"}]}


def ran(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = cli.run(["supply", *arguments])
    told = capsys.readouterr()
    return code, told.out, told.err


def document(name: str = "NumPy", **part: Any) -> dict[str, Any]:
    affected = {"package": {"ecosystem": "PyPI", "name": name}, **part}
    return {"id": "PYSEC-1", "summary": "it is\nbad", "affected": [affected]}


def test_every_locked_package_has_an_allowed_licence(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = ran(["--json"], capsys)
    assert code == 0, err
    told = json.loads(out)
    lines = [line for line in licences.LOCK.read_text().splitlines() if "==" in line]
    assert len(told["packages"]) == len(lines) > 100
    assert not [each for each in told["packages"] if each["licence"] == UNKNOWN]
    assert [each["name"] for each in told["packages"] if each["here"] and each["licence"] == NOT_HERE] == []
    assert told["vulnerabilities"] is None


def test_it_says_that_vulnerabilities_were_not_looked_up(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = ran([], capsys)
    assert "Vulnerabilities were not looked up" in out
    assert "known vulnerabilities." not in out


def test_a_licence_that_is_not_allowed_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rules = tmp_path / "licences.toml"
    rules.write_text('[allowed]\n"Apache-2.0" = "ours"\n[said]\nnumpy = "AGPL-3.0-only"\n')
    lock = tmp_path / "lock"
    lock.write_text("numpy==2.4\n")
    code, _, err = ran(["--lock", str(lock), "--allowed", str(rules)], capsys)
    assert code != 0
    assert "numpy 2.4: AGPL-3.0-only" in err


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"License-Expression": "mit or apache-2.0"}, "MIT OR Apache-2.0"),
        ({"License": "BSD-3-Clause"}, "BSD-3-Clause"),
        ({"License": "BSD", "Classifier": "License :: OSI Approved :: MIT License"}, "LicenseRef-BSD"),
        ({"License": "see file", "Classifier": "License :: OSI Approved :: MIT License"}, "MIT"),
        ({"License": "see file"}, UNKNOWN),
        ({"Classifier": "License :: OSI Approved"}, UNKNOWN),
        ({}, UNKNOWN),
    ],
)
def test_what_metadata_say_is_spdx(said: dict[str, str], expected: str) -> None:
    metadata = Message()
    for name, value in said.items():
        metadata[name] = value
    assert declared(metadata) == expected


@pytest.mark.parametrize(
    ("expression", "met"),
    [
        ("MIT", True),
        ("GPL-3.0-only", False),
        ("GPL-2.0-only", False),
        ("GPL-2.0-only WITH Classpath-exception-2.0", True),
        ("GPL-3.0-only OR MIT", True),
        ("GPL-3.0-only AND MIT", False),
        ("MIT OR GPL-3.0-only AND GPL-2.0-only", True),
        ("(MIT OR GPL-3.0-only) AND GPL-2.0-only", False),
        (UNKNOWN, False),
        ("", False),
        ("MIT MIT", False),
    ],
)
def test_an_expression_is_met(expression: str, met: bool) -> None:
    assert allows(expression, ALLOWED) is met


@pytest.mark.parametrize(
    ("events", "inside", "outside"),
    [
        ([{"introduced": "0"}, {"fixed": "2.0"}], ["0.1", "2.0rc1"], ["2.0", "3"]),
        ([{"introduced": "1"}, {"last_affected": "1.5"}], ["1", "1.5"], ["0.9", "1.5.1"]),
        (
            [{"introduced": "3"}, {"fixed": "3.2"}, {"introduced": "1"}, {"fixed": "1.2"}],
            ["1.1", "3.0"],
            ["2", "3.2"],
        ),
        ([{"introduced": "0"}], ["9"], []),
        ([{"introduced": "no version"}], [], ["1"]),
    ],
)
def test_a_range_is_read_as_the_schema_says(
    events: list[dict[str, str]], inside: list[str], outside: list[str]
) -> None:
    part = Affected.model_validate({"ranges": [{"type": "ECOSYSTEM", "events": events}, GIT]})
    assert all(is_affected(Version(each), part) for each in inside)
    assert not any(is_affected(Version(each), part) for each in outside)


def test_a_known_vulnerability_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lock, found, other = tmp_path / "lock", document(versions=["2.4.0"]), document(name="numpyro")
    lock.write_text("numpy==2.4\nnumpyro==1\n")
    withdrawn = document(versions=["2.4"]) | {"withdrawn": "2026-01-01T00:00:00Z"}
    folder, zipped, one = tmp_path / "osv", tmp_path / "all.zip", tmp_path / "one.json"
    folder.mkdir()
    (folder / "a.json").write_text(json.dumps(found))
    (folder / "b.json").write_text(json.dumps([other, withdrawn]))
    one.write_text(json.dumps(found))
    with ZipFile(zipped, "w") as archive:
        archive.writestr("PYSEC-1.json", json.dumps(found))
    for export in (folder, zipped, one):
        code, out, err = ran(["--lock", str(lock), "--osv", str(export)], capsys)
        assert code != 0
        assert "1 known vulnerabilities" in err
        assert "PYSEC-1: it is" in out


@pytest.mark.parametrize("raw", [b"", b"[" * 100_000, b"{}", b"[1]", b"\xff", b'{"id": "x"}', b"[]"])
def test_what_is_no_export_is_refused(tmp_path: Path, raw: bytes) -> None:
    export = tmp_path / "osv.json"
    export.write_bytes(raw)
    with pytest.raises(UserError, match="expected"):
        known([Locked("numpy", "2.4", True)], export)


def test_a_zip_bomb_is_not_read(tmp_path: Path) -> None:
    export = tmp_path / "all.zip"
    with ZipFile(export, "w", ZIP_DEFLATED) as archive:
        archive.writestr("bomb.json", b" " * (vulnerabilities.MOST_ENTRY_BYTES + 1))
    with pytest.raises(UserError, match="larger than"):
        known([Locked("numpy", "2.4", True)], export)
    export.write_bytes(b"PK")
    with pytest.raises(UserError, match="expected a ZIP archive"):
        known([Locked("numpy", "2.4", True)], export)
