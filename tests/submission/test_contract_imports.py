"""Why an import failed, in words for its author (pinned)."""

from __future__ import annotations

from pathlib import Path

import pytest

from raftlab.messages.protocol import Problem
from raftlab.submission import contract
from tests.submission.test_contract import LAB_2A, build, imported


@pytest.mark.parametrize(
    ("files", "said", "at"),
    [
        (
            {"raft.py": "import nimpy\nclass Raft: pass\n"},
            "raft.py imports nimpy, which is not there: "
            "only the standard library and modules beside raft.py can be imported",
            "raft.py:1",
        ),
        (
            {
                "raft.py": "from core import Raft\n",
                "core.py": "import timers\nimport nimpy\n",
                "timers.py": "",
            },
            "core.py imports nimpy, which is not there: "
            "only the standard library and modules beside raft.py (core, timers) can be imported",
            "core.py:2",
        ),
        (
            {"raft.py": "from parts.log import Raft, Log\n", "parts/log.txt": "", "parts/x.py": ""},
            "raft.py imports parts.log, but the folder parts has no __init__.py: add an empty one",
            "raft.py:1",
        ),
        (
            {"raft.py": "from raftlab.nothing import Raft\n"},
            "raft.py imports raftlab.nothing, which does not exist: a submission imports from raftlab.api",
            "raft.py:1",
        ),
        (
            {"raft.py": "from .core import Raft\n", "core.py": "class Raft: pass\n"},
            "relative imports do not work beside raft.py: write `from log import ...`, without the dot",
            "raft.py:1",
        ),
        (
            {"raft.py": "from core import Raft\n", "core.py": ""},
            "importing raft.py raised ImportError: cannot import name 'Raft' from 'core'",
            "raft.py:1",
        ),
        (
            {"raft.py": "from core import Raft\n", "core.py": "x = 1\ndef f(\n"},
            "core.py is not valid Python: '(' was never closed, in the line: def f(",
            "core.py:2",
        ),
        (
            {"raft.py": "import core\nclass Raft: pass\n", "core.py": "def f():\n    return 1 / 0\n\nf()\n"},
            "importing raft.py raised ZeroDivisionError: division by zero",
            "core.py:2",
        ),
        (
            {"raft.py": "import sys\nclass Raft: pass\nsys.exit(main())if 0 else sys.exit(1)\n"},
            "raft.py ends the program when it is imported: put that under `if __name__ == '__main__':`",
            "raft.py:3",
        ),
        (
            {"raft.py": "class E(Exception):\n    def __str__(self): 1 / 0\nraise E\nclass Raft: pass\n"},
            "importing raft.py raised E",
            "raft.py:3",
        ),
    ],
)
def test_imports_that_fail(tmp_path: Path, files: dict[str, str], said: str, at: str) -> None:
    submission = build(tmp_path, files)
    assert imported(submission, LAB_2A) == [Problem(said, at, contract.FIRST_RUN)]
