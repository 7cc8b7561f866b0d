"""What the servers beside ours must know, as files in a folder for each, which nobody else is shown.

Their images run as users of their own, so the files are readable to all who see the folder: in
`docker-compose.yml` each is a volume that only its server mounts, and its clients where they need it.
"""

from collections.abc import Mapping
from pathlib import Path

from infra.files import replaced

REDIS, POSTGRES, PROMETHEUS = "redis", "postgres", "prometheus"
PASSWORDS = (REDIS, POSTGRES)
"""Servers that want a password."""
READABLE = 0o444


def write(folder: Path, passwords: Mapping[str, str], metrics_key: str) -> None:
    """Write what each server reads; a file that is right stays as it is.

    Args:
        folder: above those of the servers.
        passwords: by server, in the letters of `secrets.token_urlsafe`.
        metrics_key: the API key by which Prometheus reads `/metrics`.
    """
    texts = {
        folder / REDIS / "redis.conf": f"requirepass {passwords[REDIS]}\n",
        folder / REDIS / "password": passwords[REDIS],
        folder / POSTGRES / "password": passwords[POSTGRES],
        _key_file(folder): metrics_key,
    }
    for path, text in texts.items():
        if _read(path) != text:
            replaced(path, text)
            path.chmod(READABLE)


def metrics_key(folder: Path) -> str:
    """Prometheus' key as it was written before; empty if it was not."""
    return _read(_key_file(folder))


def _key_file(folder: Path) -> Path:
    return folder / PROMETHEUS / "metrics_key"


def _read(path: Path) -> str:
    return path.read_text("utf-8") if path.exists() else ""
