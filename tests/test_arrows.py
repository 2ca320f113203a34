"""Imports run one way. This test holds DESIGN.md's arrows: who may import whom inside the two packages."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.conftest import ROOT

# Rooms of raftlab, lowest first. A room may import rooms of its own floor and below, never above.
FLOORS = (
    ("api", "labs", "seeds", "failure", "shapes", "notation", "confine", "__init__"),
    ("protocol", "rules", "record", "source", "outline", "traceroom"),
    ("explain",),
    ("wire", "line", "pipe", "network", "trace"),
    ("contract", "viewer"),
    ("host",),
    ("worlds", "referee"),
    ("flight", "carrying"),
    ("switch",),
    ("service", "puppet"),
    ("cluster",),
    ("membership",),
    ("suites", "scenario"),
    ("fuzz",),
    ("catalogue",),
    ("run", "check"),
    ("plugin",),
    ("skeleton",),
    ("scripts",),
    ("recording", "shrink"),
    ("starter", "debug", "terminal", "session"),
    ("replay", "shorten", "endings", "view"),
    ("determinism", "campaign"),
    ("cli",),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}

# Judge's side and host's side meet in these only; the judge never imports a module of the host's that runs students'
# code, but for `--pdb`, which says so where it does.
HOST_IN_JUDGE = {("worlds/sim.py", "host"), ("debug.py", "host")}


def modules(package: Path) -> list[Path]:
    return [path for path in sorted(package.rglob("*.py")) if "data" not in path.parts]


def imports(path: Path, top_level_only: bool = False) -> set[str]:
    """The raftlab and raftgrade modules that a file imports, as dotted names."""
    found: set[str] = set()
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] in ("raftlab", "raftgrade", "solutions", "skeleton", "tests")}


def room(dotted: str) -> str:
    parts = dotted.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in FLOOR else "__init__"


LAB = ROOT / "labs" / "raftlab"


@pytest.mark.parametrize("path", modules(LAB), ids=lambda path: path.relative_to(LAB).as_posix())
def test_imports_run_downwards(path: Path) -> None:
    own = path.relative_to(LAB).parts[0].removesuffix(".py")
    assert own in FLOOR, f"{own} has no floor yet: say where it belongs"
    shown = path.relative_to(LAB).as_posix()
    for name in imports(path):
        assert name.startswith("raftlab"), f"{shown} imports {name}"
        upward = FLOOR[room(name)] > FLOOR[own]
        assert not upward, f"{shown} imports {name}, which lies above it"


def test_the_judge_runs_no_student_code() -> None:
    for path in modules(LAB):
        shown = path.relative_to(LAB).as_posix()
        if shown.startswith("host/") or FLOOR[shown.split("/")[0].removesuffix(".py")] < FLOOR["host"]:
            continue
        for name in imports(path):
            if room(name) == "host":
                assert (shown, "host") in HOST_IN_JUDGE, f"{shown} imports {name}"


@pytest.mark.parametrize("path", modules(ROOT / "grader" / "raftgrade"), ids=lambda path: path.name)
def test_the_grader_uses_the_lab_and_nothing_else(path: Path) -> None:
    for name in imports(path):
        assert name.split(".")[0] in ("raftlab", "raftgrade"), f"{path.name} imports {name}"
        assert room(name) != "host" or not name.startswith("raftlab"), f"{path.name} imports {name}"


def test_no_file_is_too_long() -> None:
    for path in [*modules(LAB), *modules(ROOT / "grader")]:
        # A suite is a list of scripts, each read by itself; splitting it would hide where the lab ends.
        most = 640 if path.name.startswith("lab_2") else 510
        assert len(path.read_text().splitlines()) <= most, f"{path.name} is past {most} lines"
