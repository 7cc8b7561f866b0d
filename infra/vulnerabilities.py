"""What is known to be wrong with the locked packages, from an export in the format of OSV.

The schema is at https://ossf.github.io/osv-schema/. Somebody has fetched the export: nothing here asks the
network.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile, ZipFile

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version
from pydantic import BaseModel, TypeAdapter, ValidationError

from infra.errors import UserError
from infra.licences import Locked

ECOSYSTEM = "PyPI"
MOST_ENTRY_BYTES = 4 * 1024 * 1024
"""Of one document in a ZIP."""


class Package(BaseModel):
    """Whose versions are meant."""

    ecosystem: str
    name: str


class Range(BaseModel):
    """Versions between events, each `introduced`, `fixed`, `last_affected` or `limit` with its version."""

    type: str
    events: list[dict[str, str]]


class Affected(BaseModel):
    """A package's versions that have it."""

    package: Package | None = None
    ranges: list[Range] = []
    versions: list[str] = []


class Document(BaseModel):
    """A vulnerability."""

    id: str
    summary: str = ""
    details: str = ""
    withdrawn: str | None = None
    affected: list[Affected] = []


_DOCUMENTS: TypeAdapter[Document | list[Document]] = TypeAdapter(Document | list[Document])


@dataclass(frozen=True, order=True)
class Vulnerability:
    """One that a locked version has."""

    package: str
    version: str
    id: str
    summary: str


def known(packages: Iterable[Locked], export: Path) -> list[Vulnerability]:
    """What an OSV export knows of the locked versions, also of those that are not installed here.

    Args:
        packages: of the lock.
        export: one document (JSON), a list of them, a folder of such files, or a ZIP of them.

    Raises:
        UserError: it is none of these, or holds no document of Python packages at all.
    """
    versions: dict[str, list[str]] = {}
    for package in packages:
        versions.setdefault(package.name, []).append(package.version)
    ours: set[Vulnerability] = set()
    seen = 0
    for document in _documents(export):
        for name, part in _affected(document):
            seen += 1
            hit = [each for each in versions.get(name, ()) if is_affected(Version(each), part)]
            ours |= {Vulnerability(name, each, document.id, _summary(document)) for each in hit}
    if not seen:
        raise UserError(f"{export}: expected OSV documents of {ECOSYSTEM} packages, there is none.")
    return sorted(ours)


def is_affected(version: Version, part: Affected) -> bool:
    """Whether a version is listed, or lies in a range: from `introduced`, before `fixed`, to `last_affected`.

    >>> part = Affected(ranges=[Range(type="ECOSYSTEM", events=[{"introduced": "0"}, {"fixed": "2.0"}])])
    >>> is_affected(Version("1.9"), part), is_affected(Version("2.0"), part)
    (True, False)
    """
    listed = any(_version(each) == version for each in part.versions)
    ranges = (each for each in part.ranges if each.type == "ECOSYSTEM")
    return listed or any(_inside(version, each.events) for each in ranges)


def _inside(version: Version, events: Iterable[Mapping[str, str]]) -> bool:
    """By the events in order of their versions (the schema's own evaluation)."""
    steps = [(at, kind) for event in events for kind, word in event.items() if (at := _version(word))]
    inside = False
    for at, kind in sorted(steps):
        if kind == "introduced" and version >= at:
            inside = True
        elif (kind == "fixed" and version >= at) or (kind == "last_affected" and version > at):
            inside = False
    return inside


def _version(word: str) -> Version | None:
    try:
        return Version(word)
    except InvalidVersion:
        return None


def _affected(document: Document) -> Iterator[tuple[str, Affected]]:
    for part in () if document.withdrawn else document.affected:
        if part.package is not None and part.package.ecosystem == ECOSYSTEM:
            yield canonicalize_name(part.package.name), part


def _summary(document: Document) -> str:
    return (document.summary or document.details).partition("\n")[0][:100]


def _documents(export: Path) -> Iterator[Document]:
    for name, raw in _files(export):
        try:
            found = _DOCUMENTS.validate_json(raw)
        except ValidationError:
            raise UserError(f"{name}: expected JSON as OSV has it.") from None
        yield from found if isinstance(found, list) else [found]


def _files(export: Path) -> Iterator[tuple[str, bytes]]:
    if export.is_dir():
        for file in sorted(export.rglob("*.json")):
            yield str(file), file.read_bytes()
    elif export.suffix == ".zip":
        yield from _zipped(export)
    else:
        try:
            yield str(export), export.read_bytes()
        except OSError as error:
            raise UserError(f"{export}: cannot be read: {error.strerror}.") from None


def _zipped(export: Path) -> Iterator[tuple[str, bytes]]:
    try:
        with ZipFile(export) as archive:
            for entry in archive.infolist():
                if entry.file_size > MOST_ENTRY_BYTES:
                    raise UserError(f"{export}: {entry.filename} is larger than {MOST_ENTRY_BYTES} bytes.")
                if entry.filename.endswith(".json"):
                    yield f"{export}:{entry.filename}", archive.read(entry)
    except (BadZipFile, OSError) as error:
        raise UserError(f"{export}: expected a ZIP archive: {error}.") from None
