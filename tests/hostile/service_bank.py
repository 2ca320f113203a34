"""Submissions whose service (``kv.py``) attacks the judge or the other participants, on the reference's Raft."""

from __future__ import annotations

from tests.conftest import SOLUTION
from tests.hostile.bank import CLEAN, FAILED, Entry, Kinds

_SERVER = "class KVServer:\n"
_EXECUTE = (
    "        # region 3A: ask with the same serial until there is an answer; if there is no session, register first\n"
)
_APPLY = "        session = self.sessions.get(request.client_id)\n        if session is None:\n"

# In the simulator, all participants share the module sys.
_SHARED = """
import sys
sys.shared = getattr(sys, "shared", {})
def carry_out(op, key, value, expected):
    if op == "get" or (op == "swap" and sys.shared.get(key) != expected):
        return sys.shared.get(key) if op == "get" else False
    sys.shared[key] = sys.shared.get(key, "") + value if op == "append" else value
    return True if op == "swap" else None
"""
_ASK = f"""
        self._ask(op, key, value, expected)
        return carry_out(op, key, value, expected)

    def _ask(self, op: str, key: str, value: str | None = None, expected: str | None = None) -> Any:
{_EXECUTE}"""
# The servers forget each session at once, so that every change may have been carried out, or not. Each read returns
# the effect of as many changes as possible, in an unlikely order.
_NO_SESSION = f'        if request.op != "get":\n            return ClientReply("no_session")\n{_APPLY}'
_UNKNOWN = f"""
        if op != "get":
            while self.session is None:
                self._register()
            self.serial += 1
            self._send(ClientRequest(self.session, self.serial, op, key, value, expected))
            if op == "append":
                sys.shared.setdefault(key, []).insert(0, value)
            raise Unknown("it may have been carried out, or not")
        return "".join(sys.shared.get(key, [])) or None
{_EXECUTE}"""
# All servers use one store, and each answers at once, whether it leads or not. They also give every request to Raft.
_STORE = """
import sys
sys.store = getattr(sys, "store", ({}, OrderedDict()))
"""
_ANSWER_AT_ONCE = (
    (_SERVER, _STORE + _SERVER),
    ("self.data: dict[str, str] = {}", "self.data: dict[str, str] = sys.store[0]"),
    ("self.sessions: OrderedDict[int, Session] = OrderedDict()", "self.sessions = sys.store[1]"),
    (
        """        if not is_leader:
            return ClientReply("not_leader")
        if index < 0:
            return ClientReply("try_again")  # the leader takes no commands while it hands the leadership over (lab 2G)
        return self._wait_for_reply(index, term, deadline)
""",
        """        with self.lock:
            return self._apply_command(len(self.sessions) + 1, asdict(args))
""",
    ),
    ("reply = self._apply_command(message.index, message.command)", 'reply = ClientReply("ok")'),
    ("        self.leader = 0  #", "        self.leader = client_id % len(servers)  #"),
)
_FORGED = f"""
        import gc
        import raftlab.messages.codec as codec, raftlab.messages.protocol as p
        server = next(one for one in gc.get_objects() if type(one).__name__ in ("SimServer", "RpycServer"))
        for call in range(200):
            for participant in range(12):
                server.emit(p.Result(participant, call, codec.encode_value(["ok", True], "it")))
{_EXECUTE}"""


def _service(name: str, says: tuple[str, ...], *changes: tuple[str, str], verdict: str = FAILED) -> Entry:
    text = SOLUTION.with_name("kv.py").read_text()
    for old, new in changes:
        assert text.count(old) == 1, f"not exactly once in the reference: {old!r}"
        text = text.replace(old, new)
    return Entry(name, verdict, says, files={"kv.py": text})


SERVICES: Kinds = {
    "answers from elsewhere": [
        _service(
            "shared-answers",
            ("to have been applied from the log, but no server has applied a command",),
            (_SERVER, _SHARED + _SERVER),
            (_EXECUTE, f"        return carry_out(op, key, value, expected)\n{_EXECUTE}"),
        ),
    ],
    "answers from elsewhere, with requests": [
        _service("shared-answers-with-requests", ("returned",), (_SERVER, _SHARED + _SERVER), (_EXECUTE, _ASK)),
    ],
    # On the real network, each server has a store of its own. In the simulator, all answers are right, but come too soon.
    "servers that share memory": [
        _service(
            "servers-share-answers",
            ("returned", "is missing", "raised Unknown", "no server has applied a command"),
            *_ANSWER_AT_ONCE,
        ),
    ],
    "histories that are hard to judge": [
        _service(
            "everything-unknown",
            ("Its session has not expired", "returned"),
            (_SERVER, _SHARED + _SERVER),
            (_APPLY, _NO_SESSION),
            (_EXECUTE, _UNKNOWN),
        ),
    ],
    "speaking for others": [
        _service("forged-results", ("without end", "a message that claims to come from"), (_EXECUTE, _FORGED)),
    ],
}

HONEST = [_service("fay", (), verdict=CLEAN)]
