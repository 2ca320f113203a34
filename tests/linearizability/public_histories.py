"""Reads public histories with known verdicts: Jepsen's logs of etcd, and logs of a key/value store from Porcupine."""

from __future__ import annotations

import re
from pathlib import Path

from raftlab.linearizability import Operation, Register
from tests.conftest import ROOT

# The histories are not part of the repository. Tests that need them are skipped if they are absent.
FOLDER = ROOT.parent / "shared" / "histories"

_ETCD = re.compile(r"INFO\s+jepsen\.util - (\d+)\s+:(invoke|ok|fail|info)\s+:(\w+)\s+(.*)")
_KV = re.compile(r'\{:process (\d+), :type :(\w+), :f :(\w+), :key "(.*)", :value (.*)\}')


def verdicts() -> dict[str, bool]:
    """For each file, whether its history is linearizable. The dict is empty if the files are absent."""
    if not FOLDER.is_dir():
        return {}
    lines = (FOLDER / "verdicts.txt").read_text().splitlines()
    return {name: verdict == "linearizable" for name, verdict in (line.split() for line in lines)}


def read(path: Path) -> tuple[list[Operation], Register]:
    """The operations of a log, and a model of the register that it is about. The time of an event is its line number."""
    is_etcd = path.name.startswith("etcd")
    begun: dict[str, tuple[float, str, str, str]] = {}
    found: list[Operation] = []
    for line, text in enumerate(path.read_text().splitlines()):
        match = (_ETCD if is_etcd else _KV).match(text)
        if match is None:
            assert "nemesis" in text, f"line {line + 1} of {path.name} is of no known form: {text}"
            continue
        if is_etcd:
            process, kind, op, value = match.groups()
            key = "x"
        else:
            process, kind, op, key, value = match.groups()
        if kind == "invoke":
            begun[process] = (line, op, key, value)
        else:
            call, op, key, given = begun.pop(process)
            found += _operation(process, call, line, kind, op, key, given, value)
    for process, (call, op, key, given) in begun.items():
        found += _operation(process, call, None, "info", op, key, given, "nil")
    return sorted(found, key=lambda one: one.call), Register(None if is_etcd else "")


def _operation(
    process: str, call: float, end: float | None, kind: str, op: str, key: str, given: str, result: str
) -> list[Operation]:
    client = int(process)
    if kind == "info":
        end = None
    if op in ("read", "get"):
        value = None if result == "nil" else result.strip('"')
        return [Operation(client, call, end, "get", key, (), value)] if kind == "ok" else []
    if op == "cas":
        expected, value = given.strip("[]").split()
        return [Operation(client, call, end, "swap", key, (expected, value), kind == "ok")]
    if kind == "fail":
        return []
    return [Operation(client, call, end, "append" if op == "append" else "put", key, (given.strip('"'),))]
