"""What students read, as text for the snapshots in ``tests/snapshots``. `python -m tests.update` rewrites them.

A snapshot shows in review how a sentence reads before and after a change; tests need not pin its words elsewhere.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from raftlab.explain import causes, rules
from raftlab.explain.failure import Rule
from raftlab.labs import Lab
from tests.submission import broken


def rules_text() -> str:
    """Every rule that a failure can name with its usual causes, then the mistakes that have nothing to do with Raft."""
    blocks = ["# The rules that a failure can name (raftlab/explain/rules.py and causes.py)"]
    for constant, rule in vars(rules).items():
        if isinstance(rule, Rule):
            blocks.append(_rule(constant, rule))
    blocks.append(
        "# Mistakes that have nothing to do with Raft, by the kind of the failure (raftlab/explain/causes.py)"
    )
    blocks += [f"{kind}\n  {hint}" for kind, hint in sorted(causes.FAULTS.items())]
    return "\n\n".join(blocks) + "\n"


def _rule(constant: str, rule: Rule) -> str:
    lines = [f"{rule.name} ({constant})", f"  {rule.says} ({rule.section})", f"  read: {rule.handout}"]
    entry = causes.RULES.get(rule)
    if entry is not None:
        lines.append(f"  figure: {entry.figure}")
        lines += [f"  often: {each}" for each in entry.often]
    return "\n".join(lines)


def contract_text() -> str:
    """What the contract check says about each broken submission of :mod:`tests.submission.broken`."""
    blocks = ["# The contract check, by what is wrong with the submission (tests/submission/broken.py)"]
    blocks += [_problems(mistake, files, broken.LAB_2A) for mistake, files in broken.BROKEN.items()]
    blocks += [_problems(mistake, files, broken.LAB_2F) for mistake, files in broken.BROKEN_2F.items()]
    return "\n\n".join(blocks) + "\n"


def _problems(mistake: str, files: broken.Files, lab: Lab) -> str:
    """The problems of one submission, each with its place, the line there, and the handout."""
    lines = [mistake]
    with tempfile.TemporaryDirectory() as folder:
        for problem in broken.check(broken.build(Path(folder), files), lab):
            name, _, number = problem.where.partition(":")
            shown = (Path(folder) / name).read_text(encoding="utf-8").splitlines()[int(number) - 1 :][:1]
            lines += [
                f"  {problem.text}",
                f"    at {problem.where}: {''.join(shown).strip() or '(empty)'}",
                f"    read: {problem.handout}",
            ]
    return "\n".join(lines)
