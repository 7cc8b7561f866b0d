from pathlib import Path

from training.provenance import commit


def test_the_commit_is_found_from_a_folder_inside(tmp_path: Path) -> None:
    git = tmp_path / ".git"
    (git / "refs/heads").mkdir(parents=True)
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    inside = tmp_path / "a/b"
    inside.mkdir(parents=True)
    assert commit(inside) == "unknown"
    (git / "packed-refs").write_text("# pack-refs\nabc123 refs/heads/main\n")
    assert commit(inside) == "abc123"
    (git / "refs/heads/main").write_text("def456\n")
    assert commit(inside) == "def456"
    (git / "HEAD").write_text("999aaa\n")
    assert commit(inside) == "999aaa"


def test_there_is_none_outside_of_a_working_copy(tmp_path: Path) -> None:
    assert commit(tmp_path) == "unknown"
