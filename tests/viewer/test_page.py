"""Tests of the viewer's Python side: what the page of a trace contains, and how traces that cannot be shown are refused."""

from __future__ import annotations

import json
import re
import webbrowser
from pathlib import Path
from typing import Any

import pytest

from raftlab import cli
from raftlab.explain.causes import FAULTS
from raftlab.explain.failure import Failure, Rule
from raftlab.harness import trace
from raftlab.harness.trace import BadTrace
from raftlab.viewer import page as viewer_page
from tests.conftest import ROOT

FOLDER = ROOT / "labs" / "raftlab" / "viewer"
HEADER = {"trace": 1, "lab": "2A", "test": "made_up", "network": "sim", "seed": 3, "servers": 3, "failure": None}
EVENTS: list[dict[str, Any]] = [
    {"t": 0.0, "e": "boot", "server": 0, "incarnation": 1},
    {"t": 0.5, "e": "send", "server": 0, "to": 1, "id": 1, "method": "request_vote", "message": {"term": 1}},
    {"t": 0.6, "e": "arrive", "server": 1, "from": 0, "id": 1, "method": "request_vote"},
    {"t": 0.7, "e": "note", "text": "the test's step"},
]


def write(path: Path, events: list[dict[str, Any]] | None = None, **header: Any) -> Path:
    lines = [{**HEADER, **header}, *(EVENTS if events is None else events)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def data_of(page: bytes) -> dict[str, Any]:
    """The data about the trace that is embedded in the page."""
    (found,) = re.findall(rb'<script type="application/json" id="trace">(.*?)</script>', page, re.DOTALL)
    data: dict[str, Any] = json.loads(found)
    return data


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write(tmp_path / "run.jsonl")


# --- the page ---


def test_the_page_contains_the_whole_trace(run: Path) -> None:
    data = data_of(viewer_page.page(run))
    assert data["events"] == EVENTS
    assert data["header"]["test"] == "made_up"
    assert (data["notices"], data["first"], data["ends"], data["failure"]) == ([], 1, True, None)


def test_the_page_loads_nothing_from_elsewhere(run: Path) -> None:
    page = viewer_page.page(run).decode()
    assert not re.search(r"""\b(?:src|href)\s*=|https?:|@import|url\(|^\s*(?:import|export) """, page, re.MULTILINE)
    assert "<!-- " not in page
    assert "default-src 'none'" in page
    assert "unsafe" not in page


def test_student_text_cannot_break_out_of_the_page(tmp_path: Path) -> None:
    bad = "</script><img src=x onerror=alert(1)><!-- style --><!-- script -->"
    events = [{"t": 0.1, "e": "line", "server": 0, "topic": bad, "text": bad}]
    page = viewer_page.page(write(tmp_path / "run.jsonl", events, test=bad, failure=bad))
    assert page.count(b"<img") == 0
    assert page.count(b"</script>") == 2
    data = data_of(page)
    assert data["events"][0]["text"] == data["header"]["test"] == data["failure"]["text"] == bad


def test_each_script_imports_only_from_earlier_scripts() -> None:
    exported: dict[str, set[str]] = {}
    for name in viewer_page.SCRIPTS:
        text = (FOLDER / name).read_text()
        for names, source in re.findall(r"^import \{(.*?)\} from \"\./(.*?)\";$", text, re.MULTILINE):
            assert source in exported, f"{name} imports from {source}, which comes after it"
            assert {word.strip() for word in names.split(",")} <= exported[source]
        exported[name] = set(re.findall(r"^export (?:const|function|class) (\w+)", text, re.MULTILINE))
    assert set(viewer_page.SCRIPTS) == {path.name for path in FOLDER.glob("*.js")}


@pytest.mark.parametrize(
    "path", [path for path in sorted(FOLDER.iterdir()) if path.is_file()], ids=lambda path: path.name
)
def test_files_are_short_and_say_what_they_are(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 510
    if path.suffix in (".js", ".css"):
        assert text.startswith(("// The ", "/* The "))


def test_the_wheel_takes_the_whole_folder() -> None:
    """The build tool, hatchling, includes all files of a package that git does not ignore, so pyproject.toml need not list
    them."""
    assert 'packages = ["labs/raftlab", "grader/raftgrade"]' in (ROOT / "pyproject.toml").read_text()
    ignored = (ROOT / ".gitignore").read_text().split()
    assert not [
        path.name
        for path in FOLDER.iterdir()
        if path.suffix in (".js", ".css", ".html") and f"*{path.suffix}" in ignored
    ]


# --- failures ---

RULE = Rule("a made-up rule", "a server votes once", "§5.2", "handouts/lab-2a-details.md#who-gets-my-vote")


@pytest.mark.parametrize(
    ("header", "shown"),
    [
        (None, None),
        ("", None),
        ("expected a, saw b", {"kind": "", "text": "expected a, saw b", "rows": [], "events": [], "detail": ""}),
        (
            {"kind": "deadlock", "text": "S0: deadlock", "where": "raft.py:3", "detail": "who waits", "new": 1},
            {
                "kind": "deadlock",
                "text": "S0: deadlock",
                "rows": [
                    ["at", "raft.py:3"],
                    ["read", "handouts/debugging.md#named-faults (deadlock)"],
                    ["hint", FAULTS["deadlock"]],
                ],
                "events": [],
                "detail": "who waits",
            },
        ),
        (
            {"kind": "invariant", "text": "two votes", "rule": {f: getattr(RULE, f) for f in RULE.__struct_fields__}},
            {
                "kind": "invariant",
                "text": "two votes",
                "rows": [["rule", "a made-up rule: a server votes once (§5.2)"], ["read", RULE.handout]],
                "events": [],
                "detail": "",
            },
        ),
        ({"text": "odd"}, {"kind": "", "text": "odd", "rows": [], "events": [], "detail": ""}),
        (7, {"kind": "", "text": "7", "rows": [], "events": [], "detail": ""}),
    ],
)
def test_the_failure_in_the_header_is_explained(header: object, shown: object) -> None:
    assert viewer_page.explained(header) == shown


def test_a_failure_has_the_same_words_as_on_the_terminal() -> None:
    failure = Failure("exception", "it broke", RULE, "raft.py:7", events=["  1.0 x"], detail="traceback")
    told = viewer_page.explained(json.loads(viewer_page._json(failure)))
    assert told is not None
    assert [name for name, _ in told["rows"]] == ["at", "rule", "read", "hint"]
    assert (told["events"], told["detail"]) == (["  1.0 x"], "traceback")


# --- parts, and traces that are cut off ---


def test_a_part_has_a_notice_and_the_earlier_events_it_needs(run: Path) -> None:
    data = data_of(viewer_page.page(run, since=0.55))
    assert data["events"] == EVENTS[2:]
    assert data["first"] == 3
    assert data["before"] == [EVENTS[1], EVENTS[0], EVENTS[1]]
    assert data["notices"] == [
        "this is only the part from 0.600 to 0.700 s: the servers' earlier state is known only in part"
    ]
    assert data["ends"]
    data = data_of(viewer_page.page(run, until=0.5))
    assert data["events"] == EVENTS[:2]
    assert not data["ends"]


def test_a_truncated_trace_is_shown_up_to_its_end(run: Path) -> None:
    run.write_bytes(run.read_bytes()[:-12])
    data = data_of(viewer_page.page(run))
    assert data["events"] == EVENTS[:-1]
    assert data["notices"] == ["this trace is cut off after line 4: later events are missing"]
    assert not data["ends"]


# --- refusals: one sentence, exit code 2 ---


def said(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.main(["view", *arguments, "--no-open"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "run.jsonl is empty: a trace has at least a header"),
        ("hello\n", "run.jsonl: line 1 is not JSON: the file is truncated or is not a trace"),
        ("[1]\n", "run.jsonl is not a raftlab trace"),
        ('{"trace":9}\n', "run.jsonl is a trace of version 9; this raftlab reads 1"),
        ('{"trace":1}\n', "run.jsonl is not a raftlab trace: its header does not say how many servers there were"),
        ('{"trace":1,"servers":1}\n{"a":1}\n', "run.jsonl: line 2 is not an event"),
        ('{"trace":1,"servers":1}\n{"t":1e300,"e":"crash","server":0}\n', "run.jsonl: line 2 is not an event"),
        ('{"trace":1,"servers":1}\n7\n', "run.jsonl: line 2 is not an event"),
        (
            '{"trace":1,"servers":1}\n{"t":1,"e":"crash"}\n',
            "run.jsonl: line 2: a crash event without a valid 'server'",
        ),
        ('{"trace":1,"servers":1}\n{"t":1,"e":"crash","server":1}\n', "run.jsonl: line 2: there is no server 1"),
    ],
)
def test_files_that_are_not_traces_are_refused(
    text: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run.jsonl").write_text(text)
    assert said(["run.jsonl"], capsys) == f"raftlab: {says}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["run.jsonl"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("none.jsonl", "none.jsonl does not exist"),
        (
            "initial_election@7",
            "view shows a trace file, not a run; to make the file: raftlab replay initial_election@7 --out run.jsonl",
        ),
        ("run.jsonl --out run.jsonl", "run.jsonl is the trace itself: give --out another file"),
        ("run.jsonl --since 2 --until 1", "--since 2 is later than --until 1"),
        ("run.jsonl --since 2", "run.jsonl has nothing after 2 s: the run ends at 0.700 s"),
        (
            "run.jsonl --since 0.2 --until 0.3",
            "run.jsonl has nothing between 0.2 and 0.3 s: the run goes on until later",
        ),
        (".", ". is a folder; expected one of its trace files, whose names end in .jsonl"),
    ],
)
def test_arguments_that_are_refused(
    arguments: str, says: str, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(run.parent)
    assert said(arguments.split(), capsys) == f"raftlab: {says}\n"


def test_traces_that_are_too_large_are_refused(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(run.parent)
    part = "look at a part: raftlab view run.jsonl --since 0 --until 10"
    monkeypatch.setattr(viewer_page, "MOST_EVENTS", 3)
    assert said(["run.jsonl"], capsys) == (
        f"raftlab: run.jsonl is too large for a page: expected at most 3 events, it has more; {part}\n"
    )
    assert cli.main(["view", "run.jsonl", "--no-open", "--since", "0.55"]) == 0
    capsys.readouterr()
    with run.open("ab") as file:
        file.truncate(100_000_000)  # makes the file sparse; raftlab refuses it before reading it
    assert said(["run.jsonl"], capsys) == (
        f"raftlab: run.jsonl is too large for a page: expected at most 64 MB, it has 100 MB; {part}\n"
    )
    assert cli.main(["view", "run.jsonl", "--no-open", "--until", "0.55"]) == 0


def test_a_part_that_is_too_large_is_refused(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewer_page, "MOST_BYTES", 150)
    with pytest.raises(viewer_page.CannotShow):
        viewer_page.page(run, since=0.1)


# --- the command ---


def test_the_page_is_written_beside_the_trace_and_opened(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda where: not opened.append(where))
    monkeypatch.setenv("DISPLAY", ":7")
    monkeypatch.chdir(run.parent)
    assert cli.main(["view", "run.jsonl"]) == 0
    assert capsys.readouterr().out == "the picture is in run.html\n"
    assert opened == [(run.parent / "run.html").as_uri()]
    assert cli.main(["view", "run.jsonl", "--out", "new/page.html", "--no-open"]) == 0
    assert capsys.readouterr().out == "the picture is in new/page.html\n"
    assert Path("new/page.html").read_bytes() == Path("run.html").read_bytes()
    assert sorted(path.name for path in run.parent.rglob("*")) == ["new", "page.html", "run.html", "run.jsonl"]


def test_without_a_screen_the_pages_path_is_printed(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(webbrowser, "open", lambda where: pytest.fail("a browser in the terminal shows no picture"))
    monkeypatch.setattr("sys.platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "WSL_DISTRO_NAME", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(run.parent)
    assert cli.main(["view", "run.jsonl"]) == 0
    assert capsys.readouterr().out == (
        "the picture is in run.html\nfound no browser to open it in: open that file yourself\n"
    )


def test_the_viewer_knows_the_type_of_every_field_of_a_trace() -> None:
    fields = {name for names in trace.FIELDS.values() for name in names}
    assert set(viewer_page._TYPES) == fields - {"message"}


def test_a_bad_event_is_an_error_of_the_trace() -> None:
    assert issubclass(viewer_page.BadEvent, BadTrace)
