"""The checker's model of a service: how an operation changes a state, and in which states the operation cannot happen."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from enum import Enum

from raftlab.linearizability.history import Operation
from raftlab.linearizability.problem import Problem


class Special(Enum):
    """The result of `Model.step` if the operation cannot happen in the given state."""

    IMPOSSIBLE = "impossible"


IMPOSSIBLE = Special.IMPOSSIBLE


class LookAhead:
    """Knowledge about the operations that are still to be placed, which shortens the search. This base class has none."""

    def future(self, state: Hashable, taken: int) -> Hashable:
        """Judges a state that the search has reached, in which exactly the operations `taken` have happened.

        Returns:
            IMPOSSIBLE if the other operations certainly cannot be placed after this state. Otherwise the state, or a value
            that stands for this state and for all states that look the same to the other operations.
        """
        return state

    def is_free(self, number: int, state: Hashable, taken: int) -> bool:
        """Whether an operation that has returned, and that is possible in this state, may always be placed next: if the
        operations that are left have a valid order, then they also have one that begins with this operation."""
        return False

    def open_helps(self, state: Hashable, taken: int) -> bool:
        """Whether it can help to place an open operation next.

        Args:
            state: The state after that operation, as `future` returned it.
            taken: The operations that have happened by then, including that operation.
        """
        return True


class Model(ABC):
    """The values of one key and the operations on it."""

    initial: Hashable

    @abstractmethod
    def step(self, state: Hashable, operation: Operation) -> Hashable:
        """The state after an operation.

        An open operation (`return_` is None) may have any result. A result with which the operation changes nothing
        need not be considered, because leaving out the operation has the same effect.

        Returns:
            The new state, or IMPOSSIBLE if the operation cannot return its result in this state.
        """

    @abstractmethod
    def only_reads(self, operation: Operation) -> bool:
        """Whether an operation with this result never changes the state."""

    def validate(self, operation: Operation) -> None:  # noqa: B027 (a model may accept everything)
        """Rejects an operation that this model does not know.

        Raises:
            ValueError: The operation or its arguments are unknown.
        """

    def explain(self, before: Sequence[Operation], failed: Operation) -> str:
        """One sentence that says why an operation has no place.

        Args:
            before: The other operations on this key that were called before the failed one returned. They are linearizable
                without the failed one.
            failed: The operation that has no place.
        """
        return f"{failed.describe()} returned {failed.result!r}, which no order of the operations before it allows."

    def look_ahead(self, problem: Problem) -> LookAhead:
        return LookAhead()
