"""Submissions for the tests of the contract check: some that it accepts, and many that it refuses.

``python -m tests.update`` writes the check's messages about each to ``tests/snapshots/contract.txt``.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from raftlab.labs import LABS, Lab
from raftlab.messages.protocol import Problem
from raftlab.submission import contract, source

LAB_2A, LAB_2F, LAB_2G = LABS["2A"], LABS["2F"], LABS["2G"]
Files = dict[str, str] | str  # file name → text; a plain string is the text of raft.py

MESSAGES = """\
@dataclass
class LogEntry:
    term: int
    command: Any = None


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
class AppendEntriesArgs:
    term: int
    leader_id: int
    prev_log_index: int
    prev_log_term: int
    entries: list[LogEntry]
    leader_commit: int


@dataclass
class AppendEntriesReply:
    term: int
    success: bool
"""
HEAD = "from __future__ import annotations\nimport threading\nfrom dataclasses import dataclass, field\n"
HEAD += "from typing import Any\n"
METHODS = """\
    def __init__(self, peers, me, persister, apply_ch, members):
        pass

    def start(self, command):
        return 0, 0, False

    def get_state(self):
        return 0, False

    def request_vote(self, args: RequestVoteArgs) -> RequestVoteReply:
        return RequestVoteReply(0, False)

    def append_entries(self, args: AppendEntriesArgs) -> AppendEntriesReply:
        return AppendEntriesReply(0, False)
"""
GOOD = f"{HEAD}\n{MESSAGES}\n\nclass Raft:\n{METHODS}"
LATER = """
    def snapshot(self, index, data): ...
    def change_membership(self, members): ...
    def pre_vote(self, args: RequestVoteArgs) -> RequestVoteReply: ...
    def install_snapshot(self, args: InstallSnapshotArgs) -> InstallSnapshotReply: ...
"""
SNAPSHOT_MESSAGES = """
@dataclass
class InstallSnapshotArgs:
    term: int
    leader_id: int
    last_included_index: int
    last_included_term: int
    offset: int
    data: bytes
    done: bool


@dataclass
class InstallSnapshotReply:
    term: int
"""


def build(root: Path, files: Files) -> source.Submission:
    """Write the files below ``root``, and find the submission there."""
    if isinstance(files, str):
        files = {"raft.py": files}
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return source.find(root)


def check(submission: source.Submission, lab: Lab = LAB_2A) -> list[Problem]:
    """Do what the host does: check the source and, if it has no problems, import it and check the class."""
    return contract.check_source(submission, lab) or check_by_importing(submission, lab)


def check_by_importing(submission: source.Submission, lab: Lab = LAB_2A) -> list[Problem]:
    """Import the submission and check its class. The process must not have imported another submission before."""
    assert not sys.modules.keys() & submission.modules.keys()
    importlib.invalidate_caches()
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    sys.path.insert(0, str(submission.root))
    try:
        try:
            module: Any = importlib.import_module(submission.name)
        except BaseException as exc:
            return [contract.explain_import_error(exc, submission)]
        return contract.check_module(module, contract.contracts(lab)[0], submission)
    finally:
        sys.path.remove(str(submission.root))
        sys.dont_write_bytecode = writes
        for name in submission.modules:
            sys.modules.pop(name, None)


def replaced(*pairs: str) -> str:
    """The good submission with replacements. ``pairs`` are old text, new text, old text, new text, ..."""
    text = GOOD
    for old, new in zip(pairs[::2], pairs[1::2], strict=True):
        assert old in text
        text = text.replace(old, new)
    return text


VOTE = "    def request_vote(self, args: RequestVoteArgs) -> RequestVoteReply:"
APPEND = "    def append_entries(self, args: AppendEntriesArgs) -> AppendEntriesReply:"


# --- submissions that are refused in lab 2A, each with its mistake ---

# Mistakes in methods. The check finds them in the source or, if the method is inherited, in the class.
METHODS_BROKEN: dict[str, str] = {
    "a method is missing": replaced("def get_state(", "def state("),
    "no __init__": replaced("def __init__(", "def init("),
    "__init__ with too few parameters": replaced(
        "def __init__(self, peers, me, persister, apply_ch, members)", "def __init__(self, peers, me)"
    ),
    "start without a command": replaced("def start(self, command)", "def start(self)"),
    "start with more parameters": replaced("def start(self, command)", "def start(self, command, client, *rest, n=1)"),
    "a method without self": replaced("def get_state(self)", "def get_state()"),
    "a required keyword parameter": replaced("def start(self, command)", "def start(self, command, *, client)"),
    "an async handler": replaced(VOTE, VOTE.replace("    def", "    async def")),
    "status with a parameter": GOOD + "\n    def status(self, verbose):\n        pass\n",
}

BARE_DECORATOR = """
def logged(f):
    def inner(self, *args: Any) -> Any:
        return f(self, *args)
    return inner
