"""Tests of the race detector: it finds each kind of mistake, and reports nothing about code that is synchronised.

Most cases are executed by the same simulated run: each of its servers executes one case.
"""

from __future__ import annotations

import ast
import textwrap
from contextlib import closing
from pathlib import Path

import pytest

from raftlab.explain import races
from raftlab.harness.event_loop import EventLoop
from raftlab.harness.network import MIN_DELAY
from raftlab.host.loader import Program
from raftlab.host.races import rules
from raftlab.messages import protocol
from raftlab.runs import names
from raftlab.runs.record import Record
from raftlab.runs.run import Implementation, Run
from raftlab.submission import source
from raftlab.worlds.host_process import WarmHost
from raftlab.worlds.sim_world import ForkedHost, SimWorld
from tests.conftest import ROOT, SOLUTION, TEMPLATE

MODULE = """
    import queue
    from collections import deque
    from concurrent.futures import ThreadPoolExecutor

    TOTAL = 0

    class Box:
        count = 0

    def both(*functions):
        for function in functions:
            threading.Thread(target=function).start()

    class Leaky:
        def __init__(self):
            threading.Thread(target=self.run).start()
            self.late = 1
        def run(self):
            time.sleep(0.1)
            self.late += 1

    class Whole:
        def __init__(self):
            self.early = 1
            threading.Thread(target=self.run).start()
        def run(self):
            self.early += 1
"""

# Mistakes: the body of a function, and a part of the sentence that the detector must report about it.
FOUND = {
    "field": (
        """
        box.n = 0
        def first(): box.n += 1
        def second(): box.n = 5
        both(first, second)
        """,
        "`box.n`: written at raft.py:",
    ),
    "field_under_another_lock": (
        """
        one, two = threading.Lock(), threading.Lock()
        box.n = 0
        def first():
            with one: box.n += 1
        def second():
            with two: box.n += 1
        both(first, second)
        """,
        "by a thread that runs second holding `two`",
    ),
    "list": (
        """
        items = []
        def first(): items.append(1)
        def second(): items.append(2)
        both(first, second)
        """,
        "the contents of `items`: written at",
    ),
    "dict_in_a_loop": (
        """
        box.ages = {1: 1}
        def first():
            for each in box.ages: pass
        def second(): box.ages[2] = 2
        both(first, second)
        """,
        "the contents of `box.ages`: ",  # which thread comes first depends on the number of cases
    ),
    "variable_of_a_closure": (
        """
        total = 0
        def first():
            nonlocal total
            total += 1
        def second():
            nonlocal total
            total += 2
        both(first, second)
        """,
        "`total`: written at",
    ),
    "variable_of_the_module": (
        """
        def first():
            global TOTAL
            TOTAL = 1
        def second():
            global TOTAL
            TOTAL = 2
        both(first, second)
        """,
        "`TOTAL`: written at",
    ),
    "attribute_of_a_class": (
        """
        def first(): Box.count = box.count + 1
        def second(): Box.count = box.count + 2
        both(first, second)
        """,
        "`Box.count`: written at",
    ),
    "two_fields_read": (
        """
        lock = threading.Lock()
        box.term, box.leads = 0, False
        def first(): return box.term, box.leads
        def second():
            time.sleep(0.1)
            with lock: box.term, box.leads = 1, True
        both(first, second)
        """,
        "by a thread that runs first without a lock",
    ),
    "constructor_that_starts_too_early": ("Leaky()", "`self.late`: written at"),
    "event_that_timed_out": (
        """
        event = threading.Event()
        box.n = 0
        def first():
            box.n += 1
            event.wait(0.1)
            box.n += 1
        def second():
            time.sleep(0.5)
            box.n += 1
            event.set()
        both(first, second)
        """,
        "nothing decides which comes first",
    ),
    "saves": (
        """
        def first(): self.persister.save(b"1")
        def second(): self.persister.save(b"2")
        both(first, second)
        """,
        "`persister`: written at",
    ),
    "puts": (
        """
        def first(): self.apply_ch.put(ApplyMsg(1, 1, "a"))
        def second(): self.apply_ch.put(ApplyMsg(1, 1, "a"))
        both(first, second)
        """,
        "`apply_ch`: written at",
    ),
    "message_that_is_the_log": (
        """
        entries = []
        def first(): self.peers[0].call("append_entries", AppendEntriesArgs(1, 0, 0, 0, entries, 0))
        def second(): entries.append(LogEntry(1, "a"))
        both(first, second)
        """,
        "the contents of `entries`: ",
    ),
    "lock_order": (
        """
        one, two = threading.Lock(), threading.Lock()
        def first():
            with one:
                with two: pass
        def second():
            time.sleep(0.1)
            with two:
                with one: pass
        both(first, second)
        """,
        "each can wait for the other for ever",
    ),
    "lock_kept": (
        """
        lock = threading.Lock()
        def first():
            with lock: pass
            lock.acquire()
        both(first)
        """,
        "a thread that runs first has ended and still holds `lock`",
    ),
    "appends": (
        """
        def first(): self.persister.append(b"1")
        def second(): self.persister.append(b"2")
        both(first, second)
        """,
        "`persister`: written at",
    ),
}

