"""Every message between judge and host.

*Events* go to the host, *effects* come back. The judge decides everything that is not student code (time, faults, stored
state); the host runs student code and nothing else. Both worlds use the same events and effects: in sim they travel over
a pipe in :class:`StepRequest` and :class:`StepResult`, in rpyc as lists inside rpyc calls.

Everything is MessagePack decoded by declared type, so a hostile host can send wrong values but never an object.
``payload`` and ``args`` are encoded by :mod:`raftlab.messages.codec`. Only the host knows their types; the judge reads them
as plain dictionaries. Times are seconds of the lab's time.
"""

from __future__ import annotations

import struct
from typing import Any

import msgspec

# A frame on a pipe is a 4-byte big-endian length and that many bytes.
HEADER = struct.Struct("!I")
# The longest frame that either side accepts, in bytes. It bounds the memory that a hostile host can make the judge use; a
# Raft that behaves stays far below it.
MAX_FRAME_BYTES = 64 * 1024 * 1024


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


class Request(Frame):
    """A request arrives: call the handler ``method``. :class:`Answer` returns its reply under the same ``judge_rpc``, the
    judge's number for this RPC."""

    server: int
    judge_rpc: int
    method: str
    payload: bytes


class Reply(Frame):
    """A reply arrives for the call that ``server`` numbered ``caller_rpc`` in its :class:`Send`. ``None``: the request or
    the reply was lost."""

    server: int
    caller_rpc: int
    payload: bytes | None


class Call(Frame):
    """The harness calls ``method`` (``start``, ``get_state``, ...) with positional JSON-like ``args``; :class:`Result`
    answers under the same ``call``."""

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


class Reseed(Frame):
    """From now on the scheduler and every server's ``random`` draw from another seed (sim)."""

    seed: int


class FailSaves(Frame):
    """The next ``count`` calls of ``persister.save`` raise ``OSError`` and store nothing."""

    server: int
    count: int


Event = Boot | Request | Reply | Call | Crash | Pause | Resume | ClockRate | SlowApply | FailSaves | Reseed


# --- effects: host → judge --------------------------------------------------------------------------------------


class Ready(Frame):
    """``Raft.__init__`` returned."""

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


class Result(Frame):
    """A :class:`Call` of the harness returned ``payload``."""

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


Effect = Ready | Send | Answer | Save | Apply | Result | Down | LogLine | Fault | Advice

# After one of these the simulator's host returns at once, because the judge's next decision may depend on it.
URGENT = frozenset((Ready, Result, Down, Fault))


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
    """What happened in a step, or in :meth:`raftlab.worlds.base.World.wait`."""

    now: float
    """The host's clock."""
    consumed: int
    """How many events of ``due`` the host handled. The judge keeps the others."""
    effects: list[tuple[float, Effect]]
    """Effects with their times, in order."""
    timer: float | None
    """When the host's next timer fires, if there is one."""


# --- control of the warm host -----------------------------------------------------------------------------------


class StartChild(Frame):
    """Fork a child. Its descriptors are sent along with the frame (SCM_RIGHTS): two pipe ends for ``sim`` and ``check``
    (read, write), one connected TCP socket for ``rpyc``."""

    child: int
    world: str
    """``"sim"``, ``"rpyc"`` or ``"check"``."""
    seed: int = 0
    preempt: bool = True


class KillChild(Frame):
    """SIGKILL the child; :class:`ChildEnded` answers."""

    child: int


class ChildStarted(Frame):
    """Sent by the child itself, before it runs student code."""

    child: int


class ChildEnded(Frame):
    """The child has exited and was reaped."""

    child: int
    status: int
    """As ``os.waitpid`` gives it."""
    over_memory_limit: bool = False
    """Whether it was killed for using more memory than a sandboxed run may."""


Control = StartChild | KillChild
Notice = ChildStarted | ChildEnded


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


def decoder(kind: Any) -> msgspec.msgpack.Decoder[Any]:
    """A decoder for one frame type, or for a union of them. Decoding anything else raises ``msgspec.DecodeError``."""
    return msgspec.msgpack.Decoder(kind)


def pack(frame: Any) -> bytes:
    """``frame`` prefixed with its length, ready for a pipe."""
    data = encode(frame)
    return HEADER.pack(len(data)) + data
