"""Text that depends on the labs' tests: counts in the README and the guide, and transcripts in the handouts.

`python -m tests.update` rewrites it.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from raftlab import labs
from raftlab.suites import catalogue
from tests.conftest import ROOT

ALL_LABS = ", ".join(labs.LABS)
PASSING = re.compile(r"<!-- transcript: (raftlab test (?P<lab>\w+) --impl solutions) -->\n```\n(?P<shown>.*?)```", re.S)
README = ROOT / "README.md"
GUIDE = ROOT / "handouts" / "instructors-guide.md"
HANDOUTS = sorted(path for path in (ROOT / "handouts").glob("*.md") if PASSING.search(path.read_text(encoding="utf-8")))


def number_of_tests(lab: str) -> int:
    """How many tests a lab has."""
    return len(catalogue.tests(lab))


def points_of(lab: str) -> int:
    """How many points all tests of a lab are worth together."""
    return sum(info.points for info in catalogue.tests(lab))


def readme() -> str:
    text = README.read_text(encoding="utf-8")
    listed = re.findall(r"^\| \[(\w+) ", text, re.M)
    if listed != list(labs.LABS):
        raise ValueError(f"the README's table has the labs {', '.join(listed)}, but there are {ALL_LABS}")
    text = _replaced(text, r"# fails \d+ times", lambda _: f"# fails {number_of_tests('2A')} times")
    return _replaced(
        text,
        r"^(\| \[(\d\w) .* \|) \d+ tests, \d+ points \|$",
        lambda row: f"{row[1]} {number_of_tests(row[2])} tests, {points_of(row[2])} points |",
    )


def guide() -> str:
    text = GUIDE.read_text(encoding="utf-8")
    # A line of the guide may end between these words.
    return _replaced(
        text,
        r"\((\d\w):(\s+)\d+(\s+)points\)",
        lambda found: f"({found[1]}:{found[2]}{points_of(found[1])}{found[3]}points)",
    )


def passing_transcript(path: Path) -> str:
    """The text of a handout, in which the transcript of a passing lab is brought up to date.

    A transcript that differs only in measured numbers is not replaced, so that the handout does not change each time.
    """
    text = path.read_text(encoding="utf-8")

    def current(found: re.Match[str]) -> str:
        command = shlex.split(found[1])
        words = [sys.executable, "-m", "raftlab.cli", *command[1:]]
        real = subprocess.run(words, cwd=ROOT, capture_output=True, encoding="utf-8", check=True).stdout
        if _words(real) == _words(found["shown"]):
            return found[0]
        return f"<!-- transcript: {found[1]} -->\n```\n{real}```"

    return PASSING.sub(current, text)


def _words(transcript: str) -> list[str]:
    """The lines of a transcript without measured numbers (time, traffic, length). The numbers of tests and points stay."""
    transcript = re.sub(r"^(  PASS   .*?) {2,}.*$", r"\1", transcript, flags=re.M)
    return re.sub(r"; \d+ runs?, .*$", "", transcript, flags=re.M).splitlines()


def _replaced(text: str, pattern: str, replacement: Callable[[re.Match[str]], str]) -> str:
    changed, count = re.subn(pattern, replacement, text, flags=re.M)
    if not count:
        raise ValueError(f"nothing in the text matches {pattern!r}: change the pattern in tests/counts.py")
    return changed
