"""The bank of known bugs: reads patch files, each of which puts one bug into the reference solution, and applies them.

A file begins with ``Key: value`` headers, like an e-mail. An empty line follows, and then the change as the hunks of a
unified diff. ``tests/bugs/README.md`` describes the format. A hunk changes ``raft.py``, unless the two file-name lines
before it (in the form of ``diff -u``) name ``kv.py``.

The line numbers in a hunk's ``@@`` line are ignored. Instead, a hunk's old lines (context and ``-``) must occur exactly once
in the reference. So a patch still applies after changes elsewhere in the reference, and can be written by hand without
counting lines. If a hunk's own old lines have changed, the patch is rejected instead of being applied at a similar place.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from raftlab import labs
from raftlab.explain import rules
from raftlab.explain.causes import FAULTS
from raftlab.explain.failure import Failure, Rule
from raftlab.safe_text import count, printable
from raftlab.suites import catalogue

HARDNESS = ("easy", "medium", "hard")
SEEDS = 3  # a test must catch the bug at least once with this many seeds, unless the bug's file has the header Seeds
FILES = ("raft.py", "kv.py")  # the files of the reference that patches may change; the first one is the default
LEFT_OUT = "left-out.md"  # the notes on known bugs that are not in the bank

HEADERS = ("Title", "Lab", "Breaks", "Hardness", "Source", "Seeds", "Before", "Missed")
CATCH_HEADERS = ("Caught-by", "Rule", "Kind")
_REQUIRED = ("Title", "Lab", "Breaks", "Hardness", "Source")
_HEADER = re.compile(r"([A-Z][A-Za-z-]*): *(.*?) *")

_RULES = frozenset(rule.name for rule in vars(rules).values() if isinstance(rule, Rule))
_KINDS = ("assertion", *FAULTS)


class BadBank(ValueError):
    """A bank cannot be read, or a bug cannot be applied to the reference. The message says where and why."""


@dataclass(frozen=True, slots=True)
class Catch:
    """A test that must catch a bug, and the failure that it must report.

    Attributes:
        test: name of the test.
        rule: name of the rule that the failure must name; empty if it must name none.
        kind: if the failure must name no rule, its :attr:`Failure.kind`; otherwise empty.
    """

    test: str
    rule: str = ""
    kind: str = ""

    def matches(self, failure: Failure) -> bool:
        """Whether ``failure`` is the expected one."""
        if failure.rule is None:
            return not self.rule and failure.kind == self.kind
        return failure.rule.name == self.rule


@dataclass(frozen=True, slots=True)
class Hunk:
    """A change of ``file`` from ``old`` lines to ``new`` ones. ``line`` is the line of the patch where the hunk begins."""

    file: str
    line: int
    old: tuple[str, ...]
    new: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Bug:
    """One file of the bank.

    Attributes:
        name: the name of the file without ``.patch``; unique within a lab.
        path: the patch file.
        title: one sentence that describes the mistake.
        lab: the lab whose suite must catch the bug.
        breaks: the property of Raft that the bug violates.
        hardness: one of :data:`HARDNESS`.
        source: the paper, issue or submission where the bug was first seen.
        catches: tests that must catch the bug; empty if ``missed`` is given.
        hunks: the change, in the order of the file.
        seeds: each test of ``catches`` must catch the bug at least once with this many seeds.
        before: remove this lab and all later ones, except ``lab``, from the reference before applying the bug; empty to
            remove none.
        missed: why no test catches the bug; empty if a test must catch it.
    """

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
        """Unique in the bank: ``2c/ps-no-votedfor``."""
        return f"{self.lab.lower()}/{self.name}"

    def apply_to(self, reference: Mapping[str, str]) -> dict[str, str]:
        """Apply the bug.

        Args:
            reference: the source of each of :data:`FILES` that the reference has, by name.

        Returns:
            The sources that the bug's lab needs, by name.

        Raises:
            BadBank: a file is missing, or a hunk does not fit.
        """
        changed = {}
        for file in _files_of(self.lab):
            if file not in reference:
                raise BadBank(f"{self.id}: the reference has no {file}")
            changed[file] = self._changed(file, without_labs_from(self.before, reference[file], self.lab))
        return changed

    def _changed(self, file: str, source: str) -> str:
        """The text ``source`` of ``file`` with the hunks for that file applied."""
        lines = source.splitlines()
        positions = []
        for number, hunk in enumerate(self.hunks, 1):
            if hunk.file != file:
                continue
            size = len(hunk.old)
            matches = [
                start for start in range(len(lines) - size + 1) if tuple(lines[start : start + size]) == hunk.old
            ]
            if len(matches) != 1:
                raise BadBank(
                    f"{self.id}: the old lines of hunk {number} ({printable(str(self.path))}:{hunk.line}) occur "
                    f"{count(len(matches), 'time')} in the reference, expected exactly once"
                )
            positions.append((matches[0], number, hunk))
        positions.sort(key=lambda position: position[0])
        for (start, first, hunk), (next_start, second, _) in itertools.pairwise(positions):
            if start + len(hunk.old) > next_start:
                raise BadBank(f"{self.id}: hunks {first} and {second} change the same lines of the reference")
        for start, _, hunk in reversed(positions):
            lines[start : start + len(hunk.old)] = hunk.new
        return "\n".join(lines) + "\n"


@dataclass(frozen=True, slots=True)
class Bank:
    """All bugs, ordered by lab and name. ``left_out`` holds the notes on known bugs that are not in the bank."""

    bugs: list[Bug]
    left_out: str = ""

    def find(self, lab: str, name: str) -> Bug:
        """The bug ``name`` of ``lab``. Raises :class:`BadBank`."""
        for bug in self.bugs:
            if (bug.lab, bug.name) == (lab, name):
                return bug
        raise BadBank(f"the bank has no bug {name!r} for lab {lab}")

    def of(self, lab: str) -> list[Bug]:
        """The bugs of one lab."""
        return [bug for bug in self.bugs if bug.lab == lab]


def read(folder: Path) -> Bank:
    """Read every ``*.patch`` below ``folder``. Raises :class:`BadBank`."""
    shown = printable(str(folder))
    if not folder.is_dir():
        raise BadBank(f"{shown} is not a folder; a bank is a folder with one *.patch file per bug")
    bugs: dict[str, Bug] = {}
    for path in sorted(folder.rglob("*.patch")):
        bug = parse(_text(path), path)
        if bug.id in bugs:
            raise BadBank(f"{printable(str(path))}: {bug.id} is already defined in {printable(str(bugs[bug.id].path))}")
        bugs[bug.id] = bug
    if not bugs:
        raise BadBank(f"{shown} contains no *.patch files, so there are no bugs to try")
    notes = sorted(folder.rglob(LEFT_OUT))
    ordered = sorted(bugs.values(), key=lambda bug: (list(labs.LABS).index(bug.lab), bug.name))
    return Bank(ordered, "\n".join(_text(note).strip() for note in notes))


def choose(bank: Bank, lab_names: Collection[str], names: Collection[str]) -> list[Bug]:
    """Select bugs by lab and, optionally, by name.

    Args:
        bank: the bank to select from.
        lab_names: names of labs, such as ``2C``.
        names: names (``ps-no-votedfor``) or ids (``2c/ps-no-votedfor``) of bugs; empty to select all.

    Raises:
        BadBank: no bug in the bank has one of these names, or none of the named bugs belongs to these labs.
    """
    for name in names:
        if not any(name in (bug.name, bug.id) for bug in bank.bugs):
            raise BadBank(f"the bank has no bug called {printable(name)!r}")
    bugs = [bug for bug in bank.bugs if bug.lab in lab_names and (not names or bug.name in names or bug.id in names)]
    if not bugs:
        raise BadBank(f"the bank has none of these bugs for {', '.join(lab_names)}")
    return bugs


def parse(text: str, path: Path) -> Bug:
    """Parse one patch file.

    Args:
        text: the contents of the file.
        path: the path of the file, for the bug's name and for error messages. The file is not read.

    Raises:
        BadBank: ``text`` is not a valid patch file.
    """
    lines = text.rstrip("\n").splitlines()
    headers = _headers(lines, path)
    values = headers.values
    missing = [key for key in _REQUIRED if key not in values]
    if missing:
        raise _bad(path, headers.end, f"these headers are missing: {', '.join(missing)}")
    lab, before = (_lab(values[key], headers.lines[key], path) if key in values else "" for key in ("Lab", "Before"))
    if values["Hardness"] not in HARDNESS:
        raise _bad(
            path, headers.lines["Hardness"], f"Hardness must be easy, medium or hard, not {values['Hardness']!r}"
        )
    if not headers.catches and "Missed" not in values:
        raise _bad(
            path,
            headers.end,
            "Caught-by must name a test that catches the bug, or Missed must say why no test catches it",
        )
    tests = {info.name for info in catalogue.tests(lab)}
    for line, catch in headers.catches.items():
        if catch.test not in tests:
            raise _bad(path, line, f"lab {lab} has no test called {catch.test!r}")
    seeds = values.get("Seeds", str(SEEDS))
    if not re.fullmatch("[1-9][0-9]{0,3}", seeds):
        raise _bad(path, headers.lines["Seeds"], f"Seeds must be a number from 1 to 9999, not {seeds!r}")
    return Bug(
        name=path.stem,
        path=path,
        title=values["Title"],
        lab=lab,
        breaks=values["Breaks"],
        hardness=values["Hardness"],
        source=values["Source"],
        catches=tuple(headers.catches.values()),
        hunks=tuple(_hunks(lines, headers.end, lab, path)),
        seeds=int(seeds),
        before=before,
        missed=values.get("Missed", ""),
    )


def _lab(name: str, line: int, path: Path) -> str:
    try:
        return labs.find(name).name
    except labs.UnknownLab as exc:
        raise _bad(path, line, str(exc)) from None


@dataclass(slots=True)
class _Headers:
    """The headers of one file.

    ``lines`` holds their line numbers, and ``catches`` is keyed by the line number of ``Caught-by``. ``end`` is the line
    number of the empty line after the headers.
    """

    values: dict[str, str] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    catches: dict[int, Catch] = field(default_factory=dict)
    end: int = 0


def _headers(lines: list[str], path: Path) -> _Headers:
    headers = _Headers()
    test = ""  # the value of a Caught-by whose Rule or Kind has not been read yet
    for number, line in enumerate(lines, 1):
        if not line.strip() and not test:
            headers.end = number
            return headers
        match = _HEADER.fullmatch(line)
        key, value = (match[1], match[2]) if match else ("", "")
        if (key in ("Rule", "Kind")) != bool(test):
            raise _bad(path, number, "each Caught-by must be followed by its own Rule or Kind")
        if not value:
            raise _bad(path, number, f"expected a header such as `Lab: 2A`, not {printable(line)!r}")
        if key == "Caught-by":
            test = value
        elif test:
            headers.catches[number - 1] = _catch(test, key, value, number, path)
            test = ""
        elif key not in HEADERS:
            raise _bad(path, number, f"unknown header {key}; the headers are {', '.join((*HEADERS, *CATCH_HEADERS))}")
        elif key in headers.values:
            raise _bad(path, number, f"{key} occurs twice")
        else:
            headers.values[key], headers.lines[key] = value, number
    raise _bad(path, max(1, len(lines)), "expected an empty line after the headers, and then the change")


def _catch(test: str, key: str, value: str, number: int, path: Path) -> Catch:
    if key == "Rule":
        if value not in _RULES:
            raise _bad(path, number, f"no failure names a rule called {printable(value)!r}")
        return Catch(test, rule=value)
    if value not in _KINDS:
        raise _bad(path, number, f"Kind must be one of {', '.join(_KINDS)}, not {printable(value)!r}")
    return Catch(test, kind=value)


def _files_of(lab: str) -> tuple[str, ...]:
    """The files of the reference that a lab needs."""
    return FILES if labs.LABS[lab].has("service") else FILES[:1]


def _hunks(lines: list[str], start: int, lab: str, path: Path) -> list[Hunk]:
    hunks: list[Hunk] = []
    file = FILES[0]
    old: list[str] = []
    new: list[str] = []
    begin, changes = 0, False

    def finish() -> None:
        if begin and not changes:
            raise _bad(path, begin, "this hunk changes nothing")
        if begin and not old:
            raise _bad(path, begin, "this hunk has no old line, so its place cannot be found: add context lines")
        if begin:
            hunks.append(Hunk(file, begin, tuple(old), tuple(new)))

    for number, line in enumerate(lines[start:], start + 1):
        if line.startswith("@@"):
            finish()
            begin, old, new, changes = number, [], [], False
        elif line.startswith("--- ") and lines[number : number + 1] and lines[number].startswith("+++ "):
            finish()
            begin, file = 0, _file(lines[number], number + 1, lab, path)
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
            # Many editors strip the space from an otherwise empty context line.
            old.append(line[1:])
            new.append(line[1:])
        else:
            raise _bad(
                path, number, f"the lines of a hunk begin with a space, - or +, but this one is {printable(line)!r}"
            )
    finish()
    if not hunks:
        raise _bad(path, len(lines), "there is no hunk, so nothing would change")
    return hunks


def _file(line: str, number: int, lab: str, path: Path) -> str:
    """The file that a line such as ``+++ solutions/kv.py`` names. ``diff`` appends a tab and a date, which
    are ignored."""
    name = PurePosixPath(line.removeprefix("+++ ").partition("\t")[0].strip()).name
    if name not in _files_of(lab):
        raise _bad(
            path, number, f"a bug of lab {lab} can change {' and '.join(_files_of(lab))}, not {printable(name)!r}"
        )
    return name


def without_labs_from(lab: str, reference: str, kept: str = "") -> str:
    """Remove later labs from the reference, because they hide bugs of earlier ones (PreVote hides many).

    Args:
        lab: the first lab to remove; empty to remove none.
        reference: the source of a file of the reference solution, with its ``# region`` comments.
        kept: a later lab that is not removed.

    Returns:
        ``reference`` as it would look for a student who has not started ``lab``, with the region comments of the other
        labs.
    """
    lines: list[str] = []
    depth = 0  # nesting depth of regions within the removed one; 0 outside of it
    for line in reference.splitlines():
        region = re.fullmatch(r"\s*# region (\w+): .*", line)
        if depth or (lab and region and region[1] >= lab and region[1] != kept):
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
        raise BadBank(f"{printable(str(path))} is not text in UTF-8") from None
    except OSError as exc:
        raise BadBank(f"{printable(str(path))} cannot be read: {exc.strerror or exc}") from None


def _bad(path: Path, line: int, text: str) -> BadBank:
    return BadBank(f"{printable(str(path))}:{line}: {text}")