"""


BROKEN: dict[str, Files] = {
    "a syntax error: a colon is missing": "class Raft:\n    def start(self)\n        pass\n",
    "a syntax error: return outside a function": "x = 1\nreturn x\n",
    "an empty file": {"raft.py": ""},
    "no class Raft, but others": {"raft.py": "class Node: pass\nclass Log: pass\n"},
    "a class with a similar name": {"raft.py": "class Log: pass\nclass RaftNode: pass\n"},
    "class Raft in another file": {"raft.py": "import core\n", "core.py": "class Raft: pass\n"},
    **METHODS_BROKEN,
    "a generator method": replaced("return 0, 0, False", "yield 0, 0, False"),
    "a property": replaced("    def get_state", "    @property\n    def get_state"),
    "an attribute in place of a method": replaced("    def get_state", "    def state").replace(
        "class Raft:", "class Raft:\n    get_state = 3\n"
    ),
    "a handler whose argument has no annotation": replaced(
        "def request_vote(self, args: RequestVoteArgs)", "def request_vote(self, args)"
    ),
    "a handler whose result has no annotation": replaced(APPEND, "    def append_entries(self, a: AppendEntriesArgs):"),
    "a handler that takes a dict": replaced(VOTE, "    def request_vote(self, args: dict) -> RequestVoteReply:"),
    "a handler that returns a tuple": replaced(
        VOTE, "    def request_vote(self, args: RequestVoteArgs) -> tuple[int, bool]:"
    ),
    "a reply that is not a dataclass": replaced("@dataclass\nclass RequestVoteReply", "class RequestVoteReply"),
    "an annotation that is not defined": replaced(
        VOTE, "    def request_vote(self, args: VoteArgs) -> RequestVoteReply:"
    ),
    "a decorator that hides annotations": replaced(
        VOTE, f"    @logged\n{VOTE}", "\n\nclass Raft:", f"{BARE_DECORATOR}\n\nclass Raft:"
    ),
    "a field that holds a lock": replaced(
        "    last_log_term: int\n", "    last_log_term: int\n    lock: threading.Lock = None\n"
    ),
    "a field that holds a list of events": replaced(
        "    last_log_term: int\n", "    last_log_term: int\n    done: list[threading.Event] = None\n"
    ),
    "a field that holds a datetime": replaced(
        "    last_log_term: int\n",
        "    last_log_term: int\n    at: datetime = None\n",
        "import threading\n",
        "import threading\nfrom datetime import datetime\n",
    ),
    "an annotation that is not a type": replaced(
        "    last_log_term: int\n", "    last_log_term: int\n    more: [int] = None\n"
    ),
    "a field whose type is not defined": replaced(
        "    last_log_term: int\n", "    last_log_term: int\n    peer: Peer = None\n"
    ),
    "a field that holds the Raft": replaced(
        "    command: Any = None\n", "    command: Any = None\n    by: Raft | None = None\n"
    ),
    "dict keys that are tuples": replaced(
        "    success: bool\n", "    success: bool\n    next: dict[tuple[int, int], int] = None\n"
    ),
    "a set and a dict with int keys": replaced(
        "    success: bool\n", "    success: bool\n    n: dict[int, int] = None\n    s: set[int] = None\n"
    ),
    "a union of list and tuple": replaced(
        "    success: bool\n", "    success: bool\n    x: list[int] | tuple[int, int] = None\n"
    ),
    "a union of str and bytes": replaced("    command: Any", "    command: list[int | str | bytes]"),
    "a type alias that contains itself": replaced(
        "    command: Any",
        "    command: JSON",
        "@dataclass\nclass LogEntry",
        'JSON = int | str | list["JSON"]\n\n\n@dataclass\nclass LogEntry',
    ),
    "a field of the paper is missing": replaced("    last_log_term: int\n", ""),
    "a field in camelCase": replaced("    vote_granted: bool\n", "    voteGranted: bool\n"),
    "a field of your own without a default": replaced(
        "    success: bool\n", "    success: bool\n    conflict_index: int\n"
    ),
    "a field of your own in LogEntry without a default": replaced(
        "class LogEntry:\n", "class LogEntry:\n    index: int\n"
    ),
    "a field of the wrong type": replaced("    candidate_id: int\n", "    candidate_id: str\n"),
    "success as an int": replaced("    success: bool\n", "    success: int\n"),
    "entries as a list of anything": replaced("list[LogEntry]", "list"),
    "entries may be None": replaced("list[LogEntry]", "list[LogEntry] | None"),
    "entries as tuples": replaced("list[LogEntry]", "list[tuple[int, Any]]"),
    "a command that must be a str": replaced("    command: Any", "    command: str"),
    "the command under another name": replaced("    command: Any", "    cmd: Any"),
    "a package that is not installed": f"{GOOD}\nimport nimpy\n",
    "the same in a second file": {
        "raft.py": "from core import Raft\n",
        "core.py": "import timers\nimport nimpy\n",
        "timers.py": "",
    },
    "a folder without __init__.py": {
        "raft.py": "from parts.log import Raft, Log\n",
        "parts/log.txt": "",
        "parts/x.py": "",
    },
    "a module that raftlab does not have": {"raft.py": "from raftlab.nothing import Raft\n"},
    "a relative import": {"raft.py": "from .core import Raft\n", "core.py": "class Raft: pass\n"},
    "a name that the other file does not have": {"raft.py": "from core import Raft\n", "core.py": ""},
    "a syntax error in a second file": {"raft.py": "from core import Raft\n", "core.py": "x = 1\ndef f(\n"},
    "an exception while importing": {
        "raft.py": f"{GOOD}\nimport core\n",
        "core.py": "def f():\n    return 1 / 0\n\nf()\n",
    },
    "sys.exit while importing": f"{GOOD}\nimport sys\nsys.exit(1)\n",
    "an exception that cannot be shown": f"{GOOD}\nclass E(Exception):\n    def __str__(self): 1 / 0\nraise E\n",
    "an optional field without a default, in another file": {
        "raft.py": f"from msgs.wire import *\n\n\nclass Raft:\n{METHODS}",
        "msgs/__init__.py": "",
        "msgs/wire.py": HEAD + MESSAGES.replace("    success: bool\n", "    success: bool\n    hint: int\n"),
    },
    "three mistakes at once": replaced(
        "    success: bool\n", "", "    candidate_id: int\n", "", "args: AppendEntriesArgs", "args"
    ),
    "an alias instead of the class": "class Node: pass\nif Node is None:\n    Raft = Node\n",
    "Raft is a function": "def Raft(*args): pass\n",
}

# --- for lab 2F ---

VOTERS = "    members: list[int] | None = None\n    old_members: list[int] | None = None\n"
GOOD_2F = (
    (GOOD + LATER + SNAPSHOT_MESSAGES)
    .replace("    done: bool\n", f"    done: bool\n{VOTERS}")
    .replace("    command: Any = None\n", f"    command: Any = None\n    kind: str = 'command'\n{VOTERS}")
)

BROKEN_2F: dict[str, Files] = {
    "the methods of the later labs are missing": GOOD,
    "LogEntry without the fields of lab 2E": GOOD_2F.replace(f"    kind: str = 'command'\n{VOTERS}", ""),
    "InstallSnapshotArgs without the fields of lab 2E": GOOD_2F.replace(
        f"    done: bool\n{VOTERS}", "    done: bool\n"
    ),
}

# --- for lab 2G ---

FLAG = "    leadership_transfer: bool = False\n"
TRANSFER = """\
    def transfer_leadership(self, target): ...
    def timeout_now(self, args: TimeoutNowArgs) -> TimeoutNowReply: ...
"""
TIMEOUT_NOW = """
@dataclass
class TimeoutNowArgs:
    term: int
    leader_id: int


@dataclass
class TimeoutNowReply:
    term: int
"""
GOOD_2G = (GOOD_2F + TIMEOUT_NOW).replace(LATER, LATER + TRANSFER)
GOOD_2G = GOOD_2G.replace("    last_log_term: int\n", f"    last_log_term: int\n{FLAG}")

BROKEN_2G: dict[str, Files] = {
    "the methods of lab 2G are missing": GOOD_2F,
    "RequestVoteArgs without leadership_transfer": GOOD_2G.replace(FLAG, ""),
    "leadership_transfer as an int": GOOD_2G.replace(FLAG, FLAG.replace("bool = False", "int = 0")),
    "leadership_transfer without a default": GOOD_2G.replace(FLAG, FLAG.replace(" = False", "")),
}
