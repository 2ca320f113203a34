"""Every message between judge and host.

The judge sends *events* to the host, and the host sends *effects* back. The judge decides everything that is not student
code (time, faults, stored state); the host only runs student code. Both worlds use the same events and effects. In sim they
travel over a pipe in :class:`StepRequest` and :class:`StepResult`, in rpyc as lists inside rpyc calls.

All messages are encoded as MessagePack and decoded by declared type, so a hostile host can send wrong values but never an
arbitrary object. :mod:`raftlab.messages.codec` encodes ``payload`` and ``args``. Only the host knows their types; for the
judge, they are plain dictionaries and lists. Times are seconds of the lab's time: simulated time in sim, real time in rpyc.
"""

from __future__ import annotations

import struct
from typing import Any, Literal

import msgspec

# A frame on a pipe is a 4-byte big-endian length and that many bytes.
HEADER = struct.Struct("!I")
# The longest frame that either side sends, in bytes. A correct Raft stays far below this length.
MAX_FRAME_BYTES = 64 * 1024 * 1024
# The longest frame that the judge accepts from a host, in bytes. This limits the memory that a hostile host can make the
# judge use: decoding a frame can take ten times the frame's size.
MAX_HOST_FRAME_BYTES = 16 * 1024 * 1024


class Frame(msgspec.Struct, array_like=True, tag=True, gc=False):
    """The base class of every message. A message is encoded as the name of its class, then its fields in order."""


# --- events: judge → host ---------------------------------------------------------------------------------------


class Boot(Frame):
    """Start an incarnation of a server or clerk: load the student's module afresh and construct what ``role`` needs."""

    server: int
    incarnation: int
    """Counted from 1 for each server."""
    servers: int
    """How many servers there are."""
    members: list[int]
    """The servers that vote initially."""
    state: bytes
    """The state that ``persister.save`` stored last, in any earlier incarnation, and what was appended since."""
    snapshot: bytes
    """The snapshot that ``persister.save`` stored last."""
    seed: int
    """Seeds the server's ``random``."""
    rate: float = 1.0
    """Seconds of the server's clock per second of the lab's time."""
    put_waits: bool = False
    """Whether each ``apply_ch.put`` waits for a :class:`Taken`."""
    role: str = "raft"
    """``"raft"``: a Raft whose service the judge plays. ``"service"``: a Raft and the student's ``KVServer`` on top of it.
    ``"clerk"``: the student's ``Clerk``."""
    max_state: int | None = None
    """The argument ``max_state`` of ``KVServer``, see ``handouts/lab-3a.md``."""
    max_sessions: int = 0
    """The argument ``max_sessions`` of ``KVServer``."""
    client_id: int = 0
    """The argument ``client_id`` of ``Clerk``."""


class Request(Frame):
    """A request arrives: call the handler ``method``. ``judge_rpc`` is the judge's number for this RPC; the :class:`Answer`
    with the handler's reply has the same number."""

    server: int
    judge_rpc: int
    method: str
    payload: bytes


class Reply(Frame):
    """The reply arrives for the RPC that ``server`` sent in the :class:`Send` with the same ``caller_rpc``. ``payload`` is
    ``None`` if the request or the reply was lost."""

    server: int
    caller_rpc: int
    payload: bytes | None


# If the `method` of a Call is this, the Call asks whether the server's Raft has the method that the argument names.
HAS_METHOD = "has_method"


class Call(Frame):
    """The harness calls ``method`` of ``Raft`` or ``Clerk`` (``start``, ``get_state``, ``put``, ...) with positional
    JSON-like ``args``. The :class:`Result` has the same number ``call``."""

    server: int
    call: int
    method: str
    args: bytes


class Crash(Frame):
    """The server crashes: none of its code runs any more, not even a ``finally`` block (sim). In rpyc its process is
    killed instead."""

    server: int


class Pause(Frame):
    """The server's threads stop until :class:`Resume` (sim)."""

    server: int


class Resume(Frame):
    """The server's threads continue (sim)."""

    server: int


class ClockRate(Frame):
    """From now on the server's clock runs ``rate`` times as fast as the lab's (sim)."""

    server: int
    rate: float


class SlowApply(Frame):
    """From now on each ``apply_ch.put`` of this server takes ``seconds``, because its service is slow."""

    server: int
    seconds: float


class Taken(Frame):
    """The service has taken the oldest message whose ``put`` on this server has not returned yet (see ``put_waits`` of
    :class:`Boot`). That ``put`` now returns. If ``index`` is not 0, ``put`` calls ``snapshot(index, data)`` before it
    returns."""

    server: int
    index: int = 0
    data: bytes = b""


class Reseed(Frame):
    """From now on the scheduler and every server's ``random`` use another seed (sim)."""

    seed: int


class FailSaves(Frame):
    """The next ``count`` calls of ``persister.save`` or ``persister.append`` raise ``OSError`` and store nothing."""

    server: int
    count: int


class ListThreads(Frame):
    """Asks for :class:`Threads`. The host answers even if all of the student's threads are stuck (rpyc)."""

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
    """Student code called ``peers[target].call(method, args)``. ``caller_rpc`` is the server's own number for the RPC."""

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


