"""The pages for contributors name files, folders and commands that exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from raftgrade import options
from raftlab import cli
from tests.conftest import ROOT
from tests.handouts.test_handouts import anchors
from tests.test_import_directions import GRADER_LEVEL, LAB_LEVEL

PAGES = [ROOT / name for name in ("ARCHITECTURE.md", "CONTRIBUTING.md", "README.md", "RELEASING.md", "SECURITY.md")]
PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)

# The folders that a path in a page may be relative to. Tables and recipes leave out the beginning of their paths.
PLACES = (".", "labs/raftlab", "grader/raftgrade", "tests")
SUFFIXES = (".py", ".md", ".toml", ".txt", ".patch", ".yaml", "/")
# Paths that need not exist: placeholders in recipes, and the student's own files.
INVENTED = re.compile(r"NAME|NEW|LAB|^(raft|kv)\.py$")


@PAGE
def test_every_path_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = [word for word in re.findall(r"`([\w./-]+)`", text) if word.endswith(SUFFIXES)]
    # The picture names modules without backquotes.
    named += re.findall(r"\b(?:harness|host|suites|worlds|referee)/\w+\.py", text)
    missing = [path for path in named if not any((ROOT / place / path).exists() for place in PLACES)]
    assert [path for path in missing if not INVENTED.search(path)] == []


@PAGE
def test_every_link_leads_to_an_existing_file_and_heading(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in link:
            name, _, anchor = link.partition("#")
            target = ROOT / name if name else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


@PAGE
def test_commands_are_understood(page: Path) -> None:
    """Checks every `raftlab ...` and `raftgrade ...` that has arguments."""
    text = page.read_text(encoding="utf-8")
    lines = [line for block in re.findall(r"^ *```\n(.*?)^ *```", text, re.M | re.S) for line in block.splitlines()]
    for line in [*lines, *re.findall(r"`([^`\n]+)`", text)]:
        for program, arguments in re.findall(r"^ *(?:\S*/)?(raftlab|raftgrade) (\S+ [^&|)]+)", line):
            words = shlex.split(arguments, comments=True)
            if "..." not in words:
                (cli.make_parser() if program == "raftlab" else options.parser()).parse_args(words)


def test_every_command_and_folder_is_in_the_architecture() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    commands = [("raftlab", cli.make_parser()), ("raftgrade", options.parser())]
    for program, parser in commands:
        (actions,) = [action for action in parser._actions if action.dest == "command"]
        for command in actions.choices or ():
            assert re.search(rf"`(?:{program} [\w-]+`, `)?(?:{program} )?{command}`", text), f"{program} {command}"
    for unit in {*LAB_LEVEL, *GRADER_LEVEL} - {"__init__", "__main__"}:
        assert re.search(rf"`{unit}(?:/|\.py)`", text), f"ARCHITECTURE.md does not mention {unit}"
