"""Command lines that `raftlab` and `raftgrade` reject with one message.

`python -m tests.update` writes the messages to ``tests/snapshots/refusals.txt``.
"""

from __future__ import annotations

import contextlib
import io
import shlex
import shutil
from pathlib import Path

import raftgrade.cli
import raftlab.cli
from tests.conftest import ROOT
from tests.grader import fakes

COMMANDS = """
raftlab
raftlab new .
raftlab new you --from 9Z
raftlab test
raftlab test 9Z
raftlab test 2A
raftlab test 2A --impl none
raftlab test 2A --impl empty
raftlab test 2A --seeds x
raftlab test 2A --seeds 0
raftlab test 2A --seeds 5:5
raftlab test 2A -k zzz
raftlab test 2A -k terms_stay_put --network rpyc
raftlab test 2A --pdb --seeds 3:9
raftlab test 2A --pdb --network both
raftlab test 2A --check-determinism --network rpyc
raftlab test 2A --failed --seeds 3
raftlab test 2A --jobs 0
raftlab check
raftlab check 9Z
raftlab check 2A --labs 2B
raftlab replay x
raftlab replay x@1
raftlab replay x@-1
raftlab replay late_vote@1 --server S1,x
raftlab replay terms_stay_put@1 --network rpyc
raftlab fuzz 2A --for soon
raftlab fuzz 2A --jobs -1
raftlab view none.jsonl
raftlab play none.txt
raftlab play 9Z
raftlab play 2B --servers 10
raftlab play 2B --members 3
raftlab play 3A --clerks 0
raftlab play 2B --seed -1
raftlab play 2B --solution --impl alice

raftgrade
raftgrade run
raftgrade run nowhere
raftgrade run empty
raftgrade run alice --labs 9Z
raftgrade run alice --labs ''
raftgrade run alice --labs 2A --raft reference
raftgrade run alice --raft none
raftgrade run alice --runs many
raftgrade run alice --runs 0
raftgrade run alice --runs -3
raftgrade run alice --rpyc-runs 0
raftgrade run alice --jobs 0
raftgrade run alice --rpyc-jobs 0
raftgrade run alice --seed -1
raftgrade run alice --out alice/raft.py
raftgrade run alice --out alice
raftgrade run alice --out alice/raft.py/x
raftgrade run alice --rubric none
raftgrade run alice --until-sure good=2
raftgrade run alice --until-sure max=0
raftgrade run alice --until-sure often
raftgrade run alice --until-sure '' --network rpyc
raftgrade run alice --scheduler tls://x:1
raftgrade run alice --roster none
raftgrade run alice --roster README.md
raftgrade run alice --due soon
raftgrade run alice --late none
raftgrade run alice --manual none
raftgrade report alice
raftgrade gradescope-zip a.zip --raft reference --labs 2A
raftgrade gradescope-zip a.zip --raft nowhere
raftgrade similarity
raftgrade similarity nowhere
raftgrade similarity alice --pairs 0
raftgrade kit
raftgrade kit kit --starts 9Z
raftgrade kit kit --url example.edu
raftgrade soak --out out
raftgrade soak alice
raftgrade soak alice --out out --network lan
raftgrade soak alice --out out --hog
raftgrade soak alice --out out --hours 0
raftgrade soak alice --out out --hours nan
raftgrade soak alice --out out --passes 0
raftgrade soak alice --out out --jobs 0
raftgrade soak alice --out out --seed -1
raftgrade soak alice --out out --labs 9Z
raftgrade soak nobody --out out
raftgrade soak alice --out alice
raftgrade soak --show alice
raftgrade soak --show odd
raftgrade proof nowhere
raftgrade proof bank --seeds 0
raftgrade proof bank --hard-seeds 5
raftgrade proof bank --soak x
raftgrade proof bank --bugs x
raftgrade proof bank --labs 2B
raftgrade proof bank --reference x
raftgrade proof bank --reference alice
raftgrade proof bank --only x
raftgrade proof bank --mutants --bugs x
raftgrade proof bank --mutants --sample 0
raftgrade proof bank --mutants
""".strip().splitlines()


def prepare(folder: Path) -> None:
    """Create the files that the commands name: a submission ``alice``, a ``bank`` with one bug, an ``empty`` folder, and an
    ``odd`` one with a file that is not a soak's log."""
    (folder / "README.md").touch()
    fakes.submission(folder, "alice")
    for name in ("empty", "odd", "bank"):
        (folder / name).mkdir()
    (folder / "odd" / "soak.jsonl").write_text("{}\n")
    shutil.copy(ROOT / "tests" / "bugs" / "2a" / "el-double-vote.patch", folder / "bank")


def run(command: str, folder: Path) -> tuple[int, str, str]:
    """Run a command line in ``folder``, with fakes for the parts of raftlab that the grader uses.

    Returns:
        The exit code, stdout and stderr.
    """
    program, *arguments = shlex.split(command)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            if program == "raftlab":
                code = raftlab.cli.main(arguments)
            else:
                code = raftgrade.cli.main(arguments, fakes.tools())
        except SystemExit as exc:
            code = int(exc.code or 0)
    return code, out.getvalue(), err.getvalue()
