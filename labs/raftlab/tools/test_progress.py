"""The output of `raftlab test`: a line for each test when it finishes and, at the end, the first failure in full,
advice and points.

On a terminal, the last line shows the current run.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TextIO

from raftlab.command_line import redraws
from raftlab.explain import render, rules
from raftlab.runs.record import Record
from raftlab.runs.run import NETWORKS
from raftlab.safe_text import printable
from raftlab.suites.catalogue import TestInfo
from raftlab.tools import findings
from raftlab.tools.many_runs import PlannedRun
from raftlab.tools.printing import ERASE_LINE, count

_RED, _GREEN, _BOLD, _PLAIN = "\x1b[31m", "\x1b[32m", "\x1b[1m", "\x1b[0m"
# Numbers are in columns. A narrow terminal shows only two of them, to leave space for the title, and cuts long titles.
# On a wide terminal, the few longest titles push their numbers to the right.
_NUMBERS = "{:>7.1f} s {:>10} {:>11} {:>8} {:>10}"
_FEW_NUMBERS = "{0:>7.1f} s {2:>11}"
_TITLE_WANTED, _TITLE_WIDEST = 45, 72  # characters
_NETWORK_WIDTH = 6
_SEEDS_SHOWN = 8
# How a sentence says that something did not happen in time.
_SAYS_WHEN = re.compile(r" within [\d.,]+ s\b")
# The rules that many different mistakes break: those that only ask for something to happen in time, and the rule about
# histories.
_BROKEN_BY_MANY = (
    rules.LIVENESS,
    rules.STABLE_LEADER,
    rules.AGREEMENT,
    rules.PROGRESS,
    rules.STILL_ELECTED,
    rules.CATCH_UP,
    rules.TRANSFER,
    rules.LINEARIZABLE,
)


@dataclass
class Group:
    """The runs of one test on one network, so far. ``planned`` is the number of runs that there will be."""

    info: TestInfo
    network: str
    planned: int = 0
    records: list[Record] = field(default_factory=list)

    @property
    def bad(self) -> list[Record]:
        return [record for record in self.records if record.outcome != "passed"]


@dataclass(frozen=True, slots=True)
class Look:
    """How the output looks.

    Attributes:
        live: Whether the last line shows the current run. If so, no line is longer than ``columns``.
        colour: Whether to use colours.
        columns: The width of the terminal, in characters.
    """

    live: bool = False
    colour: bool = False
    columns: int = 80


def terminal_look(out: TextIO) -> Look:
    """The look that suits ``out``: plain text unless ``out`` is a terminal that can move its cursor."""
    live = redraws(out)
    return Look(live, live and not os.environ.get("NO_COLOR"), shutil.get_terminal_size().columns)


class ProgressBoard:
    """Shows the runs of one lab's tests. Call :meth:`started` and :meth:`finished` for each run, and :meth:`close` at
    the end. ``planned`` and ``done`` are numbers of runs."""

    def __init__(
        self, out: TextIO, lab: str, runs: Sequence[PlannedRun], look: Look | None = None, races: bool = False
    ) -> None:
        """
        Args:
            out: Where to write.
            lab: The lab's name.
            runs: The runs that will be performed.
            look: How the output looks.
            races: Whether the race detector is on.
        """
        look = look or Look()
        self._races = races
        self._out = out
        self._lab = lab
        self._live = look.live
        self._colour = look.colour
        self._columns = look.columns
        self._groups: dict[tuple[str, str], Group] = {}
        for info in dict.fromkeys(run.info for run in runs):
            for network in NETWORKS:
                self._groups[info.name, network] = Group(info, network)
        for run in runs:
            self._groups[run.info.name, run.network].planned += 1
        self._groups = {key: group for key, group in self._groups.items() if group.planned}
        self._mixed = len({network for _, network in self._groups}) > 1
        self._began = time.monotonic()
        seeds = max((group.planned for group in self._groups.values()), default=1)
        self._many_seeds = seeds > 1
        self._label_width = max(len("ERROR"), len(f"{seeds}/{seeds}") if seeds > 1 else 0)
        space = self._columns - len("    ") - self._label_width - (_NETWORK_WIDTH if self._mixed else 0)
        wide = not self._live or space - len(_NUMBERS.format(0.0, *[""] * 4)) >= _TITLE_WANTED
        self._numbers = _NUMBERS if wide else _FEW_NUMBERS
        space -= len(self._numbers.format(0.0, *[""] * 4))
        longest = max((len(group.info.title) for group in self._groups.values()), default=0)
        self._title_width = min(longest, max(10, space) if self._live else _TITLE_WIDEST)
        self.planned = len(runs)
        self.done = 0

    # --- while it runs ---

    def started(self, run: PlannedRun, done: int) -> None:
        """A run begins. ``done`` runs are over, but :meth:`finished` may not have been called for all of them yet."""
        if not self._live:
            return
        which = [*([run.network] if self._mixed else []), *([f"seed {run.seed}"] if self._many_seeds else [])]
        text = f"  {done}/{self.planned}  {run.info.title}" + (f" ({', '.join(which)})" if which else "")
        self._write(ERASE_LINE + _cut(text, self._columns - 1))

    def finished(self, record: Record) -> None:
        """A run is over."""
        self.done += 1
        group = self._groups[record.test, record.network]
        group.records.append(record)
        if len(group.records) == group.planned:
            self._clear()
            self._write("\n".join(self._lines(group)) + "\n")

    def _lines(self, group: Group) -> list[str]:
        records = group.records
        bad = group.bad
        if not self._many_seeds:
            label = {"passed": "PASS", "failed": "FAIL", "error": "ERROR"}[records[0].outcome]
        else:
            label = f"{len(records) - len(bad)}/{len(records)}"
        painted = self._painted(f"{label:<{self._label_width}}", _RED if bad else _GREEN)
        network = f"{group.network:<{_NETWORK_WIDTH}}" if self._mixed else ""
        title = _cut(group.info.title, self._title_width) if self._live else group.info.title
        numbers = self._numbers.format(*_means(records))
        lines = [f"  {painted}  {network}{title:<{self._title_width}}{numbers}"]
        if bad:
            first = bad[0]
            which = f"{first.test}@{first.seed}"
            if self._many_seeds:
                which = f"{first.test}, {_seeds([record.seed for record in bad])}"
            if self._mixed:
                which += f" ({group.network})"
            lines.append(f"         {which}: {first.failure.text if first.failure else 'failed'}")
        return lines

    # --- at the end ---

    def interrupted(self) -> None:
        """The user pressed Ctrl-C: write how many runs are done, and their results."""
        self._unfinished_groups()
        bad = self._bad()
        if bad:
            self._write("\n" + self._in_full(bad[0], len(bad)) + "\n")
        self._write(f"\ninterrupted: {self.done} of {count(self.planned, 'run')} done\n")

    def _unfinished_groups(self) -> None:
        self._clear()
        for group in self._groups.values():
            if 0 < len(group.records) < group.planned:
                self._write("\n".join(self._lines(group)) + "\n")

    def close(self, stopped: bool = False) -> int:
        """Write the end of the output.

        Args:
            stopped: Whether the runs were stopped at the first failure, as the user asked.

        Returns:
            The exit code: 0 all passed, 1 something failed, 2 something could not be judged.
        """
        self._unfinished_groups()
        groups = [group for group in self._groups.values() if group.records]
        bad = self._bad()
        if bad:
            self._write("\n" + self._in_full(bad[0], len(bad)) + "\n")
        advice: dict[str, set[str]] = {}  # the texts, each with the tests that gave it
        for record in (record for group in groups for record in group.records):
            for text in record.advice:
                advice.setdefault(text, set()).add(record.test)
        if advice:
            # Name the test if only one of several gave this advice: the failure shown above may be that of another test.
            several = len({record.test for group in groups for record in group.records}) > 1
            lines = (
                f"  {printable(text)}{f' ({next(iter(tests))})' if several and len(tests) == 1 else ''}\n"
                for text, tests in advice.items()
            )
            self._write("\nadvice (it costs no points):\n" + "".join(lines))
        if self._races:
            self._write("\n" + findings.summary([record for group in groups for record in group.records]) + "\n")
        traces = [record.trace for record in bad if record.trace]
        if traces:
            self._write(f"\n{_where_traces_are(traces)}\n")
        if stopped:
            self._write(f"\nstopped at the first failure: {self.done} of {count(self.planned, 'run')} done\n")
        else:
            self._write("\n" + self._totals(groups) + "\n")
        return 0 if not bad else 1 if bad[0].outcome == "failed" else 2

    def _bad(self) -> list[Record]:
        """The runs that did not pass. Those that say most about the mistake come first."""
        bad = [record for group in self._groups.values() for record in group.bad]
        bad.sort(key=lambda record: record.outcome != "failed")
        first = bad[0].failure if bad and bad[0].outcome == "failed" else None
        if first is not None and first.hint:
            return bad  # the failure of the lab's first test says what to do next
        # If most tests fail, the mistake is a basic one. The first tests are about basic things.
        basic = 2 * sum(bool(group.bad) for group in self._groups.values()) > len(self._groups)
        bad.sort(key=partial(_tells_little, basic, _shared_causes(bad)))
        always = frozenset(group.info.name for group in self._groups.values() if len(group.bad) == group.planned)
        simpler = _without_race(bad, always) if bad else None
        return bad if simpler is None else [simpler, *(record for record in bad if record is not simpler)]

    def _in_full(self, record: Record, bad: int) -> str:
        what = "could not be judged" if record.outcome == "error" else "failed"
        most = f"; of {bad} failing runs, this one says the most" if bad > 1 and what == "failed" else ""
        headline = f"{record.title}: {what} ({record.test}, {record.network}, seed {record.seed}{most})"
        picture = f"raftlab view {shlex.quote(record.trace)}" if record.trace else ""
        text = printable(render.as_text(record.failure, record.replay, picture)) if record.failure else ""
        return f"{self._painted(headline, _BOLD)}\n{text}"

    def _totals(self, groups: Sequence[Group]) -> str:
        tests: dict[str, list[Group]] = {}
        for group in self._groups.values():
            tests.setdefault(group.info.name, []).append(group)
        # A test earns its points if all its runs passed. The grader applies the same rule.
        passed = [
            test[0].info
            for test in tests.values()
            if all(len(group.records) == group.planned and not group.bad for group in test)
        ]
        most = sum(test[0].info.points for test in tests.values())
        records = [record for group in groups for record in group.records]
        lab_s = sum(record.lab_s for record in records)
        wall_s = time.monotonic() - self._began
        points = f"{sum(info.points for info in passed)} of {count(most, 'point')}"
        return (
            f"lab {self._lab}: {len(passed)} of {count(len(tests), 'test')} passed, {points}; "
            f"{count(len(records), 'run')}, {lab_s:.0f} s of lab time in {wall_s:.1f} s"
        )

    # --- writing ---

    def _painted(self, text: str, colour: str) -> str:
        return f"{colour}{text}{_PLAIN}" if self._colour else text

    def _clear(self) -> None:
        if self._live:
            self._write(ERASE_LINE)

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()


def _shared_causes(bad: Sequence[Record]) -> frozenset[str]:
    """The likely causes that the most failing tests have in common; empty if fewer than three tests share one."""
    tests: dict[str, set[str]] = {}
    for record in bad:
        for cause in record.failure.causes if record.failure else ():
            tests.setdefault(cause, set()).add(record.test)
    most = max(map(len, tests.values()), default=0)
    return frozenset(cause for cause, named_by in tests.items() if len(named_by) == most >= 3)


def _without_race(bad: Sequence[Record], always: frozenset[str]) -> Record | None:
    """A failure that is better to show than the first of ``bad``, if that one is about a race between threads; ``None`` if
    there is none. The better failure breaks the same rule, its test has a single server and always fails (``always``), and
    none of its likely causes is a race. A mistake that does not depend on the order of threads is the simpler explanation
    of both failures."""
    first = bad[0]
    if first.failure is None or first.failure.rule is None or not _is_race(first):
        return None
    for record in bad:
        if (
            record.failure is not None
            and (record.failure.kind, record.failure.rule) == (first.failure.kind, first.failure.rule)
            and record.test in always
            and record.servers - record.scripted <= 1
            and not _is_race(record)
        ):
            return record
    return None


def _is_race(record: Record) -> bool:
    return record.failure is not None and record.failure.read.startswith("handouts/locking.md")


def _tells_little(basic: bool, shared: frozenset[str], record: Record) -> tuple[int, int, bool, bool]:
    """A sort key: the failures that are most worth reading come first.

    - First: faults that name a line, such as a deadlock; and exceptions with a likely cause that other failures share.
    - Next: other exceptions, which another mistake may have caused; and failures whose sentence says what is wrong.
    - Last: failures to do something in time, and histories that are not linearizable. Many different mistakes cause these.

    If only one server runs the student's code, a failure to do something in time usually says what is wrong. Such a failure
    comes last only if failures share likely causes, because it may then be a consequence of one of these.

    Among equals, the failures with the fewest servers that run the student's code come first or, if ``basic``, those of the
    first tests. ``shared`` has the likely causes that failures share."""
    failure = record.failure
    if record.outcome == "error" or failure is None:
        return 3, 0, False, False
    servers = max(1, record.servers - record.scripted)
    order = 0 if basic else servers
    others = bool(shared) and shared.isdisjoint(failure.causes)
    if failure.kind == "exception":
        return (0 if shared and not others else 1), order, True, others
    if failure.kind not in ("assertion", "invariant"):
        return (0 if failure.where else 1), order, True, others
    by_many = failure.rule in _BROKEN_BY_MANY or ((servers > 1 or shared) and _SAYS_WHEN.search(failure.text))
    return (2, order, False, others) if by_many else (1, order, False, False)


def _means(records: Sequence[Record]) -> tuple[float, str, str, str, str]:
    """The means of ``records``: lab time in seconds, servers, RPCs, bytes, and entries that the cluster agreed on."""
    runs = len(records)
    servers = max(record.servers for record in records)
    time_s = sum(record.lab_s for record in records) / runs
    rpcs = round(sum(record.rpcs for record in records) / runs)
    size = sum(record.rpc_bytes for record in records) / runs
    entries = round(sum(record.entries for record in records) / runs)
    return time_s, count(servers, "server"), count(rpcs, "RPC"), _size(size), count(entries, "entry")


def _size(size: float) -> str:
    """``840 B``, ``21 kB``, ``1.3 MB``."""
    if size < 1000:
        return f"{size:.0f} B"
    return f"{size / 1000:.0f} kB" if size < 1_000_000 else f"{size / 1_000_000:.1f} MB"


def _seeds(seeds: Sequence[int]) -> str:
    """``seed 3``, or ``seeds 3, 7, 9 and 12 more``."""
    shown = ", ".join(map(str, seeds[:_SEEDS_SHOWN]))
    more = len(seeds) - _SEEDS_SHOWN
    return f"seed{'' if len(seeds) == 1 else 's'} {shown}" + (f" and {more} more" if more > 0 else "")


def _where_traces_are(traces: Sequence[str]) -> str:
    if len(traces) == 1:
        return f"the trace of the failing run is in {traces[0]}"
    return f"the traces of the {len(traces)} failing runs are in {Path(traces[0]).parent}/"


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(0, width - 1)] + "…"
