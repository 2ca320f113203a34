"""Tests of the handouts of labs 3A and 3B and of the page about clients: their links, their tables of causes and statuses,
the runs that they show, and what reads cost."""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path

import pytest

from raftlab.explain import rules
from raftlab.explain.failure import Rule
from raftlab.harness.cluster import Cluster
from raftlab.harness.network import MIN_DELAY
from raftlab.linearizability import Operation, Register, Verdict, check
from raftlab.suites import lab_3b
from raftlab.tools import test as session
from raftlab.tools.new import is_for_students
from raftlab.worlds.host_process import WarmHost
from raftlab.worlds.sim_world import ForkedHost, SimWorld
from tests.handouts.test_handouts import (
    _LINK,
    FIRST_PAGES,
    HANDOUTS,
    SERVICE,
    SOLUTION,
    anchors,
    run,
    text_of,
)
from tests.handouts.test_handouts_general import rows

CLIENTS = HANDOUTS / "clients.md"
DETAILS = HANDOUTS / "lab-3a-details.md"
PAGES = [CLIENTS, *sorted(HANDOUTS.glob("lab-3?*.md"))]
THESE = pytest.mark.parametrize("lab", ["3A", "3B"])


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links(path: Path) -> None:
    for link in _LINK.findall(path.read_text(encoding="utf-8")):
        name, _, anchor = link.partition("#")
        target = path.with_name(name) if name else path
        assert target.is_file(), f"{path.name} links to {link}, which is not there"
        assert is_for_students(target), f"{path.name} links to {link}, which a student does not have"
        assert not anchor or anchor in anchors(target), f"{path.name} links to {link}: no such heading"


def failures(lab: str) -> Path:
    return HANDOUTS / f"lab-{lab.lower()}-failures.md"


@THESE
def test_every_rule_has_a_table_of_causes(lab: str) -> None:
    details = f"lab-{lab.lower()}-details.md"
    named = {rule.name for rule in vars(rules).values() if isinstance(rule, Rule) and details in rule.handout}
    text = failures(lab).read_text(encoding="utf-8").partition("\n## When it fails\n")[2]
    tables = re.split(r"^### ", text, flags=re.M)
    headings = {table.partition("\n")[0].lower() for table in tables if "\n| you see | look for |\n" in table}
    # The page of lab 3B also has a table for a rule of lab 3A.
    others = {rule.name.lower() for rule in vars(rules).values() if isinstance(rule, Rule)} if lab == "3B" else set()
    assert {name.lower() for name in named} <= headings
    assert headings <= {name.lower() for name in named} | others


def test_the_table_of_the_eight_steps_is_complete() -> None:
    table = CLIENTS.read_text(encoding="utf-8").partition("## The eight steps of a write\n")[2].partition("\n## ")[0]
    assert re.findall(r"^\| (\d) \|", table, re.MULTILINE) == [str(step) for step in range(1, 9)]


def test_all_pages_list_the_same_statuses() -> None:
    listed = [row[0] for row in rows(CLIENTS, "What each status promises")]
    assert listed == ["`ok`", "`not_leader`", "`try_again`", "`no_session`", "`bad_request`"]
    details = DETAILS.read_text(encoding="utf-8")
    for heading in ("What the clerk does", "Statuses"):
        table = details.partition(f"### {heading}\n")[2].partition("\n### ")[0]
        assert [cell for cell in re.findall(r"^\| (`\w+`) \|", table, re.MULTILINE) if cell != "`None`"] == listed


def test_the_history_of_the_page_about_clients_is_linearizable_only_with_two_puts() -> None:
    """The page says that the history is not linearizable if the put happens once, but is linearizable if the retry counts as
    another put."""
    put = Operation("c1", 0, 4.9, "put", "x", ("a",))
    others = [
        Operation("c2", 0.6, 1.8, "get", "x", (), "a"),
        Operation("c2", 2.1, 3.3, "put", "x", ("b",)),
        Operation("c2", 5.2, 6.4, "get", "x", (), "a"),
    ]
    assert check([put, *others], Register()).verdict is Verdict.NO
    again = Operation("c3", 4.2, 4.9, "put", "x", ("a",))
    assert check([put, *others, again], Register()).verdict is Verdict.YES


# --- what runs show ---


@THESE
def test_every_command_of_a_step_runs_a_test(lab: str) -> None:
    parts = re.findall(rf"^raftlab test {lab} -k (\w+)$", FIRST_PAGES[lab].read_text(encoding="utf-8"), re.MULTILINE)
    assert len(parts) > 15
    assert all(session.plan(lab, "sim", [part]) for part in parts)


@pytest.mark.slow
def test_the_events_shown_for_each_kind_of_read_are_real(tmp_path: Path) -> None:
    """For each kind of read, the replay has the events that lab 3B shows, in the same order. Times and the leader may
    differ."""
    for path in (SOLUTION, SERVICE):
        (tmp_path / path.name).write_text(path.read_text(encoding="utf-8"), encoding="utf-8")

    def shape(line: str) -> str:
        return re.sub(r"\d+", "#", line.split(maxsplit=1)[1])

    text = text_of("3B")
    (command,) = re.findall(r"`(raftlab replay each_kind@\d+[^`]*)`", text)
    real = [shape(line) for line in run(command, tmp_path).splitlines() if re.match(r" +\d+\.\d{3} ", line)]
    blocks = re.findall(r"<!-- replay -->\n```\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 5
    for block in blocks:
        events = iter(real)
        for line in block.splitlines():
            assert shape(line) in events, f"the replay has no {line!r} here: make the trace again"


# --- what reads cost ---

READS = 30


@pytest.mark.slow
def test_the_table_of_costs_of_reads_is_right() -> None:
    """The table of lab 3B states what each read costs with the reference when nothing else happens in the cluster."""
    table = text_of("3B").partition("## What a read promises, and what it costs\n")[2].partition("\n\nThese")[0]
    shown = re.findall(r'^\| `"(\w+)"` .*\| (\d) \| (\d) \| (\d) ms \|$', table, re.MULTILINE)
    assert [read for read, *_ in shown] == ["log", "index", "lease", "session", "snapshot"]
    with ExitStack() as stack:
        host = stack.enter_context(WarmHost(SERVICE.parent))
        world = SimWorld(ForkedHost(host, 0, "none"), MIN_DELAY)
        stack.callback(world.close)
        c = Cluster(world, "3B", 0, 3, clerks=1, max_state=4000)
        c.start_all()
        clerk = c.clerks[0]
        clerk.put("x", "1;")
        for read in ("index", "lease"):  # the first read with a lease makes the leader get one
            clerk.get("x", read=read)
        c.sleep(0.5)
        idle = lab_3b._rpcs_in(c, 2.0) / 2.0
        for read, rpcs, entries, milliseconds in shown:
            c.sleep(0.3)
            before, last, since = lab_3b._server_rpcs(c), lab_3b._last_index(c), c.now
            for _ in range(READS):
                clerk.get("x", read=read)
            seconds = c.now - since
            spent = lab_3b._server_rpcs(c) - before - idle * seconds
            assert spent / READS == pytest.approx(int(rpcs), abs=0.5), read
            assert lab_3b._last_index(c) - last == int(entries) * READS, read
            assert 1000 * seconds / READS == pytest.approx(int(milliseconds), abs=0.5), read
