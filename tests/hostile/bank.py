"""The hostile and broken submissions, each with the correct verdict.

Most are the reference solution with added code, so they pass if that code has no effect. The code runs when the module is
imported (``module``), when a server is created (``init``), or when a server is asked for its vote (``vote``). Servers
are asked for votes in the tests, in the simulator as well as on the real network, but not in the check before the
tests.
"""

from __future__ import annotations

import os
import textwrap
from dataclasses import dataclass, field
from pathlib import Path

from tests import daily_sample
from tests.conftest import SKELETON, SOLUTION
from tests.hostile import escapes

# A variable in the judge's environment, and a file beside the submissions. No submission may be able to read them.
SECRET = "RAFTLAB_BANK_SECRET"
BESIDE = "the-answers.txt"

REFUSED, FAILED, CLEAN = "refused", "failed", "clean"


@dataclass(frozen=True)
class Entry:
    """A submission.

    ``verdict`` is ``refused`` (before any test), ``failed`` or ``clean``. The text of each problem and failure in the report
    must contain one of ``says``. At the level ``rlimits``, ``verdict_at_rlimits`` and ``says_at_rlimits`` hold instead,
    unless they are empty."""

    name: str
    verdict: str
    says: tuple[str, ...] = ()
    module: str = ""
    init: str = ""
    vote: str = ""
    files: dict[str, str | bytes | None] = field(default_factory=dict)  # None: a symlink to BESIDE
    base: str = "solution"
    says_at_rlimits: tuple[str, ...] = ()
    verdict_at_rlimits: str = ""

    def verdict_at(self, level: str) -> str:
        """The correct verdict at a level of the sandbox."""
        return (level == "rlimits" and self.verdict_at_rlimits) or self.verdict

    def write(self, folder: Path) -> None:
        place = folder / self.name
        place.mkdir(parents=True)
        if self.base:
            text = self._source().replace("@BESIDE@", str(folder.parent / BESIDE))
            (place / "raft.py").write_text(text.replace("@SOLUTION@", str(SOLUTION)))
        for name, content in self.files.items():
            if content is None:
                (place / name).symlink_to(folder.parent / BESIDE)
            else:
                (place / name).write_bytes(content.encode() if isinstance(content, str) else content)

    def _source(self) -> str:
        text = (SOLUTION if self.base == "solution" else SKELETON).read_text()
        for mark, code in (
            ("class Raft:\n", f"{textwrap.dedent(self.module)}\nclass Raft:\n"),
            ("        self.peers = peers\n", f"{_at(8, self.init)}\n        self.peers = peers\n"),
            (VOTE, f"{VOTE}{_at(8, self.vote)}\n"),
        ):
            assert text.count(mark) == 1, f"not exactly once in the reference: {mark!r}"
            text = text.replace(mark, code)
        return text


VOTE = "    def request_vote(self, args: RequestVoteArgs) -> RequestVoteReply:\n"


def _at(depth: int, code: str) -> str:
    return textwrap.indent(textwrap.dedent(code), " " * depth)


# Submissions by the kind of their attack. The daily tests grade a sample of each kind. The first submission of a kind
# is always in the sample.
Kinds = dict[str, list[Entry]]


def sample(kinds: Kinds) -> list[Entry]:
    """The submissions that the daily tests grade."""
    return [entry for kind in kinds.values() for entry in daily_sample.daily(kind)]


def rest(kinds: Kinds) -> list[Entry]:
    """The submissions that the daily tests leave out."""
    return [entry for kind in kinds.values() for entry in daily_sample.rest(kind)]


def every(kinds: Kinds) -> list[Entry]:
    """All submissions."""
    return [entry for kind in kinds.values() for entry in kind]


NOT_ALLOWED = "PermissionError: [Errno 1] Operation not permitted"
UNWRITABLE = ("[Errno 30] Read-only file system", "[Errno 13] Permission denied")
FULL = ("[Errno 28] No space left on device", "[Errno 27] File too large", *UNWRITABLE)
BUSY = "keeps running without ever waiting"
NO_VOTES = "to lead term 1 only with the votes of most of"
NO_LEADER = "expected a leader within 5 s, but there is none"