# Bodies of functions that are synchronised correctly: the detector must report nothing about them.
EXCUSED = {
    "one_lock": """
        lock = threading.Lock()
        box.n = 0
        def first():
            with lock: box.n += 1
        both(first, first)
        """,
    "a_lock_and_its_condition": """
        lock = threading.RLock()
        changed = threading.Condition(lock)
        box.n = 0
        def first():
            with lock: box.n += 1
        def second():
            with changed:
                changed.wait(0.1)
                box.n += 1
        both(first, second)
        """,
    "start_and_join": """
        box.n = 0
        def first(): box.n += 1
        def main():
            box.n = 1
            thread = threading.Thread(target=first)
            thread.start()
            thread.join()
            box.n += 1
        both(main)
        """,
    "event": """
        event = threading.Event()
        def first():
            box.n = 1
            event.set()
        def second():
            event.wait()
            box.n += 1
        both(first, second)
        """,
    "notification": """
        changed = threading.Condition()
        box.ready = False
        def first():
            box.n = 1
            with changed:
                box.ready = True
                changed.notify()
        def second():
            with changed:
                changed.wait_for(lambda: box.ready)
            box.n += 1
        both(second, first)
        """,
    "queue": """
        letters = queue.Queue()
        def first():
            box.n = 1
            letters.put(box)
        def second(): letters.get().n += 1
        both(first, second)
        """,
    "simple_queue": """
        letters = queue.SimpleQueue()
        def first():
            box.n = 1
            letters.put(box)
        def second(): letters.get().n += 1
        both(first, second)
        """,
    "deque": """
        letters = deque()
        def first():
            box.n = 1
            letters.append(box)
        def second():
            while not letters: time.sleep(0.01)
            letters.popleft().n += 1
        both(first, second)
        """,
    "future": """
        pool = ThreadPoolExecutor(2)
        def first(): box.n = 1
        def main():
            box.n = 0
            pool.submit(first).result()
            box.n += 1
        both(main)
        """,
    "semaphore": """
        free = threading.Semaphore(0)
        def first():
            box.n = 1
            free.release()
        def second():
            free.acquire()
            box.n += 1
        both(first, second)
        """,
    "lock_that_is_handed_over": """
        lock = threading.Lock()
        lock.acquire()
        def first():
            box.n = 1
            lock.release()
        def second():
            with lock: box.n += 1
        both(first, second)
        """,
    "flag_under_a_lock": """
        lock = threading.Lock()
        box.busy = True
        def first():
            box.n = 1
            with lock: box.busy = False
        def second():
            time.sleep(0.1)
            with lock: free = not box.busy
            if free: box.n += 1
        both(first, second)
        """,
    "constructor": "Whole()",
    "one_value_read": """
        lock = threading.Lock()
        box.view = (0, False)
        def first(): return box.view
        def second():
            time.sleep(0.1)
            with lock: box.view = (1, True)
        both(first, second)
        """,
    "dict_that_is_replaced": """
        box.view = {}
        def first():
            time.sleep(0.1)
            return box.view.get(1)
        def second():
            view = {}
            view[1] = 2
            box.view = view
        both(first, second)
        """,
    "items_of_ones_own": """
        items = [0, 0]
        def first(): items[0] = 1
        def second(): items[1] = 1
        both(first, second)
        """,
    "thread_local": """
        local = threading.local()
        def first(): local.n = 1
        both(first, first)
        """,
    "lock_order_behind_a_gate": """
        gate, one, two = threading.Lock(), threading.Lock(), threading.Lock()
        def first():
            with gate:
                with one:
                    with two: pass
        def second():
            with gate:
                with two:
                    with one: pass
        both(first, second)
        """,
    "lock_as_a_signal": """
        done = threading.Lock()
        def first(): done.acquire()
        def second():
            time.sleep(0.1)
            done.release()
            done.acquire()
        both(first, second)
        """,
}


