"""The matrix of rules: each rule that a server must follow, the known bug that breaks it, and the test that catches the bug.

The matrix is in ``rules.toml`` beside the bugs. :func:`problems` lists its mistakes: lines of the paper that have no rule,
bugs and tests that do not exist, and tests that the bug's file does not name.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from pathlib import Path
from typing import Annotated

import msgspec

from raftgrade.proof.bug_bank import BadBank, Bank
from raftlab import labs
from raftlab.safe_text import count, printable

FILE = "rules.toml"

_Text = Annotated[str, msgspec.Meta(min_length=1)]
_Texts = Annotated[tuple[_Text, ...], msgspec.Meta(min_length=1)]


class RuleRow(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One rule.

    Attributes:
        id: a short name, unique in the matrix.
        source: the lines of the paper, the dissertation or a handout that state the rule.
        says: the rule, in a sentence of our own.
        labs: the labs that ask for the rule.
        bug: the id of the bug that breaks this rule, such as ``2a/el-double-vote``.
        test: the test that must catch the bug.
        handout: the section of a handout that explains the rule, such as ``lab-2a-details.md#terms``; may be empty.
    """

    id: _Text
    source: _Texts
    says: _Text
    labs: _Texts
    bug: _Text
    test: _Text
    handout: str = ""


class Matrix(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The whole file. ``lines`` are the lines of the paper that a server must follow. Each must be the source of a rule."""

    lines: tuple[_Text, ...] = ()
    rule: tuple[RuleRow, ...] = ()


def read(folder: Path) -> Matrix:
    """Read ``rules.toml`` below ``folder``; the matrix is empty if there is none. Raises :class:`BadBank`."""
    paths = sorted(folder.rglob(FILE))
    if not paths:
        return Matrix()
    shown = printable(str(paths[0]))
    if len(paths) > 1:
        raise BadBank(f"expected one {FILE}, but there are {shown} and {printable(str(paths[1]))}")
    try:
        return msgspec.convert(tomllib.loads(paths[0].read_text(encoding="utf-8")), Matrix)
    except OSError as exc:
        raise BadBank(f"{shown} cannot be read: {exc.strerror or exc}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as exc:
        raise BadBank(f"{shown}: {printable(str(exc))}") from None


def problems(matrix: Matrix, bank: Bank) -> list[str]:
    """The mistakes in the matrix, each as a sentence."""
    found = []
    sources = {source for row in matrix.rule for source in row.source}
    found += [f"no rule has the source {line!r}" for line in matrix.lines if line not in sources]
    for name, of_each in (("rule", [row.id for row in matrix.rule]), ("bug", [row.bug for row in matrix.rule])):
        found += [f"the {name} {each} has {count(n, 'row')}" for each, n in Counter(of_each).items() if n > 1]
    bugs = {bug.id: bug for bug in bank.bugs}
    for row in matrix.rule:
        found += [f"{row.id}: there is no lab {lab!r}" for lab in row.labs if lab not in labs.LABS]
        bug = bugs.get(row.bug)
        if bug is None:
            found.append(f"{row.id}: the bank has no bug {row.bug!r}")
            continue
        if bug.lab not in row.labs:
            found.append(f"{row.id}: its bug {bug.id} is tried in lab {bug.lab}, which is not one of the rule's labs")
        if row.test not in {catch.test for catch in bug.catches}:
            found.append(f"{row.id}: the file of the bug {bug.id} does not say that {row.test!r} catches it")
    return found


def table(matrix: Matrix) -> str:
    """The matrix for a terminal, lab by lab, with a line for the bug and the test of each rule."""
    blocks = []
    for lab in labs.LABS:
        rows = [row for row in matrix.rule if row.labs[0] == lab]
        if rows:
            lines = [f"{row.id} ({'; '.join(row.source)})\n    {row.says}\n    {row.bug} -> {row.test}" for row in rows]
            blocks.append("\n".join([f"lab {lab}", *map(printable, lines)]))
    return "\n\n".join([*blocks, summary(matrix)])


def summary(matrix: Matrix) -> str:
    """``254 rules, from 52 lines of the paper, the dissertation and the labs``"""
    lines = count(len(matrix.lines), "line")
    return f"{count(len(matrix.rule), 'rule')}, from {lines} of the paper, the dissertation and the labs"
