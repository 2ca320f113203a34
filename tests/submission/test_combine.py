"""Tests of combining a kv.py with a Raft from elsewhere: which files the combined folder has, and which pairs are
refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from raftlab.submission.combine import combine
from raftlab.submission.source import SubmissionError


def made(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def combined(folder: Path, service: dict[str, str], raft: dict[str, str]) -> dict[str, str]:
    """The texts of the files in the combined folder, by file name."""
    target = folder / "both"
    target.mkdir(parents=True)
    combine(made(folder / "service", service), made(folder / "raft", raft), target)
    return {path.relative_to(target).as_posix(): path.read_text() for path in target.rglob("*") if path.is_file()}


def test_the_service_of_one_folder_and_the_raft_of_another(tmp_path: Path) -> None:
    assert combined(
        tmp_path,
        {"kv.py": "import store", "store.py": "mine", "raft.py": "mine", "notes.py": "mine"},
        {"raft.py": "import log", "log.py": "theirs", "kv.py": "theirs", "lib/__init__.py": "", "lib/x.py": "theirs"},
    ) == {
        "kv.py": "import store",
        "store.py": "mine",
        "raft.py": "import log",
        "log.py": "theirs",
        "lib/__init__.py": "",
        "lib/x.py": "theirs",
    }


def test_modules_of_the_same_name(tmp_path: Path) -> None:
    """Two modules of the same name may differ unless both the service and the Raft import that name."""
    service = {"kv.py": "import store, timing", "store.py": "x = 1", "timing.py": "y = 1"}
    raft = {"raft.py": "import timing", "store.py": "x = 2", "timing.py": "y = 1"}
    files = combined(tmp_path / "equal", service, raft)
    assert (files["store.py"], files["timing.py"]) == ("x = 1", "y = 1")
    with pytest.raises(SubmissionError) as caught:
        combined(tmp_path / "different", service, raft | {"timing.py": "y = 2"})
    text = "kv.py and the Raft below it both import timing.py, and the two files differ: rename yours"
    assert str(caught.value) == text
    # The Raft's own kv.py is not part of the Raft, even if the Raft imports that name.
    files = combined(tmp_path / "odd", {"kv.py": "mine"}, {"raft.py": "import kv", "kv.py": "theirs"})
    assert files == {"raft.py": "import kv", "kv.py": "mine"}
    # A kv.py must not import raft, but it is the contract check that refuses this.
    files = combined(tmp_path / "worse", {"kv.py": "import raft", "raft.py": "mine"}, {"raft.py": "theirs"})
    assert files == {"raft.py": "theirs", "kv.py": "import raft"}


def test_files_may_be_named_instead_of_folders(tmp_path: Path) -> None:
    made(tmp_path, {"my_service.py": "mine", "their_raft.py": "theirs", "both/x": ""})
    made(tmp_path, {"raft.py": "another", "kv.py": "another"})
    combine(tmp_path / "my_service.py", tmp_path / "their_raft.py", tmp_path / "both")
    assert (tmp_path / "both" / "kv.py").read_text() == "mine"
    assert (tmp_path / "both" / "raft.py").read_text() == "theirs"


def test_a_folder_without_a_service_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SubmissionError, match=r"there is no kv\.py in "):
        combined(tmp_path, {"raft.py": ""}, {"raft.py": ""})
