"""The whole vocabulary between judge and host, in one place.

*Events* go to the host, *effects* come back. The judge decides everything that is not student code (time, faults,
stored state); the host runs student code and nothing else. Both worlds speak these same words: in sim they travel in
:class:`Step` and :class:`Stepped` frames over a pipe, in rpyc as lists of events or effects inside rpyc calls.

Everything crosses as MessagePack decoded by declared type, so a hostile host can send wrong values but never an
object. ``payload`` and ``args`` are messages as :mod:`raftlab.messages.codec` encodes them. Only the host knows their
types; the judge reads them as plain dictionaries.
"""

from __future__ import annotations

import struct
from typing import Any, TypeVar

import msgspec

VERSION = 1

# A frame on a pipe is a 4-byte big-endian length and that many bytes. The bound is on what a judge will read from a
# host in one piece; a host that floods is cut off rather than believed.
HEADER = struct.Struct("!I")
MAX_FRAME_BYTES = 64 * 1024 * 1024


class Frame(msgspec.Struct, array_like=True, tag=True, gc=False):
    """Base of every event and effect: positional on the wire, told apart by the class's name."""


# --- events: judge → host ---------------------------------------------------------------------------------------


class Boot(Frame):
    """Start one incarnation of a server: load the student's module afresh and construct ``Raft``."""

    server: int
    incarnation: int
    servers: int
    members: list[int]
    state: bytes
    snapshot: bytes
    seed: int
    rate: float = 1.0


class Request(Frame):
    """A request arrives: call the handler ``method`` on ``server``. Answered by :class:`Answer` with the same
    ``judge_rpc``, the number that the judge gave this
    call."""

    server: int
    judge_rpc: int
    method: str
    payload: bytes


class Reply(Frame):
    """The answer to the call that ``server`` numbered ``caller_rpc`` in its :class:`Send`; ``None`` means lost."""

    server: int
    caller_rpc: int
    payload: bytes | None


class Call(Frame):
    """The harness calls ``method`` (``start``, ``get_state``, ...) with positional JSON-like ``args``."""

    server: int
    call: int
    method: str
    args: bytes


class Stop(Frame):
    """The server crashes: nothing of it runs again, not even a ``finally`` block."""

    server: int


class Pause(Frame):
    """The server's threads stand still until :class:`Resume` (sim)."""

    server: int


class Resume(Frame):
    server: int


class Rate(Frame):
    """From now on the server's clock runs at ``rate`` local seconds per second (sim)."""

    server: int
    rate: float


class SlowApply(Frame):
    """From now on ``apply_ch.put`` takes so long on a server: its service is slow. Seconds of the lab's time."""

    server: int
    seconds: float


class Reseed(Frame):
    """From now on chance takes another course: the scheduler's, and that of every server's ``random`` (sim)."""

    seed: int


class FailSaves(Frame):
    """The next ``count`` calls of ``persister.save`` raise ``OSError`` and store nothing."""

    server: int
    count: int


Event = Boot | Request | Reply | Call | Stop | Pause | Resume | Rate | SlowApply | FailSaves | Reseed


# --- effects: host → judge --------------------------------------------------------------------------------------


class Ready(Frame):
    """``Raft.__init__`` returned."""

    server: int


class Send(Frame):
    """Student code called ``peers[target].call(method, args)``; ``caller_rpc`` is the caller's own number for it."""

    server: int
    caller_rpc: int
    target: int
    method: str
    payload: bytes


class Answer(Frame):
    """A handler returned."""

    server: int
    judge_rpc: int
    payload: bytes


class Save(Frame):
    """``persister.save`` was called; durable from here on. ``snapshot`` is ``None`` when it stays as it was."""

    server: int
    state: bytes
    snapshot: bytes | None


class Applied(Frame):
    """``apply_ch.put`` was called; ``payload`` is the :class:`raftlab.api.ApplyMsg`."""

    server: int
    payload: bytes


class Result(Frame):
    """A harness call returned ``payload``."""

    server: int
    call: int
    payload: bytes


class Down(Frame):
    """The server's disk failed and its code let the ``OSError`` pass: as far as the others can tell, it is down."""

    server: int


class Line(Frame):
    """A line of the student's own: ``log(topic, text)``, print, logging."""

    server: int
    topic: str
    text: str


class Fault(Frame):
    """The student's code broke the contract in a way that ends the run. ``kind`` is a key of
    :data:`raftlab.explain.causes.FAULTS`; ``text`` says what was seen; ``where`` is ``file:line`` in the student's
    code or empty; ``detail`` is a traceback or a list of threads, for reading, never for judging."""

    server: int
    kind: str
    text: str
    where: str = ""
    detail: str = ""


class Advice(Frame):
    """Something worth telling that is no failure, such as a lock held across ``peer.call``."""

    server: int
    kind: str
    text: str
    where: str = ""


Effect = Ready | Send | Answer | Save | Applied | Result | Down | Line | Fault | Advice

# Effects after which the simulator's host returns at once, because the judge's next decision may depend on them.
URGENT = frozenset((Ready, Result, Down, Fault))


# --- the simulator's lock step ----------------------------------------------------------------------------------


class Step(Frame):
    """Run from ``now`` up to ``until`` (virtual seconds).

    ``due`` are events with their times, in order. The host handles them and its own timers in order of time and
    returns at the first urgent effect, or once it is ``lookahead`` past its first effect: no message sent now can
    arrive sooner than that, so nothing in between can depend on the judge's answer.
    """

    until: float
    lookahead: float
    due: list[tuple[float, Event]]


class Stepped(Frame):
    """What happened: ``now`` is the host's clock, ``consumed`` how many events of ``due`` it handled (the others
    stay the judge's), ``timer`` when its next own timer fires. ``student`` is the CPU time spent so far outside the
    framework's own code, in seconds, measured only when profiling."""

    now: float
    consumed: int
    effects: list[tuple[float, Effect]]
    timer: float | None


# --- the warm host's control line -------------------------------------------------------------------------------


class Spawn(Frame):
    """Fork a child. Its descriptors travel beside the frame (SCM_RIGHTS): two pipe ends for ``sim`` and ``check``
    (read, write), one connected TCP socket for ``rpyc``."""

    child: int
    world: str
    seed: int = 0
    preempt: bool = True


class Kill(Frame):
    """SIGKILL that child; answered by :class:`Ended`."""

    child: int


class Spawned(Frame):
    """Sent by the child itself, before it runs student code."""

    child: int


class Ended(Frame):
    """The child is gone and reaped. ``status`` as ``os.waitpid`` gives it; ``heavy``: it was ended because it held more
    memory than a confined run may."""

    child: int
    status: int
    heavy: bool = False


Control = Spawn | Kill
Notice = Spawned | Ended


# --- the contract check -----------------------------------------------------------------------------------------


class Problem(Frame):
    """One fault of a submission, in one sentence, with where it is and which handout section helps."""

    text: str
    where: str = ""
    handout: str = ""


class Checked(Frame):
    """What the contract check found: nothing means the submission can be tested."""

    problems: list[Problem]


_T = TypeVar("_T")
encode = msgspec.msgpack.Encoder().encode


def decoder(kind: Any) -> msgspec.msgpack.Decoder[Any]:
    """A decoder for one frame type or a union of them; raises ``msgspec.DecodeError`` on anything else."""
    return msgspec.msgpack.Decoder(kind)


def pack(frame: Any) -> bytes:
    """``frame`` with its length in front, ready for a pipe."""
    data = encode(frame)
    return HEADER.pack(len(data)) + data
