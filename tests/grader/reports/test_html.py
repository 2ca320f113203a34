"""Tests of the class report, some of them in a real browser: what it shows, that no student's code runs in it, and that it
loads nothing."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import pytest

from raftgrade.cli import main
from raftgrade.reports import charts, html, items, table
from raftgrade.reports.student_view import only
from raftgrade.results import Report
from raftlab.explain.failure import Failure
from tests.grader.reports.test_formats import HIDDEN, RULE, made, report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ATTACK = "<img src=x onerror=alert(1)>\"'</script><script>alert(2)</script>"
TRACE = [
    {"trace": 1, "servers": 1, "lab": "2A", "test": "first", "network": "sim", "seed": 0, "failure": None},
    {"t": 0.0, "e": "boot", "server": 0, "incarnation": 1},
]


def attacked(hidden: bool = False) -> Report:
    """The class that the other tests use, with HTML and scripts in every text that a student may have chosen."""
    of = made("[labs.2B]\nneeds = ['2A']", hidden=hidden)
    bob = of.submissions[1]
    bob.name = bob.path = ATTACK
    bob.tests[0].advice = [ATTACK]
    for network in bob.tests[0].networks:
        for bad in network.bad:
            failure = bad.failure
            failure.text = failure.where = failure.hint = failure.detail = ATTACK
            failure.events = [ATTACK]
            bad.replay = ATTACK
    of.submissions[2].problems[0] = of.submissions[2].problems[0].__class__(ATTACK, ATTACK, ATTACK)
    return of


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a report, a trace, and the page that is made from the two."""
    place = tmp_path_factory.mktemp("class")
    out = report(place, attacked(hidden=True))
    traces = out / "traces" / "bob"
    traces.mkdir(parents=True)
    (traces / "t-0.jsonl").write_text("".join(json.dumps(line) + "\n" for line in TRACE))
    assert main(["report", str(out), "--format", "html", "-o", str(place / "class.html")]) == 0
    return place


