"""The cabinet of known bugs: each is a patch file against the reference, read and applied here.

A file begins with lines ``Key: value`` as an e-mail does, then comes an empty line, then the change as the hunks of a
unified diff. ``tests/bugs/README.md`` describes the format for whoever writes one.

The numbers in a hunk's ``@@`` line are for people and editors; nothing here reads them. A hunk's old lines (context and
``-``) must stand exactly once in the reference: so a patch survives edits elsewhere in the reference, can be written by
hand without counting, and fails loudly when the lines it is about have changed, instead of going in at a place nearby.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from raftlab import labs
from raftlab.safe_text import count, printable
from raftlab.suites import catalogue

HARDNESS = ("easy", "medium", "hard")
SEEDS = 3  # runs of its test in which a bug must be caught, where the file does not say otherwise
LEFT_OUT = "left-out.md"

HEADERS = ("Title", "Lab", "Breaks", "Hardness", "Source", "Seeds", "Before", "Missed")
_NEEDED = ("Title", "Lab", "Breaks", "Hardness", "Source")
_HEADER = re.compile(r"([A-Z][A-Za-z-]*): *(.*?) *")


class BadBank(ValueError):
    """A bank, one of its files, or a bug that does not fit the reference. The message says where and what."""


@dataclass(frozen=True, slots=True)
class Catch:
    """The test that must catch a bug, and how its message begins."""

    test: str
    says: str


@dataclass(frozen=True, slots=True)
class Hunk:
    """``old`` lines that become the ``new`` ones; ``line`` is where the hunk begins in its file."""

    line: int
    old: tuple[str, ...]
    new: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Bug:
    """One file of the bank. ``before`` is the lab from which on the reference is taken out first (empty: nothing is),
    ``missed`` the reason why no test catches it (empty: they must), ``seeds`` the runs that each test of ``catches`` may
    take."""

    name: str
    path: Path
    title: str
    lab: str
    breaks: str
    hardness: str
    source: str
    catches: tuple[Catch, ...]
    hunks: tuple[Hunk, ...]
    seeds: int = SEEDS
    before: str = ""
    missed: str = ""

    @property
    def id(self) -> str:
        """``2c/ps-no-votedfor``: names are unique within a lab only."""
        return f"{self.lab.lower()}/{self.name}"

    def changed(self, reference: str) -> str:
        """The text ``reference`` with the bug in it. Raises :class:`BadBank`."""
        lines = without(reference, self.before).splitlines()
        places = []
        for number, hunk in enumerate(self.hunks, 1):
            size = len(hunk.old)
            found = [at for at in range(len(lines) - size + 1) if tuple(lines[at : at + size]) == hunk.old]
            if len(found) != 1:
                raise BadBank(
                    f"{self.id}: the old lines of hunk {number} ({printable(str(self.path))}:{hunk.line}) stand in the "
                    f"reference {count(len(found), 'time')}, and must stand there once"
                )
            places.append((found[0], number, hunk))
        places.sort(key=lambda place: place[0])
        for (start, first, hunk), (after, second, _) in itertools.pairwise(places):
            if start + len(hunk.old) > after:
                raise BadBank(f"{self.id}: hunks {first} and {second} change the same lines of the reference")
        for start, _, hunk in reversed(places):
            lines[start : start + len(hunk.old)] = hunk.new
        return "\n".join(lines) + "\n"


@dataclass(frozen=True, slots=True)
class Bank:
    """All bugs, in the order of the labs and of their names; ``left_out`` is the text on those that are not there."""

    bugs: list[Bug]
    left_out: str = ""

    def find(self, lab: str, name: str) -> Bug:
        """The bug ``name`` of ``lab``. Raises :class:`BadBank`."""
        for bug in self.bugs:
            if (bug.lab, bug.name) == (lab, name):
                return bug
        raise BadBank(f"the bank has no bug {name!r} for lab {lab}")

    def of(self, lab: str) -> list[Bug]:
        return [bug for bug in self.bugs if bug.lab == lab]


def read(folder: Path) -> Bank:
    """Every ``*.patch`` below ``folder``. Raises :class:`BadBank`."""
    shown = printable(str(folder))
    if not folder.is_dir():
        raise BadBank(f"{shown} is no folder: a bank is one, with a *.patch file for each bug")
    bugs: dict[str, Bug] = {}
    for path in sorted(folder.rglob("*.patch")):
        bug = parse(_text(path), path)
        if bug.id in bugs:
            raise BadBank(f"{printable(str(path))}: {bug.id} is in {printable(str(bugs[bug.id].path))} already")
        bugs[bug.id] = bug
    if not bugs:
        raise BadBank(f"{shown} has no *.patch files, so there is no bug to prove anything with")
    notes = sorted(folder.rglob(LEFT_OUT))
    ordered = sorted(bugs.values(), key=lambda bug: (list(labs.LABS).index(bug.lab), bug.name))
    return Bank(ordered, "\n".join(_text(note).strip() for note in notes))


def chosen(bank: Bank, wanted_labs: Collection[str], names: Collection[str]) -> list[Bug]:
    """The bugs of these labs, and of these names (``ps-no-votedfor`` or ``2c/ps-no-votedfor``) if there are any.
    Raises :class:`BadBank` for a name that nothing has."""
    for name in names:
        if not any(name in (bug.name, bug.id) for bug in bank.bugs):
            raise BadBank(f"the bank has no bug called {printable(name)!r}")
    found = [bug for bug in bank.bugs if bug.lab in wanted_labs and (not names or bug.name in names or bug.id in names)]
    if not found:
        raise BadBank(f"the bank has none of these bugs for {', '.join(wanted_labs)}")
    return found


def parse(text: str, path: Path) -> Bug:
    """The bug in ``text``; ``path`` gives its name, and is named by messages. Raises :class:`BadBank`."""
    lines = text.rstrip("\n").splitlines()
    said = _headers(lines, path)
    single = said.single
    missing = [key for key in _NEEDED if key not in single]
    if missing:
        raise _bad(path, said.end, f"the headers lack {', '.join(missing)}")
    lab, before = (_lab(single[key], said.lines[key], path) if key in single else "" for key in ("Lab", "Before"))
    if single["Hardness"] not in HARDNESS:
        raise _bad(path, said.lines["Hardness"], f"Hardness is {', '.join(HARDNESS)}, not {single['Hardness']!r}")
    if not said.catches and "Missed" not in single:
        raise _bad(path, said.end, "Caught-by must name the test that catches it, or Missed say why none does")
    tests = {info.name for info in catalogue.tests(lab)}
    for line, catch in said.catches.items():
        if catch.test not in tests:
            raise _bad(path, line, f"lab {lab} has no test called {catch.test!r}")
    seeds = single.get("Seeds", str(SEEDS))
    if not re.fullmatch("[1-9][0-9]{0,3}", seeds):
        raise _bad(path, said.lines["Seeds"], f"Seeds is a number of runs from 1 to 9999, not {seeds!r}")
    return Bug(
        name=path.stem,
        path=path,
        title=single["Title"],
        lab=lab,
        breaks=single["Breaks"],
        hardness=single["Hardness"],
        source=single["Source"],
        catches=tuple(said.catches.values()),
        hunks=tuple(_hunks(lines, said.end, path)),
        seeds=int(seeds),
        before=before,
        missed=single.get("Missed", ""),
    )


def _lab(name: str, line: int, path: Path) -> str:
    try:
        return labs.find(name).name
    except labs.UnknownLab as exc:
        raise _bad(path, line, str(exc)) from None


@dataclass(slots=True)
class _Headers:
    """What the headers say. ``lines`` are where they stand, ``catches`` go by the line of their test, ``end`` is the line of
    the empty one behind them."""

    single: dict[str, str] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    catches: dict[int, Catch] = field(default_factory=dict)
    end: int = 0


def _headers(lines: list[str], path: Path) -> _Headers:
    said = _Headers()
    waiting = ""  # a test whose message is still to come
    for number, line in enumerate(lines, 1):
        if not line.strip() and not waiting:
            said.end = number
            return said
        found = _HEADER.fullmatch(line)
        key, value = (found[1], found[2]) if found else ("", "")
        if (key == "Says") != bool(waiting):
            raise _bad(path, number, "each Caught-by is followed by its own Says")
        if not value:
            raise _bad(path, number, f"expected a header such as `Lab: 2A`, not {printable(line)!r}")
        if key == "Caught-by":
            waiting = value
        elif key == "Says":
            said.catches[number - 1] = Catch(waiting, value)
            waiting = ""
        elif key not in HEADERS:
            raise _bad(
                path, number, f"{key} is no header; those there are: {', '.join((*HEADERS, 'Caught-by', 'Says'))}"
            )
        elif key in said.single:
            raise _bad(path, number, f"{key} stands there twice")
        else:
            said.single[key], said.lines[key] = value, number
    raise _bad(path, max(1, len(lines)), "expected an empty line behind the headers, and then the change")


def _hunks(lines: list[str], start: int, path: Path) -> list[Hunk]:
    hunks: list[Hunk] = []
    old: list[str] = []
    new: list[str] = []
    begin, changes = 0, False

    def done() -> None:
        if begin and not changes:
            raise _bad(path, begin, "this hunk changes nothing")
        if begin and not old:
            raise _bad(path, begin, "this hunk has no old line, so its place cannot be found: give it context")
        if begin:
            hunks.append(Hunk(begin, tuple(old), tuple(new)))

    for number, line in enumerate(lines[start:], start + 1):
        if line.startswith("@@"):
            done()
            begin, old, new, changes = number, [], [], False
        elif not begin:
            if line.strip() and not line.startswith(("--- ", "+++ ")):
                raise _bad(path, number, f"expected a hunk, which begins with @@, not {printable(line)!r}")
        elif line.startswith("-"):
            old.append(line[1:])
            changes = True
        elif line.startswith("+"):
            new.append(line[1:])
            changes = True
        elif not line or line.startswith(" "):
            # Editors take the one blank of an empty context line away.
            old.append(line[1:])
            new.append(line[1:])
        else:
            raise _bad(path, number, f"a hunk's lines begin with a blank, - or +, this one is {printable(line)!r}")
    done()
    if not hunks:
        raise _bad(path, len(lines), "there is no hunk, so nothing is changed")
    return hunks


def without(reference: str, before: str) -> str:
    """The reference without the regions of the labs from ``before`` on (empty: nothing is taken out), the marks of all
    others left in it: what somebody has who has come as far as that. PreVote hides many a bug of the labs before it."""
    lines: list[str] = []
    depth = 0  # of the regions that are left out
    for line in reference.splitlines():
        region = re.fullmatch(r"\s*# region (\w+): .*", line)
        if depth or (before and region and region[1] >= before):
            depth += bool(region) - (line.strip() == "# endregion")
            if depth == 1 and "# skeleton: " in line:
                lines.append(line.replace("# skeleton: ", ""))
        else:
            lines.append(line)
    return "\n".join(lines) + "\n"


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise BadBank(f"{printable(str(path))}: expected text in UTF-8; this is something else") from None
    except OSError as exc:
        raise BadBank(f"{printable(str(path))} cannot be read: {exc.strerror or exc}") from None


def _bad(path: Path, line: int, text: str) -> BadBank:
    return BadBank(f"{printable(str(path))}:{line}: {text}")
