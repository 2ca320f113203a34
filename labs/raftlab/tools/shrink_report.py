"""The desk of ``raftlab shrink``: what it says while it searches, and what it found."""

from __future__ import annotations

from pathlib import Path

from raftlab.explain import render
from raftlab.runs.names import NamedRun
from raftlab.runs.run import Implementation
from raftlab.tools.shrink import NotFailing, Shrinker, Shrunk
from raftlab.tools.test_progress import count, live


def shrink(named: NamedRun, impl: Path, seconds: float, out: Path) -> int:
    """Search for a shorter failing run and print it; its text goes to ``out``. Returns 1 (there is a failure), or 0 when
    the run passes. Raises ``OSError`` when ``out`` cannot be written."""
    warm = Implementation(impl)
    shrinker = Shrinker(warm, seconds, live)
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
    live()
    print(told(found, named, impl, out))
    return 1


def told(found: Shrunk, named: NamedRun, impl: Path, out: Path) -> str:
    """What was found, in words. Writes the scenario, if there is one, to ``out``."""
    chosen = "" if str(impl) in (".", "raft.py") else f" --impl {impl}"
    if found.scenario is None:
        which = f"{named.info.name}@{found.seed}"
        return (
            f"{found.why}, so there are no commands to take out.\n"
            f"The shortest run of {found.tried} that breaks the same rule is {which}: {count(found.events, 'event')} "
            f"instead of {found.before[1]:,}.\n\n" + render.as_text(found.failure, f"raftlab replay {which}{chosen}")
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(found.scenario.text(), encoding="utf-8")
    steps = len(found.scenario.commands)
    head = (
        f"{count(steps, 'command')} instead of {found.before[0]}, {count(found.events, 'event')} instead of "
        f"{found.before[1]:,}; {count(found.tried, 'run')} tried\n"
    )
    text = found.scenario.text().partition("\n----\n")[0]
    replay = f"raftlab replay {out}{chosen}"
    return f"{head}\n{text}\n\n{render.as_text(found.failure, replay)}"
