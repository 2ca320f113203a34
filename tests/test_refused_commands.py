"""`raftlab` and `raftgrade` reject bad command lines with one message and exit code 2, and create or change no file."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import refused_commands


def files(folder: Path) -> dict[Path, str]:
    return {path: path.read_text() if path.is_file() else "" for path in folder.rglob("*")}


@pytest.mark.parametrize("command", list(filter(None, refused_commands.COMMANDS)))
def test_a_bad_command_line_is_rejected(command: str, tmp_path: Path) -> None:
    refused_commands.prepare(tmp_path)
    before = files(tmp_path)
    code, out, err = refused_commands.run(command, tmp_path)
    assert (code, out) == (2, "")
    message, *more = err.splitlines()
    assert message.startswith((f"{command.split()[0]}: ", f"{' '.join(command.split()[:2])}: "))
    assert not [line for line in more if not line.startswith(("  at ", "  read: "))]
    assert files(tmp_path) == before
