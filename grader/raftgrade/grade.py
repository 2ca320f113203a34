"""One grading run, from the plan to the finished report."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Literal, TextIO

from raftgrade.engines.commands import TRACE_QUOTA, Commands
from raftgrade.engines.jobs import CheckResult
from raftgrade.engines.local import LocalEngine
from raftgrade.engines.schedule import Schedule
from raftgrade.engines.work_loop import Engine, Event, RunReported, StopRequested, WorkLoop
from raftgrade.plan import Expected, Settings
from raftgrade.progress import Progress
from raftgrade.results import Report
from raftgrade.store import ReusedEntries, Store
from raftgrade.tally import Entry, RefusalEntry, RunEntry, Tally
from raftlab.runs.trace_quota import TraceQuota

MakeEngine = Callable[[Settings, Commands, Store], Engine]
SAVE_S = 5.0  # seconds between two updates of report.json; each record is written when it arrives
SAVE_SHARE = 20  # after an update that took N seconds, at least 20 * N seconds pass before the next one starts


def grade(
    plan: Report,
    tests: list[Expected],
    paths: dict[str, str],
    commands: Commands,
    store: Store,
    reused: ReusedEntries,
    stream: TextIO,
    started: float,
    make_engine: MakeEngine = LocalEngine,
    refused: Sequence[RefusalEntry] = (),
) -> tuple[Report, int]:
    """Grade all submissions of ``plan`` and write the report to ``store``.

    Args:
        plan: a report without results.
        tests: the tests that every submission must run.
        paths: where the copy of each submission is, by its name.
        reused: the entries that ``store`` has taken over from an earlier report.
        stream: where progress is shown.
        started: when the command started, in ``time.monotonic`` seconds.
        refused: submissions that were refused already; they are not run.

    Returns:
        The report, and the number of the signal that interrupted the grading, or 0. Details of the runs that did not pass
        are in ``store.spill``.

    Raises:
        OSError: the report cannot be written.
    """
    tally = Tally(plan, store.spill, lambda slug: TraceQuota(store.traces(slug), TRACE_QUOTA))
    store.save(plan)  # the records cannot be read without the plan, so the plan is written before the first record
    for entry in refused:
        store.add(entry)
    complete = {entry.submission for entry in (*reused.refused, *refused) if tally.add(entry) and not entry.missing}
    # If something is missing for every lab, there is nothing to check or run.
    complete |= {each.name for each in plan.submissions if each.missing.keys() >= set(plan.settings.labs)}
    schedule = Schedule(plan, tests, paths, tally, reused.runs)
    runs = schedule.expected_runs()
    todo = {network: number * (len(plan.submissions) - len(complete)) for network, number in runs.items()}
    # If all outcomes of a submission are known, it is not even checked again.
    complete |= {name for name in reused.submissions if name not in complete and schedule.is_complete(name)}
    engine = make_engine(plan.settings, commands, store)
    work = WorkLoop(plan, paths, engine, schedule, complete)
    progress = Progress(todo, {pool.networks: pool.workers for pool in engine.pools()}, stream)
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
            if tally.done > done:  # not a retry
                progress.add_run(entry.submission, entry.record)
        elif not entry.missing:
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
                # The report of many submissions is long: writing it must not take more than a small share of the time.
                saved = now + SAVE_SHARE * (time.monotonic() - now)
    for late in work.late_reports():
        note(late)
    progress.close()
    report = tally.update_report(complete=not signal_number, seconds=time.monotonic() - started)
    store.save(report)
    return report, signal_number


def _entry(event: Event) -> Entry | None:
    """The entry that goes into the records, if any."""
    if isinstance(event, RunReported):
        return RunEntry(event.submission, event.record)
    if isinstance(event, CheckResult) and (event.problems or event.missing):
        state: Literal["refused", "unjudged"] = "refused" if event.judged else "unjudged"
        return RefusalEntry(event.submission, state, event.problems, event.missing)
    return None
