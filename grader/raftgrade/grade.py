"""The foreman: one grading run from the plan to the last line of the report."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from typing import TextIO

from raftgrade.commands import Commands
from raftgrade.engine import Event, Heard, Local, Signalled, Work
from raftgrade.jobs import Checked
from raftgrade.plan import Expected, Run
from raftgrade.progress import Progress
from raftgrade.results import Report
from raftgrade.store import Store
from raftgrade.tally import Entry, Ran, Refused, Tally

SAVE_S = 5.0  # how often report.json is brought up to date, in seconds; the records are written at once


def grade(
    plan: Report,
    tests: list[Expected],
    paths: dict[str, str],
    commands: Commands,
    store: Store,
    stream: TextIO,
    started: float,
    known: Sequence[Entry] = (),
) -> tuple[Report, int]:
    """Grade all submissions of ``plan`` (``paths`` gives where each is) and write the report to ``store``.
    ``known`` is what has its outcome already; ``store`` has begun with it. Progress goes to ``stream``; ``started`` is in
    ``time.monotonic`` seconds. Returns the report and the signal that interrupted it, or 0. Raises ``OSError`` when the
    report cannot be written."""
    tally = Tally(plan)
    done: dict[str, set[Run]] = {}
    over = set()
    for entry in known:
        if not tally.take(entry):
            continue
        if isinstance(entry, Ran):
            record = entry.record
            done.setdefault(entry.submission, set()).add((record.lab, record.test, record.network, record.seed))
        else:
            over.add(entry.submission)
    store.save(plan)  # the plan, so that the records mean something from the first one on
    runs = {
        network: sum(network in test.networks for test in tests) * number
        for network, number in plan.settings.runs.items()
    }
    over |= {name for name, had in done.items() if len(had) == sum(runs.values())}
    left = [submission.name for submission in plan.submissions if submission.name not in over]
    todo = {network: number * len(left) for network, number in runs.items()}
    for name in left:
        for run in done.get(name, ()):
            todo[run[2]] -= 1
    engine = Local(plan.settings, commands, store)
    work = Work(plan, tests, paths, engine, done, over)
    progress = Progress(todo, plan.settings.jobs, stream)
    saved = time.monotonic()
    signal_number = 0

    def note(event: Event) -> None:
        entry = _entry(event)
        if entry is None or not tally.take(entry):
            return
        store.add(entry)
        if isinstance(entry, Ran):
            progress.ran(entry.submission, entry.record)
        else:
            progress.dropped(runs)

    with contextlib.closing(work.events()) as events:
        for event in events:
            note(event)
            if isinstance(event, Signalled):
                signal_number = event.number
            now = time.monotonic()
            progress.show()
            if now - saved > SAVE_S:
                store.save(tally.make(complete=False, seconds=now - started))
                # Many submissions make a long report: spend no more than a small share of the time on it.
                saved = now + 20 * (time.monotonic() - now)
    for heard in work.leftovers():
        note(heard)
    progress.close()
    report = tally.make(complete=not signal_number, seconds=time.monotonic() - started)
    store.save(report)
    return report, signal_number


def _entry(event: Event) -> Entry | None:
    """What goes into the records, if anything."""
    if isinstance(event, Heard):
        return Ran(event.submission, event.record)
    if isinstance(event, Checked) and event.problems:
        return Refused(event.submission, "refused" if event.judged else "unjudged", event.problems)
    return None
