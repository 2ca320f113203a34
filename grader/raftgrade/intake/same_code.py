"""Finds submissions that share code with each other, or with what raftlab hands out.

Only whole classes and functions are compared, and only long ones, which two people are unlikely to write in the same way.
This finds plain copies, even if names, comments and formatting were changed. `raftgrade similarity` finds more.
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from raftgrade import code_hash
from raftgrade.code_hash import MIN_NODES, Statement
from raftgrade.results import CodePlace, SameCode
from raftlab import labs
from raftlab.submission import source, starts

# A class or function is compared if its syntax tree has at least MIN_NODES nodes, not counting what students were given: the
# methods of the skeleton and of the starts. So two students who have changed one line of the skeleton do not look like
# copies.

# The files of a submission may take this many seconds together. Files that are left then are not compared. The reference
# solution takes a tenth of a second.
SUBMISSION_S = 30.0
_MIN_BYTES = 1000  # a shorter file has no class or function that is long enough
SKELETON = "the unchanged skeleton"
_REFERENCE = "the reference solution"


def find(paths: Mapping[str, str], raft: Path | None = None) -> list[SameCode]:
    """Compare submissions.

    Args:
        paths: the copy of each submission, by its name; an empty path is left out.
        raft: the Raft that all copies have, which is not compared.

    Returns:
        Groups of places with the same code: first the code that raftlab hands out, then all other code. Splitting code into
        files, adding code or changing the order of classes does not hide a copy.
    """
    below = {} if raft is None else source.locate(raft).modules
    common = {file.read_bytes() for name, file in below.items() if name != "kv"}
    modules: dict[str, dict[str, Path]] = {
        name: {shown: file for shown, file in _modules(path).items() if file.read_bytes() not in common}
        for name, path in paths.items()
        if path
    }
    if not any(file.stat().st_size >= _MIN_BYTES for found in modules.values() for file in found.values()):
        return []
    ours = _handed_out(starts.root())
    owners = {file: name for name, found in modules.items() for file in found.values()}
    # Small files first: a file that takes long is large, and must not keep the others from being compared.
    hashed = _hash_files({file: owners[file] for file in sorted(owners, key=lambda file: file.stat().st_size)}, ours)
    groups: dict[str, list[tuple[CodePlace, str]]] = {}
    unchanged = []
    for submission, found in modules.items():
        with_code = [hashed[file] for file in found.values() if hashed[file].has_code]
        if with_code and all(each.in_skeleton for each in with_code):
            unchanged.append(CodePlace(submission, source.ENTRY))
        for shown, file in found.items():
            for name, shape, code in hashed[file].long:
                groups.setdefault(shape, []).append((CodePlace(submission, shown, name), code))
    result = [SameCode(places=unchanged, origin=SKELETON)] if unchanged else []
    for shape, members in groups.items():
        origin, codes = ours.origins.get(shape, ("", set()))
        if origin or len({place.submission for place, _ in members}) > 1:
            renamed = len(codes | {code for _, code in members}) > 1
            result.append(SameCode(places=[place for place, _ in members], renamed=renamed, origin=origin))
    return sorted(result, key=lambda group: not group.origin)


def _modules(path: str) -> dict[str, Path]:
    """The files of a submission, by the name to show; none if it cannot be read."""
    try:
        submission = source.locate(path)
    except source.SubmissionError:
        return {}
    return {submission.show(file): file for file in submission.modules.values()}


@dataclass(frozen=True, slots=True)
class _HandedOut:
    """What raftlab hands out. :class:`~raftgrade.code_hash.Statement` explains shapes and parts.

    Attributes:
        skeleton: the shapes of the skeleton's statements.
        parts: the shapes of the parts of all statements of the skeleton and of the starts.
        origins: the long classes and functions of the starts and the solutions, by shape. For each: where it comes from,
            such as "the start of lab 2C", and the hashes of its code.
    """

    skeleton: set[str]
    parts: set[str]
    origins: dict[str, tuple[str, set[str]]]


@dataclass(frozen=True, slots=True)
class _File:
    """What is known of a file.

    Attributes:
        has_code: whether it has statements that count.
        in_skeleton: whether the skeleton has them all.
        long: of the classes and functions that are compared: the name, the hash of the shape, and the hash of the code.
    """

    has_code: bool
    in_skeleton: bool
    long: list[tuple[str, str, str]]


def _hash_files(owners: Mapping[Path, str], ours: _HandedOut) -> dict[Path, _File]:
    """What is known of each file. A file that cannot be parsed has no code, and neither have the files of a submission after
    it has used up its time. (Files are parsed in separate processes.)

    Args:
        owners: the files, each with its submission.
        ours: what raftlab hands out.
    """
    result: dict[Path, _File] = {}
    spent_s: defaultdict[str, float] = defaultdict(float)
    while todo := [file for file in owners if file not in result]:
        late = [file for file in todo if spent_s[owners[file]] >= SUBMISSION_S]
        if late:
            result.update((file, _file([], ours)) for file in late)
            continue
        with tempfile.TemporaryFile("w+") as given:
            given.writelines(f"{json.dumps(str(file))}\n" for file in todo)
            given.seek(0)
            command = [sys.executable, "-I", "-S", code_hash.__file__]
            done = 0
            with subprocess.Popen(
                command, stdin=given, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            ) as process:
                assert process.stdout is not None
                began, stopped = time.monotonic(), False
                for line in process.stdout:  # one at a time, because a submission may have a million statements
                    if not line.endswith("\n"):  # it was cut short
                        break
                    owner = owners[todo[done]]
                    spent_s[owner] += time.monotonic() - began
                    result[todo[done]] = _file(msgspec.json.decode(line, type=list[Statement]), ours)
                    done += 1
                    if spent_s[owner] >= SUBMISSION_S:
                        process.kill()
                        stopped = True
                        break
                    began = time.monotonic()
                if done < len(todo) and not stopped:  # this file ended the process
                    result[todo[done]] = _file([], ours)
                    spent_s[owners[todo[done]]] += time.monotonic() - began
    return result


def _file(found: Sequence[Statement], ours: _HandedOut) -> _File:
    long = [
        (each.name, each.shape, each.code)
        for each in found
        if each.shape in ours.origins or (each.name and _size(each, ours.parts) >= MIN_NODES)
    ]
    return _File(bool(found), all(each.shape in ours.skeleton for each in found), long)


@functools.cache
def _handed_out(root: Path) -> _HandedOut:
    """What raftlab hands out, read from the data in ``root``."""
    named: list[tuple[str, list[Statement]]] = []
    skeleton = _statements(starts.files().values())
    for lab in list(labs.LABS)[1:]:
        try:
            named.append((f"the start of lab {lab}", _statements(starts.files(lab).values())))
        except starts.NoStart:
            continue  # this raftlab comes from a kit, which may lack starts
    given = [*skeleton, *(each for _, found in named for each in found)]
    solutions = [path.read_text(encoding="utf-8") for path in (root / "solutions").glob("*.py")]
    named.append((_REFERENCE, _statements(solutions)))
    in_skeleton = {part for each in skeleton for _, part in each.parts}
    origins: dict[str, tuple[str, set[str]]] = {}
    for origin, found in named:
        for each in found:
            if each.name and _size(each, in_skeleton) >= MIN_NODES:
                earlier, codes = origins.get(each.shape, (origin, set()))
                # Lab 3 does not change raft.py, so the starts of labs 3 contain all of the reference's raft.py.
                also = f"{_REFERENCE}, which is {earlier}" if origin == _REFERENCE and earlier != origin else earlier
                origins[each.shape] = (also, codes | {each.code})
    parts = {part for each in given for _, part in each.parts}
    return _HandedOut({each.shape for each in skeleton}, parts, origins)


def _size(statement: Statement, known: set[str]) -> int:
    """How many nodes of a statement's syntax tree are in parts that are not ``known``."""
    return sum(nodes for nodes, shape in statement.parts if shape not in known)


def _statements(texts: Iterable[str]) -> list[Statement]:
    return [each for text in texts for each in code_hash.statements(text)]
