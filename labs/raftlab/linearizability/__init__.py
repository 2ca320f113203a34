"""Decides whether the results that the clients of a service got are linearizable. Does not depend on Raft.

from raftlab.linearizability import Operation, Register, check

history = [
    Operation("c1", call=1.0, return_=1.2, op="put", key="x", args=("a",)),
    Operation("c2", call=2.0, return_=2.1, op="get", key="x", result=None),
]
print(check(history, Register()).sentence)
"""

from raftlab.linearizability.checker import check
from raftlab.linearizability.history import Operation, Result, Verdict
from raftlab.linearizability.model import IMPOSSIBLE, LookAhead, Model
from raftlab.linearizability.register import Register

__all__ = ["IMPOSSIBLE", "LookAhead", "Model", "Operation", "Register", "Result", "Verdict", "check"]
