"""Tests of the examples of output in the handouts: they are up to date, and the text around them fits."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from raftlab import labs
from tests import daily_sample, examples
from tests.handouts.test_handouts import FIRST_PAGES, HANDOUTS, PAGES, text_of
from tests.update import short_diff

# The daily tests check a sample of the examples. CI checks all of them: ``python -m tests.update --check handouts``.
EXAMPLES = [(path, number, found) for path in examples.PAGES for number, found in enumerate(examples.examples(path), 1)]
_FENCE = re.compile(r"^```\w*\n(.*?)^```$", re.M | re.S)
_TIME = re.compile(r"\b\d+\.\d{3}\b")


def marks(place: int, example: re.Match[str]) -> list[pytest.MarkDecorator]:
    """The marks of the test of an example. An example of ``raftlab shrink`` is never in the daily sample, because the search
    makes more than a hundred runs."""
    return [daily_sample.NOT_DAILY] if example["command"].startswith("raftlab shrink ") else daily_sample.marks(place)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "example"),
    [
        pytest.param(path, found, id=f"{path.stem}-{number}", marks=marks(place, found))
        for place, (path, number, found) in enumerate(EXAMPLES)
    ],
)
def test_an_example_is_up_to_date(path: Path, example: re.Match[str]) -> None:
    name = f"handouts/{path.name}"
    difference = short_diff(name, example["shown"], examples.current(example))
    if difference:
        pytest.fail(
            f"{name} is out of date: run python -m tests.update {name}, and read whether the text below the example still "
            f"fits\n{difference}",
            pytrace=False,
        )


def test_every_marker_is_understood() -> None:
    """A marker that ``tests/examples.py`` does not recognise would never be brought up to date."""
    for path in HANDOUTS.glob("*.md"):
        text = path.read_text(encoding="utf-8")
        assert text.count("<!-- example: raftlab ") == len(examples.examples(path)), path.name


@pytest.mark.parametrize("lab", labs.LABS)
def test_a_lab_shows_its_first_run_and_a_failure(lab: str) -> None:
    first = examples.examples(FIRST_PAGES[lab])
    assert [found["fields"].partition(";")[0] for found in first] == [f"new {lab}"]
    failures = examples.examples(PAGES[lab][-1])
    assert any(
        found["fields"].startswith(f"bug {lab}/") and found["shown"].startswith("expected ") for found in failures
    )
    if lab != next(iter(labs.LABS)):
        assert f"raftlab new myraft --from {lab}" in text_of(lab)


@pytest.mark.parametrize("path", examples.PAGES, ids=lambda path: path.stem)
def test_the_text_names_times_that_an_example_shows(path: Path) -> None:
    """If the text below an example names a time, a block of that section shows this time. Tables are not checked."""
    for section in re.split(r"^#+ ", path.read_text(encoding="utf-8"), flags=re.M):
        if "<!-- example: raftlab " not in section:
            continue
        shown = set(_TIME.findall("".join(_FENCE.findall(section))))
        text = re.sub(r"^\|.*$", "", _FENCE.sub("", section), flags=re.M)
        assert set(_TIME.findall(text)) <= shown


def test_parts_of_an_output() -> None:
    lines = ["a", "  b 1", "    c", "  b 2", "d"]
    assert examples.lines_of([], lines) == "a\n  b 1\n    c\n  b 2\nd\n"
    assert examples.lines_of(["/^a/,/^a/", "/b 2/,/^d/"], lines) == "a\n  ...\n  b 2\nd\n"
    assert examples.lines_of(["/b/,/b/", "/c/,/c/"], lines) == "  b 1\n    c\n"
    assert examples.lines_of(["only /b/", "/1/,/2/"], lines) == "  b 1\n  b 2\n"
    with pytest.raises(ValueError, match="no line of the output has /x/ from line 2 on"):
        examples.lines_of(["/a/,/a/", "/x/,/d/"], lines)
