"""A module imports only from its own folder and from lower levels. ARCHITECTURE.md lists the levels of both packages."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import ROOT

# The folders and top-level modules of each package, lowest level first. Those on the same level do not import each other,
# except for `cli` and `options`.
LAB_LEVELS = (
    (
        "__init__",
        "api",
        "labs",
        "seeds",
        "safe_text",
        "schedules",
        "participants",
        "operating_system",
        "time_awake",
        "explain",
        "sandbox",
        "linearizability",
    ),
    ("command_line", "messages", "referee"),
    ("submission",),
    ("host",),
    ("worlds",),
    ("harness",),
    ("suites", "viewer"),
    ("runs",),
    ("play",),
    ("tools",),
    ("cli",),
)
GRADER_LEVELS = (
    ("__init__", "stats", "failure_classes", "output_folder", "zip_files", "code_hash", "students"),
    ("plan", "rubric", "progress", "kit", "dates"),
    ("results",),
    ("attempts",),
    ("marks", "late", "manual", "spill", "reports"),
    ("tally",),
    ("signatures",),
    ("store",),
    ("engines", "intake"),
    ("grade", "soak", "similarity"),
    ("proof",),
    ("options", "cli", "__main__"),
)
LAB_LEVEL = {unit: number for number, units in enumerate(LAB_LEVELS) for unit in units}
GRADER_LEVEL = {unit: number for number, units in enumerate(GRADER_LEVELS) for unit in units}

# The host runs student code, so the judge does not import the host. These modules of the judge are the only exceptions:
# they run the host in the judge's own process, for `--pdb` and for runs whose verdict matters only to the code's author.
HOST_IN_JUDGE = ("runs/together_child.py", "worlds/sim_world.py", "tools/debug.py")


def modules(package: Path) -> list[Path]:
    return [path for path in sorted(package.rglob("*.py")) if "data" not in path.parts]


@cache
def imports(path: Path) -> set[str]:
    """The raftlab and raftgrade modules that a file imports, as dotted names."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.split(".")[0] in ("raftlab", "raftgrade", "solutions", "skeleton", "tests")}


def unit_of(dotted: str, levels: dict[str, int]) -> str:
    parts = dotted.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in levels else "__init__"


LAB = ROOT / "labs" / "raftlab"
GRADER = ROOT / "grader" / "raftgrade"


def upward(package: Path, path: Path, levels: dict[str, int]) -> list[str]:
    """A message for each import from a higher level of the file's own package."""
    shown = path.relative_to(package).as_posix()
    own = path.relative_to(package).parts[0].removesuffix(".py")
    assert own in levels, f"{own} has no level yet: add it to LAB_LEVELS or GRADER_LEVELS, and to ARCHITECTURE.md"
    return [
        f"{shown} imports {name}, which is on a higher level"
        for name in imports(path)
        if name.startswith(package.name) and levels[unit_of(name, levels)] > levels[own]
    ]


@pytest.mark.parametrize("path", modules(LAB), ids=lambda path: path.relative_to(LAB).as_posix())
def test_raftlab_imports_only_itself_and_lower_levels(path: Path) -> None:
    assert upward(LAB, path, LAB_LEVEL) == []
    for name in imports(path):
        assert name.startswith("raftlab"), f"{path.name} imports {name}"


def test_folders_of_one_level_do_not_import_each_other() -> None:
    for package, levels in ((LAB, LAB_LEVEL), (GRADER, GRADER_LEVEL)):
        for path in modules(package):
            own = path.relative_to(package).parts[0].removesuffix(".py")
            for name in imports(path):
                other = unit_of(name, levels)
                same_level = name.startswith(package.name) and levels[other] == levels[own]
                if same_level and other not in (own, "__init__") and own not in ("options", "cli", "__main__"):
                    pytest.fail(f"{path.relative_to(package)} imports {name}, which is on the same level")


def test_the_judge_does_not_import_the_host() -> None:
    for path in modules(LAB):
        shown = path.relative_to(LAB).as_posix()
        if shown.startswith("host/") or LAB_LEVEL[shown.split("/")[0].removesuffix(".py")] < LAB_LEVEL["host"]:
            continue
        for name in imports(path):
            if unit_of(name, LAB_LEVEL) == "host":
                assert shown in HOST_IN_JUDGE, f"{shown} imports {name}"


@pytest.mark.parametrize("path", modules(GRADER), ids=lambda path: path.relative_to(GRADER).as_posix())
def test_the_grader_imports_only_itself_and_raftlab(path: Path) -> None:
    assert upward(GRADER, path, GRADER_LEVEL) == []
    for name in imports(path):
        assert name.split(".")[0] in ("raftlab", "raftgrade"), f"{path.name} imports {name}"
        assert not name.startswith("raftlab.host"), f"{path.name} imports {name}"
