"""The results of a proof: a table for the terminal, and a page of Markdown."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import tabulate

from raftgrade.proof.bug_bank import HARDNESS, Bank
from raftgrade.proof.kill_rates import Settings, Trial
from raftgrade.proof.rules import Matrix, summary
from raftgrade.soak.log import Block, column, current_blocks
from raftgrade.stats import clopper_pearson
from raftlab import labs
from raftlab.safe_text import count, duration, one_line, printable


@dataclass(frozen=True, slots=True)
class Facts:
    """Facts about a proof that the page shows.

    Attributes:
        when: the date, such as ``2026-11-22``.
        command: the command line that repeats the proof.
        versions: the versions of raftgrade, Python and the judging code.
        settings: the number of passes.
    """

    when: str
    command: str
    versions: str
    settings: Settings


# --- numbers ---


def missed(trials: Iterable[Trial]) -> list[Trial]:
    """The bugs that have had all their passes, none of which killed them."""
    return [trial for trial in trials if trial.complete and not trial.kills]


def exit_code(trials: Sequence[Trial]) -> int:
    """0: every bug is caught, or its file says why it is missed; 1: a bug is missed without a reason; 2: not finished."""
    if any(not trial.bug.missed for trial in missed(trials)):
        return 1
    return 0 if all(trial.complete for trial in trials) else 2


def caught_within(trials: Iterable[Trial], passes: int) -> int:
    """The number of bugs that were caught by their first ``passes`` passes."""
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
    """Two decimal places, or three if below 0.1; only exactly 1 is shown as 1."""
    if value in (0.0, 1.0):
        return f"{value:.0f}"
    return f"{min(value, 0.994):.2f}".lstrip("0") if value >= 0.1 else f"{value:.3f}".lstrip("0")


def _cost_to_be_sure(trial: Trial) -> tuple[str, str]:
    """Number of seeds, and of CPU seconds, that it takes to catch the bug with probability 95 %."""
    seeds, cpu = trial.seeds_to_be_sure, trial.whole_cpu_s
    if seeds is None or cpu is None:
        return "–", "–"
    return str(seeds), f"{seeds * cpu:.1f}"


def _caught_by(trial: Trial) -> str:
    """The rule that the first failure names or, if it names none, the test."""
    return "–" if trial.first_kill is None else trial.first_kill.rule or trial.first_kill.test


def _tests_on_first_seed(trial: Trial) -> str:
    """The number of the lab's tests that catch the bug on the first seed."""
    first = trial.passes.get(0)
    return "–" if first is None else f"{len({kill.test for kill in first.caught})} of {len(trial.tests)}"


def _passes(trial: Trial) -> str:
    """``13/20``: kills of judged passes; then ``?2`` if two could not be judged, and ``…`` if more are needed."""
    unjudged = sum(not each.judged for each in trial.counted)
    return f"{trial.kills}/{trial.runs}" + (f" ?{unjudged}" if unjudged else "") + ("" if trial.complete else " …")


Group = tuple[str, list[Trial]]


def _by_hardness(trials: Sequence[Trial]) -> list[Group]:
    return [(each, [trial for trial in trials if trial.bug.hardness == each]) for each in HARDNESS]


def _by_lab(trials: Sequence[Trial]) -> list[Group]:
    return [(lab, group) for lab in labs.LABS if (group := [trial for trial in trials if trial.bug.lab == lab])]


def _rates(groups: Sequence[Group], settings: Settings) -> list[list[str]]:
    """Rows with the name, the number of bugs, the share caught by the first passes, and the share caught by any pass. Shares
    are relative to the bugs whose passes are complete."""
    rows = []
    for name, group in groups:
        done = [trial for trial in group if trial.complete]
        unfinished = f" ({len(group) - len(done)} not finished)" if len(done) < len(group) else ""
        within = [_share(caught_within(done, most), len(done)) for most in (settings.seeds, settings.hard_seeds)]
        rows.append([name, f"{len(group)}{unfinished}", *within])
    return rows


def last_line(trials: Sequence[Trial]) -> str:
    """``184 of 185 bugs caught · 3704 passes · 10 min 42 s of CPU``"""
    passes = sum(len(trial.counted) for trial in trials)
    cpu_s = sum(each.cpu_s for trial in trials for each in trial.counted)
    caught = sum(bool(trial.kills) for trial in trials)
    return f"{caught} of {count(len(trials), 'bug')} caught · {count_passes(passes)} · {duration(cpu_s)} of CPU"


def count_passes(number: int) -> str:
    """``1 pass``, ``2 passes``"""
    return "1 pass" if number == 1 else f"{number} passes"


# --- for the terminal ---