DEAF = "import _signal; _signal.pthread_sigmask(0, range(1, 65))"
WAIT = "threading.Condition.wait"
BESIDE_US = "import sys; sys.path.insert(0, '..')"
SURROGATE = (
    r"ValueError: \ud800"  # reports must show an escape sequence, because UTF-8 cannot encode the character itself
)
HTML = "=1+1 <script>alert(1)</script> \x1b[2J"
THREADS = "while True: threading.Thread(target=threading.Event().wait).start()"
SILENCE = "import raftlab.host.server as b; b.Server.fault = b.Server.uncaught = lambda *a, **k: None"
HUGE = "self.peers[args.candidate_id].call('request_vote', RequestVoteArgs(1, 0, 0, 1 << 40_000_000))"
SHARED = "import sys; sys.first = getattr(sys, 'first', me); self.get_state = lambda: (1, sys.first == me)"
FILE = "import os; mine = not os.path.exists('/tmp/it'); open('/tmp/it', 'w'); self.get_state = lambda: (1, mine)"
PYTEST = {
    "conftest.py": "def pytest_runtest_makereport(item, call):\n    call.excinfo = None\n",
    "pytest.ini": "[pytest]\naddopts = --co\n",
    "sitecustomize.py": "import os\nos._exit(0)\n",
}
GRADER = dict.fromkeys(("pytest.py", "raftgrade.py", "job_fork_server.py"), "import os\nos._exit(0)\n")
# In these tests, the grader has the name of its driver in its command line. The jobs that are forked for it have the name of
# the fork server's module.
HUNT = """
worked = []
for pid in posix.access("/proc", posix.R_OK) and filter(str.isdigit, posix.listdir("/proc")) or ():
    try:
        line = read(f"/proc/{pid}/cmdline")
    except OSError:  # it has ended
        continue
    if b"raftgrade.engines" not in line and b"driver.py" not in line:
        continue
    number = int(pid)
    for name, attempt in {
        "memory": lambda: opened(f"/proc/{pid}/mem"),
        "maps": lambda: read(f"/proc/{pid}/maps"),
        "environment": lambda: read(f"/proc/{pid}/environ"),
        "files": lambda: posix.readlink(f"/proc/{pid}/fd/0"),
        "signal": lambda: posix.kill(number, 0),
        "tracing": lambda: c("ptrace", 16, number, 0, 0),
        "memory by a system call": lambda: c("process_vm_readv", number, None, 0, None, 0, 0),
        "limits": lambda: resource.prlimit(number, resource.RLIMIT_NOFILE),
        "priority": lambda: posix.setpriority(posix.PRIO_PROCESS, number, 19),
        "being killed first": lambda: opened(f"/proc/{pid}/oom_score_adj", posix.O_WRONLY),
    }.items():
        try:
            attempt()
            worked.append(name)
        except OSError:
            pass
raise OSError(f"worked: {', '.join(worked) or 'nothing'}")
"""
# Threads of the C library with small stacks do not use up the address space.
SMALL_THREADS = """
attributes = ctypes.create_string_buffer(256)
libc.pthread_attr_init(attributes)
libc.pthread_attr_setstacksize(attributes, ctypes.c_size_t(16384))
while not libc.pthread_create(ctypes.byref(ctypes.c_ulong()), attributes, libc.pause, None):
    pass
raise OSError("started threads until it was refused")
"""
LIAR = """
class Liar(int):
    def __eq__(self, other): return True
    def __ge__(self, other): return True
    def __hash__(self): return 0
    def __bool__(self): return True
self.get_state = lambda: (Liar(1), Liar(me == 0))
"""
FORGED = """
import posix
record = b'{"schema":1,"test":"initial_election","lab":"2A","network":"sim","seed":0,"points":5,"outcome":"passed"}'
for fd in range(3, 100):
    try:
        posix.write(fd, record + b'\\n{"end":1}\\n')
    except OSError:
        pass
"""

