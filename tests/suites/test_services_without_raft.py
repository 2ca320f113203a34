"""Tests that a service or a clerk that goes around Raft fails with a sentence that says so, and not with an exception raised
in the suite."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import pytest

from raftlab.explain.failure import LabFailure
from raftlab.runs.run import Implementation, Run
from raftlab.suites import catalogue, lab_3a
from tests.conftest import SOLUTION, sim_cluster
from tests.hostile import service_bank

SERVICE = """

def client_request(self, args: ClientRequest) -> ClientReply:
    return ClientReply("ok", 1 if args.op == "register" else None)


KVServer.client_request = client_request
"""
# In the simulator, all clerks of a run share a process, so they could pass values to each other without any server.
CLERK = """

import sys

shared = sys.__dict__.setdefault("shared", {})


def put(self, key, value):
    shared[key] = value


def append(self, key, value):
    shared[key] = shared.get(key, "") + value


def swap(self, key, expected, value):
    if shared.get(key) != expected:
        return False
    shared[key] = value
    return True


Clerk.get, Clerk.put, Clerk.append, Clerk.swap = lambda self, key, read="log": shared.get(key), put, append, swap
"""


def submission(tmp_path: Path, more: str) -> Path:
    (tmp_path / "raft.py").write_text(SOLUTION.read_text())
    (tmp_path / "kv.py").write_text(SOLUTION.with_name("kv.py").read_text() + more)
    return tmp_path


def test_a_service_that_starts_no_entry_fails(tmp_path: Path) -> None:
    # If this did not fail, a service that never starts an entry could pass tests that ask only one server.
    with sim_cluster(submission(tmp_path, SERVICE), 3, lab="3A", scripted=(1, 2), scripted_clerks=1) as c:
        c.start_all()
        with pytest.raises(
            LabFailure, match=r"expected register to have been applied from the log, but no server has applied"
        ):
            lab_3a.test_entry_of_another_leader(lambda *size, **options: c)


def test_servers_that_answer_from_shared_memory_at_once_fail(tmp_path: Path) -> None:
    (entry,) = service_bank.SERVICES["servers that share memory"]
    entry.write(tmp_path)
    info = catalogue.find_test("every_server_has_the_state")
    with contextlib.closing(Implementation(tmp_path / entry.name)) as impl:
        record = Run(impl, info, "sim", 0).judge(catalogue.script_of(info))
    assert record.failure is not None
    assert re.match("expected append.* no server has applied a command since the request arrived", record.failure.text)


def test_a_clerk_that_sends_no_request_fails(tmp_path: Path) -> None:
    with sim_cluster(submission(tmp_path, CLERK), 3, lab="3A", clerks=2) as c:
        c.start_all()
        with pytest.raises(LabFailure, match=r"expected a request for C0\..*, but none came"):
            lab_3a.test_step_1_request(lambda *size, **options: c)