def table(trials: Sequence[Trial], settings: Settings, bold: bool = False) -> str:
    """The proof for a terminal of 100 columns. With ``bold``, missed bugs are in bold type."""

    def emphasized(text: str) -> str:
        return f"\x1b[1m{text}\x1b[0m" if bold else text

    rates = ["bugs", f"within {settings.seeds}", "at all"]
    blocks = []
    for name, groups in (("hardness", _by_hardness(trials)), ("lab", _by_lab(trials))):
        rows = _rates([group for group in groups if group[1]], settings)
        blocks.append(tabulate.tabulate(rows, [name, *rates], disable_numparse=True))
    rows = []
    for trial in trials:
        by = emphasized("missed") if trial.complete and not trial.kills else one_line(_caught_by(trial), 26)
        shown = [
            one_line(trial.bug.id, 33),
            trial.bug.hardness,
            by,
            _passes(trial),
            _probability(trial),
            *_cost_to_be_sure(trial),
        ]
        rows.append(shown)
    headers = ["bug", "hardness", "caught by", "killed", "p [95 %]", "seeds", "CPU s"]
    align = ("left", "left", "left", "left", "left", "right", "right")
    blocks.append(tabulate.tabulate(rows, headers, disable_numparse=True, colalign=align))
    for trial in missed(trials):
        blocks.append(f"{emphasized(f'missed: {trial.bug.id}')}: {printable(trial.bug.missed) or 'unexplained'}")
    for trial in _no_longer_missed(trials):
        blocks.append(f"{trial.bug.id} is caught now, but its file still says why it is missed")
    unfinished = [trial.bug.id for trial in trials if not trial.complete]
    if unfinished:
        blocks.append(
            f"not finished, because some passes could not be judged: {', '.join(unfinished)}; run the same command again"
        )
    return "\n\n".join([*blocks, last_line(trials)])


def _no_longer_missed(trials: Iterable[Trial]) -> list[Trial]:
    return [trial for trial in trials if trial.bug.missed and trial.kills]


# --- as a Markdown page ---

_INTRO = """\
A known bug is a small change to the reference solution. Before the change is made, the code of later labs is removed. This
page covers {bugs} in {texts} of the reference (some bugs are tried in two labs). Each bug comes from a patch file that
names its source. A *pass* is what a grading run does with one seed: it runs each test in the suite of the bug's lab once,
in the simulator. A pass in which a test fails has *killed* the bug.

Each bug had {few} passes. If none of these killed a hard bug, it had more, until the first kill or up to {many}. A number
that looked good never ended a measurement, so the intervals are valid (Clopper-Pearson, two-sided, 95 %). *Seeds
to be sure* is the number of passes that catch the bug with probability 95 %, if the measured kill rate is the true one.
*CPU s* is the cost of that many complete passes, judge and servers together.

Most of these bugs were known when the suites were written. So the numbers show how reliably the suites catch known
mistakes, not how many unknown mistakes they miss. If a bug was added after the suites, its file says so."""


def page(trials: Sequence[Trial], bank: Bank, facts: Facts, soak: Sequence[Block] | None, matrix: Matrix) -> str:
    """The proof as a page of Markdown.

    Args:
        trials: the bugs with their passes.
        bank: the bank that contains the bugs.
        facts: facts about the proof.
        soak: runs of correct Rafts, which show false alarms; ``None`` if there was no soak.
        matrix: the rules with their bugs and tests.
    """
    few, many = facts.settings.seeds, facts.settings.hard_seeds
    texts = len({tuple(trial.sources.values()) for trial in trials})
    blocks = [
        "# What the suites catch",
        f"Generated on {facts.when} with {facts.versions} and seeds from 0, by",
        f"    {printable(facts.command)}",
        *_INTRO.format(few=few, many=many, bugs=count(len(trials), "bug"), texts=count(texts, "changed version")).split(
            "\n\n"
        ),
        f"In total: {last_line(trials)}.",
        "## Aims and results",
        _aims(trials, facts.settings),
        "## Lab by lab",
        markdown(["lab", "bugs", f"caught within {few}", "caught at all"], _rates(_by_lab(trials), facts.settings)),
    ]
    for lab, group in _by_lab(trials):
        blocks += [f"### Lab {lab}: {labs.LABS[lab].title}", _matrix(group)]
    blocks += ["## Missed", _misses(trials)]
    blocks += ["## Rules", rule_matrix(matrix)]
    blocks += ["## Bugs that are not in the bank", bank.left_out or "The bank lists none."]
    blocks += ["## False alarms", *_false_alarms(soak)]
    return "\n\n".join(map(wrapped, blocks)) + "\n"


def wrapped(block: str) -> str:
    """``block`` with its lines wrapped if it is prose; any other block unchanged."""
    if block.startswith(("#", "|", "-", "    ")) or "\n- " in block or "\n\n" in block:
        return block
    return textwrap.fill(block, 120, break_long_words=False, break_on_hyphens=False)


def _aims(trials: Sequence[Trial], settings: Settings) -> str:
    few, many = settings.seeds, settings.hard_seeds
    rows = []
    for name, group in _by_hardness(trials):
        done = [trial for trial in group if trial.complete]
        most, share = (many, 0.9) if name == "hard" else (few, 1.0)
        caught = caught_within(done, most)
        if len(done) < len(group):
            met = f"open: {len(group) - len(done)} not finished"
        elif not group:
            met = "–"
        else:
            met = "met" if caught >= share * len(done) else "**not met**"
        aim = f"9 of 10 within {many} passes" if name == "hard" else f"all within {few} passes"
        early = _share(caught_within(done, few), len(done))
        late = (
            _share(caught_within(done, many), len(done)) if name == "hard" else "–"
        )  # only hard bugs had further passes
        rows.append([name, str(len(group)), early, late, aim, met])
    return markdown(["hardness", "bugs", f"caught within {few}", f"caught within {many}", "aim", ""], rows)


