"""What a path on the command line means, and what it says when it means nothing."""

from pathlib import Path

import pytest

from raftgrade.submissions import BadPath, Found, find


def make(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")


def names(found: Found) -> list[str]:
    return [item.name for item in found.submissions]


def test_a_file_a_folder_and_a_folder_of_folders(tmp_path: Path) -> None:
    make(tmp_path, "alice/raft.py", "alice/log.py", "class/bob/raft.py", "class/carol/raft.py", "mine.py")
    assert names(find([tmp_path / "alice"])) == ["alice"]
    assert names(find([tmp_path / "alice" / "raft.py"])) == ["alice"]
    assert names(find([tmp_path / "mine.py"])) == ["mine"]
    found = find([tmp_path / "class", tmp_path / "alice"])
    assert names(found) == ["bob", "carol", "alice"]
    assert found.submissions[0].path == tmp_path / "class" / "bob"


def test_a_folder_with_raft_is_one_submission_even_with_folders_in_it(tmp_path: Path) -> None:
    make(tmp_path, "alice/raft.py", "alice/old/raft.py")
    assert names(find([tmp_path / "alice"])) == ["alice"]


def test_names_are_unique_and_a_submission_counts_once(tmp_path: Path) -> None:
    make(tmp_path, "a/x/raft.py", "b/x/raft.py", "c/ä é/raft.py")
    found = find([tmp_path / "a/x", tmp_path / "b/x", tmp_path / "a/x", tmp_path / "c"])
    assert names(found) == ["x", "x-2", "ä é"]
    assert [item.slug for item in found.submissions] == ["x", "x-2", "___"]


def test_folders_without_raft_are_named(tmp_path: Path) -> None:
    make(tmp_path, "bob/raft.py", "dan/notes.txt", ".git/x", "__pycache__/x", "out/report.json")
    found = find([tmp_path], ignore=tmp_path / "out")
    assert names(found) == ["bob"]
    assert [path.name for path in found.skipped] == ["dan"]


def test_a_hostile_name_is_shown_escaped(tmp_path: Path) -> None:
    make(tmp_path, "bob\x1b[2J/raft.py", b"caf\xe9".decode(errors="surrogateescape") + "/raft.py")
    assert sorted(names(find([tmp_path]))) == [r"bob\x1b[2J", r"caf\udce9"]
    assert all(item.slug.isascii() for item in find([tmp_path]).submissions)


def test_what_is_no_submission(tmp_path: Path) -> None:
    make(tmp_path, "empty/notes.txt", "notes.txt")
    (tmp_path / "odd" / "raft.py").mkdir(parents=True)
    for path, said in [
        ("nowhere", "there is no {}"),
        ("empty", "there is no raft.py in {}, nor in a folder in it"),
        ("odd", "there is no raft.py in {}, nor in a folder in it"),
        ("notes.txt", "{} is not a Python file: give a raft.py, or a folder with a raft.py in it"),
    ]:
        with pytest.raises(BadPath) as caught:
            find([tmp_path / path])
        assert str(caught.value) == said.format(tmp_path / path)
