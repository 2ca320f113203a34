"""The operations on one key, numbered and sorted by time for the search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from raftlab.linearizability.history import Operation

NEVER = 1 << 62  # the position of a return that never came


class Problem:
    """The operations on one key. Sets of operations are integers: bit i stands for operation i.

    The operations that returned have the lower numbers, in order of their calls. The open operations follow.

    Attributes:
        operations: The operations. Those that had not returned by the end of the prefix (`until`) are open here.
        originals: The same operations as they were given, in the same order.
        call, end: For each operation, the positions of its call and its return among all calls and returns in order of time.
        returned: The number of operations that returned.
        everything_returned: The set of the operations that returned.
        waits_for: For each operation, the operations of the same client that returned exactly when this one was called. They
            must come before this one.
    """

    def __init__(self, operations: Sequence[Operation], until: int | None = None) -> None:
        """Args:
        operations: The operations on one key, each client's in the order in which it called them.
        until: The position of a return, after which the history is cut off. None: the whole history.
        """
        call, end = _positions(operations)
        limit = NEVER if until is None else until + 1
        numbers = [i for i in range(len(operations)) if call[i] < limit]
        returned = sorted((i for i in numbers if end[i] < limit), key=call.__getitem__)
        unfinished = sorted((i for i in numbers if end[i] >= limit), key=call.__getitem__)
        order = returned + unfinished
        self.originals = [operations[i] for i in order]
        self.operations = self.originals[: len(returned)] + [
            one if one.return_ is None else replace(one, return_=None, result=None)
            for one in self.originals[len(returned) :]
        ]
        self.call = [call[i] for i in order]
        self.end = [end[i] for i in returned] + [NEVER] * len(unfinished)
        self.returned = len(returned)
        self.everything_returned = (1 << self.returned) - 1
        number = {old: new for new, old in enumerate(order)}
        self.waits_for = [0] * len(order)
        ended: dict[tuple[int | str, float | None], int] = {}
        for old, one in enumerate(operations):  # in the order in which each client called
            if old in number:
                self.waits_for[number[old]] = ended.get((one.client, one.call), 0)
                if number[old] < self.returned:
                    ended[one.client, one.return_] = ended.get((one.client, one.return_), 0) | 1 << number[old]


def lowest_missing(members: int) -> int:
    """The lowest number that is not in the set."""
    return (~members & (members + 1)).bit_length() - 1


def _positions(operations: Sequence[Operation]) -> tuple[list[int], list[int]]:
    """Numbers calls and returns in order of time. At equal times calls come first, so that the operations overlap."""
    events: list[tuple[float, int, int]] = []
    for number, one in enumerate(operations):
        events.append((one.call, 0, number))
        if one.return_ is not None:
            events.append((one.return_, 1, number))
    call, end = [0] * len(operations), [NEVER] * len(operations)
    for position, (_, is_return, number) in enumerate(sorted(events)):
        (end if is_return else call)[number] = position
    return call, end