def _matrix(trials: Sequence[Trial]) -> str:
    rows = []
    for trial in trials:
        bug, is_missed = trial.bug, trial.complete and not trial.kills
        rows.append(
            [
                f"**{bug.name}**" if is_missed else bug.name,
                bug.title,
                bug.breaks,
                bug.hardness,
                "**missed**" if is_missed else _caught_by(trial),
                _tests_on_first_seed(trial),
                _passes(trial),
                _probability(trial),
                *_cost_to_be_sure(trial),
            ]
        )
    return markdown(
        [
            "bug",
            "what is wrong",
            "breaks",
            "hardness",
            "caught by (rule or test)",
            "tests that catch it on the first seed",
            "passes that killed it",
            "kill probability",
            "seeds to be sure",
            "CPU s",
        ],
        rows,
    )


def rule_matrix(matrix: Matrix) -> str:
    """The page's section on rules: for each rule, the bug that breaks it and the test that catches this bug."""
    if not matrix.rule:
        return "The bank has no matrix of rules."
    text = (
        f"{summary(matrix)}. The rules cover each line that servers must follow in Figures 2 and 13, in section 6, and in "
        "chapters 4, 6.2 and 9.6 of the dissertation. For each rule, the bank has a bug that breaks it, and a test catches "
        "this bug. `raftgrade proof --rules` prints this table."
    )
    rows = [
        ["; ".join(row.source), ", ".join(row.labs), row.says, f"`{row.bug}`", f"`{row.test}`"] for row in matrix.rule
    ]
    return f"{wrapped(text)}\n\n" + markdown(
        ["stated in", "lab", "rule", "bug that breaks it", "test that catches it"], rows
    )


def _misses(trials: Sequence[Trial]) -> str:
    lines = [
        f"- **{trial.bug.id}** ({count_passes(trial.runs)}): {trial.bug.missed or '**unexplained**'}"
        for trial in missed(trials)
    ]
    lines += [
        f"- {trial.bug.id} is caught now, but its file still says: {trial.bug.missed}"
        for trial in _no_longer_missed(trials)
    ]
    for trial in trials:
        if not trial.complete:
            reason = f": {trial.bug.missed}" if trial.bug.missed and not trial.kills else ""
            lines.append(
                f"- {trial.bug.id} is not finished; {trial.kills} of {count_passes(trial.runs)} killed it so far{reason}"
            )
    return "\n".join(lines) or "None."


# --- false alarms ---


def _false_alarms(soak: Sequence[Block] | None) -> list[str]:
    if soak is None:
        return ["Not measured for this page. `raftgrade proof --soak DIR` takes the numbers from a soak."]
    counted = current_blocks(soak)
    if not counted:
        return ["The soak has no runs."]
    columns = ["runs", "failures", "false alarms per 10,000 runs"]
    by_lab = _sums(counted, lambda block: (column(block), block.lab))
    by_impl = _sums(counted, lambda block: (block.impl,))
    counts = f"Code {counted[-1].code}."
    unjudged = sum(block.unjudged for block in counted)
    if unjudged:
        counts += f" Not counted: {count(unjudged, 'run')} that could not be judged."
    old = sum(block.runs for block in soak) - sum(block.runs for block in counted)
    if old:
        counts += f" Left out: {old:,} runs with a different version of raftlab, or of a Raft that has changed since."
    return [
        "These are runs of correct Rafts, so every failure is a false alarm. Each rate is followed by the upper end of its "
        f"95 % Clopper-Pearson interval. {counts}",
        markdown(["runs of", "lab", *columns], by_lab),
        markdown(["Raft", *columns], by_impl),
    ]


def _sums(soak: Sequence[Block], key: Callable[[Block], tuple[str, ...]]) -> list[list[str]]:
    sums: dict[tuple[str, ...], tuple[int, int]] = {}
    for block in soak:
        runs, failures = sums.get(key(block), (0, 0))
        sums[key(block)] = (runs + block.runs - block.unjudged, failures + block.failures)
    rows = [[*names, *_alarms(*sums[names])] for names in sorted(sums)]
    total = (sum(column) for column in zip(*sums.values(), strict=True))
    return [*rows, ["all", *[""] * (len(rows[0]) - 4), *_alarms(*total)]]


def _alarms(runs: int, failures: int) -> list[str]:
    if not runs:
        return ["0", "0", "–"]
    upper = 10_000 * clopper_pearson(failures, runs)[1]
    rate = f"{10_000 * failures / runs:.2f}, below {upper:.2f}" if failures else f"0, below {upper:.2f}"
    return [f"{runs:,}", str(failures), rate]


def markdown(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""

    def cell(text: str) -> str:
        return printable(text).replace("|", "\\|").replace("\n", " ")

    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join(f"| {' | '.join(map(cell, line))} |" for line in lines)