def _source() -> str:
    cases = {name: code for name, (code, _) in FOUND.items()} | EXCUSED
    functions = "".join(
        f"def {name}(self, box):\n{textwrap.indent(textwrap.dedent(code), '    ')}\n" for name, code in cases.items()
    )
    return textwrap.dedent(MODULE) + functions + f"CASES = [{', '.join(cases)}]\n"


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """The sentences that the detector reports about each case."""
    folder = tmp_path_factory.mktemp("races")
    init = "        self.persister, self.apply_ch, self.peers = persister, apply_ch, peers\n        CASES[me](self, Box())\n"
    (folder / "raft.py").write_text(TEMPLATE.format(module=_source(), init=init, methods=""))
    cases = [*FOUND, *EXCUSED]
    result: dict[str, list[str]] = {name: [] for name in cases}
    with WarmHost(folder, races=True) as host:
        world = SimWorld(ForkedHost(host, 0, "none"), MIN_DELAY)
        for server in range(len(cases)):
            world.boot(protocol.Boot(server, 1, len(cases), [0], b"", b"", 0))
        while world.now() < 2.0:
            for finding in world.wait(2.0, []).findings:
                result[cases[finding.server]].append(finding.text)
        world.close()
    return result


@pytest.mark.parametrize("name", FOUND)
def test_a_mistake_is_found(found: dict[str, list[str]], name: str) -> None:
    assert any(FOUND[name][1] in text for text in found[name]), found[name]


@pytest.mark.parametrize("name", EXCUSED)
def test_synchronised_code_is_not_reported(found: dict[str, list[str]], name: str) -> None:
    assert found[name] == []


# --- rules that read the source ---

