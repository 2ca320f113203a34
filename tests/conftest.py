"""Fixtures and helpers for raftlab's own tests: small Rafts, and clusters of them in the simulator."""

from __future__ import annotations

import compileall
import signal
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Unpack

import pytest

import raftgrade
import raftlab
from raftlab.harness.cluster import Cluster, ServiceOptions
from raftlab.harness.network import MIN_DELAY
from raftlab.harness.trace import LogLineEvent
from raftlab.operating_system import processors
from raftlab.referee.referee import Referee
from raftlab.worlds.host_process import WarmHost
from raftlab.worlds.sim_world import ForkedHost, SimWorld

ROOT = Path(__file__).parent.parent
SOLUTION = ROOT / "solutions" / "raft.py"
SKELETON = ROOT / "skeleton" / "raft.py"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--whole-suites",
        action="store_true",
        help="run all tests of a suite and all known bugs instead of samples, and also the searches that take half a minute",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is not in the daily sample, unless the command line has --whole-suites, -k, or -m whole_bank."""
    chosen = config.getoption("--whole-suites") or config.getoption("keyword")
    if chosen or "whole_bank" in config.getoption("markexpr"):
        return
    left_out = [item for item in items if item.get_closest_marker("whole_bank")]
    items[:] = [item for item in items if not item.get_closest_marker("whole_bank")]
    config.hook.pytest_deselected(items=left_out)


def pytest_configure(config: pytest.Config) -> None:
    """Restore SIGINT if it is ignored, as it is in a shell's background jobs, and compile raftlab.

    Child processes inherit an ignored signal, and some tests send SIGINT to their children. The hook runs in pytest
    itself and in each xdist worker. Hosts write no bytecode. Without compiled files, each of the hundreds of hosts
    would compile raftlab anew.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if not hasattr(config, "workerinput"):  # workers start later, when everything is compiled
        for package in (raftlab, raftgrade):
            compileall.compile_dir(Path(package.__file__).parent, quiet=2)


def pytest_xdist_auto_num_workers() -> int:
    """Use two workers per processor: a third of the tests' time is spent waiting for real servers and for hostile code."""
    return 2 * processors()


@pytest.fixture(scope="session", autouse=True)
def _state_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Use a temporary state folder. Gradings keep the key that signs their records there, and tests must not touch the
    developer's own key."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(autouse=True)
def _no_submission_stays_imported() -> Iterator[None]:
    """Fail a test that leaves a submission's module in ``sys.modules``. The next ``import raft`` in this process would
    return that module instead of another submission's."""
    yield
    left = {name for name in ("raft", "kv") if name in sys.modules}
    for name in left:
        del sys.modules[name]
    assert not left, f"this test, or a fixture that it was the first to use, left {left} in sys.modules"


# A Raft that meets the contract and does nothing else. Tests insert their own code at its three placeholders.
TEMPLATE = """
from __future__ import annotations
import logging, queue, random, threading, time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from raftlab.api import ApplyMsg, log

@dataclass
class RequestVoteArgs:
    term: int
    candidate_id: int
    last_log_index: int
    last_log_term: int

@dataclass
class RequestVoteReply:
    term: int
    vote_granted: bool

@dataclass
class LogEntry:
    term: int
    command: object

@dataclass
class AppendEntriesArgs:
    term: int
    leader_id: int
    prev_log_index: int
    prev_log_term: int
    entries: list[LogEntry] = field(default_factory=list)
    leader_commit: int = 0

@dataclass
class AppendEntriesReply:
    term: int
    success: bool

def heartbeat(term=1, me=0):
    return AppendEntriesArgs(term, me, 0, 0)

{module}

class Raft:
    def __init__(self, peers, me, persister, apply_ch, members):
        self.peers, self.me, self.persister, self.apply_ch, self.members = peers, me, persister, apply_ch, members
        self.lock = threading.Lock()
        self.term, self.leads = 0, False
{init}

    def start(self, command):
        return 0, 0, False

    def get_state(self):
        return self.term, self.leads

    def request_vote(self, args: RequestVoteArgs) -> RequestVoteReply:
        return RequestVoteReply(args.term, False)

    def append_entries(self, args: AppendEntriesArgs) -> AppendEntriesReply:
        return AppendEntriesReply(args.term, True)

{methods}
"""

Write = Callable[..., Path]


@pytest.fixture
def write_raft(tmp_path: Path) -> Write:
    """Returns a function that writes a raft.py with the test's code and returns the folder of this file.

    ``module`` goes to the module level, ``init`` to the end of ``__init__``, and ``methods`` after the template's own
    methods, which they may override.
    """

    def write(init: str = "", methods: str = "", module: str = "", name: str = "submission") -> Path:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)

        def at(depth: int, code: str) -> str:
            return textwrap.indent(textwrap.dedent(code), " " * depth)

        text = TEMPLATE.format(module=textwrap.dedent(module), init=at(8, init), methods=at(4, methods))
        (folder / "raft.py").write_text(text)
        return folder

    return write


@contextmanager
def sim_cluster(
    path: Path,
    servers: int = 1,
    seed: int = 0,
    schedule: str = "none",
    lab: str = "2A",
    scripted: tuple[int, ...] = (),
    anyone_leads: bool = True,
    **service: Unpack[ServiceOptions],
) -> Iterator[Cluster]:
    """Create a cluster in the simulator, without starting its servers.

    Args:
        path: the submission.
        servers: the number of servers.
        seed: determines every random choice.
        schedule: how threads are preempted (:mod:`raftlab.schedules`).
        lab: the lab whose rules the referee checks.
        scripted: the servers that the test plays itself.
        anyone_leads: whether the referee accepts leaders without votes. The small Rafts of most tests hold no elections.
        service: the options for clusters with clerks (lab 3A and later).
    """
    with ExitStack() as stack:
        host = stack.enter_context(WarmHost(path))
        world = SimWorld(ForkedHost(host, seed, schedule), MIN_DELAY)
        stack.callback(world.close)
        cluster = Cluster(world, lab, seed, servers, scripted, **service)
        if anyone_leads:
            let_anyone_lead(cluster.event_loop.referee)
        yield cluster


class _Everything(set[tuple[int, int]]):
    """A set that contains everything."""

    def __contains__(self, item: object) -> bool:
        return True


def let_anyone_lead(referee: Referee) -> None:
    """Make the referee accept leaders without votes from now on."""
    if referee.leadership is not None:
        referee.leadership._elected = _Everything()


def lines_of(cluster: Cluster, server: int = 0) -> list[str]:
    """The lines that a server logged or printed."""
    return [event.text for event in log_lines(cluster) if event.server == server]


def log_lines(cluster: Cluster) -> list[LogLineEvent]:
    """The lines that all servers logged or printed."""
    return [event for event in cluster.event_loop.trace.events if isinstance(event, LogLineEvent)]
