"""The certificate: a proof as a table for the terminal, and as a page of Markdown. No figure here that was not measured."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import tabulate

from raftgrade.proof.bug_bank import HARDNESS, Bank
from raftgrade.proof.kill_rates import Settings, Trial
from raftgrade.soak.log import Block, column, current_blocks
from raftgrade.stats import clopper_pearson
from raftlab import labs
from raftlab.safe_text import count, duration, one_line, printable


@dataclass(frozen=True, slots=True)
class Facts:
    """What the page says of how it was made."""

    when: str
    command: str
    versions: str
    settings: Settings


# --- figures ---


def missed(trials: Iterable[Trial]) -> list[Trial]:
    """The bugs that none of their passes killed."""
    return [trial for trial in trials if trial.complete and not trial.kills]


def exit_code(trials: Sequence[Trial]) -> int:
    """0: all caught, or missed for a reason that stands in the bug's file; 1: missed without one; 2: not finished."""
    if any(not trial.bug.missed for trial in missed(trials)):
        return 1
    return 0 if all(trial.complete for trial in trials) else 2


def caught_within(trials: Iterable[Trial], passes: int) -> int:
    return sum(any(each.caught for each in trial.counted if each.seed < passes) for trial in trials)


def _share(part: int, whole: int) -> str:
    return f"{part} of {whole} ({100 * part / whole:.0f} %)" if whole else "–"


def _probability(trial: Trial) -> str:
    """``.65 [.41–.85]``"""
    if not trial.runs:
        return "–"
    low, high = trial.interval
    return f"{_fraction(trial.kills / trial.runs)} [{_fraction(low)}–{_fraction(high)}]"


def _fraction(value: float) -> str:
    """Two digits behind the point, three below a tenth; what is not 1 is never shown as 1."""
    if value in (0.0, 1.0):
        return f"{value:.0f}"
    return f"{min(value, 0.994):.2f}".lstrip("0") if value >= 0.1 else f"{value:.3f}".lstrip("0")


def _sure(trial: Trial) -> tuple[str, str]:
    """Seeds, and CPU seconds, until the bug is caught with 95 %."""
    seeds, cpu = trial.seeds_to_be_sure, trial.whole_cpu_s
    if seeds is None or cpu is None:
        return "–", "–"
    return str(seeds), f"{seeds * cpu:.1f}"


def _by(trial: Trial) -> str:
    """The rule that was broken where the bug was caught first, else the test."""
    return "–" if trial.first is None else trial.first.rule or trial.first.test


def _on_the_first(trial: Trial) -> str:
    """How many tests of the lab catch it on the first seed."""
    first = trial.passes.get(0)
    return "–" if first is None else f"{len({caught.test for caught in first.caught})} of {len(trial.tests)}"


def _passes(trial: Trial) -> str:
    lost = sum(not each.judged for each in trial.counted)
    return f"{trial.kills}/{trial.runs}" + (f" ?{lost}" if lost else "") + ("" if trial.complete else " …")


Group = tuple[str, list[Trial]]


def _by_hardness(trials: Sequence[Trial]) -> list[Group]:
    return [(each, [trial for trial in trials if trial.bug.hardness == each]) for each in HARDNESS]


def _by_lab(trials: Sequence[Trial]) -> list[Group]:
    return [(lab, found) for lab in labs.LABS if (found := [trial for trial in trials if trial.bug.lab == lab])]


def _rates(groups: Sequence[Group], settings: Settings) -> list[list[str]]:
    """Name, bugs, caught within the seeds and in all their passes; of those whose passes are all there."""
    rows = []
    for name, all_of_them in groups:
        done = [trial for trial in all_of_them if trial.complete]
        short = f" ({len(all_of_them) - len(done)} not finished)" if len(done) < len(all_of_them) else ""
        within = [_share(caught_within(done, most), len(done)) for most in (settings.seeds, settings.hard_seeds)]
        rows.append([name, f"{len(all_of_them)}{short}", *within])
    return rows


def last_line(trials: Sequence[Trial]) -> str:
    passes = sum(len(trial.counted) for trial in trials)
    cpu_s = sum(each.cpu_s for trial in trials for each in trial.counted)
    caught = sum(bool(trial.kills) for trial in trials)
    told = f"{caught} of {count(len(trials), 'bug')} caught · {_in_passes(passes)}"
    return f"{told} · {duration(cpu_s)} of CPU"


def _in_passes(number: int) -> str:
    return "1 pass" if number == 1 else f"{number} passes"


# --- on a terminal ---


