"""Tests that the skeleton is exactly the solution without its regions, passes the contract check, and passes the linter."""

from __future__ import annotations

import ast
import shutil
import subprocess
from pathlib import Path

import pytest

from raftlab import labs
from raftlab.labs import UnknownLab
from raftlab.submission import skeleton
from raftlab.tools.check import check

ROOT = Path(__file__).parents[2]
SOLUTION = ROOT / "solutions" / "raft.py"
SKELETON = ROOT / "skeleton" / "raft.py"
FILES = ("raft.py", "kv.py")
LABS = ("2A", "2B")

SMALL = '''"""A text."""

import random
import time


class Raft:
    def vote(self):
        """Why."""
        # region 2A: who gets my vote?
        # hint: Figure 2.
        with self.lock:
            return time.monotonic()
        # skeleton: return False
        # endregion

    def apply(self):
        # region 2B: apply what is committed

        self.done = random.random()

        # endregion
        return self.done

    # region 2A: helpers

    def help(self):
        return 1

    # endregion
'''

FROM_2A = '''"""A text."""

# Not every import is used yet: your code will need them.
# ruff: noqa: F401

import random
import time


class Raft:
    def vote(self):
        """Why."""
        # Your code here (2A): who gets my vote?
        # Figure 2.
        return False

    def apply(self):
        # Your code here (2B): apply what is committed
        return self.done

    # Your code here (2A): helpers
'''

FROM_2B = '''"""A text."""

# Not every import is used yet: your code will need them.
# ruff: noqa: F401

import random
import time


class Raft:
    def vote(self):
        """Why."""
        with self.lock:
            return time.monotonic()

    def apply(self):
        # Your code here (2B): apply what is committed
        return self.done

    def help(self):
        return 1
'''


def generated(name: str, start: str = "") -> str:
    """A file of the skeleton as generated from the solution. With ``start``, the labs before that lab are solved."""
    return skeleton.generate(SOLUTION.with_name(name).read_text(), start, name=name)


@pytest.mark.parametrize("name", FILES)
def test_committed_skeleton_is_up_to_date(name: str) -> None:
    command = f"python -m raftlab.submission.skeleton solutions/{name} skeleton/{name}"
    assert SKELETON.with_name(name).read_text() == generated(name), f"regenerate it: {command}"


def test_skeleton_passes_the_contract_check() -> None:
    assert check(SKELETON, ["2A"]) == []


def test_skeleton_has_all_methods_and_no_markers() -> None:
    text = SKELETON.read_text()
    assert text.count("Your code here (2A): ") == SOLUTION.read_text().count("# region 2A: ") >= 5
    for word in ("# region", "# endregion", "# skeleton:", "# hint:"):
        assert word not in text
    names = [node.name for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]
    calls = ["__init__", "get_state", "start", "snapshot", "change_membership", "transfer_leadership"]
    calls += ["read_index", "lease_index", "status"]
    assert names == [
        *calls,
        "request_vote",
        "append_entries",
        "install_snapshot",
        "pre_vote",
        "timeout_now",
        "read_index_of",
        "lease_of",
    ]


def test_the_skeleton_of_the_service_has_all_methods_and_no_markers() -> None:
    text = SKELETON.with_name("kv.py").read_text()
    for word in ("# region", "# endregion", "# skeleton:", "# hint:"):
        assert word not in text
    names = [node.name for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]
    assert names == ["__init__", "client_request", "__init__", "get", "put", "append", "swap", "_execute"]


@pytest.mark.parametrize("lab", labs.LABS)
def test_every_lab_can_be_the_start(lab: str, tmp_path: Path) -> None:
    for name in FILES:
        (tmp_path / name).write_text(generated(name, lab))
    text = "".join((tmp_path / name).read_text() for name in FILES)
    order = list(labs.LABS)
    for other in order:
        assert (f"Your code here ({other}): " in text) == (order.index(other) >= order.index(lab))
    assert check(tmp_path, order) == []


