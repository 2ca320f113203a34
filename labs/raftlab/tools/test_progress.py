"""The output of `raftlab test`: a line for each test as it finishes; at the end the first failure in full, advice and
points.

On a terminal the last line shows which run is under way.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from raftlab.explain import render
from raftlab.runs.record import Record
from raftlab.suites.catalogue import TestInfo
from raftlab.tools.printing import ERASE_LINE, count

_RED, _GREEN, _BOLD, _PLAIN = "\x1b[31m", "\x1b[32m", "\x1b[1m", "\x1b[0m"
# Numbers form columns. On a narrow terminal only two are shown, to leave space for the title, and a title that is too long
# is cut; elsewhere the few longest titles push their numbers to the right.
_NUMBERS = "{:>7.1f} s {:>10} {:>11} {:>8} {:>10}"
_FEW_NUMBERS = "{0:>7.1f} s {2:>11}"
_TITLE_WANTED, _TITLE_WIDEST = 45, 72  # characters
_NETWORK_WIDTH = 6
_SEEDS_SHOWN = 8


@dataclass
class Group:
    """The runs of one test on one network, so far."""

    info: TestInfo
    network: str
    records: list[Record] = field(default_factory=list)

    @property
    def bad(self) -> list[Record]:
        return [record for record in self.records if record.outcome != "passed"]


class ProgressBoard:
    """Shows the runs of one lab's tests. Call :meth:`started` and :meth:`finished` for each run, and :meth:`close` at the
    end. ``planned`` and ``done`` count runs."""

    def __init__(
        self,
        out: TextIO,
        lab: str,
        plan: Sequence[tuple[TestInfo, Sequence[str]]],
        seeds: int,
        live: bool = False,
        colour: bool = False,
        columns: int = 80,
    ) -> None:
        """
        Args:
            out: where to write.
            lab: the lab's name.
            plan: the tests, each with the networks on which it will run.
            seeds: how many runs each test has on each network.
            live: whether ``out`` is a terminal. If so, no line is longer than ``columns``.
            colour: whether to use colours.
            columns: the width of the terminal.
        """
        self._out = out
        self._lab = lab
        self._seeds = seeds
        self._live = live
        self._colour = colour
        self._columns = columns
        self._groups = {(info.name, network): Group(info, network) for info, networks in plan for network in networks}
        self._mixed = len({network for _, network in self._groups}) > 1
        self._began = time.monotonic()
        self._label_width = max(len("ERROR"), len(f"{seeds}/{seeds}") if seeds > 1 else 0)
        space = columns - len("    ") - self._label_width - (_NETWORK_WIDTH if self._mixed else 0)
        wide = not live or space - len(_NUMBERS.format(0.0, *[""] * 4)) >= _TITLE_WANTED
        self._numbers = _NUMBERS if wide else _FEW_NUMBERS
        space -= len(self._numbers.format(0.0, *[""] * 4))
        longest = max((len(info.title) for info, _ in plan), default=0)
        self._title_width = min(longest, max(10, space) if live else _TITLE_WIDEST)
        self.planned = len(self._groups) * seeds
        self.done = 0

    # --- while it runs ---

    def started(self, info: TestInfo, network: str, seed: int) -> None:
        """A run begins."""
        if not self._live:
            return
        which = [*([network] if self._mixed else []), *([f"seed {seed}"] if self._seeds > 1 else [])]
        text = f"  {self.done}/{self.planned}  {info.title}" + (f" ({', '.join(which)})" if which else "")
        self._write(ERASE_LINE + _cut(text, self._columns - 1))

    def finished(self, record: Record) -> None:
        """A run is over."""
        self.done += 1
        group = self._groups[record.test, record.network]
        group.records.append(record)
        if len(group.records) == self._seeds:
            self._clear()
            self._write("\n".join(self._lines(group)) + "\n")

    def _lines(self, group: Group) -> list[str]:
        records = group.records
        bad = group.bad
        if self._seeds == 1:
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
            if self._seeds > 1:
                which = f"{first.test}, {_seeds([record.seed for record in bad])}"
            if self._mixed:
                which += f" ({group.network})"
            lines.append(f"         {which}: {first.failure.text if first.failure else 'failed'}")
        return lines

    # --- at the end ---

    def interrupted(self) -> None:
        """The user pressed Ctrl-C: write how many runs were made, and what they showed."""
        self._clear()
        begun = [group for group in self._groups.values() if 0 < len(group.records) < self._seeds]
        for group in begun:
            self._write("\n".join(self._lines(group)) + "\n")
        bad = self._bad()
        if bad:
            self._write("\n" + self._in_full(bad[0], len(bad)) + "\n")
        self._write(f"\ninterrupted: {self.done} of {count(self.planned, 'run')} done\n")

    def error(self, text: str) -> None:
        """raftlab itself failed; ``text`` is for its developers."""
        self._clear()
        self._write(f"\nraftlab itself failed; this is a bug in raftlab, not in your code:\n{text}\n")

    def close(self) -> int:
        """Write the end. Returns the exit code: 0 all passed, 1 something failed, 2 something could not be judged."""
        self._clear()
        groups = [group for group in self._groups.values() if group.records]
        bad = self._bad()
        if bad:
            self._write("\n" + self._in_full(bad[0], len(bad)) + "\n")
        advice = list(dict.fromkeys(text for group in groups for record in group.records for text in record.advice))
        if advice:
            self._write("\nadvice (it costs no points):\n" + "".join(f"  {text}\n" for text in advice))
        traces = [record.trace for record in bad if record.trace]
        if traces:
            self._write(f"\n{_where_traces_are(traces)}\n")
        self._write("\n" + self._totals(groups) + "\n")
        return 0 if not bad else 1 if bad[0].outcome == "failed" else 2

    def _bad(self) -> list[Record]:
        """The runs that did not pass: first those that failed, then those that could not be judged."""
        bad = [record for group in self._groups.values() for record in group.bad]
        return sorted(bad, key=lambda record: record.outcome != "failed")

    def _in_full(self, record: Record, bad: int) -> str:
        first = "could not be judged" if record.outcome == "error" else "failed" if bad == 1 else "failed first"
        headline = f"{record.title}: {first} ({record.test}, {record.network}, seed {record.seed})"
        picture = f"raftlab view {shlex.quote(record.trace)}" if record.trace else ""
        text = render.as_text(record.failure, record.replay, picture) if record.failure else ""
        return f"{self._painted(headline, _BOLD)}\n{text}"

    def _totals(self, groups: Sequence[Group]) -> str:
        tests: dict[str, list[Group]] = {}
        for group in self._groups.values():
            tests.setdefault(group.info.name, []).append(group)
        # A test earns its points if every run of it passed; the grader counts in the same way.
        passed = [
            test[0].info
            for test in tests.values()
            if all(len(group.records) == self._seeds and not group.bad for group in test)
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


def _means(records: Sequence[Record]) -> tuple[float, str, str, str, str]:
    """Means over ``records``: lab time in seconds, servers, RPCs, bytes, agreed entries."""
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
