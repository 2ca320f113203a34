"""The state machine of the service: keys and values, and sessions. Snapshots are pickles."""

from __future__ import annotations

import pickle
from typing import Any


class Store:
    """Everything that entries can change. Sessions are in the order in which they were last used, and a session's number is
    the index of its registration."""

    def __init__(self, max_sessions: int) -> None:
        self.max_sessions = max_sessions
        self.index = 0
        self.map: dict[str, str] = {}
        self.sessions: dict[int, tuple[int, Any]] = {}

    def register(self) -> int:
        """Begin a session at the current index."""
        while len(self.sessions) >= self.max_sessions:
            del self.sessions[next(iter(self.sessions))]
        self.sessions[self.index] = 0, None
        return self.index

    def is_over(self, session: int) -> bool:
        """Whether this session does not exist and never will, because the entry at its index has been applied."""
        return session <= self.index and session not in self.sessions

    def answered(self, session: int, serial: int) -> bool:
        return session in self.sessions and self.sessions[session][0] == serial

    def carry_out(self, session: int, serial: int, op: str, key: str, value: str, expected: str | None) -> Any:
        """Carry out the request of a session that exists, if its serial is new. Returns the answer, which for a repeated
        serial is the stored one."""
        last, answer = self.sessions.pop(session)
        if op != "get" and serial > last:
            last, answer = serial, getattr(self, f"_{op}")(key, value, expected)
        self.sessions[session] = last, answer
        return self.map.get(key) if op == "get" else answer

    def _put(self, key: str, value: str, expected: str | None) -> None:
        self.map[key] = value

    def _append(self, key: str, value: str, expected: str | None) -> None:
        self.map[key] = self.map.get(key, "") + value

    def _swap(self, key: str, value: str, expected: str | None) -> bool:
        if self.map.get(key) == expected:
            self.map[key] = value
            return True
        return False

    def dump(self) -> bytes:
        return pickle.dumps((self.map, self.sessions))

    def load(self, index: int, data: bytes) -> None:
        self.index = index
        self.map, self.sessions = pickle.loads(data)