@pytest.mark.skipif(shutil.which("ruff") is None, reason="ruff is not on the path")
def test_skeleton_passes_the_linter(tmp_path: Path) -> None:
    for lab in labs.LABS:
        start = tmp_path / lab
        start.mkdir()
        for name in FILES:
            (start / name).write_text(generated(name, lab))
        for command in (["ruff", "format", "--check", "--line-length=120"], ["ruff", "check", "--isolated"]):
            done = subprocess.run([*command, "--no-cache", str(start)], capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout


def test_regions_become_comments() -> None:
    assert skeleton.generate(SMALL, lab_names=LABS) == FROM_2A


def test_a_later_start_keeps_the_solutions_before_it() -> None:
    assert skeleton.generate(SMALL, "2B", lab_names=LABS) == FROM_2B
    assert skeleton.generate(SMALL, "2A", lab_names=LABS) == FROM_2A


NESTED = """# region 2A: count
def count():
    n = 1
    # region 2B: more
    # hint: Two more.
    n += 2
    # skeleton: n += 0
    # endregion

    return n

# endregion
"""


def test_a_region_of_a_later_lab_inside_one_of_an_earlier_lab() -> None:
    assert skeleton.generate(NESTED, "2A", lab_names=LABS) == "# Your code here (2A): count\n"
    given = "def count():\n    n = 1\n    # Your code here (2B): more\n    # Two more.\n    n += 0\n\n    return n\n"
    assert skeleton.generate(NESTED, "2B", lab_names=LABS) == given


def test_no_linter_comment_if_all_imports_are_used() -> None:
    assert "noqa" not in skeleton.generate("import time\n\n# region 2A: x\n# endregion\nprint(time.time())\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "# region 2B: a\n# region 2A: b\n",
            "raft.py:2: a region of 2A cannot be inside a region of 2B (line 1); only a region of a later lab can",
        ),
        ("\n# region 2A: a\n", "raft.py:2: this region has no endregion"),
        ("# endregion\n", "raft.py:1: an endregion without a region"),
        ("# region 9Z: a\n# endregion\n", "raft.py:1: there is no lab '9Z'; the labs are: 2A, 2B"),
        (
            "# region 2A\n# endregion\n",
            "raft.py:1: a region needs a lab and a hint, as in `# region 2A: who gets my vote?`",
        ),
        ("# skeleton: pass\n", "raft.py:1: a `# skeleton:` line outside a region"),
        ("# hint: look\n", "raft.py:1: a `# hint:` line outside a region"),
        (
            "def f():\n    # region 2A: a\n    pass\n    # endregion\nx = 1\n",
            "raft.py: without its regions this is not valid Python: expected an indented block after function "
            "definition on line 1, in the line: x = 1; a `# skeleton:` line may be missing",
        ),
    ],
)
def test_wrong_markers_are_refused(text: str, message: str) -> None:
    with pytest.raises(skeleton.BadRegions) as caught:
        skeleton.generate(text, lab_names=LABS)
    assert str(caught.value) == message


def test_an_unknown_lab_as_the_start_is_refused() -> None:
    with pytest.raises(UnknownLab, match="there is no lab '2F'; the labs are: 2A, 2B"):
        skeleton.generate("", "2F", lab_names=LABS)


def test_the_command_writes_and_checks_a_skeleton(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "raft.py"
    assert skeleton.main([str(SOLUTION), str(output), "--check"]) == 1
    assert capsys.readouterr().err == (
        f"skeleton: {output} does not match {SOLUTION}; regenerate it: "
        f"python -m raftlab.submission.skeleton {SOLUTION} {output}\n"
    )
    assert skeleton.main([str(SOLUTION), str(output)]) == 0
    assert output.read_bytes() == SKELETON.read_bytes()
    assert skeleton.main([str(SOLUTION), str(output), "--check"]) == 0
    assert skeleton.main([str(tmp_path / "none.py"), str(output)]) == 2
    assert skeleton.main([str(SOLUTION), str(output), "--from", "9Z"]) == 2
