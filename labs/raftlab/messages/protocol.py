"""Every message between judge and host.

*Events* go to the host, *effects* come back. The judge decides everything that is not student code (time, faults, stored
state); the host runs student code and nothing else. Both worlds use the same events and effects: in sim they travel over
a pipe in :class:`StepRequest` and :class:`StepResult`, in rpyc as lists inside rpyc calls.

Everything is MessagePack decoded by declared type, so a hostile host can send wrong values but never an object.
``payload`` and ``args`` are encoded by :mod:`raftlab.messages.codec`. Only the host knows their types; the judge reads them
as plain dictionaries. Times are seconds of the lab's time: simulated time in sim, real time in rpyc.
"""

from __future__ import annotations

import struct
from typing import Any

import msgspec

# A frame on a pipe is a 4-byte big-endian length and that many bytes.
HEADER = struct.Struct("!I")
# The longest frame that either side sends, in bytes. A Raft that behaves stays far below it.
MAX_FRAME_BYTES = 64 * 1024 * 1024
# The longest frame that the judge accepts from a host, in bytes. It bounds the memory that a hostile host can make the judge
# use: decoding can take ten times as much.
MAX_HOST_FRAME_BYTES = 16 * 1024 * 1024


class Frame(msgspec.Struct, array_like=True, tag=True, gc=False):
    """Base of every message. On the wire: the class's name, then the fields in order."""


# --- events: judge → host ---------------------------------------------------------------------------------------


class Boot(Frame):
    """Start an incarnation of a server: load the student's module afresh and construct ``Raft``."""

    server: int
    incarnation: int
    """Counted from 1 for each server."""
    servers: int
    """How many servers there are."""
    members: list[int]
    """The servers that vote initially."""
    state: bytes
    """What earlier incarnations saved."""
    snapshot: bytes
    seed: int
    """Seeds the server's ``random``."""
    rate: float = 1.0
    """Local seconds per second of the lab's time."""
    put_waits: bool = False
    """Whether each ``apply_ch.put`` waits for a :class:`Taken`."""
    role: str = "raft"
    """``"raft"``: a Raft whose service the judge plays. ``"service"``: a Raft with the student's ``KVServer`` on it.
    ``"clerk"``: the student's ``Clerk``."""
    max_state: int | None = None
    """The argument of ``KVServer``, see ``handouts/lab-3a.md``."""
    max_sessions: int = 0
    """The argument of ``KVServer``."""
    client_id: int = 0
    """The argument of ``Clerk``."""


class Request(Frame):
    """A request arrives: call the handler ``method``. :class:`Answer` returns its reply under the same ``judge_rpc``, the
    judge's number for this RPC."""

    server: int
    judge_rpc: int
    method: str
    payload: bytes


class Reply(Frame):
    """The reply arrives for the call whose number in the :class:`Send` of ``server`` is ``caller_rpc``. ``None``: the
    request or the reply was lost."""

    server: int
    caller_rpc: int
    payload: bytes | None


# As the method of a Call to a server: asks whether its Raft has the method that the argument names.
HAS_METHOD = "has_method"


class Call(Frame):
    """The harness calls ``method`` of ``Raft`` or ``Clerk`` (``start``, ``get_state``, ``put``, ...) with positional
    JSON-like ``args``; :class:`Result` answers under the same ``call``."""

    server: int
    call: int
    method: str
    args: bytes


class Crash(Frame):
    """The server crashes: none of its code runs again, not even a ``finally`` block (sim; in rpyc its process is killed)."""

    server: int


class Pause(Frame):
    """The server's threads stop until :class:`Resume` (sim)."""

    server: int


class Resume(Frame):
    """The server's threads continue (sim)."""

    server: int


class ClockRate(Frame):
    """From now on the server's clock runs at ``rate`` local seconds per second (sim)."""

    server: int
    rate: float


