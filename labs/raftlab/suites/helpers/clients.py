"""Lab 3A: clerks at work, the end of a test, and messages that tests send and read themselves."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from raftlab.explain import rules
from raftlab.explain.failure import Rule, short
from raftlab.harness.answer_times import METHOD
from raftlab.harness.clerks import OPERATION_LIMIT, READS, ClerkHandle
from raftlab.harness.cluster import Cluster
from raftlab.harness.trace import ApplyEvent, ArriveEvent, OutgoingEvent
from raftlab.messages import paper

# What a clerk draws its next operation from: names of operations and of kinds of reads. A name that is listed twice is drawn
# twice as often.
APPENDS = ("append", "append", "get")
EVERYTHING = ("append", "get", "put", "swap", "get")
# Lab 3B: appends, mixed with reads of every kind, or with reads that need no entry and must show what was written before.
ALL_READS = ("append", "append", "get", *READS)
FRESH_READS = ("append", "index", "index", "lease", "lease")


class Load:
    """Clerks at work: each begins its next operation as soon as the previous one has returned.

    Every value is written once in a run, so that a history shows where each value comes from. Choose the keys so that no
    key gets more than 200 operations. A cluster has one load at a time.

    Args:
        c: the cluster.
        clerks: who takes part; ``None``: all clerks.
        keys: the keys, from which each operation draws one.
        mix: the operations to draw from. The check of the history can say more about keys that are only appended to and
            read.
        most: the maximum number of operations that each clerk begins, until :meth:`more` allows more.
    """

    def __init__(
        self, c: Cluster, clerks: Sequence[ClerkHandle] | None = None, keys: Sequence[str] = ("a", "b", "c"),
        mix: Sequence[str] = APPENDS, most: int = 100,
    ) -> None:  # fmt: skip
        self._c = c
        self._clerks = [clerk.number for clerk in (c.clerks if clerks is None else clerks)]
        self._keys = keys
        self._mix = mix
        self.more(most)

    def more(self, most: int) -> None:
        """From now on, each clerk carries out at most ``most`` further operations."""
        seed = self._c.random.getrandbits(60)
        self._load = self._c.keep_busy(self._clerks, self._keys, self._mix, most, seed)

    def resume(self, clerk: ClerkHandle) -> None:
        """Let a restarted clerk go on."""
        self._load.resume(clerk)

    def wait(self, seconds: float) -> None:
        """Let ``seconds`` pass, or less if all operations have returned before that."""
        self._c.wait_for(seconds, lambda: self._load.busy() is None)

    def stop(self) -> None:
        """Let no clerk begin another operation."""
        self._c.stop_clerks()

    def finish(self, within: float = OPERATION_LIMIT) -> None:
        """Stop, and wait until every operation has returned. Fail the test if that takes more than ``within`` seconds."""
        self.stop()
        self._c.clerks_idle(within)

    def wait_until_idle(self, within: float) -> None:
        """Wait until every clerk has carried out all of its operations, or fail the test."""
        self._c.clerks_idle(within)


def end_well(c: Cluster, keys: Collection[str] | None = None) -> None:
    """End a test: require that every operation returns, read every key through the last clerk that is up, check the history,
    and require that every request was answered in time.

    Args:
        c: the cluster. Its servers and links must work again, and at least one clerk must be up.
        keys: the keys to read; ``None``: all that some clerk has used.
    """
    clerks = [clerk for clerk in c.clerks if c.server_state(clerk.number).up]
    for clerk in clerks:
        # Let the clerk begin no other operation. Most tests have waited for all operations. Other tests have only given them
        # some time, so the clerk may still be busy.
        clerk.on_return = lambda operation: None
        if clerk.operation is not None:
            clerk.finish(clerk.operation)
    reader = clerks[-1]
    for key in sorted({operation.key for operation in c.history}) if keys is None else keys:
        reader.get(key)
    require_entries(c)
    c.check_history()
    require_an_entry_for_each_append(c)


def require_entries(c: Cluster) -> None:
    """Fail the test if writes have returned although no server has applied a command: such writes have bypassed Raft."""
    writes = [one for one in c.history if one.outcome == "ok" and one.op != "get"]
    if writes:
        require_entry(c, writes[0].describe(), rules.APPLIED_STATE)


def require_entry(c: Cluster, write: str, rule: Rule) -> None:
    """Fail the test with ``rule`` if no server has applied a command, although ``write`` was answered with ok."""
    if not any(kind == "command" for kind, _ in c.event_loop.referee.applies.values.values()):
        text = f"expected {write} to have been applied from the log, but no server has applied a command"
        c.fail(text, rule)


def require_an_entry_for_each_append(c: Cluster) -> None:
    """Fail the test if an append was answered with ok although no server has applied anything since it first arrived at a
    server. In the simulator, a service could answer from memory that its servers share.

    This accepts services that apply many appends with one entry, answer a retry from memory, let another server than the
    leader answer, or take a snapshot instead of the entry: some server has applied the entry in between."""
    arrived: dict[tuple[int, int], int] = {}  # by session and serial: how many applies came before the first request
    applies = 0
    for event in c.event_loop.trace.events:
        if isinstance(event, ApplyEvent):
            applies += 1
        elif isinstance(event, ArriveEvent) and event.method == METHOD:
            args = c.event_loop.rpcs_by_id[event.id].args
            arrived.setdefault((args["client_id"], args["serial"]), applies)
        elif isinstance(event, OutgoingEvent) and event.method == METHOD and event.kind == "answer":
            args = c.event_loop.rpcs_by_id[event.id].args
            if c.event_loop.states[event.server].scripted_server is not None or args["op"] != "append":
                continue
            if arrived.get((args["client_id"], args["serial"]), -1) != applies:
                continue
            if paper.decode_reply(METHOD, event.message)["status"] == "ok":
                write = f"append({short(args['key'])}, {short(args['value'])})"
                text = f"expected {write} to have been applied from the log, but no server has applied a command"
                c.fail(f"{text} since the request arrived", rules.APPLIED_STATE, [event.server])


# --- messages of scripted clerks and servers ---------------------------------------------------------------


def request(op: str, client_id: int, serial: int, key: str = "", **fields: Any) -> dict[str, Any]:
    """The fields of a ``ClientRequest``. ``fields``: ``value``, ``expected``, ``read`` and ``seen``, if not the defaults."""
    plain = {"value": None, "expected": None, "read": "log", "seen": 0}
    return {"client_id": client_id, "serial": serial, "op": op, "key": key, **plain, **fields}


def reply(
    status: str, value: str | int | bool | None = None, leader: int | None = None, index: int = 0
) -> dict[str, Any]:
    """The fields of a ``ClientReply``."""
    return {"status": status, "value": value, "leader": leader, "index": index}