class _Attributes(HTMLParser):
    """The names of all attributes on a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names |= {name for name, _ in attrs}


def test_the_page_needs_no_other_file_and_runs_no_foreign_script(folder: Path) -> None:
    text = (folder / "class.html").read_text(encoding="utf-8")
    assert "default-src 'none'" in text
    assert "<img" not in text
    assert "alert(2)</script>" not in text
    assert not re.search(r"https?://", text)
    assert not [name for name in _Attributes(text).names if name in ("src", "style") or name.startswith("on")]
    assert re.findall(r'href="([^"#][^"]*)"', text) == ["class-pictures/bob/t-0.html"]
    assert (folder / "class-pictures" / "bob" / "t-0.html").is_file()


def test_a_students_page_shows_no_other_student_and_no_hidden_seed(folder: Path) -> None:
    target = folder / "own" / "bob.html"
    target.parent.mkdir(exist_ok=True)
    assert main(["report", str(folder / "out"), "--format", "html", "--student", "bob", "-o", str(target)]) == 0
    text = target.read_text(encoding="utf-8")
    assert "alice" not in text
    assert "hidden seeds" in text
    assert not any(str(seed) in text for seed in range(*HIDDEN))
    whole = (folder / "class.html").read_text(encoding="utf-8")
    assert str(HIDDEN[0]) in whole  # the instructor sees the hidden seeds
    assert "class/" not in html.render(only(made(), "bob"), alone=True)


def test_a_report_on_standard_output_has_no_pictures(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(folder / "out"), "--format", "html"]) == 0
    assert "class-pictures" not in capsys.readouterr().out


def test_a_run_with_a_damaged_trace_has_no_picture(tmp_path: Path) -> None:
    out = report(tmp_path, made())
    (out / "traces" / "bob").mkdir(parents=True)
    (out / "traces" / "bob" / "t-0.jsonl").write_text("not a trace\n")
    assert html.pictures(made(), out, tmp_path / "class.html") == {}


def test_the_report_lists_what_to_teach_again() -> None:
    (lesson,) = charts.teach_again(made())
    assert lesson.rule is not None
    assert (lesson.rule.name, lesson.read, lesson.runs) == ("one vote a term", lesson.rule.handout, 3)
    assert ([each.name for each in lesson.submissions], [test.name for test in lesson.tests]) == (["bob"], ["first"])
    page = html.render(made())
    assert "<h3>one vote a term</h3>" in page
    assert "read: <code>handouts/lab-2a-details.md#who-gets-my-vote</code>" in page
    assert '<a href="#s-bob">bob</a>' in page
    assert "1 submission<br>" in page
    assert "3 runs" in page
    fault = made()
    for bad in fault.submissions[1].tests[0].networks[0].bad:
        bad.sort, bad.failure = "deadlock", Failure("deadlock", "two threads wait for each other")
    assert [(lesson.text, lesson.read) for lesson in charts.teach_again(fault)] == [
        ("a deadlock", "handouts/debugging.md#named-faults"),
        ("one vote a term", RULE.handout),
    ]
    empty = made()
    empty.submissions = empty.submissions[:1]
    assert charts.teach_again(empty) == []
    assert "Nothing: no run failed." in html.render(empty)


def test_a_cell_says_what_its_colour_says() -> None:
    of = made("[labs.2B]\nneeds = ['2A']")
    alice, bob, carol, dave = of.submissions
    assert charts.cell(alice, alice.tests[0]) == ("c10", "3 of 3 runs passed", "✓")
    assert charts.cell(bob, bob.tests[0]) == ("c0", "0 of 3 runs passed", "×")
    assert charts.cell(bob, bob.tests[2])[::2] == ("skip", "–")
    assert charts.cell(carol, carol.tests[0]) == ("skip", "refused", "–")
    assert charts.cell(dave, dave.tests[1])[::2] == ("open", "?")
    network = alice.tests[1].networks[0]
    network.passes, network.failures = 199, 1
    # 99.5 % is not rounded to 100, which would mean that every run passed.
    assert charts.cell(alice, alice.tests[1])[::2] == ("c9", "99")
    network.passes, network.failures = 1, 999
    assert charts.cell(alice, alice.tests[1])[::2] == ("c1", "1")


def with_points(points: list[list[float]]) -> Report:
    """A class in which the submissions earn these points in the first and the second test."""
    of = made()
    first = of.submissions[0]
    of.submissions = [msgspec.json.decode(msgspec.json.encode(first), type=type(first)) for _ in points]
    for submission, earned in zip(of.submissions, points, strict=True):
        for test, value in zip(submission.tests, earned, strict=False):
            test.points = value
        for test in submission.tests[len(earned) :]:
            test.points = 0
    return of


def test_how_difficult_a_test_is_and_how_well_it_discriminates() -> None:
    first, second = (test.max_points for test in made().submissions[0].tests[:2])
    good, bad = [first, second], [0.0, 0.0]
    easy, hard, *_ = items.items(with_points([good, good, good, [first, 0.0], bad, bad]))
    assert (easy.judged, easy.share, hard.share) == (6, pytest.approx(4 / 6), 0.5)
    assert easy.discrimination == hard.discrimination == pytest.approx(0.7071, abs=1e-4)
    assert easy.note == hard.note == ""
    same, other, *_ = items.items(with_points([[first, 0.0]] * 6))
    assert [(each.share, each.discrimination, each.note) for each in (same, other)] == [
        (1.0, None, "everyone passes"),
        (0.0, None, "nobody passes"),
    ]
    reverse, *_ = items.items(with_points([[first, 0.0]] * 3 + [[0.0, second]] * 3))
    assert reverse.discrimination == pytest.approx(-1)
    assert reverse.note == "better submissions fail it more often"
    few, *_ = items.items(with_points([good, good, bad, bad]))
    assert few.discrimination is None
    assert items.items(made())[0].judged == 3  # not the submission that was refused


def test_names_of_tests_are_shown_in_full() -> None:
    of = made()
    name = "a_rather_long_name_of_a_test_in_this_lab"
    for submission in of.submissions:
        submission.tests[0].name = name
    assert f"<span>{name}</span>" in html.render(of)
    assert name in table.render(of)
    for submission in of.submissions:
        submission.tests[0].name = name * 3
    lines = table.render(of).splitlines()
    assert max(len(line) for line in lines if "/10" in line) <= table.WIDTH
    begun = [line.split()[0] for line in lines if line.startswith("a_rather")]
    assert begun
    assert all(word.endswith("_") for word in begun)  # a name is only broken between words


def test_a_page_says_what_was_graded_and_when() -> None:
    of = made()
    of.submissions[0].hash = "0123456789abcdef" * 4
    of.submissions[0].submitted = "2026-11-20 18:00"
    page = html.render(only(of, "alice"), alone=True)
    assert "labs 2A, 2B · each test: 2 runs in sim and 1 run in rpyc" in page
    assert (
        "handed in 2026-11-20 18:00 · graded 2026-11-21 00:00 UTC · raftgrade test · files sha256 0123456789abcdef<"
        in page
    )


# --- in the browser ---


@pytest.fixture(scope="module")
def tab() -> Iterator[Any]:
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed (it is in the dev extra)"
    )
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    with playwright.sync_playwright() as play:
        started = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield started.new_page(viewport={"width": 1366, "height": 768}, offline=True)
        started.close()


def test_the_report_works_in_a_browser(folder: Path, tab: Any) -> None:
    trouble: list[str] = []
    tab.on("pageerror", lambda error: trouble.append(str(error)))
    tab.on("console", lambda message: trouble.append(message.text) if message.type == "error" else None)
    tab.on("dialog", lambda dialog: trouble.append("a dialog"))
    tab.on("request", lambda request: None if request.url.startswith("file:") else trouble.append(request.url))
    page = (folder / "class.html").as_uri()
    tab.goto(page)
    names = (
        "[...document.querySelectorAll('#map .heat tbody tr')].filter(row => !row.hidden).map(row => row.dataset.name)"
    )
    assert tab.evaluate(names) == ["alice", "dave", ATTACK, "carol"]
    tab.select_option("#sort", "name")
    assert tab.evaluate(names) == [ATTACK, "alice", "carol", "dave"]
    tab.fill("#find", "AL")
    assert tab.evaluate(names) == [ATTACK, "alice"]  # the other submission has a script in its name
    tab.fill("#find", "")
    # Only one page shows at a time: first the class, then the student that was clicked, then the class again.
    shown = "[...document.querySelectorAll('main')].filter(e => e.offsetParent !== null).map(e => e.id)"
    assert tab.evaluate(shown) == ["class"]
    tab.click("text=<img src=x")
    assert tab.evaluate(shown) == ["s-bob"]
    assert tab.inner_text("main:target h1") == ATTACK
    assert tab.get_attribute("main:target .picture", "href") == "class-pictures/bob/t-0.html"
    tab.click("main:target .back")
    assert tab.evaluate(shown) == ["class"]
    # In both themes, the page is no wider than the window, and no text has the colour of its background.
    for scheme in ("light", "dark"):
        tab.emulate_media(color_scheme=scheme)
        assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert tab.evaluate(_CONTRAST) == []
    tab.goto("about:blank")
    assert trouble == []


# The cells in which the contrast between sign and background (as WCAG defines it) is below 3 to 1.
_CONTRAST = """() => {
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const light = colour => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3)
      .map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  return [...document.querySelectorAll('.heat tbody td:not(.mark)')].filter(cell => {
    const style = getComputedStyle(cell);
    const [a, b] = [light(style.color), light(style.backgroundColor)].sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05) < 3;
  }).map(cell => cell.className);
}"""
