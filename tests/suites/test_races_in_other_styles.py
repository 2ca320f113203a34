"""Tests that the suites catch races that cannot occur in the reference, only in Rafts of other styles."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path

import pytest

from raftlab.runs.run import Implementation, Run
from raftlab.suites import catalogue
from tests.conftest import ROOT

# If a future is already done, `add_done_callback` runs the callback at once, in the middle of the caller's loop. We made
# this mistake ourselves in `whole_executor`, and at first only the real network found it.
CALLBACK = """\
        def returned(call: Future[Any]) -> None:
            with self._alone():
                reply = call.result()
                real = reply is not None and not (method == "pre_vote" and reply.vote_granted)
                if real and reply.term > self.current_term:
                    self._adopt(reply.term)
                then(server, args, reply)

        self.pool.submit(self.peers[server].call, method, args).add_done_callback(returned)

"""


@pytest.mark.slow
def test_a_callback_that_runs_in_the_middle_of_a_loop_is_caught(tmp_path: Path) -> None:
    folder = tmp_path / "executor"
    shutil.copytree(ROOT / "tests" / "correct" / "whole_executor", folder)
    file = folder / "raft.py"
    text = file.read_text()
    start, end = text.index("        def exchange() -> None:"), text.index("    def _leading_since")
    file.write_text(text[:start] + CALLBACK + text[end:])
    info = catalogue.find_test("tenth_election")  # each election is a chance to meet the race
    with closing(Implementation(folder)) as implementation:
        runs = [Run(implementation, info, "sim", seed, "release") for seed in range(10)]
        assert any(run.play(catalogue.script_of(info)) is not None for run in runs)
