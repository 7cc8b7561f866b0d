"""Kafka's jars: the lock, and what happens when they cannot be had."""

import os
from pathlib import Path

import pytest

from infra.errors import UserError
from infra.stack import jars


def test_the_lock_has_a_hash_for_each_jar_and_no_address() -> None:
    assert all(len(jar.sha256) == 64 for jar in jars.locked())
    assert {"kafka_2.13", "log4j-slf4j-impl"} <= {jar.artifact for jar in jars.locked()}
    assert "://" not in jars.LOCK.read_text()


def test_a_damaged_jar_counts_as_missing(tmp_path: Path) -> None:
    jar = jars.locked()[0]
    (tmp_path / jar.path).parent.mkdir(parents=True)
    (tmp_path / jar.path).write_bytes(b"half a jar")
    assert jar in jars.missing(tmp_path)


def test_an_unreachable_repository_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = tmp_path / "repository"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("M2_REPO", str(repository))
    for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with pytest.raises(UserError, match="check the network"):
        jars.class_path(lambda _text: None)
    assert os.listdir(repository) == []