def table(trials: Sequence[Trial], settings: Settings, bold: bool = False) -> str:
    """The proof for a terminal of 100 columns; with ``bold``, what was missed stands out."""

    def marked(text: str) -> str:
        return f"\x1b[1m{text}\x1b[0m" if bold else text

    rates = ["bugs", f"within {settings.seeds}", "at all"]
    blocks = []
    for name, groups in (("hardness", _by_hardness(trials)), ("lab", _by_lab(trials))):
        rows = _rates([group for group in groups if group[1]], settings)
        blocks.append(tabulate.tabulate(rows, [name, *rates], disable_numparse=True))
    rows = []
    for trial in trials:
        by = marked("missed") if trial.complete and not trial.kills else one_line(_by(trial), 26)
        shown = [one_line(trial.bug.id, 33), trial.bug.hardness, by, _passes(trial), _probability(trial), *_sure(trial)]
        rows.append(shown)
    headers = ["bug", "hardness", "caught by", "killed", "p [95 %]", "seeds", "CPU s"]
    align = ("left", "left", "left", "left", "left", "right", "right")
    blocks.append(tabulate.tabulate(rows, headers, disable_numparse=True, colalign=align))
    for trial in missed(trials):
        blocks.append(f"{marked(f'missed: {trial.bug.id}')}: {printable(trial.bug.missed) or 'unexplained'}")
    for trial in _no_longer_missed(trials):
        blocks.append(f"{trial.bug.id} is caught now, and its file still says why it is missed")
    unfinished = [trial.bug.id for trial in trials if not trial.complete]
    if unfinished:
        blocks.append(f"not finished, as passes could not be judged: {', '.join(unfinished)}; the same command goes on")
    return "\n\n".join([*blocks, last_line(trials)])


def _no_longer_missed(trials: Iterable[Trial]) -> list[Trial]:
    return [trial for trial in trials if trial.bug.missed and trial.kills]


# --- as a page ---

_INTRO = """\
A known bug is a small change of the reference solution, which is taken without the labs that come later. Here are {bugs}
in {texts} (some are tried in two labs), each from a patch file with its source. A *pass* is what a grading does
with one seed: the whole suite of the bug's lab, each test once, in the simulator. A pass in which any test fails has killed
the bug.

Easy and medium bugs had {few} passes each. So had a hard one; only if none of these killed it, it went on to the first kill
or to {many}. Nothing was stopped because a number looked good, so the intervals hold (Clopper-Pearson, two-sided, 95 %).
*Seeds to be sure* is after how many passes the bug is caught with 95 %, if the share of passes that killed it is the true
one; *CPU s* is what so many whole passes cost, judge and servers together.

The suites were written with most of these bugs at hand. So the figures say how surely a known mistake is caught, not how
many unknown ones there are; bugs that were put in after the suites say so in their files."""


def page(trials: Sequence[Trial], bank: Bank, facts: Facts, soak: Sequence[Block] | None) -> str:
    """The proof as Markdown. ``soak`` is ``None`` when false alarms were not measured."""
    few, many = facts.settings.seeds, facts.settings.hard_seeds
    texts = len({trial.text for trial in trials})
    blocks = [
        "# What the suites catch",
        f"Made {facts.when} with {facts.versions}, seeds from 0 on, by",
        f"    {printable(facts.command)}",
        *_INTRO.format(few=few, many=many, bugs=count(len(trials), "bug"), texts=count(texts, "different text")).split(
            "\n\n"
        ),
        f"In all: {last_line(trials)}.",
        "## Against what we aim at",
        _aims(trials, facts.settings),
        "## Lab by lab",
        _markdown(["lab", "bugs", f"caught within {few}", "caught at all"], _rates(_by_lab(trials), facts.settings)),
    ]
    for lab, found in _by_lab(trials):
        blocks += [f"### Lab {lab}: {labs.LABS[lab].title}", _matrix(found)]
    blocks += ["## Missed", _misses(trials)]
    blocks += ["## Bugs that are not in the bank", bank.left_out or "The bank does not name any."]
    blocks += ["## False alarms", *_false_alarms(soak)]
    return "\n\n".join(map(_wrapped, blocks)) + "\n"


def _wrapped(block: str) -> str:
    """A paragraph of prose, so that it can be read as it stands."""
    if block.startswith(("#", "|", "-", "    ")) or "\n- " in block or "\n\n" in block:
        return block
    return textwrap.fill(block, 120, break_long_words=False, break_on_hyphens=False)


