"""A run that is forked from a prepared host has the same trace as a run that loads the submission itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from raftlab.harness.cluster import Cluster
from raftlab.harness.network import MIN_DELAY
from raftlab.runs.run import Implementation, Run
from raftlab.suites import catalogue
from raftlab.worlds.host_process import WarmHost
from raftlab.worlds.sim_world import ForkedHost, SimWorld
from tests.conftest import SOLUTION, Write, let_anyone_lead, lines_of


def is_prepared(host: WarmHost) -> bool:
    return host._prepared is not None


@pytest.mark.parametrize("test", ["restarts", "one_clerk"])
def test_prepared_runs_have_the_same_trace(test: str) -> None:
    info = catalogue.find_test(test)
    impl = Implementation(SOLUTION.parent)
    records = [Run(impl, info, "sim", 1).judge(catalogue.script_of(info)) for _ in range(3)]
    assert is_prepared(impl.host())
    impl.close()
    assert [record.outcome for record in records] == ["passed"] * 3
    assert len({record.trace_hash for record in records}) == 1


@contextmanager
def started(host: WarmHost, servers: int, known: int) -> Iterator[Cluster]:
    """A running cluster. ``known`` is the number of incarnations that the host is told to load before the run."""
    world = SimWorld(ForkedHost(host, 0, "release", {"raft": known}), MIN_DELAY)
    try:
        cluster = Cluster(world, "2A", 0, servers)
        let_anyone_lead(cluster.event_loop.referee)
        cluster.start_all()
        yield cluster
    finally:
        world.close()


def test_every_incarnation_has_modules_and_random_numbers_of_its_own(write_raft: Write) -> None:
    """This includes incarnations after a restart, and those that were not loaded before the run."""
    path = write_raft(
        module="""
        seen = []
        logging.basicConfig(level=logging.DEBUG)
        logger = logging.getLogger(__name__)
        """,
        init="""
        seen.append(me)
        import sys
        assert sys.modules["raft"].seen is seen and RequestVoteArgs.__module__ == "raft"
        log("x", f"{seen} {random.random()} {random.Random().random()} {threading.current_thread().name}")
        logger.info("through the library")
        """,
    )
    with WarmHost(path) as host:
        outputs: list[list[list[str]]] = []
        hashes: set[str] = set()
        # The first run has no prepared host. The prepared host starts with the second run, and loads fewer incarnations than
        # that run starts.
        for known in (1, 1, 4, 4):
            with started(host, 6, known) as cluster:
                cluster.crash(2)
                cluster.restart(2)
                outputs.append([lines_of(cluster, server) for server in range(6)])
                hashes.add(cluster.event_loop.trace.hash())
        assert is_prepared(host)
    assert outputs.count(outputs[0]) == len(outputs)
    assert len(hashes) == 1
    lines = [line for server in outputs[0] for line in server if "library" not in line]
    assert len(lines) == len(set(lines)) == 7
    assert all(line.startswith(f"[{server}] ") for server, own in enumerate(outputs[0]) for line in own[::2])


@pytest.mark.parametrize(
    "module",
    ["started_at = time.time()", "FIRST = random.random()", "threading.Thread(target=print).start()", "print('hello')"],
)
def test_a_module_that_does_more_than_define_is_loaded_by_each_run(module: str, write_raft: Write) -> None:
    with WarmHost(write_raft(module=module)) as host:
        for _ in range(2):
            with started(host, 1, 1):
                pass
        assert not is_prepared(host)


def test_a_module_that_cannot_be_imported_is_reported_by_each_run(write_raft: Write) -> None:
    impl = Implementation(write_raft(module="from raftlab.api import Nothing"))
    info = catalogue.find_test("cluster_of_one")
    failures = [Run(impl, info, "sim", 0).judge(catalogue.script_of(info)).failure for _ in range(2)]
    assert not is_prepared(impl.host())
    impl.close()
    assert failures[0] is not None
    assert "cannot import name 'Nothing'" in failures[0].text
    assert failures[0] == failures[1]


def test_runs_go_on_without_a_prepared_host_that_has_ended(write_raft: Write, tmp_path: Path) -> None:
    with WarmHost(write_raft(init="log('x', 'y')")) as host:
        with started(host, 1, 1):
            pass
        with started(host, 1, 1):  # this run ends only after the prepared host that forked it
            assert is_prepared(host)
            host.kill(host._prepared_child)
            for _ in range(2):
                with started(host, 1, 1) as cluster:
                    assert lines_of(cluster) == ["y"]
            assert not is_prepared(host)


def test_a_run_caches_no_bytecode_of_the_submission(tmp_path: Path) -> None:
    """Only raftlab's own modules may be cached: a submission's folder stays as it is."""
    for name in ("raft.py", "kv.py"):
        shutil.copy(SOLUTION.parent / name, tmp_path)
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-m", "raftlab.cli", "test", "3A", "-k", "one_clerk", "--network", "both"]
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not list(tmp_path.rglob("__pycache__"))
