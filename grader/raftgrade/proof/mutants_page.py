"""The results of a proof with mutants: a table for the terminal, and a section of the proof's page in Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import tabulate

from raftgrade.proof.mutant_runs import MutantTrial
from raftgrade.proof.mutants import OPERATORS, Mutant, Notes
from raftgrade.proof.page import Facts, count_passes, markdown, wrapped
from raftlab import labs
from raftlab.safe_text import count, duration, printable

HEADING = "## Machine-made mutants"

_INTRO = """\
A mutant is the reference solution with one small change that a program made: a condition is dropped, a statement is left
out, a lock is released too early. Nobody chose these changes with a test in mind, so the share of them that the suites
notice says more about unknown mistakes than the rates of the known bugs above. A pass runs the suites of all
labs with one seed, in the simulator, until a test fails. A mutant has up to {seeds} passes.

Some mutants are correct Rafts: the change makes them slower, or nothing can ever depend on it. These are *equivalent*. They
are listed with the reason in `tests/mutants/notes.toml`, and do not count. A person decides which mutants are equivalent,
and a wrong decision makes the score too high, so the reasons are printed below."""


def survivors(trials: Iterable[MutantTrial]) -> list[MutantTrial]:
    """The mutants that have had all their passes, none of which killed them."""
    return [trial for trial in trials if trial.complete and trial.kill is None]


def exit_code(trials: Sequence[MutantTrial], notes: Notes) -> int:
    """0: every mutant is killed, or noted as missed; 1: one survived without a note; 2: not finished."""
    if any(trial.name not in notes.missed for trial in survivors(trials)):
        return 1
    return 0 if all(trial.complete for trial in trials) else 2


def last_line(trials: Sequence[MutantTrial], notes: Notes) -> str:
    """``980 of 1000 mutants killed (98.0 %) · 150 more are equivalent · 1400 passes · 40 min 12 s of CPU``"""
    killed = sum(trial.kill is not None for trial in trials)
    counted = [each for trial in trials for each in trial.counted]
    share = f" ({100 * killed / len(trials):.1f} %)" if trials else ""
    cost = f"{count_passes(len(counted))} · {duration(sum(each.cpu_s for each in counted))} of CPU"
    return f"{killed} of {count(len(trials), 'mutant')} killed{share} · {len(notes.equivalent)} more are equivalent · {cost}"


def table(trials: Sequence[MutantTrial], notes: Notes) -> str:
    """The proof for a terminal: a table by operator, one by lab, and each survivor."""
    blocks = [
        tabulate.tabulate(_by_operator(trials), ["operator", "mutants", "killed"], disable_numparse=True),
        tabulate.tabulate(_by_lab(trials), ["lab", "mutants", "killed"], disable_numparse=True),
    ]
    for trial in survivors(trials):
        blocks.append(f"survived {count_passes(len(trial.counted))}: {_in_words(trial.mutant)}")
        if trial.name in notes.missed:
            blocks[-1] += f"\n    {printable(notes.missed[trial.name])}"
    noted = [trial.name for trial in trials if trial.kill and trial.name in notes.missed]
    blocks += [f"{name} is killed now, but the notes still say why it is missed" for name in noted]
    unfinished = [trial.name for trial in trials if not trial.complete]
    if unfinished:
        names = ", ".join(unfinished)
        blocks.append(f"not finished, because some passes could not be judged: {names}; run the same command again")
    return "\n\n".join([*blocks, last_line(trials, notes)])


def section(trials: Sequence[MutantTrial], notes: Notes, facts: Facts) -> str:
    """The section of the proof's page, from its heading on.

    Args:
        trials: the mutants with their passes.
        notes: the notes on equivalent and missed mutants.
        facts: facts about this proof.
    """
    alive = [
        f"- {_in_words(each.mutant)}: {notes.missed.get(each.name, '**unexplained**')}" for each in survivors(trials)
    ]
    alive += [f"- {_in_words(trial.mutant)}: not finished" for trial in trials if not trial.complete]
    reasons: dict[str, list[str]] = {}
    for name, reason in notes.equivalent.items():
        reasons.setdefault(reason, []).append(f"`{name}`")
    operators = [[name, OPERATORS[name], mutants, killed] for name, mutants, killed in _by_operator(trials)]
    blocks = [
        HEADING,
        f"Generated on {facts.when} with {facts.versions} and seeds from 0, by",
        f"    {printable(facts.command)}",
        *_INTRO.format(seeds=facts.settings.seeds).split("\n\n"),
        f"In total: {last_line(trials, notes)}.",
        markdown(["operator", "what it does", "mutants", "killed"], operators),
        markdown(["lab whose code is changed", "mutants", "killed"], _by_lab(trials)),
        "### Survivors",
        "\n".join(alive) or "None.",
        "### Equivalent mutants",
        "\n".join(f"- {reason} ({', '.join(names)})" for reason, names in reasons.items()) or "None.",
    ]
    return "\n\n".join(map(wrapped, blocks)) + "\n"


def with_section(page: str, new: str) -> str:
    """The page, with ``new`` in place of its section about mutants. A page without such a section gets ``new`` at its
    end."""
    before, heading, after = page.partition(f"{HEADING}\n")
    next_heading = re.search(r"(?m)^## ", after) if heading else None
    rest = f"\n{after[next_heading.start() :]}" if next_heading else ""
    return f"{before.rstrip()}\n\n{new}{rest}".lstrip()


def section_of(page: str) -> str:
    """The section about mutants of the page; empty if it has none."""
    _, heading, after = page.partition(f"{HEADING}\n")
    return heading + re.split(r"(?m)^## ", after)[0].rstrip() + "\n" if heading else ""


def _in_words(mutant: Mutant) -> str:
    return f"{mutant.name}, line {mutant.line}: {printable(mutant.change)}"


def _by_operator(trials: Sequence[MutantTrial]) -> list[list[str]]:
    groups = [(name, [trial for trial in trials if trial.mutant.operator == name]) for name in OPERATORS]
    return [_rate(name, group) for name, group in groups if group]


def _by_lab(trials: Sequence[MutantTrial]) -> list[list[str]]:
    groups = [(lab, [trial for trial in trials if trial.mutant.lab == lab]) for lab in labs.LABS]
    return [_rate(lab, group) for lab, group in groups if group]


def _rate(name: str, trials: Sequence[MutantTrial]) -> list[str]:
    killed = sum(trial.kill is not None for trial in trials)
    return [name, str(len(trials)), f"{killed} ({100 * killed / len(trials):.0f} %)"]
