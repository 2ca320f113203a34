"""The foreman: one grading run from the plan to the last line of the report."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import TextIO

from raftgrade.engines.commands import TRACE_QUOTA, Commands
from raftgrade.engines.jobs import CheckResult
from raftgrade.engines.local import LocalEngine
from raftgrade.engines.schedule import Schedule
from raftgrade.engines.work_loop import Engine, Event, RunReported, StopRequested, WorkLoop
from raftgrade.plan import Expected, Settings
from raftgrade.progress import Progress
from raftgrade.results import Report
from raftgrade.store import KeptEntries, Store
from raftgrade.tally import Entry, RefusalEntry, RunEntry, Tally
from raftlab.runs.trace_quota import TraceQuota

MakeEngine = Callable[[Settings, Commands, Store], Engine]
SAVE_S = 5.0  # how often report.json is brought up to date, in seconds; the records are written at once


def grade(
    plan: Report,
    tests: list[Expected],
    paths: dict[str, str],
    commands: Commands,
    store: Store,
    kept: KeptEntries,
    stream: TextIO,
    started: float,
    make_engine: MakeEngine = LocalEngine,
    refused: Sequence[RefusalEntry] = (),
) -> tuple[Report, int]:
    """Grade all submissions of ``plan`` (``paths`` gives where each is) and write the report to ``store``.
    ``store`` has begun with what is ``kept`` of an earlier report; who is ``refused`` already will not be run. Progress goes
    to ``stream``; ``started`` is in ``time.monotonic`` seconds. Returns the report, of which the store's shelf has the runs,
    and the signal that interrupted it, or 0. Raises ``OSError`` when the report cannot be written."""
    tally = Tally(plan, store.spill, lambda slug: TraceQuota(store.traces(slug), TRACE_QUOTA))
    store.save(plan)  # the plan, so that the records mean something from the first one on
    for entry in refused:
        store.add(entry)
    over = {entry.submission for entry in (*kept.refused, *refused) if tally.add(entry)}
    schedule = Schedule(plan, tests, paths, tally, kept.runs)
    runs = schedule.expected_runs()
    todo = {network: number * (len(plan.submissions) - len(over)) for network, number in runs.items()}
    # Who has all outcomes need not even be checked again.
    over |= {name for name in kept.submissions if name not in over and schedule.is_complete(name)}
    engine = make_engine(plan.settings, commands, store)
    work = WorkLoop(plan, paths, engine, schedule, over)
    progress = Progress(todo, engine.workers, stream)
    progress.reduce(schedule.correction())
    saved = time.monotonic()
    signal_number = 0

    def note(event: Event) -> None:
        entry = _entry(event)
        done = tally.done
        if entry is None or not tally.add(entry):
            return
        store.add(entry)
        if isinstance(entry, RunEntry):
            if tally.done > done:  # not what was tried once more
                progress.add_run(entry.submission, entry.record)
        else:
            progress.reduce(runs)

    with contextlib.closing(work.events()) as events:
        for event in events:
            note(event)
            if isinstance(event, StopRequested):
                signal_number = event.number
            now = time.monotonic()
            progress.reduce(schedule.correction())
            if now - saved > SAVE_S:
                store.save(tally.update_report(complete=False, seconds=now - started))
                # Many submissions make a long report: spend no more than a small share of the time on it.
                saved = now + 20 * (time.monotonic() - now)
    for heard in work.late_reports():
        note(heard)
    progress.close()
    report = tally.update_report(complete=not signal_number, seconds=time.monotonic() - started)
    store.save(report)
    return report, signal_number


def _entry(event: Event) -> Entry | None:
    """What goes into the records, if anything."""
    if isinstance(event, RunReported):
        return RunEntry(event.submission, event.record)
    if isinstance(event, CheckResult) and event.problems:
        return RefusalEntry(event.submission, "refused" if event.judged else "unjudged", event.problems)
    return None
