"""Submissions that attack the judge through the effects that they send: messages, results, saves, lines, faults, times.

The code runs when a server is asked for its vote. In this code, ``emit`` sends an effect without the host's own checks,
``message`` sends a request with a given payload, ``answer_all`` answers the RPCs with numbers 1 to 49, whether or not
they exist, and ``p`` is the module of the protocol.
"""

from __future__ import annotations

from tests.hostile.bank import CLEAN, FAILED, NO_LEADER, NO_VOTES, REFUSED, Entry, Kinds

_TOOLS = """
import raftlab.messages.protocol as p
import raftlab.messages.codec as codec
import raftlab.host.sim_host as sim
emit = self.persister._server.emit
me, to = self.me, args.candidate_id
def message(payload, method="request_vote", target=to):
    emit(p.Send(me, 1000, target, method, payload if isinstance(payload, bytes) else p.encode(payload)))
def answer_all(payload):
    for number in range(1, 50):
        emit(p.Answer(me, number, payload if isinstance(payload, bytes) else p.encode(payload)))
"""
_BARE = """
class Bare(RequestVoteReply):
    vote_granted = False
Bare.__dataclass_fields__ = {"term": RequestVoteReply.__dataclass_fields__["term"]}
"""
_VOTE = {"term": 1, "candidate_id": 0, "last_log_index": 0, "last_log_term": 0}
_APPEND = {"term": 1, "leader_id": 0, "prev_log_index": 0, "prev_log_term": 0, "entries": [], "leader_commit": 0}
_SNAPSHOT = {
    "term": 1, "leader_id": 0, "last_included_index": 1, "last_included_term": 1, "offset": 0, "data": b"", "done": True,
}  # fmt: skip
_AT_A_TIME = "bytes at a time, and at most 16,777,216 are accepted"
_FIELDS = "sent a message that does not have the required fields"


def _entry(name: str, says: str | tuple[str, ...], vote: str, module: str = "", verdict: str = FAILED) -> Entry:
    return Entry(name, verdict, (says,) if isinstance(says, str) else says, module=module, vote=f"{_TOOLS}\n{vote}")


def _request(name: str, says: str, fields: object, method: str = "request_vote") -> Entry:
    return _entry(name, says, f"message({fields!r}, {method!r})")


def _reply(name: str, says: str, fields: object) -> Entry:
    return _entry(name, says, f"answer_all({fields!r})")


# Attacks that a security review has listed (rows 1 to 3, 17 to 25 and 29 of its list).
REVIEWED: Kinds = {
    "malformed replies": [
        _entry(
            "reply-without-a-field",
            f"{_FIELDS}: Object missing required field vote_granted",
            "bare = object.__new__(Bare); bare.term = args.term; return bare",
            _BARE,
        ),
        _entry(
            "reply-without-a-field-at-times",
            _FIELDS,
            "if args.term % 2: bare = object.__new__(Bare); bare.term = args.term; return bare",
            _BARE,
        ),
    ],
    "long messages and states": [
        _entry(
            "message-of-6-MB",
            "a message has at most 1,000,000",
            "n = 6_000_000; message(b'\\x82\\xa4term\\x01\\xa1x\\xdd' + n.to_bytes(4, 'big') + b'\\x90' * (n - 2))",
        ),
        _entry(
            "state-of-3-MB",
            "get_state() to return a short value",
            "self.get_state = lambda: (1, '\\x01' * 3_000_000)",
        ),
        _entry(
            "long-fault", "xxx...xxx", "emit(p.Fault(me, 'x' * 9999, 'x' * 2_000_000, 'x' * 9999, 'x' * 2_000_000))"
        ),
        _entry(
            "save-of-34-MB",
            ("to store at most 8,000,000 bytes", "than raftlab can send", _AT_A_TIME),
            "self.persister.save(b'y' * 34_000_000); self.persister.save(b'x' * 10_000_000)",
        ),
    ],
    "much output": [
        _entry(
            "lines-of-10-MB",
            (_AT_A_TIME, NO_LEADER),  # on the real network, the lines are dropped, but the server is busy
            "for n in range(3): emit(p.LogLine(me, 'x', 'x' * 10_000_000))",
        ),
        # There are only two lines in each vote. Ten lines keep a server of the real network so busy on a loaded machine that
        # it does not answer in time.
        _entry("lines-of-1-MB", "", "for n in range(2): emit(p.LogLine(me, 'x', 'x' * 1_000_000))", verdict=CLEAN),
        _entry(
            "long-advice",
            "",
            "for n in range(50): emit(p.Advice(me, f'x{n}', f'{n}' + 'x' * 100_000, 'w'))",
            verdict=CLEAN,
        ),
    ],
    "clocks": [
        _entry(
            "clock-that-stands-still",
            "answers without letting the clock move on",
            "sim.SimHost.step = lambda self, step: p.StepResult(self.kernel.now, 0, [], 0.0)",
        ),
    ],
    "malformed frames and results": [
        _entry(
            "nested-deeply",
            "malformed data",
            "p.pack = p.encode = lambda frame: p.HEADER.pack(500_000) + b'\\x91' * 500_000",
        ),
        _entry(
            "result-that-is-nothing", "returned a value that cannot be read", "codec.encode_value = lambda v: b'\\xc1'"
        ),
    ],
    "much code": [
        Entry(
            "much-code",
            REFUSED,
            ("more than 5000 kB of code",),
            files={f"more{n}.py": " a.b\n" * 190_000 for n in range(20)},
        ),
    ],
}