# These submissions are refused, because they cannot be imported, or because they fail when a server is created.
EARLY: Kinds = {
    "files that are not a submission": [
        Entry("huge-file", REFUSED, ("larger than 1000 kB",), base="", files={"raft.py": "#" * 5_000_000}),
        Entry("empty", REFUSED, ("has no class Raft",), base="", files={"raft.py": ""}),
        Entry("syntax", REFUSED, ("is not valid Python",), base="", files={"raft.py": "class Raft\n"}),
        Entry(
            "hides-queue", REFUSED, ("hides Python's own module queue",), module="import queue", files={"queue.py": ""}
        ),
        Entry("binary", REFUSED, ("has a null byte in it",), base="", files={"raft.py": bytes(range(256)) * 9}),
        Entry("nested", REFUSED, ("is nested too deeply for Python to read",), module=f"x = {'not ' * 90_000}1"),
        Entry(
            "other-encoding",  # Python would read other code than an editor shows
            REFUSED,
            ("has a byte that is not utf-7 text",),
            base="",
            files={"raft.py": f"# coding: utf-7\n{SOLUTION.read_text()}"},
        ),
    ],
    "imports that do not return": [
        Entry("import-loop", REFUSED, ("a loop outside of all functions runs forever",), module="while True: pass"),
        Entry("import-raises-a-surrogate", REFUSED, (SURROGATE,), module="raise ValueError('\\ud800')"),
        Entry("import-ends", REFUSED, ("ends the program when it is imported",), module="raise SystemExit(0)"),
        Entry("import-sleeps", REFUSED, ("importing your file never ends",), module="time.sleep(1e9)"),
        Entry("import-exits", REFUSED, ("os._exit() cannot be used",), module="import os; os._exit(0)"),
    ],
    "servers that end": [
        Entry(
            "segfault",
            REFUSED,
            ("was killed by signal SIGSEGV",),
            init="import faulthandler; faulthandler._read_null()",
        ),
        Entry("exits-quietly", REFUSED, ("ended by itself with exit code 0",), init="import posix; posix._exit(0)"),
        Entry("raises-a-surrogate", REFUSED, (SURROGATE,), init="raise ValueError('\\ud800')"),
        Entry("kills-itself", REFUSED, (NOT_ALLOWED,), init="import posix; posix.kill(posix.getpid(), 9)"),
    ],
    "other processes and machines": [
        Entry("fork-bomb", REFUSED, (NOT_ALLOWED,), init="import posix\nwhile True: posix.fork()"),
        Entry(
            "leaves-a-daemon",
            REFUSED,
            (NOT_ALLOWED,),
            init="import posix\nif posix.fork(): posix._exit(0)\nposix.setsid()",
        ),
        Entry("kills-its-parent", REFUSED, (NOT_ALLOWED,), init="import posix; posix.kill(posix.getppid(), 9)"),
        Entry("network", REFUSED, (NOT_ALLOWED,), init="import _socket; _socket.socket().connect(('1.1.1.1', 80))"),
        Entry("looks-for-the-grader", REFUSED, ("worked: nothing",), module=escapes.TOOLS, init=HUNT),
        Entry("kills-everybody", REFUSED, (NOT_ALLOWED,), init="import posix; posix.kill(-1, 9)"),
    ],
    "using up the machine": [
        Entry("memory-bomb", REFUSED, ("MemoryError",), init="self.more = [bytearray(1 << 28) for _ in range(400)]"),
        Entry("files", REFUSED, ("Too many open files",), init="self.more = [open('/dev/null') for _ in range(4000)]"),
        Entry("recursion", REFUSED, ("RecursionError",), init="def f(): return f()\nf()"),
        Entry("disk-bomb", REFUSED, FULL, init="for n in range(400): open(f'/tmp/{n}', 'wb').write(bytes(15 << 20))"),
        Entry(
            "small-threads",
            REFUSED,
            ("started threads",),
            module=escapes.TOOLS,
            init=SMALL_THREADS,
            says_at_rlimits=("started too many threads and was killed",),
        ),
        Entry("endless-stderr", REFUSED, FULL, init="import posix\nwhile True: posix.write(2, b'x' * 100_000)"),
    ],
    "never waiting": [
        Entry("deaf-and-busy", REFUSED, (BUSY,), init=f"{DEAF}\nwhile True: pass"),
        Entry("busy-init", REFUSED, (BUSY,), init="while True: pass"),
        Entry("no-more-time", REFUSED, (BUSY,), init=f"time.sleep = lambda s: None; {WAIT} = lambda *a: False"),
    ],
    "reading what is not theirs": [
        Entry("reads-a-neighbour", REFUSED, ("No such file",), init="print(open('../alice/raft.py').read())"),
        Entry(
            "reads-solutions",
            REFUSED,
            ("No such file",),
            init=f"print(open({str(SOLUTION)!r}).read())",
            verdict_at_rlimits=CLEAN,  # at this level, a submission can read our files
        ),
        Entry("imports-a-neighbour", REFUSED, ("alice, which is not there",), module=f"{BESIDE_US}; import alice.raft"),
        Entry(
            "follows-a-link",
            REFUSED,
            ("notes is a link: hand in the file itself",),
            init="print(open('/submission/notes').read())",
            files={"notes": None},
        ),
        Entry(
            "reads-the-environment",
            REFUSED,
            (f"KeyError: '{SECRET}'",),
            init=f"import os; print(os.environ[{SECRET!r}])",
        ),
    ],
    "writing what is not theirs": [
        Entry("rewrites-itself", REFUSED, UNWRITABLE, init="open('/submission/raft.py', 'a').write('#')"),
        Entry(
            "rewrites-the-lab", REFUSED, UNWRITABLE, init="import raftlab.api as a; open(a.__file__, 'a').write('#')"
        ),
    ],
    "asking the person at the terminal": [
        Entry("debugger", REFUSED, ("breakpoint() cannot be used",), init="breakpoint()"),
        Entry("reads-the-terminal", REFUSED, ("input() cannot be used",), init="input()"),
    ],
}