RULES_MODULE = """
import threading
class Raft:
    def __init__(self):
        self.lock = threading.Lock()
        self.changed = threading.Condition(self.lock)
        self.voted_for, self.current_term, self.leads, self.entries, self.event = None, 0, False, [], threading.Event()
        threading.Thread(target=self.send).start()
"""
# Methods, and the kind of finding that the rules must report about them; empty if they must report nothing.
RULES = {
    "decided_in_an_earlier_hold": (
        """
        def request_vote(self, args):
            with self.lock:
                granted = self.voted_for is None
            with self.lock:
                if granted: self.voted_for = args.candidate_id
        """,
        "stale-decision",
    ),
    "decided_by_an_early_exit": (
        """
        def start(self, command):
            with self.lock:
                if not self.leads: return False
            with self.lock:
                self.entries.append(command)
        """,
        "stale-decision",
    ),
    "looked_at_again": (
        """
        def request_vote(self, args):
            with self.lock:
                granted = self.voted_for is None
            with self.lock:
                if granted and self.voted_for is None: self.voted_for = args.candidate_id
        """,
        "",
    ),
    "message_made_by_its_thread": (
        """
        def send(self):
            with self.lock:
                args = RequestVoteArgs(self.current_term, 0, 0, 0)
            self.peers[0].call("request_vote", args)
        """,
        "late-message",
    ),
    "message_made_after_a_look": (
        """
        def send(self):
            with self.lock:
                if not self.leads: return
                args = AppendEntriesArgs(self.current_term, 0, 0, 0)
            self.peers[0].call("append_entries", args)
        """,
        "",
    ),
    "saved_after_the_release": (
        """
        def store(self):
            with self.lock:
                data = self.encode()
            self.persister.save(data)
        """,
        "late-save",
    ),
    "appended_after_the_release": (
        """
        def store(self):
            with self.lock:
                data = self.encode()
            self.persister.append(data)
        """,
        "late-save",
    ),
    "saved_under_the_lock": (
        """
        def store(self):
            with self.lock:
                data = self.encode()
                self.persister.save(data)
        """,
        "",
    ),
    "event_cleared_after_the_work": (
        """
        def loop(self):
            while True:
                self.event.wait()
                self.work()
                self.event.clear()
        """,
        "lost-wakeup",
    ),
    "event_cleared_before_the_work": (
        """
        def loop(self):
            while True:
                self.event.wait()
                self.event.clear()
                self.work()
        """,
        "",
    ),
    "wait_without_a_loop": (
        """
        def take(self):
            with self.changed:
                if not self.entries:
                    self.changed.wait()
                return self.entries.pop()
        """,
        "lost-wakeup",
    ),
    "wait_in_a_loop": (
        """
        def take(self):
            with self.changed:
                while not self.entries:
                    self.changed.wait()
                return self.entries.pop()
        """,
        "",
    ),
    "one_notify_for_two_kinds": (
        """
        def first(self):
            with self.changed:
                while not self.leads: self.changed.wait()
        def second(self):
            with self.changed:
                while not self.entries: self.changed.wait()
        def wake(self):
            with self.changed: self.changed.notify()
        """,
        "lost-wakeup",
    ),
    "notify_all_for_two_kinds": (
        """
        def first(self):
            with self.changed:
                while not self.leads: self.changed.wait()
        def second(self):
            with self.changed:
                while not self.entries: self.changed.wait()
        def wake(self):
            with self.changed: self.changed.notify_all()
        """,
        "",
    ),
}


@pytest.mark.parametrize("name", RULES)
def test_rules_that_read_the_source(name: str) -> None:
    methods, kind = RULES[name]
    text = RULES_MODULE + textwrap.indent(textwrap.dedent(methods), "    ")
    assert {finding.kind for finding in rules.check({"raft.py": ast.parse(text)})} == ({kind} if kind else set())


def test_equal_names_in_unrelated_classes_are_different_things() -> None:
    """The class in raft.py waits for one thing and notifies only one thread. The class in kv.py waits for something
    else."""
    modules = {
        name: RULES_MODULE.replace("class Raft", f"class {owner}") + textwrap.indent(textwrap.dedent(methods), "    ")
        for name, owner, methods in (
            (
                "raft.py",
                "Raft",
                RULES["one_notify_for_two_kinds"][0]
                .replace("def second", "def unused")
                .replace("while not self.entries: self.changed.wait()", "pass"),
            ),
            ("kv.py", "KVServer", RULES["wait_in_a_loop"][0]),
        )
    }
    trees = {name: ast.parse(text) for name, text in modules.items()}
    assert rules.check(trees) == []
    related = ast.parse(modules["kv.py"].replace("class KVServer", "class KVServer(Raft)"))
    assert [finding.kind for finding in rules.check({**trees, "kv.py": related})] == ["lost-wakeup"]


