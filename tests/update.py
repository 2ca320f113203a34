"""The generated files of this repository, and the command that rewrites them.

    python -m tests.update                    # rewrite every generated file that has changed
    python -m tests.update tests/snapshots    # only those in this folder (or one file)
    python -m tests.update --fast             # leave out files that take a minute or more
    python -m tests.update --check            # rewrite nothing; exit code 1 if a file is out of date

To generate another file, write a function that returns its whole text and add it to ``GENERATED``. If only part of a file
is generated, let the function read the file and replace that part.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from raftlab.submission import skeleton
from tests import counts, examples, known_bugs, sentences
from tests.conftest import ROOT, SOLUTION
from tests.scenarios import transcripts

DIFF_LINES = 30  # the maximum number of lines of a diff that are shown: enough to see what changed


@dataclass(frozen=True, slots=True)
class Generated:
    """A generated file.

    Attributes:
        path: its path, relative to the root of the repository.
        text: returns the text that it must contain.
        slow: whether generating the text takes a minute or more. ``tests/test_update.py`` leaves such a file out, so
            another test must compare it.
    """

    path: str
    text: Callable[[], str]
    slow: bool = False

    def difference(self) -> str:
        """The unified diff from the file to the text that it must contain; empty if they are equal."""
        return short_diff(self.path, self._current(), self.text())

    def rewrite(self) -> bool:
        """Write the file if it is out of date. Returns whether it was out of date."""
        current, wanted = self._current(), self.text()
        if current == wanted:
            return False
        path = ROOT / self.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(wanted, encoding="utf-8")
        return True

    def _current(self) -> str:
        path = ROOT / self.path
        return path.read_text(encoding="utf-8") if path.exists() else ""


def _skeleton_of(name: str) -> str:
    return skeleton.generate(SOLUTION.with_name(name).read_text(encoding="utf-8"), name=name)


GENERATED = [
    *(Generated(f"skeleton/{name}", partial(_skeleton_of, name)) for name in ("raft.py", "kv.py")),
    Generated("README.md", counts.readme),
    Generated("handouts/instructors-guide.md", counts.guide),
    Generated("handouts/proof.md", known_bugs.proof_page),
    Generated("tests/snapshots/rules.txt", sentences.rules_text),
    Generated("tests/snapshots/contract.txt", sentences.contract_text),
    Generated("tests/snapshots/help.txt", sentences.help_text),
    Generated("tests/snapshots/refusals.txt", sentences.refusals_text),
    # These files are compared by the tests in tests/scenarios.
    *(
        Generated(path.relative_to(ROOT).as_posix(), partial(transcripts.transcript, path), slow=True)
        for path in transcripts.FILES
    ),
    # These files are compared by the tests in tests/handouts, which run their commands anyway.
    *(
        Generated(path.relative_to(ROOT).as_posix(), partial(counts.passing_transcript, path), slow=True)
        for path in counts.HANDOUTS
    ),
    *(Generated(path.relative_to(ROOT).as_posix(), partial(examples.page, path), slow=True) for path in examples.PAGES),
    Generated(known_bugs.SNAPSHOT, known_bugs.snapshot, slow=True),
    Generated(known_bugs.ROWS_SNAPSHOT, known_bugs.rows_snapshot, slow=True),
]


def short_diff(path: str, current: str, wanted: str) -> str:
    """The beginning of the unified diff from ``current`` to ``wanted``; empty if they are equal."""
    lines = list(
        difflib.unified_diff(current.splitlines(), wanted.splitlines(), path, f"{path} (generated)", lineterm="", n=1)
    )
    if len(lines) > DIFF_LINES:
        lines[DIFF_LINES:] = [f"... and {len(lines) - DIFF_LINES} more lines"]
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.update", description="Rewrite the generated files of this repository."
    )
    parser.add_argument("paths", nargs="*", help="only these files, or the files in these folders")
    parser.add_argument("--fast", action="store_true", help="leave out files that take a minute or more")
    parser.add_argument("--check", action="store_true", help="rewrite nothing; exit with 1 if a file is out of date")
    options = parser.parse_args(arguments)
    chosen = [
        each
        for each in GENERATED
        if not (options.fast and each.slow)
        and (not options.paths or any(f"{each.path}/".startswith(f"{path.rstrip('/')}/") for path in options.paths))
    ]
    if not chosen:
        parser.error(f"no generated file is at {', '.join(options.paths)}")
    outdated = False
    for each in chosen:
        if each.slow:
            print(f"generating {each.path} ...", flush=True)
        if options.check:
            difference = each.difference()
            outdated |= bool(difference)
            if difference:
                print(difference)
        elif each.rewrite():
            print(f"rewrote {each.path}")
    if outdated:
        print("run python -m tests.update")
    return int(outdated)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
