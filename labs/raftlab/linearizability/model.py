"""The checker's model of a service: how an operation changes a state, and in which states it cannot happen."""

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
    """Knowledge of the operations still to come, which shortens the search. This one knows nothing."""

    def future(self, state: Hashable, taken: int) -> Hashable:
        """Looks at a state after the operations `taken` have happened.

        Returns:
            IMPOSSIBLE if the other operations surely cannot be placed after it. Otherwise the state, or one that stands for
            all states that are as good as this one for the operations still to come.
        """
        return state

    def is_free(self, number: int, state: Hashable, taken: int) -> bool:
        """Whether a returned operation that may happen in this state loses nothing by happening at once."""
        return False

    def open_helps(self, state: Hashable, taken: int) -> bool:
        """Whether an open operation is worth taking if it leads to this state, as `future` returned it."""
        return True


class Model(ABC):
    """The values of one key and the operations on it."""

    initial: Hashable

    @abstractmethod
    def step(self, state: Hashable, operation: Operation) -> Hashable:
        """The state after an operation.

        An operation that is open (`return_` is None) has any result. One that changes nothing need not be allowed for.

        Returns:
            The new state, or IMPOSSIBLE if the operation cannot return its result in this state.
        """

    @abstractmethod
    def only_reads(self, operation: Operation) -> bool:
        """Whether an operation with this result never changes the state."""

    def validate(self, operation: Operation) -> None:  # noqa: B027 (a model may accept everything)
        """Refuses an operation that this model does not know.

        Raises:
            ValueError: The operation or its arguments are unknown.
        """

    def explain(self, before: Sequence[Operation], failed: Operation) -> str:
        """One sentence that says why an operation has no place.

        Args:
            before: The other operations on this key that were called before the failed one returned. Without the failed one
                they are linearizable.
            failed: The operation that has no place.
        """
        return f"{failed.describe()} returned {failed.result!r}, which it does in no order of the operations before it."

    def look_ahead(self, problem: Problem) -> LookAhead:
        return LookAhead()