class Append(Frame):
    """``persister.append`` was called; ``data`` is now durable, at the end of the saved state."""

    server: int
    data: bytes


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
    """A save failed, and the ``OSError`` ended a thread of the student's code. The judge treats this as a crash."""

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
    """Advice on the student's code that is not a failure, such as a lock held during ``peer.call``. The fields have the same
    meaning as in :class:`Fault`."""

    server: int
    kind: str
    text: str
    where: str = ""


class Threads(Frame):
    """What the threads that run student code are doing, one line each. The text appears in failure messages and has no
    other effect."""

    server: int
    text: str


Effect = (
    Ready | Send | Answer | Save | Append | Apply | SnapshotTaken | Result | Down | LogLine | Fault | Advice | Threads
)  # fmt: skip

# After one of these effects, the simulator's host returns at once, because the judge's next decision may depend on it.
URGENT = frozenset((Ready, Result, Down, Fault))


class Finding(Frame):
    """A finding of the race detector. It is not an effect: it changes neither the run nor its trace."""

    server: int
    kind: str
    """A key of :data:`raftlab.explain.races.KINDS`."""
    key: str
    """Findings with equal keys are the same mistake."""
    text: str
    """One sentence."""


# --- the simulator's lock step ----------------------------------------------------------------------------------


class StepRequest(Frame):
    """Run the servers up to ``until``.

    The host handles the events of ``due`` and its own timers in order of time. It returns at the first urgent effect, or
    when ``lookahead`` seconds have passed since the first effect. A message that is sent in the step cannot arrive sooner
    than after ``lookahead`` seconds, so nothing that happens until then depends on the judge's answer.
    """

    until: float
    lookahead: float
    due: list[tuple[float, Event]]
    """Events with their times, in order of time."""


class StepResult(Frame):
    """The effects of a step, or of :meth:`raftlab.worlds.base.World.wait`."""

    now: float
    """The host's clock."""
    consumed: int
    """How many events of ``due`` the host handled. The judge keeps the others."""
    effects: list[tuple[float, Effect]]
    """Effects with their times, in order of time."""
    timer: float | None
    """When the host's next timer fires; ``None`` if there is none."""
    findings: list[Finding] = []


# --- control of the warm host and the prepared host, which fork the hosts --------------------------------------


class StartChild(Frame):
    """Fork a child. The child's descriptors are sent together with the frame (SCM_RIGHTS): two pipe ends (read, write) for
    ``sim``, ``run`` and ``check``; one connected TCP socket for ``rpyc``; a Unix socket to the judge for ``prepared``. One
    more descriptor comes last: the file for the child's standard streams."""

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
    """Modules of raftlab that are imported before the fork. In the world ``"run"``, the first of them carries out the
    run."""


class KillChild(Frame):
    """SIGKILL the child. :class:`ChildEnded` follows. Only the warm host gets this; the judge itself kills the children of
    the prepared host."""

    child: int


# What the warm host limits for all children together: their memory, and outside of namespaces their threads.
Exceeded = Literal["memory", "threads"]


class HostStarted(Frame):
    """The warm host's first notice. It has not read the submission yet, so the submission is not to blame if this notice
    never arrives."""


class NotStarted(Frame):
    """The operating system has refused what the host needs in order to load the submission or to fork a child: a process,
    memory or a descriptor. In the process that this happened to, no student code had run."""

    child: int
    """0: the host itself, which ends."""
    errno: int
    text: str
    """What the operating system said."""
    exceeded: Literal["", Exceeded] = ""
    """What the submission's processes use so much of that they may be the reason; empty if they are not."""


class ChildStarted(Frame):
    """Sent by the child itself, after it has put the sandbox's restrictions on itself and before it runs student code."""

    child: int
    pid: int = 0
    """The child's own process id, used on systems that do not tell the receiver the sender's process id."""


class ChildEnded(Frame):
    """The child has exited and has been reaped."""

    child: int
    status: int
    """As ``os.waitpid`` returns it."""
    exceeded: Literal["", Exceeded] = ""
    """The limit because of which the warm host killed the child; empty if there was none."""


class HostPrepared(Frame):
    """The prepared host is ready to fork runs, or it cannot be used and ends."""

    problem: str
    """Why it cannot be used; empty if it is ready."""


class RunTooLarge(Frame):
    """A run that the prepared host has forked exceeds a limit. The warm host sends this before it kills the run."""

    exceeded: Exceeded


Control = StartChild | KillChild
Notice = HostStarted | NotStarted | ChildStarted | ChildEnded | HostPrepared | RunTooLarge


# --- the contract check -----------------------------------------------------------------------------------------


class Problem(Frame):
    """One way in which a submission breaks the contract, in one sentence."""

    text: str
    where: str = ""
    """``file:line`` in the student's code, if known."""
    handout: str = ""
    """The section of a handout that helps, such as ``handouts/setup.md#first-run``."""


class ContractReport(Frame):
    """The result of the contract check. If there are no problems, the submission can be tested."""

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