def _aims(trials: Sequence[Trial], settings: Settings) -> str:
    few, many = settings.seeds, settings.hard_seeds
    rows = []
    for name, found in _by_hardness(trials):
        done = [trial for trial in found if trial.complete]
        most, share = (many, 0.9) if name == "hard" else (few, 1.0)
        caught = caught_within(done, most)
        if len(done) < len(found):
            met = f"open: {len(found) - len(done)} not finished"
        elif not found:
            met = "–"
        else:
            met = "met" if caught >= share * len(done) else "**not met**"
        aim = f"9 of 10 within {many} passes" if name == "hard" else f"all within {few} passes"
        early = _share(caught_within(done, few), len(done))
        late = _share(caught_within(done, many), len(done)) if name == "hard" else "–"  # others had no more passes
        rows.append([name, str(len(found)), early, late, aim, met])
    return _markdown(["hardness", "bugs", f"caught within {few}", f"caught within {many}", "aim", ""], rows)


def _matrix(trials: Sequence[Trial]) -> str:
    rows = []
    for trial in trials:
        bug, gone = trial.bug, trial.complete and not trial.kills
        rows.append(
            [
                f"**{bug.name}**" if gone else bug.name,
                bug.title,
                bug.breaks,
                bug.hardness,
                "**missed**" if gone else _by(trial),
                _on_the_first(trial),
                _passes(trial),
                _probability(trial),
                *_sure(trial),
            ]
        )
    return _markdown(
        [
            "bug",
            "what is wrong",
            "breaks",
            "hardness",
            "caught by (rule, else test)",
            "tests that catch it on the first seed",
            "passes killed",
            "kill probability",
            "seeds to be sure",
            "CPU s",
        ],
        rows,
    )


def _misses(trials: Sequence[Trial]) -> str:
    lines = [
        f"- **{trial.bug.id}** ({_in_passes(trial.runs)}): {trial.bug.missed or '**unexplained**'}"
        for trial in missed(trials)
    ]
    lines += [
        f"- {trial.bug.id} is caught now, and its file still says: {trial.bug.missed}"
        for trial in _no_longer_missed(trials)
    ]
    for trial in trials:
        if not trial.complete:
            why = f": {trial.bug.missed}" if trial.bug.missed and not trial.kills else ""
            lines.append(f"- {trial.bug.id} is not finished, {trial.kills} of {_in_passes(trial.runs)} so far{why}")
    return "\n".join(lines) or "None."


# --- false alarms ---


def _false_alarms(soak: Sequence[Block] | None) -> list[str]:
    if soak is None:
        return ["Not measured for this page: `raftgrade proof --soak DIR` takes them from a soak."]
    counted = current_blocks(soak)
    if not counted:
        return ["The soak has no runs."]
    figures = ["runs", "failures", "false alarms per 10,000 runs"]
    by_lab = _sums(counted, lambda block: (column(block), block.lab))
    by_impl = _sums(counted, lambda block: (block.impl,))
    of = f"Code {counted[-1].code}."
    unjudged = sum(block.unjudged for block in counted)
    if unjudged:
        of += f" Not among them: {count(unjudged, 'run')} that could not be judged."
    old = sum(block.runs for block in soak) - sum(block.runs for block in counted)
    if old:
        of += f" Left out: {old:,} runs of another version of raftlab, or of a Raft that was changed since."
    return [
        "Runs of Rafts that are correct: every failure is a false alarm. With each rate stands the upper end of its 95 % "
        f"Clopper-Pearson interval. {of}",
        _markdown(["runs of", "lab", *figures], by_lab),
        _markdown(["Raft", *figures], by_impl),
    ]


def _sums(soak: Sequence[Block], key: Callable[[Block], tuple[str, ...]]) -> list[list[str]]:
    sums: dict[tuple[str, ...], tuple[int, int]] = {}
    for block in soak:
        runs, failures = sums.get(key(block), (0, 0))
        sums[key(block)] = (runs + block.runs - block.unjudged, failures + block.failures)
    rows = [[*names, *_alarms(*sums[names])] for names in sorted(sums)]
    total = (sum(figures) for figures in zip(*sums.values(), strict=True))
    return [*rows, ["all", *[""] * (len(rows[0]) - 4), *_alarms(*total)]]


def _alarms(runs: int, failures: int) -> list[str]:
    if not runs:
        return ["0", "0", "–"]
    upper = 10_000 * clopper_pearson(failures, runs)[1]
    rate = f"{10_000 * failures / runs:.2f}, below {upper:.2f}" if failures else f"0, below {upper:.2f}"
    return [f"{runs:,}", str(failures), rate]


def _markdown(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    def cell(text: str) -> str:
        return printable(text).replace("|", "\\|").replace("\n", " ")

    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join(f"| {' | '.join(map(cell, line))} |" for line in lines)
