"""The usual causes of a failure, found by its sentence in the tables "When it fails" of the handouts.

The first cell of a row has an example of a sentence that students may see, in backticks. The row matches each failure whose
sentence begins like the example. The servers, numbers, commands and lists may differ from those of the example, and "…"
matches any text. The second cell has the causes.

If several rows match a failure, one of them is shown. Rows for certain tests ("in the test `late_vote`") are preferred,
then rows that begin with "…", which are about what was observed. If several rows are still left, the one that has the most
characters in common with the failure is chosen. If that is a tie, too, the row of the latest lab is chosen.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
# The folder of the handouts, in an installed wheel and in a checkout.
_PLACES = (_PACKAGE / "data" / "handouts", _PACKAGE.parents[1] / "handouts")

_LINK = re.compile(r"\[([^]]+)\]\(([^)\s]+)\)")
# A sentence, or the end of a sentence, that only says what to read.
_ONLY_A_LINK = re.compile(rf"(?:[.:,;]|(?<=\?)) (?:[Ss]ee (?:also )?)?{_LINK.pattern}\.?(?=$|\. |; or)")
_QUOTED = re.compile(r"(`+)(.+?)\1")
_TEST = re.compile(r"in the test `(\w+)`")
_ABOVE = "the same cause as in the row above"
_NUMBER_WORDS = "one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve"
# The parts of an example that may differ from run to run; _MATCHES has what each of them matches. A server or clerk matches
# any other, and a range of terms also matches a single term. A clerk's operation matches any operation, but a get matches
# only gets.
_VARIABLE = re.compile(
    rf"""(?P<any>…)
    |(?P<read>\bget\([^()]*\))
    |(?P<operation>\b(?:put|append|swap|fly)\([^()]*\))
    |(?P<operation_of>\bthe[ ](?:put|append|swap)[ ]of\b)
    |(?P<terms>\bterms[ ]\d+[ ]to[ ]\d+)
    |(?P<servers>S\d+(?:(?:,[ ]|[ ]and[ ])S\d+)*)
    |(?P<clerks>C\d+)
    |(?P<text>(?<!\w)'(?:[^']|'(?=\w))*')
    |(?P<list>\[[^]]*\])
    |(?P<nothing>\b0[ ]bytes\b)
    |(?P<stand_in>\bapplied[ ]index[ ]0\b)
    |(?P<refusal>(?<!\w)-1\b)
    |(?P<times>\b\d[\d,]*[ ]times\b)
    |(?P<number>-?\b\d[\d,]*(?:\.\d+)?(?!\w))
    |(?P<word>\b(?:{_NUMBER_WORDS})\b)
    |(?P<plural>\b(?:server|byte|time|message|command|RPC)s?\b)
    |(?P<have>\bha(?:s|ve)\b)
    |(?P<value>\bNone\b)""",
    re.VERBOSE,
)
_MATCHES = {
    "any": ".*",
    "read": r"get\(.*?\)",
    "operation": r"\w+\(.*?\)",
    "operation_of": r"the\s(?:get|put|append|swap|register)\sof",
    "terms": r"terms?\s\d+(?:\s(?:to|and)\s\d+)?",
    "servers": r"S\d+(?:(?:,| and) S\d+)*",
    "clerks": r"C\d+(?:\.\d+)?",
    "text": ".+?",
    "list": r"\[.*?\]",
    "nothing": "0 bytes",
    "stand_in": r"applied\sindex\s0\b",
    "refusal": "-1",
    "times": r"(?:once|\d[\d,]*\stimes?)",
    "number": r"-?\d[\d,]*(?:\.\d+)?",
    "word": rf"(?:{_NUMBER_WORDS}|\d+)",
    "have": "ha(?:s|ve)",
    "value": ".+?",
}

# These parts hardly differ from run to run, so all their characters count as shared with the failure.
_LITERAL = ("plural", "have", "refusal", "stand_in")


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table.

    Attributes:
        lab: the lab whose table it is in, such as ``"2A"``.
        sentence: the example.
        causes: what to look for, the most likely cause first, without Markdown.
        read: the file and anchor of the first handout that the causes link to; empty if they link to none.
        tests: the tests whose failures the row is about; empty for all.
        expression: what the sentence of a failure must begin with, as a regular expression.
        fixed: a part of the example that every matching sentence contains once its line breaks and tabs are spaces.
        words: the number of characters (not words) that the example shares with every matching sentence.
    """

    lab: str
    sentence: str
    causes: tuple[str, ...]
    read: str
    tests: frozenset[str]
    expression: str
    fixed: str
    words: int

    @property
    def pattern(self) -> re.Pattern[str]:
        """The compiled :attr:`expression`."""
        return _compiled(self.expression)


