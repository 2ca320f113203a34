"""Examples of output in the handouts, each from a real run. `python -m tests.update handouts` rewrites them.

An invisible marker above the block says how the block is made::

    <!-- example: raftlab test 2A -k split_vote; bug 2A/el-no-vote-for-self; /^expected/,/^  replay/ -->

It has these fields, separated by semicolons:

1. the command;
2. the code that the command runs on: ``bug LAB/NAME`` is the reference with a known bug (``tests/bugs``), ``new LAB`` is a
   new folder for that lab, and ``reference`` is the reference;
3. any number of parts; each continues after the part before it. ``/FIRST/,/LAST/`` shows a range of lines: it begins at
   the next line that matches the regular expression FIRST, and ends at the first line from there on that matches LAST.
   Without a part, all lines are shown;
4. ``only /PATTERN/``, anywhere after the code: the parts are taken only from the lines that match PATTERN, as after
   grep.

Dots stand for the lines between two parts.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from raftlab.submission import skeleton
from tests.conftest import ROOT
from tests.known_bugs import BANK, REFERENCE, put, write_sources

_MARKER = re.compile(
    r"^(<!-- example: (?P<command>raftlab [^;\n]+); (?P<fields>[^\n]+) -->\n```\n)(?P<shown>.*?)^```$", re.M | re.S
)
_PART = re.compile(r"/(.+)/,/(.+)/")
PAGES = sorted(path for path in (ROOT / "handouts").glob("*.md") if _MARKER.search(path.read_text(encoding="utf-8")))


def examples(path: Path) -> list[re.Match[str]]:
    """The examples of a handout: each has the groups ``command``, ``fields`` and ``shown``."""
    return list(_MARKER.finditer(path.read_text(encoding="utf-8")))


def page(path: Path) -> str:
    """The text of a handout with all its examples brought up to date."""
    return _MARKER.sub(lambda found: f"{found[1]}{current(found)}```", path.read_text(encoding="utf-8"))


def current(example: re.Match[str]) -> str:
    """What an example must show. An example that differs only in the wall time of the run stays as it is."""
    code, *parts = example["fields"].split("; ")
    with tempfile.TemporaryDirectory() as folder:
        _write(code, Path(folder))
        try:
            real = lines_of(parts, _output(example["command"], Path(folder)).splitlines())
        except ValueError as exc:
            exc.add_note(f"This is the example {example.group().partition(chr(10))[0]}")
            raise
    return example["shown"] if _without_wall_time(real) == _without_wall_time(example["shown"]) else real


def _write(code: str, folder: Path) -> None:
    kind, _, name = code.partition(" ")
    if kind == "bug":
        put(BANK.find(*name.split("/")), folder)
    elif kind == "new":
        write_sources(folder, {file: skeleton.generate(text, name, name=file) for file, text in REFERENCE.items()})
    elif code == "reference":
        write_sources(folder, REFERENCE)
    else:
        raise ValueError(f"expected 'bug LAB/NAME', 'new LAB' or 'reference', not {code!r}")


def _output(command: str, folder: Path) -> str:
    words = [sys.executable, "-m", "raftlab.cli", *shlex.split(command)[1:]]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, encoding="utf-8", check=False)
    if done.returncode not in (0, 1):
        raise ValueError(f"{command} ended with {done.returncode}: {done.stderr}")
    return done.stdout


def lines_of(parts: Sequence[str], lines: list[str]) -> str:
    """The lines that the parts of a marker select, as one text."""
    for part in parts:
        if part.startswith("only /"):
            lines = [line for line in lines if re.search(part[len("only /") : -1], line)]
    ranges = [_PART.fullmatch(part) for part in parts if not part.startswith("only /")]
    shown = [] if ranges else lines
    after = 0
    for wanted in ranges:
        if wanted is None:
            raise ValueError(f"expected /FIRST/,/LAST/ or only /PATTERN/ in {parts}")
        first = _next(lines, wanted[1], after)
        last = _next(lines, wanted[2], first)
        if shown and first > after:
            shown.append(max(_indent(shown[-1]), _indent(lines[first])) + "...")
        shown += lines[first : last + 1]
        after = last + 1
    return "".join(f"{line}\n" for line in shown)


def _indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]


def _next(lines: Sequence[str], pattern: str, start: int) -> int:
    for number, line in enumerate(lines[start:], start):
        if re.search(pattern, line):
            return number
    raise ValueError(f"no line of the output has /{pattern}/ from line {start + 1} on:\n" + "\n".join(lines))


def _without_wall_time(text: str) -> str:
    return re.sub(r"in \d+\.\d+ s$", "in # s", text, flags=re.M)