HOST = """
import raftlab.messages.protocol as p
server = self.persister._server
emit = server.emit
own_import = __import__("sys").modules["builtins"].__import__
"""
ODD_TEXT = """
class OddText(Exception):
    def __str__(self): raise SystemExit(0)
    __repr__ = __str__
"""
NO_FAILED_DISK = "said that its disk failed, but it did not fail"
HANDLER = "uncaught exception in the request_vote handler: "

# These submissions fail in a test.
LATE: Kinds = {
    "ending processes": [
        Entry("exits-later", FAILED, ("ended by itself with exit code 0",), vote="import posix; posix._exit(0)"),
        Entry("kills-its-parent-later", FAILED, (NOT_ALLOWED,), vote="import posix; posix.kill(posix.getppid(), 9)"),
    ],
    "never giving up": [
        Entry("thread-bomb", FAILED, ("too many threads", "can't start new thread"), init=THREADS),
        Entry("trace-flood", FAILED, (NO_LEADER,), vote="while True: log('flood', 'x' * 50_000); time.sleep(0.0001)"),
        Entry("handler-sleeps-for-ever", FAILED, (NO_LEADER,), vote="time.sleep(1e9)"),
        Entry(
            "memory-later",
            FAILED,
            ("MemoryError",),
            # Zeroed memory that is never touched takes no time, so that the verdict does not depend on the machine's load.
            vote="self.all = [bytes(1 << 28) for _ in range(64)]",
        ),
    ],
    "speaking for the judge or the lab": [
        Entry("forged-records", FAILED, ("sent malformed data",), vote=FORGED),
        Entry("tampers-with-pytest", FAILED, (NO_LEADER,), base="skeleton", files=PYTEST),
        Entry("hides-the-grader", FAILED, (NO_LEADER,), base="skeleton", files=GRADER),
        Entry("silences-the-lab", FAILED, (NO_LEADER,), base="skeleton", init=SILENCE),
        Entry(
            "speaks-for-the-lab",
            FAILED,
            ("sent malformed data",),
            vote="import raftlab.messages.protocol as p; p.encode = lambda *a: b'{}'",
        ),
    ],
    "servers that share what they know": [
        Entry(
            "leader-by-a-file",
            FAILED,
            ("at most one leader", NO_VOTES, *UNWRITABLE),
            base="skeleton",
            init=FILE,
            verdict_at_rlimits=REFUSED,  # at this level, a server cannot write a file at all
        ),
        Entry("leader-by-shared-memory", FAILED, ("at most one leader", NO_VOTES), base="skeleton", init=SHARED),
    ],
    "lies and odd values": [
        Entry(
            "lying-numbers", FAILED, ("expected get_state() to return (term, is_leader)",), base="skeleton", init=LIAR
        ),
        Entry(
            "lying-reply", FAILED, ("must return RequestVoteReply, returned Yes",), vote="return type('Yes', (), {})()"
        ),
        Entry("huge-message", FAILED, ("does not fit in 64 bits",), vote=HUGE),
        Entry("html-in-its-words", FAILED, ("<script>alert(1)</script> \x1b[2J",), vote=f"raise ValueError({HTML!r})"),
    ],
    "crashes that look like the judge's or the disk's": [
        Entry(
            "raises-a-failure-of-the-disk",
            FAILED,
            (NO_FAILED_DISK,),
            vote="import raftlab.host.server as h; raise h.DiskFailed(5)",
        ),
        Entry("reports-a-failure-of-the-disk", FAILED, (NO_FAILED_DISK,), vote=f"{HOST}emit(p.Down(self.me))"),
        Entry(
            "says-that-the-judge-is-late",
            FAILED,
            ("late",),
            vote=f"{HOST}emit(p.Fault(self.me, 'machine-busy', 'late'))",
        ),
        Entry(
            "closes-its-connections",
            FAILED,
            ("ended by itself with exit code",),
            vote=f"{HOST}own_import('posix').closerange(3, 256)",
        ),
        Entry(
            "saves-for-others",
            FAILED,
            ("a message that claims to come from",),
            vote=f"{HOST}for each in range(3): emit(p.Save(each, b'', None))",  # refused on the real network only
        ),
    ],
    "odd exceptions": [
        Entry(
            "exception-that-is-its-own-cause",
            FAILED,
            (f"{HANDLER}ValueError: circle",),
            vote="exc = ValueError('circle'); raise exc from exc",
        ),
        Entry(
            "exception-whose-text-ends-the-process",
            FAILED,
            ("<exception str() failed>",),
            module=ODD_TEXT,
            vote="raise OddText",
        ),
        Entry(
            "exception-of-greenlet",
            FAILED,
            (f"{HANDLER}greenlet.GreenletExit",),
            vote=f"{HOST}raise own_import('greenlet').GreenletExit",
        ),
        Entry(
            "exceptions-in-deep-groups",
            FAILED,
            (f"{HANDLER}ExceptionGroup: ggg",),
            vote="exc = KeyError()\nfor _ in range(800): exc = ExceptionGroup('g' * 1000, [exc])\nraise exc",
        ),
        Entry(
            "exception-in-another-file",
            FAILED,
            (f"{HANDLER}ValueError: elsewhere",),
            vote="exec(compile('raise ValueError(\"elsewhere\")', '/etc/passwd', 'exec'))",
        ),
        Entry(
            "exception-written-backwards",
            FAILED,
            (f"{HANDLER}ValueError: \u202egnp.evil",),
            vote="log('\\u202evote', '\\x1b]8;;http://evil\\x07'); raise ValueError('\\u202egnp.evil\\u202c \\x9b2J')",
        ),
    ],
}

