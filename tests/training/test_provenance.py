from pathlib import Path

from training.provenance import commit, sources


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


def test_a_second_working_tree_finds_the_first_ones_branches(tmp_path: Path) -> None:
    own = tmp_path / "main/.git/worktrees/second"
    own.mkdir(parents=True)
    (own / "HEAD").write_text("ref: refs/heads/second\n")
    (own / "commondir").write_text("../..\n")
    heads = tmp_path / "main/.git/refs/heads"
    heads.mkdir(parents=True)
    (heads / "second").write_text("abc999\n")
    (tmp_path / "second").mkdir()
    (tmp_path / "second/.git").write_text(f"gitdir: {own}\n")
    assert commit(tmp_path / "second") == "abc999"


def test_the_hash_of_the_sources_tells_every_change(tmp_path: Path) -> None:
    package = tmp_path / "package"
    (package / "inside").mkdir(parents=True)
    (package / "a.py").write_text("x = 1\n")
    (package / "inside/b.py").write_text("y = 1\n")
    (package / "notes.txt").write_text("nothing\n")
    first = sources([package])
    (package / "notes.txt").write_text("something\n")
    assert sources([package]) == first
    (package / "inside/b.py").write_text("y = 2\n")
    second = sources([package])
    (package / "inside/b.py").rename(package / "inside/c.py")
    assert len({first, second, sources([package])}) == 3