class SlowApply(Frame):
    """From now on each ``apply_ch.put`` of this server takes ``seconds``: its service is slow."""

    server: int
    seconds: float


class Taken(Frame):
    """The service has taken a message: the oldest one whose ``put`` on this server has not returned yet (see
    :class:`Boot`). Before that ``put`` returns, it calls ``snapshot(index, data)``, unless ``index`` is 0."""

    server: int
    index: int = 0
    data: bytes = b""


class Reseed(Frame):
    """From now on the scheduler and every server's ``random`` draw from another seed (sim)."""

    seed: int


class FailSaves(Frame):
    """The next ``count`` calls of ``persister.save`` raise ``OSError`` and store nothing."""

    server: int
    count: int


class ListThreads(Frame):
    """:class:`Threads` answers, even if all of the student's threads are stuck (rpyc)."""

    server: int


Event = (
    Boot | Request | Reply | Call | Crash | Pause | Resume | ClockRate | SlowApply | Taken | FailSaves | Reseed
    | ListThreads
)  # fmt: skip


# --- effects: host → judge --------------------------------------------------------------------------------------


class Ready(Frame):
    """The constructors that the role needs (``Raft``, ``KVServer``, ``Clerk``) have returned."""

    server: int


class Send(Frame):
    """Student code called ``peers[target].call(method, args)``. ``caller_rpc`` is the server's own number for the call."""

    server: int
    caller_rpc: int
    target: int
    method: str
    payload: bytes


class Answer(Frame):
    """The handler of a :class:`Request` returned."""

    server: int
    judge_rpc: int
    payload: bytes


class Save(Frame):
    """``persister.save`` was called; the data is now durable. ``snapshot`` is ``None`` if it stays unchanged."""

    server: int
    state: bytes
    snapshot: bytes | None


class Apply(Frame):
    """``apply_ch.put`` was called; ``payload`` is the :class:`raftlab.api.ApplyMsg`."""

    server: int
    payload: bytes


class SnapshotTaken(Frame):
    """The student's service has called ``raft.snapshot(index, data)``, which has not returned yet."""

    server: int
    index: int
    data: bytes


class Result(Frame):
    """A :class:`Call` of the harness returned ``payload``. The result of a clerk's operation is a list: ``["ok", value]``;
    ``["unknown", text]`` if it raised ``Unknown``; ``["refused", text]`` if it raised ``ValueError``."""

    server: int
    call: int
    payload: bytes


class Down(Frame):
    """A save failed and the student's code let the ``OSError`` end its thread: to the others, the server is down."""

    server: int


class LogLine(Frame):
    """Student code called ``log(topic, text)`` or ``print``, or used ``logging``."""

    server: int
    topic: str
    text: str


class Fault(Frame):
    """Student code broke the contract in a way that ends the run."""

    server: int
    kind: str
    """A key of :data:`raftlab.explain.causes.FAULTS`."""
    text: str
    """One sentence: what was observed."""
    where: str = ""
    """``file:line`` in the student's code, if known."""
    detail: str = ""
    """A human-readable traceback or list of threads. Verdicts never depend on it."""


class Advice(Frame):
    """Worth knowing, but not a failure, such as a lock held across ``peer.call``. Fields as in :class:`Fault`."""

    server: int
    kind: str
    text: str
    where: str = ""


class Threads(Frame):
    """What the threads that run student code are doing, one line each. It changes nothing: only messages show it."""

    server: int
    text: str


Effect = Ready | Send | Answer | Save | Apply | SnapshotTaken | Result | Down | LogLine | Fault | Advice | Threads

# After one of these the simulator's host returns at once, because the judge's next decision may depend on it.
URGENT = frozenset((Ready, Result, Down, Fault))


class Finding(Frame):
    """A finding of the race detector. It is not an effect: it changes neither the run nor its trace."""

    server: int
    kind: str
    """A key of :data:`raftlab.explain.races.KINDS`."""
    key: str
    """Findings with equal keys are one mistake."""
    text: str
    """One sentence."""


