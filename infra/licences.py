"""The locked packages and their licences, as SPDX expressions from the metadata of what is installed."""

import importlib.metadata
import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from email.message import Message
from pathlib import Path

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from infra.errors import UserError

POLICY = Path(__file__).with_name("config") / "licences.toml"
LOCK = Path(__file__).parents[1] / "requirements.lock"
UNKNOWN = "unknown"
NOT_HERE = "not installed here"

_SPDX = {
    "MIT License": "MIT",
    "The MIT License": "MIT",
    "Apache Software License": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0",
    "BSD": "LicenseRef-BSD",
    "BSD License": "LicenseRef-BSD",
    "3-Clause BSD License": "BSD-3-Clause",
    "ISC License (ISCL)": "ISC",
    "Python Software Foundation License": "PSF-2.0",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "GNU General Public License v2 (GPLv2)": "GPL-2.0-only",
}
"""What metadata from before PEP 639 say, by SPDX."""


@dataclass(frozen=True)
class Locked:
    """A package of the lock; `here` is whether its marker holds for this Python."""

    name: str
    version: str
    here: bool


@dataclass(frozen=True)
class Policy:
    """Licences that may be, with reasons, and what a package is known to have, by its name."""

    allowed: Mapping[str, str]
    said: Mapping[str, str]


def policy(path: Path = POLICY) -> Policy:
    """What the project has decided of licences."""
    content = tomllib.loads(path.read_text("utf-8"))
    return Policy(content["allowed"], content["said"])


def locked(text: str) -> list[Locked]:
    r"""The packages of a lock, by name.

    >>> locked("a==1.0 \\\n    --hash=sha256:00\nb==2 ; python_version < '3'\n")
    [Locked(name='a', version='1.0', here=True), Locked(name='b', version='2', here=False)]

    Raises:
        UserError: a line is no `name==version`.
    """
    lines = (line.rstrip(" \\") for line in text.splitlines() if line[:1].isalnum())
    return sorted(map(_locked, lines), key=lambda each: (each.name, each.version))


def _locked(line: str) -> Locked:
    try:
        wanted = Requirement(line)
        (pin,) = wanted.specifier
    except (InvalidRequirement, ValueError):
        raise UserError(f"expected `name==version` in each line of the lock, came {line!r}.") from None
    here = wanted.marker is None or wanted.marker.evaluate()
    return Locked(canonicalize_name(wanted.name), pin.version, here)


def licence(package: Locked, said: Mapping[str, str]) -> str:
    """SPDX expression of a package's licence; `UNKNOWN`, or `NOT_HERE` where its metadata are not."""
    if not package.here:
        return NOT_HERE
    if package.name in said:
        return said[package.name]
    try:
        return declared(importlib.metadata.metadata(package.name))  # type: ignore[arg-type]
    except importlib.metadata.PackageNotFoundError:
        return NOT_HERE


def declared(metadata: Message) -> str:
    """What a package's metadata say, the newest way first; several classifiers hold together.

    >>> old = Message()
    >>> old["Classifier"] = "License :: OSI Approved :: MIT License"
    >>> declared(old)
    'MIT'
    """
    words = [metadata.get("License-Expression"), metadata.get("License")]
    for word in filter(None, words):
        if found := _spdx(word.strip()):
            return found
    classifiers = [each for each in metadata.get_all("Classifier", []) if each.startswith("License ::")]
    known = {_SPDX.get(each.rpartition(" :: ")[2]) for each in classifiers} - {None}
    return " AND ".join(sorted(filter(None, known))) or UNKNOWN


def _spdx(word: str) -> str | None:
    if word in _SPDX:
        return _SPDX[word]
    try:
        return canonicalize_license_expression(word)
    except InvalidLicenseExpression:
        return None


def allows(expression: str, allowed: Collection[str]) -> bool:
    """Whether an SPDX expression can be met with these licences; AND binds closer than OR, WITH closest.

    >>> allows("MPL-2.0 AND (Apache-2.0 OR GPL-3.0-only)", {"MPL-2.0", "Apache-2.0"})
    True
    >>> allows("MIT AND GPL-3.0-only", {"MIT"})
    False
    """
    joined = re.sub(r"\s+WITH\s+", "\0", expression)
    words = re.findall(r"[()]|[^\s()]+", joined)
    found, rest = _either(words, allowed)
    return found and not rest


def _either(words: list[str], allowed: Collection[str]) -> tuple[bool, list[str]]:
    found, rest = _both(words, allowed)
    while rest[:1] == ["OR"]:
        other, rest = _both(rest[1:], allowed)
        found = found or other
    return found, rest


def _both(words: list[str], allowed: Collection[str]) -> tuple[bool, list[str]]:
    found, rest = _one(words, allowed)
    while rest[:1] == ["AND"]:
        other, rest = _one(rest[1:], allowed)
        found = found and other
    return found, rest


def _one(words: list[str], allowed: Collection[str]) -> tuple[bool, list[str]]:
    if words[:1] == ["("]:
        found, rest = _either(words[1:], allowed)
        return found, rest[1:]
    return bool(words) and words[0].replace("\0", " WITH ") in allowed, words[1:]
