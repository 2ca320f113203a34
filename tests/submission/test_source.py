"""Tests of finding a submission: which files belong to it, what is refused, and with which messages."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from raftlab.submission import source

RAFT = "class Raft:\n    pass\n"


def build(root: Path, files: dict[str, str | bytes]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return root


def find_modules(root: Path) -> dict[str, str]:
    submission = source.find(root)
    return {name: submission.show(path) for name, path in submission.modules.items()}


def refusal(path: Path) -> str:
    with pytest.raises(source.SubmissionError) as info:
        source.find(path)
    return str(info.value)


# --- what is found ---


def test_a_single_file(tmp_path: Path) -> None:
    build(tmp_path, {"mine.py": RAFT, "log.py": ""})
    submission = source.find(tmp_path / "mine.py")
    assert (submission.root, submission.entry, submission.name) == (tmp_path, tmp_path / "mine.py", "mine")
    assert submission.modules == {"mine": tmp_path / "mine.py", "log": tmp_path / "log.py"}
    assert submission.show(tmp_path / "log.py") == "log.py"


def test_a_folder_with_modules_and_packages(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {
        "raft.py": RAFT,
        "timers.py": "",
        "core/__init__.py": "",
        "core/log.py": "",
        "core/deep/__init__.py": "",
        "core/deep/x.py": "",
    }
    extra: dict[str, str | bytes] = {
        "notes.txt": "", "my-notes.py": "", "test_raft.py": "", "tests/__init__.py": "", ".hidden.py": "",
        ".venv/__init__.py": "", "__pycache__/x.py": "", "plain/y.py": "", "a.b/__init__.py": "",
        "class.py": "",
        "big.py": "#" * (source.MAX_BYTES + 1), "raftlab/__init__.py": "", "raftlab/api.py": "",
    }  # fmt: skip
    build(tmp_path, {**files, **extra})
    assert find_modules(tmp_path) == {
        "raft": "raft.py",
        "timers": "timers.py",
        "core": "core/__init__.py",
        "core.log": "core/log.py",
        "core.deep": "core/deep/__init__.py",
        "core.deep.x": "core/deep/x.py",
    }


def test_a_package_takes_precedence_over_a_module_of_the_same_name(tmp_path: Path) -> None:
    build(tmp_path, {"raft.py": RAFT, "log.py": "", "log/__init__.py": ""})
    assert find_modules(tmp_path)["log"] == "log/__init__.py"


def test_links_that_lead_outside_the_folder_are_ignored(tmp_path: Path) -> None:
    outside = build(tmp_path / "outside", {"secret.py": "", "pkg/__init__.py": ""})
    root = build(tmp_path / "in", {"raft.py": RAFT, "real.py": "", "p/__init__.py": ""})
    (root / "secret.py").symlink_to(outside / "secret.py")
    (root / "pkg").symlink_to(outside / "pkg")
    (root / "p" / "up.py").symlink_to(outside / "secret.py")
    (root / "alias.py").symlink_to(root / "real.py")
    (root / "gone.py").symlink_to(root / "nowhere.py")
    (root / "p" / "loop").symlink_to(root / "p")
    (root / "self.py").symlink_to(root / "self.py")
    assert set(find_modules(root)) == {"raft", "real", "alias", "p"}


@pytest.mark.parametrize(
    "text",
    [
        b"\xef\xbb\xbfclass Raft: pass\n",
        "# -*- coding: latin-1 -*-\nNAME = 'J\u00fcrgen'\n".encode("latin-1"),
        "NAME = 'J\u00fcrgen'\r\n".encode(),
        b"",
    ],
)
def test_text_is_decoded_as_python_does(tmp_path: Path, text: bytes) -> None:
    build(tmp_path, {"raft.py": text})
    source.find(tmp_path)
    read = source.read(tmp_path / "raft.py")
    assert "\r" not in read
    assert not read.startswith("\ufeff")
    assert ("J\u00fcrgen" in read) == (b"NAME" in text)


# --- what is refused ---


def test_a_path_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "nope") == f"{tmp_path}/nope does not exist"


def test_a_folder_without_raft_py_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path) == f"there is no raft.py in {tmp_path}, and no other Python file"
    build(tmp_path, {"lab/raft.py": RAFT})
    assert refusal(tmp_path) == (
        f"there is no raft.py in {tmp_path}, but there is one in lab: name that folder instead"
    )
    build(tmp_path, {"server.py": "", "Raft.py": ""})
    assert refusal(tmp_path) == (
        f"there is no raft.py in {tmp_path}, only Raft.py, server.py: "
        "if one of these contains your Raft class, rename it to raft.py, or pass its path instead of the folder"
    )


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("raft.txt", "raft.txt is not a Python file: its name must end in .py"),
        (
            "my-raft.py",
            "my-raft.py cannot be imported under that name: use letters, digits and underscores",
        ),
        ("2a.py", "2a.py cannot be imported under that name: use letters, digits and underscores"),
        ("random.py", "random.py hides Python's own module random: rename it"),
    ],
)
def test_a_file_whose_name_cannot_be_imported_is_refused(tmp_path: Path, name: str, text: str) -> None:
    build(tmp_path, {name: RAFT})
    assert refusal(tmp_path / name) == text


def test_an_entry_that_is_not_a_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "raft.py")
    assert refusal(tmp_path) == "raft.py is not a file"
    (tmp_path / "x" / "raft.py").mkdir(parents=True)
    assert refusal(tmp_path / "x") == "raft.py is not a file"


def test_an_entry_that_links_to_a_file_outside_the_folder_is_refused(tmp_path: Path) -> None:
    build(tmp_path, {"elsewhere.py": RAFT})
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "raft.py").symlink_to(tmp_path / "elsewhere.py")
    assert refusal(tmp_path / "in") == (
        f"raft.py is a link to somewhere outside {tmp_path}/in: hand in the file itself"
    )


def test_a_file_too_large_and_too_many_modules_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(tmp_path, {"raft.py": "#" * (source.MAX_BYTES + 1)})
    assert refusal(tmp_path) == "raft.py is larger than 1000 kB, which is too large for a submission"
    build(tmp_path, {"raft.py": RAFT, "a.py": "", "b.py": ""})
    monkeypatch.setattr(source, "MAX_MODULES", 2)
    assert refusal(tmp_path) == "there are more than 2 modules beside raft.py"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"# caf\xe9\n", "raft.py:1 has a byte that is not utf-8 text: save the file as UTF-8"),
        (b"\n\nx = '\xe9'\n", "raft.py:3 has a byte that is not utf-8 text: save the file as UTF-8"),
        (b"x = 1\n\0", "raft.py:2 has a null byte in it, so it is not Python text: save it as UTF-8"),
        ("x = 1\n".encode("utf-16"), "raft.py is saved as UTF-16: save it as UTF-8"),
        (b"# coding: utf-9\n", "raft.py declares the encoding utf-9, which Python does not know: use UTF-8"),
    ],
)
def test_bytes_that_are_not_text_are_refused(tmp_path: Path, text: bytes, message: str) -> None:
    build(tmp_path, {"raft.py": text})
    assert refusal(tmp_path) == message


# --- modules that shadow the standard library ---


def test_a_module_that_shadows_the_standard_library_is_refused_if_imported(tmp_path: Path) -> None:
    build(tmp_path, {"raft.py": "import queue\n", "queue.py": ""})
    assert refusal(tmp_path) == "queue.py hides Python's own module queue: rename it"
    build(
        tmp_path,
        {"raft.py": "def f():\n    from helper import x\n", "helper.py": "from queue import Queue\n"},
    )
    assert refusal(tmp_path) == "queue.py hides Python's own module queue: rename it"


def test_a_package_that_shadows_and_a_module_named_raftlab_are_refused(tmp_path: Path) -> None:
    build(tmp_path / "a", {"raft.py": "import logging.handlers\n", "logging/__init__.py": ""})
    assert refusal(tmp_path / "a") == "logging hides Python's own module logging: rename it"
    build(tmp_path / "b", {"raft.py": "from raftlab.api import log\n", "raftlab.py": ""})
    assert refusal(tmp_path / "b") == "raftlab.py hides the labs' own package raftlab: rename it"


def test_a_shadowing_module_that_nothing_imports_is_accepted(tmp_path: Path) -> None:
    build(tmp_path, {"raft.py": "import helper\n", "helper.py": "", "queue.py": "", "old.py": "import queue\n"})
    assert "queue" in find_modules(tmp_path)


def test_a_module_inside_a_package_does_not_shadow(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {
        "raft.py": "import queue\nfrom core import queue as q\n",
        "core/__init__.py": "from . import queue\nfrom .queue import x\n",
        "core/queue.py": "x = 1\n",
    }
    assert "core.queue" in find_modules(build(tmp_path, files))


def test_a_sibling_that_does_not_parse_is_accepted(tmp_path: Path) -> None:
    build(tmp_path, {"raft.py": "import helper\n", "helper.py": "def\n", "queue.py": ""})
    assert "helper" in find_modules(tmp_path)
