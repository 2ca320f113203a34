"""Tests that every transcript still ends as its file says, and that together they use every scenario command."""

from __future__ import annotations

from pathlib import Path

import pytest

from raftlab.runs import names
from raftlab.runs.scenario_commands import COMMANDS
from tests.scenarios.transcripts import FILES, transcript
from tests.update import short_diff

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_scenario_ends_as_its_transcript_says(path: Path) -> None:
    difference = short_diff(path.name, path.read_text(encoding="utf-8"), transcript(path))
    if difference:
        pytest.fail(
            f"if the new end is correct, run python -m tests.update tests/scenarios\n{difference}", pytrace=False
        )


def test_every_scenario_command_is_used_in_a_transcript() -> None:
    used = {command.name for path in FILES for command in names.read(path).commands}
    assert set(COMMANDS) - used == set()
