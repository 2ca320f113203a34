"""The clerks of a run (labs 3A and 3B): a test lets them carry out operations, and each operation goes into the history.

``c.clerks[0].put("x", "1")`` waits for the operation, and fails the test if it takes too long. ``begin`` does not wait, so
several clerks can be at work at once. A clerk carries out one operation at a time. Times are seconds of the lab's time.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from raftlab.explain import rules
from raftlab.explain.failure import Failure, LabFailure, short
from raftlab.harness.answer_times import answered_in_time
from raftlab.harness.observations import answers_to
from raftlab.harness.trace import OutgoingEvent, ReplyEvent
from raftlab.linearizability import Operation
from raftlab.messages import paper
from raftlab.participants import clerk as clerk_number
from raftlab.participants import name_of
from raftlab.referee.base import Message
from raftlab.seeds import derive

if TYPE_CHECKING:
    from raftlab.harness.cluster import Cluster

# Seconds within which an operation must end if a majority of the servers can reach each other and the clerk, and no message
# is lost (from the handout of lab 3A).
OPERATION_LIMIT = 10.0

# The kinds of reads besides "log" (lab 3B).
READS = ("index", "lease", "session", "snapshot")

Outcome = Literal["open", "ok", "unknown", "refused"]


@dataclass(slots=True)
class ClientOperation:
    """One operation of one clerk.

    Attributes:
        clerk: the clerk's name and incarnation, such as ``"C0"`` or, after a restart, ``"C0.2"``.
        op: ``"get"``, ``"put"``, ``"append"`` or ``"swap"``.
        key: the key.
        args: the arguments without the key.
        read: the kind of read of a get (lab 3B); ``"log"`` for all other operations.
        call: when the operation began.
        returned: when the result arrived; ``None`` if it has not.
        outcome: ``"open"`` until the result arrives, and for ever if the clerk crashes; ``"ok"`` if the method returned;
            ``"unknown"`` if it raised ``Unknown``, so the operation may have been carried out or not; ``"refused"`` if it
            raised ``ValueError`` and the test expected that.
        result: what the clerk's method returned.
    """

    clerk: str
    op: str
    key: str
    args: tuple[Any, ...]
    call: float
    read: str = "log"
    returned: float | None = None
    outcome: Outcome = "open"
    result: Any = None

    @property
    def done(self) -> bool:
        """Whether its result has arrived."""
        return self.outcome != "open"

    def as_operation(self) -> Operation:
        """The operation in the form that the linearizability checker takes."""
        returned = self.returned if self.outcome == "ok" else None
        return Operation(self.clerk, self.call, returned, self.op, self.key, self.args, self.result)

    def describe(self) -> str:
        """The call in one line: ``C0.append('x', '1')``."""
        words = (self.key, *self.args, *([] if self.read == "log" else [self.read]))
        arguments = ", ".join(short(value, 30) for value in words)
        return f"{self.clerk}.{self.op}({arguments})"


class ClerkHandle:
    """One of the student's clerks, as a test uses it.

    Args:
        c: the cluster.
        index: 0 for C0.

    Attributes:
        number: its number as a participant, which methods of ``Cluster`` such as ``cut``, ``partition`` and ``hold`` take.
        name: ``"C0"``, ``"C1"``, ...
        operation: the operation that the clerk is carrying out, if any.
        on_return: called when an operation has ended. The function may begin the next one.
        last_read: by key, what the clerk's last get of the key returned.
        may_refuse: whether operations may raise ``ValueError``. If not, a ``ValueError`` fails the test.
    """

    def __init__(self, c: Cluster, index: int) -> None:
        self.number = clerk_number(index)
        self.name = name_of(self.number)
        self.operation: ClientOperation | None = None
        self.on_return: Callable[[ClientOperation], None] = lambda operation: None
        self.may_refuse = False
        self.last_read: dict[str, str | None] = {}
        self._c = c

    # --- operations that are waited for ---

    def get(self, key: str, within: float = OPERATION_LIMIT, read: str = "log") -> str | None:
        """The value of ``key``; ``None`` if there is none. ``read`` is the kind of read (lab 3B)."""
        result: str | None = self.run("get", key, within=within, read=read).result
        return result

    def put(self, key: str, value: str, within: float = OPERATION_LIMIT) -> None:
        """Replace the value of ``key``."""
        self.run("put", key, value, within=within)

    def append(self, key: str, value: str, within: float = OPERATION_LIMIT) -> None:
        """Add ``value`` at the end of the value of ``key``."""
        self.run("append", key, value, within=within)

    def swap(self, key: str, expected: str | None, value: str, within: float = OPERATION_LIMIT) -> bool:
        """Replace the value of ``key`` if it is ``expected``, or if there is none and ``expected`` is ``None``. Returns
        whether the value was replaced."""
        return bool(self.run("swap", key, expected, value, within=within).result)

    def run(self, op: str, key: str, *args: Any, within: float = OPERATION_LIMIT, read: str = "log") -> ClientOperation:
        """Carry out an operation, and fail the test unless it succeeds within ``within`` seconds."""
        operation = self.begin(op, key, *args, read=read)
        self._c.finish_operation(self.number, within)
        return operation

    def finish(self, operation: ClientOperation, within: float = OPERATION_LIMIT) -> ClientOperation:
        """Wait for an operation that has begun, and fail the test unless it succeeds within ``within`` seconds."""
        if not operation.done:
            self._c.finish_operation(self.number, within)
        self.require_known(operation)
        return operation

    def wait_for(self, operation: ClientOperation, within: float) -> None:
        """Does the work of :meth:`finish`. Only ``Cluster.finish_operation`` calls this. Scenarios record the calls of
        ``finish_operation``."""
        c = self._c
        if not c.wait_for(within, lambda: operation.done):
            answered_in_time(c)  # if a server has not answered in time, fail with that reason instead
            text = f"expected {operation.describe()} to return within {within:.0f} s, but it has not"
            observed = answers_to(c.event_loop.trace.events, self.number, operation.call)
            c.fail(text, rules.PROGRESS, hint=c.first_hint_of_service(), observed=observed)
        self.require_known(operation)

    def require_known(self, operation: ClientOperation) -> None:
        """Fail the test if an operation has raised ``Unknown``."""
        if operation.outcome == "unknown":
            text = f"expected {operation.describe()} to return, but it raised Unknown. Its session has not expired"
            self._c.fail(text, rules.UNKNOWN_ONLY_IF, [self.number])

    # --- operations that are not waited for ---

    def begin(self, op: str, key: str, *args: Any, read: str = "log") -> ClientOperation:
        """Begin an operation. The clerk must be up and have none in progress.

        Args:
            op: the name of the clerk's method: ``"get"``, ``"put"``, ``"append"`` or ``"swap"``.
            key: the key.
            args: the method's further arguments, without the key.
            read: the kind of read, for a get (lab 3B).
        """
        return self._c.begin_operation(self.number, op, key, args, read)

    def start(self, op: str, key: str, args: tuple[Any, ...], read: str = "log") -> ClientOperation:
        """Does the work of :meth:`begin`. Only :class:`Load` and ``Cluster.begin_operation`` call this. Scenarios
        record the calls of ``begin_operation``."""
        if self.operation is not None:
            raise RuntimeError(f"{self.name} carries out one operation at a time")
        incarnation = self._c.server_state(self.number).incarnation
        name = self.name if incarnation == 1 else f"{self.name}.{incarnation}"
        operation = self.operation = ClientOperation(name, op, key, args, self._c.now, read)
        self._c.history.append(operation)
        # The get() of lab 3A has no parameter for the kind of read.
        words = [key, *args, *([] if read == "log" else [read])]
        call = self._c.event_loop.begin_call(self.number, op, words, lambda: self._returned(operation, call))
        return operation

    def _returned(self, operation: ClientOperation, call: int) -> None:
        event_loop = self._c.event_loop
        answer = event_loop.result(call)
        operation.returned = event_loop.trace.events[-1].time
        if not (isinstance(answer, list) and len(answer) == 2 and answer[0] in ("ok", "unknown", "refused")):
            raise LabFailure(Failure("bad-result", f"{operation.describe()} returned {short(answer)}"))
        how, result = answer
        if how == "refused" and not self.may_refuse:
            text = f"expected {operation.describe()} to succeed, but it raised ValueError: {result}"
            self._c.fail(text, rules.STATUSES, [self.number])
        if how == "unknown":
            self._require_no_session(operation)
        elif how == "ok" and operation.op == "get" and not (result is None or isinstance(result, str)):
            self._bad_result(operation, "a string or None", result)
        elif how == "ok" and operation.op == "swap" and not isinstance(result, bool):
            self._bad_result(operation, "True or False", result)
        operation.outcome = how
        operation.result = result if how == "ok" and operation.op in ("get", "swap") else None
        self.operation = None
        if how == "ok" and operation.op == "get":
            self.last_read[operation.key] = operation.result
        self.on_return(operation)

    def _bad_result(self, operation: ClientOperation, wanted: str, result: Any) -> None:
        text = f"expected {operation.describe()} to return {wanted}, but it returned {short(result)}"
        raise LabFailure(Failure("bad-result", text))

    def _require_no_session(self, operation: ClientOperation) -> None:
        """Fail unless one of the operation's requests was answered with ``no_session``."""
        for event in reversed(self._c.event_loop.trace.events):
            if event.time < operation.call:
                break
            if not (isinstance(event, ReplyEvent) and event.server == self.number and event.message is not None):
                continue
            if paper.decode_reply(event.method, event.message)["status"] == "no_session":
                return
        text = f"expected {operation.describe()} to raise Unknown only if a server answered no_session, but none did"
        self._c.fail(text, rules.UNKNOWN_ONLY_IF, [self.number])

    # --- crashes ---

    def crash(self) -> None:
        """Crash the clerk. Its operation never returns."""
        self._c.crash(self.number)

    def restart(self) -> None:
        """Replace the clerk with a new one that has another client_id, and wait until ``Clerk()`` has returned."""
        self._c.restart(self.number)