# Honest submissions that must get full marks, under names that could break a report.
HONEST = [
    Entry("alice", CLEAN),
    Entry('=1+1,<b>&"bob', CLEAN),
    Entry("carol \x1b[31m", CLEAN, init=f"print({HTML!r})"),
]


def _escape(promise: escapes.Promise) -> Entry:
    return Entry(
        promise.name,
        REFUSED,
        (promise.says("bwrap"),),
        module=escapes.TOOLS,
        init=promise.init(),
        says_at_rlimits=(promise.says("rlimits"),),
    )


# For each promise of handouts/confinement.md, there is one submission that makes every attempt to break it. Each of
# these is a kind of its own, so that the daily tests grade them all (:func:`sample`). Some attempts are also made alone,
# each by a submission of its own.
ESCAPES: Kinds = {
    **{promise.name: [_escape(promise)] for promise in escapes.PROMISES},
    "attempts that are made alone": [_escape(promise) for promise in escapes.ALONE],
}

BANK = [*HONEST, *every(EARLY), *every(ESCAPES), *every(LATE)]
# Only ``whole_bank.py`` grades all submissions at each level and as each user. ``test_levels_and_users.py`` grades those in
# MAKE_ALL_ATTEMPTS at the level ``rlimits``, and those in SHORTEST at ``bwrap`` as another user.
MAKE_ALL_ATTEMPTS = [ESCAPES[promise.name][0] for promise in escapes.PROMISES]
SHORTEST = ("acts-on-processes", "shares-with-another-server", "reads-files", "writes-files")


def write(folder: Path, entries: list[Entry]) -> None:
    """Write submissions into ``folder/class``, and the secret file beside it."""
    (folder / BESIDE).write_text("a secret")
    os.chmod(folder, 0o755)
    for entry in entries:
        entry.write(folder / "class")
