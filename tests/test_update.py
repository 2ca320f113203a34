"""Tests of `python -m tests.update`, and tests that the generated files are up to date."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import known_bugs, update
from tests.conftest import ROOT
from tests.update import GENERATED, Generated


@pytest.mark.parametrize("file", [each for each in GENERATED if not each.slow], ids=lambda file: file.path)
def test_a_generated_file_is_up_to_date(file: Generated) -> None:
    difference = file.difference()
    if difference:
        pytest.fail(f"{file.path} is out of date: run python -m tests.update\n{difference}", pytrace=False)


def test_the_command_checks_and_rewrites_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(update, "ROOT", tmp_path)
    monkeypatch.setattr(update, "GENERATED", [Generated("a/b.txt", lambda: "1\n2\n")])
    assert update.main(["--check"]) == 1
    assert "+2\nrun python -m tests.update\n" in capsys.readouterr().out
    assert update.main(["a"]) == 0
    assert (capsys.readouterr().out, (tmp_path / "a" / "b.txt").read_text()) == ("rewrote a/b.txt\n", "1\n2\n")
    assert update.main(["--check", "a/b.txt"]) == update.main([]) == 0
    assert capsys.readouterr().out == ""
    with pytest.raises(SystemExit):
        update.main(["b"])


def test_a_long_difference_is_cut() -> None:
    shown = update.short_diff("a", "", "x\n" * 100).splitlines()
    assert len(shown) == update.DIFF_LINES + 1
    assert shown[-1] == "... and 73 more lines"


def test_the_snapshot_of_the_bugs_lists_each_once() -> None:
    """The messages in the snapshot are compared by the tests of each suite, such as ``tests/suites/test_suite_2a.py``,
    because they run the bugs anyway."""
    _, *blocks = (ROOT / known_bugs.SNAPSHOT).read_text(encoding="utf-8").split("\n\n")
    assert [block.partition("\n")[0] for block in blocks] == known_bugs.snapshot_titles(), "run python -m tests.update"
