"""The desk of ``raftlab shrink``: what it says while it searches, and what it found."""

from __future__ import annotations

import sys
from pathlib import Path

from raftlab import explain
from raftlab.run import Impl
from raftlab.scripts import Named
from raftlab.shrink import NotFailing, Shrinker, Shrunk

_ERASE = "\r\x1b[K"


def shrink(named: Named, impl: Path, seconds: float, out: Path) -> int:
    """Search for a shorter failing run and print it; its text goes to ``out``. Returns 1 (there is a failure), or 0 when
    the run passes. Raises ``OSError`` when ``out`` cannot be written."""
    warm = Impl(impl)
    shrinker = Shrinker(warm, seconds, _tell)
    try:
        if named.scenario is not None:
            found = shrinker.scenario(named.scenario)
        else:
            found = shrinker.test(named.info, named.seed, named.preempt)
    except NotFailing as exc:
        print(exc)
        return 0
    finally:
        warm.close()
    _erase()
    print(told(found, named, impl, out))
    return 1


def told(found: Shrunk, named: Named, impl: Path, out: Path) -> str:
    """What was found, in words. Writes the scenario, if there is one, to ``out``."""
    chosen = "" if str(impl) in (".", "raft.py") else f" --impl {impl}"
    if found.scenario is None:
        which = f"{named.info.name}@{found.seed}"
        return (
            f"{found.why}, so there are no commands to take out.\n"
            f"The shortest run of {found.tried} that breaks the same rule is {which}: {_count(found.events, 'event')} "
            f"instead of {found.before[1]:,}.\n\n" + explain.as_text(found.failure, f"raftlab replay {which}{chosen}")
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(found.scenario.text(), encoding="utf-8")
    steps = len(found.scenario.steps)
    head = (
        f"{_count(steps, 'command')} instead of {found.before[0]}, {_count(found.events, 'event')} instead of "
        f"{found.before[1]:,}; {_count(found.tried, 'run')} tried\n"
    )
    text = found.scenario.text().partition("\n----\n")[0]
    replay = f"raftlab replay {out}{chosen}"
    return f"{head}\n{text}\n\n{explain.as_text(found.failure, replay)}"


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}" + ("" if number == 1 else "s")


def _tell(text: str) -> None:
    if sys.stderr.isatty():
        print(f"{_ERASE}{text}", end="", file=sys.stderr, flush=True)


def _erase() -> None:
    if sys.stderr.isatty():
        print(_ERASE, end="", file=sys.stderr, flush=True)