# --- the simulator's lock step ----------------------------------------------------------------------------------


class StepRequest(Frame):
    """Run the servers up to ``until``.

    The host handles the events of ``due`` and its own timers in order of time. It returns at the first urgent effect, or
    once it is ``lookahead`` past its first effect: no message sent now can arrive sooner than that, so nothing in between
    can depend on the judge's answer.
    """

    until: float
    lookahead: float
    due: list[tuple[float, Event]]
    """Events with their times, in order."""


class StepResult(Frame):
    """The effects of a step, or of :meth:`raftlab.worlds.base.World.wait`."""

    now: float
    """The host's clock."""
    consumed: int
    """How many events of ``due`` the host handled. The judge keeps the others."""
    effects: list[tuple[float, Effect]]
    """Effects with their times, in order."""
    timer: float | None
    """When the host's next timer fires, if there is one."""
    findings: list[Finding] = []


# --- control of the warm host, the process that forks the hosts ------------------------------------------------


class StartChild(Frame):
    """Fork a child. Its descriptors are sent along with the frame (SCM_RIGHTS): two pipe ends for ``sim``, ``run`` and
    ``check`` (read, write), one connected TCP socket for ``rpyc``, a Unix socket to the judge for ``prepared``; and then,
    for all, the file for the standard streams."""

    child: int
    world: str
    """``"sim"``, ``"rpyc"``, ``"check"``, ``"prepared"`` for the prepared host, or ``"run"`` for a run together with its
    judge (:mod:`raftlab.runs.together_child`)."""
    seed: int = 0
    schedule: str = "none"
    """How the simulator preempts threads, see :mod:`raftlab.schedules`."""
    incarnations: dict[str, int] = {}
    """How many incarnations of each role the run begins with (sim, run, prepared)."""
    modules: list[str] = []
    """Modules of raftlab that are imported before the fork. The first one makes the run (run)."""


class KillChild(Frame):
    """SIGKILL the child; :class:`ChildEnded` answers. Only for the warm host: the judge itself kills the prepared host's."""

    child: int


class ChildStarted(Frame):
    """Sent by the child itself, before it runs student code."""

    child: int
    pid: int = 0
    """Its process id as it knows it, for systems that do not tell the receiver."""


class ChildEnded(Frame):
    """The child has exited and was reaped."""

    child: int
    status: int
    """As ``os.waitpid`` gives it."""
    over_memory_limit: bool = False
    """Whether it was killed for using more memory than a sandboxed run may."""


class HostPrepared(Frame):
    """The prepared host is ready to fork runs, or cannot be used."""

    problem: str
    """Why it cannot be used, and ends; empty if it can."""


class RunTooLarge(Frame):
    """Sent by the warm host before it kills the prepared host's run for using more memory than a sandboxed run may."""


Control = StartChild | KillChild
Notice = ChildStarted | ChildEnded | HostPrepared | RunTooLarge


# --- the contract check -----------------------------------------------------------------------------------------


class Problem(Frame):
    """One way in which a submission breaks the contract, in one sentence."""

    text: str
    where: str = ""
    """``file:line`` in the student's code, if known."""
    handout: str = ""
    """The section that helps, as ``handouts/setup.md#first-run``."""


class ContractReport(Frame):
    """The result of the contract check. Without problems, the submission can be tested."""

    problems: list[Problem]


encode = msgspec.msgpack.Encoder().encode
# The exceptions that decoding hostile data can raise.
MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def decoder(kind: Any) -> msgspec.msgpack.Decoder[Any]:
    """A decoder for one frame type, or for a union of them. Decoding anything else raises one of :data:`MALFORMED`."""
    return msgspec.msgpack.Decoder(kind)


def pack(frame: Any) -> bytes:
    """``frame`` prefixed with its length, ready for a pipe."""
    data = encode(frame)
    return HEADER.pack(len(data)) + data
