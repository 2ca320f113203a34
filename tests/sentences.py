"""What students read, as text for the snapshots in ``tests/snapshots``. `python -m tests.update` rewrites them.

A snapshot shows in review how a sentence reads before and after a change; tests need not pin its words elsewhere.
"""

from __future__ import annotations

from raftlab.explain import causes, rules
from raftlab.explain.failure import Rule


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
