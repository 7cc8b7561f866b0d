"""Which code made a model, and by what it was run."""

import hashlib
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

UNKNOWN = "unknown"
_LIBRARIES = ("lightgbm", "numpy", "pandas", "pyarrow", "scikit-learn")


def sources(packages: Sequence[Path]) -> str:
    """First 12 hex digits of the SHA-256 of the packages' Python sources, committed or not."""
    found = hashlib.sha256()
    for package in packages:
        for file in sorted(package.rglob("*.py")):
            found.update(f"{package.name}/{file.relative_to(package).as_posix()}\0".encode())
            found.update(hashlib.sha256(file.read_bytes()).digest())
    return found.hexdigest()[:12]


def software() -> dict[str, str]:
    """Versions of what a model's bytes may depend on, and the kind of machine."""
    kind = {"python": platform.python_version(), "machine": f"{platform.system()} {platform.machine()}"}
    return kind | {name: version(name) for name in _LIBRARIES}


def commit(folder: Path) -> str:
    """Git commit of the working copy that holds `folder`; `unknown` outside of one.

    Read from git's own files: a run may be recorded where there is no git program.
    """
    for parent in (folder, *folder.parents):
        git = parent / ".git"
        if git.is_file():  # a second working tree names its own folder inside of the first one's
            git = parent / git.read_text("utf-8").strip().removeprefix("gitdir: ")
        if git.is_dir():
            return _resolved(git, (git / "HEAD").read_text("utf-8").strip())
    return UNKNOWN


def _resolved(git: Path, head: str) -> str:
    name = head.removeprefix("ref: ")
    if name == head:
        return head
    shared = git / "commondir"
    git = git / shared.read_text("utf-8").strip() if shared.exists() else git
    if (git / name).exists():
        return (git / name).read_text("utf-8").strip()
    packed = git / "packed-refs"
    lines = packed.read_text("utf-8").splitlines() if packed.exists() else []
    return next((line.split()[0] for line in lines if line.endswith(f" {name}")), UNKNOWN)
