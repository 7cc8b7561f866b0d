"""Which code made a model."""

from pathlib import Path

UNKNOWN = "unknown"


def commit(folder: Path) -> str:
    """Git commit of the working copy that holds `folder`; `unknown` outside of one.

    Read from git's own files: a run may be recorded where there is no git program.
    """
    for parent in (folder, *folder.parents):
        git = parent / ".git"
        if git.is_dir():
            return _resolved(git, (git / "HEAD").read_text("utf-8").strip())
    return UNKNOWN


def _resolved(git: Path, head: str) -> str:
    name = head.removeprefix("ref: ")
    if name == head:
        return head
    if (git / name).exists():
        return (git / name).read_text("utf-8").strip()
    packed = git / "packed-refs"
    lines = packed.read_text("utf-8").splitlines() if packed.exists() else []
    return next((line.split()[0] for line in lines if line.endswith(f" {name}")), UNKNOWN)
