"""Generates the student's skeleton from the reference solution by replacing the marked regions.

    python -m raftlab.submission.skeleton solutions/raft.py skeleton/raft.py [--check] [--from 2B]

A region of the solution looks like this, and becomes the three lines on the right::

    # region 2A: who gets my vote?            # Your code here (2A): who gets my vote?
    # hint: Figure 2, RequestVote             # Figure 2, RequestVote
    with self.lock:                           return False
        ...
    # skeleton: return False
    # endregion

A ``# hint:`` line becomes a comment below the line "Your code here". ``--from 2B`` keeps the regions of the labs before
2B, for students who start there. A region may contain regions of later labs, which add to the code of the earlier lab.
If such an inner region is not kept, its own ``# skeleton:`` lines replace it. A test checks that the committed skeleton
is up to date.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from raftlab import labs

_REGION = re.compile(r"(\s*)#\s*region\b\s*(?:([^\s:]+)\s*:\s*(\S.*)|.*)")
_END = re.compile(r"\s*#\s*endregion\b.*")
_LINE = re.compile(r"(\s*)#\s*(skeleton|hint):(?: (.*))?")

# The linter must not complain about imports that the skeleton itself does not use.
_ALLOW_UNUSED_IMPORTS = "# Not every import is used yet: your code will need them.\n# ruff: noqa: F401\n"


class BadRegions(ValueError):
    """The region markers in the solution are wrong. The message says which line is wrong, and why."""


@dataclass
class Region:
    """A marked part of the solution.

    Attributes:
        lab: The lab in which students write the region.
        line: The line number of its ``# region`` marker.
        lines: The lines that replace it in the skeleton.
        body: Its code, with the regions of later labs inside it.
    """

    lab: str
    line: int
    lines: list[str]
    body: list[str | Region] = field(default_factory=list)


def generate(solution: str, start: str = "", lab_names: Sequence[str] = tuple(labs.LABS), name: str = "raft.py") -> str:
    """Generate a skeleton.

    Args:
        solution: The text of the solution.
        start: The lab at which the student starts; empty means the first.
        lab_names: The names of the labs, in order.
        name: The name of the solution in messages.

    Raises:
        BadRegions: The region markers in the solution are wrong.
        raftlab.labs.UnknownLab: ``start`` is not one of the labs.
    """
    if start and start not in lab_names:
        raise labs.UnknownLab(f"there is no lab {start!r}; the labs are: {', '.join(lab_names)}")
    kept = lab_names[: lab_names.index(start)] if start else ()
    lines = _replace_regions(parse_regions(solution.splitlines(), lab_names, name), kept)
    text = "\n".join(_trimmed(lines)) + "\n"
    try:
        tree = ast.parse(text)
    except SyntaxError as exc:
        line = (exc.text or "").strip()
        text = f"{name}: without its regions this is not valid Python: {exc.msg}, in the line: {line}"
        raise BadRegions(f"{text}; a `# skeleton:` line may be missing") from None
    return _allow_unused_imports(text, tree)


def _replace_regions(parts: Sequence[str | Region], kept: Sequence[str]) -> list[str]:
    """The lines of ``parts``. Regions of the labs in ``kept`` keep their code; the others are replaced."""
    lines: list[str] = []
    for part in parts:
        if isinstance(part, str):
            lines.append(part)
        else:
            lines += _trimmed(_replace_regions(part.body, kept)) if part.lab in kept else part.lines
    return lines


def parse_regions(lines: Sequence[str], lab_names: Sequence[str], name: str) -> list[str | Region]:
    """Return the regions and the lines outside them, in order. For ``lab_names`` and ``name``, see :func:`generate`."""
    top: list[str | Region] = []
    opened: list[Region] = []
    for number, line in enumerate(lines, 1):
        where = f"{name}:{number}"
        outer = opened[-1] if opened else None
        body = top if outer is None else outer.body
        if found := _REGION.fullmatch(line):
            indent, lab, hint = found.groups()
            if lab is None:
                raise BadRegions(f"{where}: a region needs a lab and a hint, as in `# region 2A: who gets my vote?`")
            if lab not in lab_names:
                raise BadRegions(f"{where}: there is no lab {lab!r}; the labs are: {', '.join(lab_names)}")
            if outer is not None and lab_names.index(lab) <= lab_names.index(outer.lab):
                text = f"a region of {lab} cannot be inside a region of {outer.lab} (line {outer.line})"
                raise BadRegions(f"{where}: {text}; only a region of a later lab can")
            region = Region(lab, number, [f"{indent}# Your code here ({lab}): {hint}"])
            body.append(region)
            opened.append(region)
        elif _END.fullmatch(line):
            if outer is None:
                raise BadRegions(f"{where}: an endregion without a region")
            opened.pop()
        elif found := _LINE.fullmatch(line):
            indent, kind, text = found.groups()
            if outer is None:
                raise BadRegions(f"{where}: a `# {kind}:` line outside a region")
            mark = "# " if kind == "hint" else ""
            outer.lines.append(f"{indent}{mark}{text or ''}".rstrip())
        else:
            body.append(line)
    if opened:
        raise BadRegions(f"{name}:{opened[-1].line}: this region has no endregion")
    return top


def _trimmed(lines: list[str]) -> list[str]:
    """``lines`` without blank lines at either end."""
    full = [number for number, line in enumerate(lines) if line.strip()]
    return lines[full[0] : full[-1] + 1] if full else []


def _allow_unused_imports(text: str, tree: ast.Module) -> str:
    """If ``text`` has unused imports, add a comment for the linter below its docstring."""
    imported = {
        (alias.asname or alias.name).partition(".")[0]
        for node in tree.body
        if isinstance(node, (ast.Import, ast.ImportFrom)) and getattr(node, "module", "") != "__future__"
        for alias in node.names
    }
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    if imported <= used:
        return text
    lines = text.splitlines(keepends=True)
    at = tree.body[0].end_lineno or 0 if ast.get_docstring(tree) is not None else 0
    return "".join([*lines[:at], "\n" if at else "", _ALLOW_UNUSED_IMPORTS, *lines[at:]])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line. Returns 0; 1 if ``--check`` found a difference; 2 if the skeleton cannot be generated."""
    parser = argparse.ArgumentParser(
        prog="python -m raftlab.submission.skeleton", description="Generate the skeleton of a solution."
    )
    parser.add_argument("solution", type=Path)
    parser.add_argument("skeleton", type=Path, help="the file to write, or to compare with")
    parser.add_argument("--check", action="store_true", help="write nothing; check that the skeleton is up to date")
    parser.add_argument("--from", dest="start", default="", metavar="LAB", help="keep the code of the labs before LAB")
    arguments = parser.parse_args(argv)
    solution: Path = arguments.solution
    skeleton: Path = arguments.skeleton
    try:
        text = generate(solution.read_text(encoding="utf-8"), arguments.start, name=str(solution))
        if not arguments.check:
            skeleton.write_text(text, encoding="utf-8")
            return 0
        up_to_date = skeleton.is_file() and skeleton.read_bytes() == text.encode()
    except (BadRegions, labs.UnknownLab, OSError) as exc:
        print(f"skeleton: {exc}", file=sys.stderr)
        return 2
    if not up_to_date:
        command = f"python -m raftlab.submission.skeleton {solution} {skeleton}"
        print(f"skeleton: {skeleton} does not match {solution}; regenerate it: {command}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
