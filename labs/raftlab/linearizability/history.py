"""The operations of clients, with the times of their calls and returns, and the verdict on a history of operations."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from enum import Enum
from typing import Any


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of one client.

    Attributes:
        client: The client that called it. A client has at most one operation at a time, apart from open ones.
        call: When it was called, in seconds.
        return_: When its result arrived, in seconds. None if the result is not known, because the client crashed or was told
            that the outcome is unknown. Such an operation is called open: it may have happened at any time after its call,
            or never.
        op: The name of the operation, for example "get". The model defines the names.
        key: The key that the operation was applied to. Operations on different keys do not affect each other.
        args: The arguments without the key.
        result: The value that the operation returned.
    """

    client: int | str
    call: float
    return_: float | None
    op: str
    key: Hashable
    args: tuple[Any, ...] = ()
    result: Any = None

    def describe(self) -> str:
        """The client, the operation and its times, for example "c3's get of x between 4.2 s and 4.5 s"."""
        when = f"from {seconds(self.call)} on" if self.return_ is None else between(self)
        return f"{client_name(self)}'s {self.op} of {self.key} {when}"


def client_name(one: Operation) -> str:
    return one.client if isinstance(one.client, str) else f"client {one.client}"


def seconds(time: float) -> str:
    """A time to the millisecond, without trailing zeros."""
    return f"{time:.3f}".rstrip("0").rstrip(".") + " s"


def between(one: Operation) -> str:
    assert one.return_ is not None
    return f"between {seconds(one.call)} and {seconds(one.return_)}"


class Verdict(Enum):
    """Whether a history is linearizable. UNDECIDED means that the time ran out; it says nothing about the history."""

    YES = "yes"
    NO = "no"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class Result:
    """The verdict on a history. The other fields describe one key. They are filled in only if the verdict is NO; `order` is
    also filled in if the verdict is YES and the history has one key.

    Attributes:
        verdict: Whether the history is linearizable.
        key: A key whose operations are not linearizable.
        order: If the verdict is YES, an order of the operations that explains their results. If it is NO, such an order for
            the longest prefix of the history that has one. The order contains all operations on this key that returned
            before `unplaced` did, and the open operations that are needed to explain their
            results.
        unplaced: The operations that have no place in any such order. Normally this is one operation, whose return makes the
            history impossible. If the time ran out before that operation was found, several operations are listed, and that
            operation is one of them.
        sentence: One sentence that says which operation has no place, and why.
    """

    verdict: Verdict
    key: Hashable = None
    order: tuple[Operation, ...] = ()
    unplaced: tuple[Operation, ...] = ()
    sentence: str = ""