class Load:
    """Clerks that carry out one operation after another. Each clerk begins its next operation as soon as the previous one
    has returned.

    No value is written twice in a run, so a history shows which operation wrote each value. The clerks begin when
    :meth:`begin` is called.

    Args:
        c: the cluster.
        clerks: the clerks that take part.
        keys: the keys. Each operation uses one of them, chosen at random.
        mix: names of operations and kinds of reads. Each operation is one of them, chosen at random; a kind of read stands
            for a get of this kind.
        most: the maximum number of operations that each clerk begins.
        seed: seeds the random choices.
    """

    def __init__(
        self, c: Cluster, clerks: Sequence[ClerkHandle], keys: Sequence[str], mix: Sequence[str], most: int, seed: int
    ) -> None:
        self._c = c
        self._clerks = list(clerks)
        self._keys = keys
        self._mix = mix
        self._left = {clerk.name: most for clerk in clerks}
        self._random = {clerk.name: random.Random(derive(seed, clerk.name)) for clerk in clerks}
        self._running = True

    def begin(self) -> None:
        """Let every clerk that is up and has no operation in progress begin its first one."""
        for clerk in self._clerks:
            clerk.on_return = self._next(clerk)
            self.resume(clerk)

    def resume(self, clerk: ClerkHandle) -> None:
        """Let a clerk begin its next operation if it is up and has none in progress, for example after a restart."""
        if clerk.operation is None and self._c.server_state(clerk.number).up:
            self._begin(clerk)

    def stop(self) -> None:
        """Let no clerk begin another operation."""
        self._running = False

    def release(self, clerks: Collection[ClerkHandle]) -> bool:
        """Remove these clerks from the load, because another load takes them over. Returns whether any clerk is left."""
        self._clerks = [clerk for clerk in self._clerks if clerk not in clerks]
        return bool(self._clerks)

    def busy(self) -> ClerkHandle | None:
        """A clerk that is up and has not carried out all of its operations; ``None`` if there is no such clerk."""
        return next(filter(self._busy, self._clerks), None)

    def _busy(self, clerk: ClerkHandle) -> bool:
        if not self._c.server_state(clerk.number).up:
            return False
        return clerk.operation is not None or (self._running and self._left[clerk.name] > 0)

    def _next(self, clerk: ClerkHandle) -> Callable[[ClientOperation], None]:
        return lambda operation: self._begin(clerk)

    def _begin(self, clerk: ClerkHandle) -> None:
        if not self._running or self._left[clerk.name] <= 0:
            return
        self._left[clerk.name] -= 1
        draw = self._random[clerk.name]
        op, key = draw.choice(self._mix), draw.choice(self._keys)
        if op in READS:
            clerk.start("get", key, (), op)
            return
        value = self._c.next_token(clerk)
        args = {"get": (), "swap": (clerk.last_read.get(key), value)}.get(op, (value,))
        clerk.start(op, key, args)


def token(clerk: str, number: int) -> str:
    """A value that no other operation writes, such as ``"C0.17;"``."""
    return f"{clerk}.{number};"


def client_requests(c: Cluster, clerk: ClerkHandle, since: float = 0.0) -> list[Message]:
    """The fields of every ``client_request`` that a clerk has sent since ``since``, in order."""
    return [
        c.event_loop.rpcs_by_id[event.id].args
        for event in c.event_loop.trace.events
        if isinstance(event, OutgoingEvent)
        and event.kind == "send"
        and event.server == clerk.number
        and event.time >= since
    ]
