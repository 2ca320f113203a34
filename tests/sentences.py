"""The text of the snapshots in ``tests/snapshots`` with the messages that students read.

`python -m tests.update` rewrites the snapshots. In a review, the diff of a snapshot shows how a message changes, so tests
need not repeat its words elsewhere.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import raftlab.cli
from raftgrade import options
from raftlab.explain import causes, rules
from raftlab.explain.failure import Rule
from raftlab.labs import Lab
from tests import refused_commands
from tests.submission import broken

NOTE = "# Do not edit: python -m tests.update rewrites this file."


def rules_text() -> str:
    """Every rule that a failure can name, then the mistakes that have nothing to do with Raft."""
    blocks = [f"# The rules that a failure can name (raftlab/explain/rules.py and causes.py)\n{NOTE}"]
    for constant, rule in vars(rules).items():
        if isinstance(rule, Rule):
            blocks.append(_rule(constant, rule))
    blocks.append(
        "# Mistakes that have nothing to do with Raft, by the kind of the failure (raftlab/explain/causes.py)"
    )
    blocks += [f"{kind}\n  {hint}" for kind, hint in sorted(causes.FAULTS.items())]
    blocks.append("# The usual causes of exceptions, by name and words of the message (raftlab/explain/causes.py)")
    for (name, words), often in causes.EXCEPTIONS.items():
        blocks.append("\n".join([f"{name} {words}".rstrip(), *(f"  look for: {each}" for each in often)]))
    return "\n\n".join(blocks) + "\n"


def _rule(constant: str, rule: Rule) -> str:
    lines = [f"{rule.name} ({constant})", f"  {rule.says} ({rule.section})", f"  read: {rule.handout}"]
    if rule in causes.RULES:
        lines.append(f"  figure: {causes.RULES[rule]}")
    return "\n".join(lines)


def contract_text() -> str:
    """The problems that the contract check reports for each broken submission in :mod:`tests.submission.broken`."""
    blocks = [f"# The contract check, by what is wrong with the submission (tests/submission/broken.py)\n{NOTE}"]
    blocks += [_problems(mistake, files, broken.LAB_2A) for mistake, files in broken.BROKEN.items()]
    blocks += [_problems(mistake, files, broken.LAB_2F) for mistake, files in broken.BROKEN_2F.items()]
    blocks += [_problems(mistake, files, broken.LAB_2G) for mistake, files in broken.BROKEN_2G.items()]
    return "\n\n".join(blocks) + "\n"


def _problems(mistake: str, files: broken.Files, lab: Lab) -> str:
    """The problems of one submission, each with its position, the line there, and the handout."""
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


def refusals_text() -> str:
    """The messages of `raftlab` and `raftgrade` for command lines that they reject."""
    lines = ["# Refused command lines (tests/refused_commands.py)", NOTE, ""]
    with tempfile.TemporaryDirectory() as folder:
        refused_commands.prepare(Path(folder))
        for command in refused_commands.COMMANDS:
            if command:
                lines += [f"$ {command}", *refused_commands.run(command, Path(folder))[2].splitlines()]
            else:
                lines.append("")
    return "\n".join(lines) + "\n"


def help_text() -> str:
    """The words of each command's ``--help``. Its layout is left out, because it differs between versions of Python."""
    blocks = [f"# The text of --help (raftlab/cli.py, raftgrade/options.py)\n{NOTE}"]
    for parser in (raftlab.cli.make_parser(), options.parser()):
        blocks += ["\n".join(_help(each)) for each in _with_commands(parser)]
    return "\n\n".join(blocks) + "\n"


def _with_commands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The parser of a program, and the parsers of its commands."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.values()


def _help(parser: argparse.ArgumentParser) -> list[str]:
    lines = [parser.prog, f"  {parser.description}"]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            lines += [f"    {choice.dest}: {choice.help}" for choice in action._choices_actions]
        elif not isinstance(action, argparse._HelpAction):
            value = action.metavar or ("{" + ",".join(action.choices) + "}" if action.choices else "")
            name = " ".join(filter(None, [", ".join(action.option_strings), value])) or action.dest
            text = action.help and parser._get_formatter()._expand_help(action)
            lines.append(f"    {name}: {text or '(no help)'}")
    return [*lines, f"  {parser.epilog}"] if parser.epilog else lines
