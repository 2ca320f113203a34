"""Tests of which code a command runs in the sandbox, and that the output of submissions is escaped before it is
shown."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from raftlab.cli import main
from raftlab.sandbox import levels
from raftlab.tools import own_code
from tests.conftest import SOLUTION, Write

BWRAP = levels.probe("bwrap")


def submission(folder: Path) -> Path:
    folder.mkdir(parents=True)
    shutil.copy(SOLUTION, folder / "raft.py")
    return folder


def test_only_your_working_folder_is_your_own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = submission(tmp_path / "me" / "project")
    elsewhere = submission(tmp_path / "friend")
    classmates = [submission(tmp_path / "me" / "class" / name) for name in ("ada", "bob")]
    graded = submission(tmp_path / "me" / "out" / "submissions" / "ada")
    (tmp_path / "me" / "out" / "report.json").write_text("{}")
    monkeypatch.chdir(tmp_path / "me")
    assert own_code.is_own(project)
    assert own_code.is_own(project / "raft.py")
    assert own_code.is_own(Path("project"))
    assert not any(map(own_code.is_own, (elsewhere, Path("../friend"), *classmates, graded)))
    monkeypatch.chdir(project)
    assert own_code.is_own(Path("."))
    assert own_code.is_own(Path("raft.py"))
    monkeypatch.chdir(graded)
    assert not own_code.is_own(Path("."))
    (project / "link").symlink_to(elsewhere)
    monkeypatch.chdir(project)
    assert not own_code.is_own(Path("link"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to somebody else")
def test_a_file_that_another_user_owns_is_not_your_own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = submission(tmp_path / "project")
    monkeypatch.chdir(folder)
    assert own_code.is_own(folder)
    os.chown(folder / "raft.py", 65534, 65534)
    assert not own_code.is_own(folder)


HOSTILE = "import posix\ntry:\n    posix.fork()\nexcept OSError as exc:\n    print('\\x1b[2J', exc)\n"


@pytest.mark.skipif(BWRAP.level != "bwrap", reason=BWRAP.reason)
@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ["test", "2A", "-k", "initial_election"],
        ["replay", "initial_election@1"],
        ["shrink", "initial_election@1"],
        ["diff", "initial_election@1"],
        ["fuzz", "2A", "--seeds", "1", "--jobs", "1"],
    ],
    ids=lambda command: str(command[0]),
)
def test_other_peoples_code_runs_in_the_sandbox(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], command: list[str]
) -> None:
    file = submission(tmp_path / "submission") / "raft.py"
    file.write_text(file.read_text().replace("class Raft:\n", f"{HOSTILE}class Raft:\n"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert main([*command, "--impl", "../submission"]) == 0
    out, err = capfd.readouterr()
    assert "../submission is not your own working folder, so its code runs in a sandbox (bwrap)" in err
    assert "\x1b" not in out
    if command[0] == "replay":
        assert "[print] \\x1b[2J [Errno 1] Operation not permitted" in out


def test_the_debugger_refuses_other_peoples_code(
    tmp_path: Path, write_raft: Write, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_raft()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert main(["test", "2A", "--pdb", "--impl", "../submission"]) == 2
    assert "is not your own working folder: add --sandbox none if you trust it" in capsys.readouterr().err