@cache
def _compiled(expression: str) -> re.Pattern[str]:
    """The compiled ``expression``, from this function's own cache: the cache of ``re`` has room for only 512, and there are
    more rows."""
    return re.compile(expression, re.DOTALL)


def find(lab: str, test: str, text: str) -> Row | None:
    """The row for a failure.

    Args:
        lab: the lab of the test that failed. The tables of earlier labs count, too.
        test: the test's name.
        text: the failure's sentence.

    Returns:
        ``None`` if no row matches.
    """
    plain = re.sub(r"\s", " ", text)
    fitting = [
        row
        for row in rows()
        if row.lab <= lab
        and (not row.tests or test in row.tests)
        # Only a few rows get past this line. Compiling the expressions of all rows took 0.17 s in each failed run.
        and row.fixed in plain
        and row.pattern.match(text) is not None
    ]
    return max(
        fitting, key=lambda row: (bool(row.tests), row.sentence.startswith("…"), row.words, row.lab), default=None
    )


@cache
def rows() -> tuple[Row, ...]:
    """Every row that has a sentence, lab by lab. Empty if this installation has no handouts."""
    folder = next((place for place in _PLACES if place.is_dir()), None)
    if folder is None:
        return ()
    return tuple(row for path in sorted(folder.glob("lab-*-failures.md")) for row in _rows_of(path))


def _rows_of(path: Path) -> Iterator[Row]:
    lab = path.name.split("-")[1].upper()
    _, _, section = path.read_text(encoding="utf-8").partition("\n## When it fails\n")
    cells = ""
    for line in section.partition("\n## ")[0].splitlines():
        if not line.startswith("|") or line.startswith(("|---", "| you see ")):
            continue
        shown, _, described = line.strip("| ").partition(" | ")
        cells = described.replace(_ABOVE, cells, 1) if described.startswith(_ABOVE) else described
        tests = frozenset(_TEST.findall(shown))
        for _, sentence in _QUOTED.findall(_TEST.sub("", shown)):
            if " " not in sentence:
                continue  # a name or a status within a description, not a sentence
            expression, fixed, words = _expression(sentence)
            causes, read = _causes(cells, path.name)
            yield Row(lab, sentence, causes, read, tests, expression, fixed, words)


def _expression(sentence: str) -> tuple[str, str, int]:
    """The fields ``expression``, ``fixed`` and ``words`` of the row for ``sentence``."""
    parts, words, at = [], 0, 0
    literals = []
    for match in _VARIABLE.finditer(sentence):
        kind = str(match.lastgroup)
        literals.append(sentence[at : match.start()])
        matches = _MATCHES.get(kind) or re.escape(match[0].removesuffix("s")) + "s?"
        parts += [_literally(literals[-1]), matches]
        words += len(match[0]) if kind in _LITERAL else len("get") if kind == "read" else 0
        at = match.end()
    literals.append(sentence[at:])
    parts.append(_literally(literals[-1]))
    words += sum(len(literal) - literal.count(" ") for literal in literals)
    return "".join(parts), max(literals, key=len), words


def _literally(text: str) -> str:
    """The regular expression that matches ``text``, in which a space stands for any white space."""
    return re.escape(text).replace(r"\ ", r"\s")


def _causes(cell: str, name: str) -> tuple[tuple[str, ...], str]:
    """The causes in a cell, as plain text, and the handout to read."""
    link = _LINK.search(cell)
    read = ""
    if link is not None:
        read = f"handouts/{name}{link[2]}" if link[2].startswith("#") else f"handouts/{link[2]}"
    cell = _ONLY_A_LINK.sub("", cell)
    plain = _LINK.sub(r"\1", cell).replace("`", "").replace("*", "").replace(r"\|", "|")
    return tuple(cause.strip(" .") for cause in re.split(r"; or,? |\. Or,? ", plain)), read