@pytest.mark.parametrize("style", [SOLUTION.parent, *sorted((ROOT / "tests").glob("correct*/*"))], ids=lambda p: p.name)
def test_rules_are_silent_on_correct_rafts_and_services(style: Path) -> None:
    trees = {path.name: ast.parse(path.read_bytes()) for path in sorted(style.glob("*.py"))}
    assert rules.check(trees) == []


# --- whole runs, and what the judge keeps of them ---


def test_code_that_is_nested_too_deeply_is_not_observed_but_runs(tmp_path: Path) -> None:
    (tmp_path / "raft.py").write_text("self = type('Box', (), {})()\nself.x = 1\nprint(self.x)\n")
    program = Program(source.find(tmp_path), races=True)
    assert program.races is not None

    def fail(tree: ast.Module, file: str) -> None:
        raise RecursionError

    program.races.instrumenter.instrument = fail  # type: ignore[method-assign]
    assert "__race_read__" not in program.code("raft").co_names
    assert "__race_read__" in Program(source.find(tmp_path), races=True).code("raft").co_names


def _run(impl: Implementation, name: str) -> Record:
    named = names.named(name, "sim", "random")
    return Run(impl, named.info, "sim", named.seed, "random").judge(named.script)


def test_observed_runs_keep_their_trace_and_the_reference_has_no_races() -> None:
    with (
        closing(Implementation(SOLUTION.parent)) as plain,
        closing(Implementation(SOLUTION.parent, races=True)) as other,
    ):
        for name in ("many_elections@0", "basic_agreement@1"):
            without, observed = _run(plain, name), _run(other, name)
            assert observed.trace_hash == without.trace_hash
            assert (observed.findings, observed.outcome) == ([], "passed")


def test_constructors_and_operations_of_a_clerk_happen_before_the_next_call() -> None:
    with closing(Implementation(SOLUTION.parent, races=True)) as impl:
        for name in ("one_clerk@0", "many_clerks@1"):
            record = _run(impl, name)
            assert (record.findings, record.outcome) == ([], "passed")


def test_races_of_a_clerks_own_threads_are_found(tmp_path: Path) -> None:
    text = SOLUTION.with_name("kv.py").read_text()
    returned = '        self._execute("put", key, value)\n'
    late = "        def later(): self.serial += 1\n        threading.Thread(target=later).start()\n"
    assert returned in text
    (tmp_path / "kv.py").write_text(text.replace(returned, returned + late))
    (tmp_path / "raft.py").write_text(SOLUTION.read_text())
    with closing(Implementation(tmp_path, races=True)) as impl:
        record = _run(impl, "one_clerk@0")
    assert any("`self.serial`: " in finding.text for finding in record.findings)


def test_a_forgotten_lock_is_found(tmp_path: Path) -> None:
    text = SOLUTION.read_text()
    locked = "        with self.lock:\n            return self.current_term, self.role == LEADER\n"
    assert locked in text
    (tmp_path / "raft.py").write_text(text.replace(locked, locked.replace("with self.lock", "if True")))
    with closing(Implementation(tmp_path, races=True)) as impl:
        record = _run(impl, "many_elections@0")
    assert record.outcome == "passed"
    assert "`self.role`: read at raft.py:" in record.findings[0].text
    assert "by get_state() without a lock" in record.findings[0].text


def test_the_judge_limits_what_a_host_reports() -> None:
    event_loop = TinyLoop()
    for number in range(100):
        EventLoop._note(event_loop, protocol.Finding(0, "race", f"key {number}", "\x1b[31m" + "x" * 10_000))  # type: ignore[arg-type]
    EventLoop._note(event_loop, protocol.Finding(0, "no such kind", "key", "text"))  # type: ignore[arg-type]
    assert len(event_loop.findings) == races.MAX_FINDINGS
    assert all(len(finding.text) <= races.MAX_TEXT for finding in event_loop.findings.values())
    assert not any("\x1b" in finding.text for finding in event_loop.findings.values())


class TinyLoop:
    """The part of an event loop that keeps findings."""

    def __init__(self) -> None:
        self.findings: dict[str, races.Finding] = {}