# Attacks of other kinds.
OTHERS: Kinds = {
    "malformed requests for a vote": [
        _request("request-without-a-field", f"{_FIELDS}: Object missing required field", {"term": 1}),
        _request("term-that-is-text", f"{_FIELDS}: Expected int, got str", {**_VOTE, "term": "1"}),
        _request("term-that-is-true", f"{_FIELDS}: Expected int, got bool", {**_VOTE, "term": True}),
        _request("term-that-is-huge", f"{_FIELDS}: Expected int <= 4611686018427387904", {**_VOTE, "term": 2**64 - 1}),
        _request("term-that-is-a-fraction", f"{_FIELDS}: Expected int, got float", {**_VOTE, "term": 1.5}),
        _request("request-that-is-a-list", f"{_FIELDS}: Expected object, got array", [1, 2, 3]),
        _request("request-with-an-extension", _FIELDS, b"\x81\xa4term\xd8\x05" + bytes(16)),
        _request("request-that-is-empty", f"{_FIELDS}: Input data was truncated", b""),
        _request("request-with-a-key-that-is-a-list", _FIELDS, b"\x81\x91\x01\x01"),
    ],
    "other malformed requests": [
        _entry(
            "command-nested-deeply",
            ("has an entry that is not JSON-like", "is nested too deeply"),
            f"deep = 1\nfor n in range(150): deep = [deep]\n"
            f"message({{**{_APPEND!r}, 'entries': [{{'term': 1, 'command': deep}}]}}, 'append_entries')",
        ),
        _request("entries-that-are-a-number", _FIELDS, {**_APPEND, "entries": 5}, "append_entries"),
        _request("entries-that-are-numbers", _FIELDS, {**_APPEND, "entries": [1, 2]}, "append_entries"),
        _request("method-of-python", "sent a message that is not an RPC of the labs (__class__)", _VOTE, "__class__"),
        _request("entry-without-a-command", _FIELDS, {**_APPEND, "entries": [{"term": 1}]}, "append_entries"),
        _request("snapshot-that-is-text", _FIELDS, {**_SNAPSHOT, "data": "text"}, "install_snapshot"),
        _entry("server-that-is-not-there", "called peers[99], but there is no such server", "message(b'', target=99)"),
    ],
    "malformed replies": [
        _reply("reply-with-a-number-for-a-vote", f"{_FIELDS}: Expected bool, got int", {"term": 1, "vote_granted": 1}),
        _reply("reply-that-is-null", f"{_FIELDS}: Expected object, got None", None),
        # A busy judge may receive several replies at once, and then reports that all these replies together are too
        # long.
        _entry(
            "reply-of-2-MB",
            ("a message has at most 1,000,000", _AT_A_TIME),
            "answer_all({'term': 1, 'x': b'x' * 2_000_000})",
        ),
    ],
    "floods": [
        _entry(
            "saves-without-end",
            ("within a second it saved", "saves or applies without end", NO_LEADER),
            "for n in range(30_000): emit(p.Save(me, b'', None))",
        ),
        _entry(
            "appends-without-end",
            ("within a second it saved", "saves or applies without end", NO_LEADER),
            "for n in range(30_000): emit(p.Append(me, b''))",
        ),
        _entry(
            "appends-of-20-MB",
            ("to store at most 8,000,000 bytes", _AT_A_TIME),
            "for n in range(20): self.persister.append(b'x' * 1_000_000)",
        ),
        _entry(
            "entries-without-end",
            ("put something other than an ApplyMsg into apply_ch", _AT_A_TIME),
            "for n in range(8): emit(p.Apply(me, p.encode([1] * 1_000_000) * 10))",
        ),
    ],
    "clocks": [
        _entry(
            "clock-that-crawls",
            "answers without letting the clock move on",
            "def step(self, step): self.kernel.now += 1e-9; return p.StepResult(self.kernel.now, 0, [], 0.0)\n"
            "sim.SimHost.step = step",
        ),
        _entry(
            "clock-that-runs-back",
            "sent an impossible time",
            "sim.SimHost.step = lambda self, step: p.StepResult(-1.0, 0, [], 0.0)",
        ),
        _entry(
            "effects-from-the-future",
            "sent an impossible time",
            "sim.SimHost.step = lambda self, step: p.StepResult(self.kernel.now, 0, [(1e9, p.Ready(0))], 0.0)",
        ),
        _entry(
            "effects-at-no-time",
            "sent an impossible time",
            "sim.SimHost.step = lambda self, step: p.StepResult(self.kernel.now, 0, [(float('nan'), p.Ready(0))], 0.0)",
        ),
        _entry(
            "more-events-than-there-were",
            "sent an impossible time",
            "sim.SimHost.step = lambda self, step: p.StepResult(self.kernel.now, 10**9, [], 0.0)",
        ),
        _entry(
            "ready-without-end",
            ("answers without letting the clock move on",),
            "sim.SimHost.step = lambda self, step: "
            "p.StepResult(self.kernel.now, 0, [(self.kernel.now, p.Ready(0))] * 9, 0.0)",
        ),
    ],
    "effects and frames of other kinds": [
        _entry("frame-of-4-GB", ("malformed data", _AT_A_TIME), "p.pack = p.encode = lambda frame: b'\\xff' * 8"),
        _entry("applies-nothing", "put something other than an ApplyMsg into apply_ch", "emit(p.Apply(me, b'\\xc1'))"),
        _entry(
            "fault-of-the-machine", "the machine is full", "emit(p.Fault(me, 'machine-full', 'the machine is full'))"
        ),
    ],
}

# Servers that lead without votes. All servers know from the start that S0 leads.
_HEARTBEAT = """
def lead():
    while True:
        time.sleep(0.05)
        for peer in peers[1:]: peer.call("append_entries", AppendEntriesArgs(1, 0, 0, 0))
if me == 0: threading.Thread(target=lead).start()
self.get_state = lambda: (1, False)
self.append_entries = lambda args: AppendEntriesReply(1, True)
"""
UNELECTED: Kinds = {
    "leaders without votes": [
        Entry("leader-by-heartbeats", FAILED, (NO_VOTES,), base="skeleton", init=_HEARTBEAT),
        Entry("leader-by-number", FAILED, (NO_VOTES,), base="skeleton", init="self.get_state = lambda: (1, me == 0)"),
    ],
}

HONEST = [Entry("dora", CLEAN), Entry("emil", CLEAN)]
