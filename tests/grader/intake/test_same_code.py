"""Tests that copies among submissions are found, whatever their names and comments, and that programs that were written
independently are not taken for copies."""

from __future__ import annotations

import csv
import io
import json
import re
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from raftgrade import code_hash
from raftgrade.cli import main
from raftgrade.intake import same_code
from raftgrade.reports import gradebook, html, table
from raftgrade.reports.student_view import only
from raftgrade.results import CodePlace, Report, SameCode
from raftlab.submission import starts
from tests.conftest import ROOT, SOLUTION
from tests.grader.fakes import tools
from tests.grader.reports.test_formats import NASTY, made

LAZY = ROOT / "tests" / "correct" / "whole_lazy" / "raft.py"
BATCHING = ROOT / "tests" / "correct" / "whole_batching"


def hand_in(folder: Path, submissions: dict[str, dict[str, str]]) -> dict[str, str]:
    paths = {}
    for name, files in submissions.items():
        (folder / name).mkdir()
        for file, text in files.items():
            (folder / name / file).write_text(text)
        paths[name] = str(folder / name)
    return paths


def found(folder: Path, submissions: dict[str, dict[str, str]]) -> set[tuple[str, bool, tuple[str, ...]]]:
    """For each group of copies: the origin, whether names were changed, and the submissions."""
    groups = same_code.find(hand_in(folder, submissions))
    return {(group.origin, group.renamed, tuple(place.submission for place in group.places)) for group in groups}


def without_comments(text: str) -> str:
    return re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE)


def with_other_format(text: str) -> str:
    return re.sub(r"\bself\.lock\b", "(self\n  .lock)", text).replace("\n\n", "\n\n\n# a comment\n")


def with_other_docstrings(text: str) -> str:
    text = re.sub(r'^( +)"""[^"]*"""\n', r"\1'mine'\n\1pass\n", text, flags=re.MULTILINE)
    assert "'mine'" in text
    return text


def with_other_names(text: str) -> str:
    for name in ("lock", "role", "commit_index"):
        assert re.search(rf"\b{name}\b", text)
        text = re.sub(rf"\b{name}\b", f"my_{name}", text)
    return text


def with_other_texts(text: str) -> str:
    assert '"follower"' in text
    return text.replace('"follower"', '"FOLLOWER"')


def with_more_code(text: str) -> str:
    return f"import sys\n\nmore = 1\n\n{text}\n\ndef helper():\n    return sys.argv\n"


@pytest.mark.parametrize(
    ("disguise", "renamed"),
    [
        (str, False),
        (without_comments, False),
        (with_other_format, False),
        (with_other_docstrings, False),
        (with_more_code, False),
        (with_other_names, True),
        (with_other_texts, True),
    ],
)
def test_a_copy_is_found(disguise: Callable[[str], str], renamed: bool, tmp_path: Path) -> None:
    text = LAZY.read_text()
    groups = found(tmp_path, {"ada": {"raft.py": text}, "bob": {"raft.py": disguise(text)}})
    assert ("", renamed, ("ada", "bob")) in groups
    assert {submissions for _, _, submissions in groups} == {("ada", "bob")}


def test_a_copy_in_other_files_is_found(tmp_path: Path) -> None:
    text = LAZY.read_text()
    moved = {"raft.py": "from core import Raft\n", "core.py": with_other_names(text)}
    (group,) = [
        group
        for group in same_code.find(hand_in(tmp_path, {"ada": {"raft.py": text}, "bob": moved}))
        if group.places[0].name == "class Raft"
    ]
    assert group.places == [CodePlace("ada", "raft.py", "class Raft"), CodePlace("bob", "core.py", "class Raft")]


def test_programs_written_independently_are_not_the_same(tmp_path: Path) -> None:
    """The programs are our own correct Rafts, which were written independently but share the messages of the skeleton."""
    folders = sorted((ROOT / "tests" / "correct").iterdir())
    submissions = {
        folder.name: {file.name: file.read_text() for file in folder.glob("*.py")}
        for folder in folders
        if (folder / "raft.py").is_file()
    }
    assert len(submissions) > 10
    assert found(tmp_path, submissions) == set()


def test_two_beginners_who_changed_one_line_are_not_the_same(tmp_path: Path) -> None:
    skeleton = starts.files()
    assert "return False" in skeleton["raft.py"] or "False)" in skeleton["raft.py"]
    changed = {**skeleton, "raft.py": skeleton["raft.py"].replace("False", "True")}
    start = starts.files("2E")["raft.py"]
    later = start.replace("args.term < self", "args.term <= self", 1)
    assert later != start
    assert (
        found(tmp_path, {"ada": changed, "bob": changed, "cy": {"raft.py": later}, "dan": {"raft.py": later}}) == set()
    )


def test_what_raftlab_hands_out_is_recognised(tmp_path: Path) -> None:
    skeleton, start = starts.files(), starts.files("2C")["raft.py"]
    own = LAZY.read_text()
    submissions = {
        "ada": skeleton,
        "bob": {"raft.py": start},
        "cy": {"raft.py": with_other_names(start)},
        "dan": {**skeleton, "raft.py": own},  # has not begun with kv.py, like everyone in lab 2
        "eve": {"raft.py": SOLUTION.read_text()},
        "fay": {"raft.py": "class Raft: pass\n" + "# padding\n" * 200},
    }
    groups = {
        (origin.partition(", which is the start of lab ")[0], renamed, names)
        for origin, renamed, names in found(tmp_path, submissions)
    }
    assert groups == {
        ("the unchanged skeleton", False, ("ada",)),
        ("the start of lab 2C", True, ("bob", "cy")),
        ("the reference solution", False, ("eve",)),
    }


def test_the_reference_service_is_recognised(tmp_path: Path) -> None:
    kv = (ROOT / "solutions" / "kv.py").read_text()
    groups = found(tmp_path, {"ada": {"raft.py": LAZY.read_text(), "kv.py": kv}})
    assert groups == {("the reference solution", False, ("ada",))}


def test_a_kit_knows_its_skeleton_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kit = tmp_path / "kit"
    (kit / "skeleton").mkdir(parents=True)
    for name, text in starts.files().items():
        (kit / "skeleton" / name).write_text(text)
    submissions = {"ada": starts.files(), "bob": {"raft.py": SOLUTION.read_text()}}
    monkeypatch.setattr(starts, "_ROOTS", (kit,))
    assert found(tmp_path, submissions) == {("the unchanged skeleton", False, ("ada",))}


@pytest.mark.slow
@pytest.mark.parametrize(
    "hostile",
    [
        "(" * 100_000,
        "-" * 500_000 + "1",
        "x = 1; " * 140_000,
        "a" + ".a" * 400_000,
        "def f(:\n",
        "\x00",
        "[" * 90 + "1," * 400_000,
    ],
    ids=["brackets", "signs", "statements", "attributes", "syntax", "null byte", "numbers"],
)
def test_a_hostile_file_hides_no_other(hostile: str, tmp_path: Path) -> None:
    text = LAZY.read_text()
    submissions = {"ada": {"raft.py": text}, "bad": {"raft.py": hostile + "\n" * 1000}, "bob": {"raft.py": text}}
    assert ("", False, ("ada", "bob")) in found(tmp_path, submissions)


def test_files_that_end_the_process_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killer = tmp_path / "killer.py"
    main_program = Path(code_hash.__file__).read_text()
    killer.write_text(
        main_program.replace("found = statements(", 'if "bad" in line: os._exit(1)\n            found = statements(', 1)
    )
    killer.write_text(killer.read_text().replace("import json\n", "import json\nimport os\n", 1))
    monkeypatch.setattr(code_hash, "__file__", str(killer))
    text = LAZY.read_text()
    names = ("bad", "ada", "bad2", "bad3", "bob", "bad4")
    groups = found(tmp_path, {name: {"raft.py": text} for name in names})
    assert {submissions for _, _, submissions in groups} == {("ada", "bob")}


def test_a_submission_whose_files_take_long_is_compared_as_far_as_time_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(same_code, "SUBMISSION_S", 1e-9)  # one file of each submission
    own, larger = LAZY.read_text(), SOLUTION.read_text() + "# more\n" * 10_000
    files = {"raft.py": own, "a_large_one.py": larger}
    groups = same_code.find(hand_in(tmp_path, {"ada": files, "bob": files}))
    assert {place.file for group in groups for place in group.places} == {"raft.py"}
    assert {place.submission for group in groups for place in group.places} == {"ada", "bob"}


def test_a_file_with_many_statements_has_a_short_description() -> None:
    numbers = range(2 * code_hash.MOST_SHORT)
    same = "a = b\n" * len(numbers)
    different = "".join(f"{number}\n" for number in numbers)
    text = f"{same}{different}class Long:\n{textwrap.indent(same, '    ')}"
    everything = code_hash.statements(text)
    kept = code_hash.without_repetitions(everything)
    assert [each.shape for each in kept[:2]] == [each.shape for each in (everything[0], everything[len(numbers)])]
    assert len(kept) == code_hash.MOST_SHORT + 1  # the long class does not count
    (part,) = kept[-1].parts
    assert part == (sum(nodes for nodes, _ in everything[-1].parts), everything[0].shape)


def test_statements_that_do_different_things_have_different_hashes() -> None:
    def hashes(text: str) -> tuple[str, str]:
        (found,) = code_hash.statements(text)
        return found.code, found.shape

    base = "def f(a, b):\n    return a + b.c(1)\n"
    for other in (
        "return a - b.c(1)",
        "return a + b.c(2)",
        "return a + a.c(1)",
        "return b + a.c(1)",
        "return a + b.b(1)",
    ):
        different = hashes(base.replace("return a + b.c(1)", other))
        assert different[0] != hashes(base)[0]
        assert different[1] != hashes(base)[1], other
    renamed = hashes("def g(x: int, y: Y) -> 'z':\n    'Does it.'\n    return x + y.d(1)\n")
    assert (renamed[0] != hashes(base)[0], renamed[1]) == (True, hashes(base)[1])


# --- reports ---


def with_copies() -> Report:
    report = made()
    report.submissions[1].name = NASTY
    report.same_code = [
        SameCode(places=[CodePlace("carol", "raft.py")], origin="the unchanged skeleton"),
        SameCode(
            places=[CodePlace("alice", "raft.py", "class Raft"), CodePlace(NASTY, "core.py", "class Core")],
            renamed=True,
        ),
    ]
    return report


def test_the_table_and_the_class_report_say_who_has_the_same_code() -> None:
    text = table.render(with_copies())
    assert "Same code (apart from comments, docstrings and formatting)\n  carol = the unchanged skeleton\n" in text
    assert "\n  class Raft in alice/raft.py, <b>&" in text
    page = html.render(with_copies())
    assert "<h2>Same code (apart from comments, docstrings and formatting)</h2>" in page
    assert "<li>carol = the unchanged skeleton</li>" in page
    assert "class Raft in alice/raft.py, &lt;b&gt;&amp;" in page
    for rendered in (table.render(made()), html.render(made())):
        assert "Same code" not in rendered


def test_the_marks_as_csv_say_who_has_the_same_code() -> None:
    rows = list(csv.DictReader(io.StringIO(gradebook.plain(with_copies()))))
    cells = [row["same_code_as"] for row in rows]
    assert cells[1:] == ["alice", "the unchanged skeleton", ""]
    assert cells[0].startswith("<b>&")
    many = made()
    many.same_code = [SameCode(places=[CodePlace(name, "raft.py", "class Raft") for name in ("alice", *"12345678")])]
    assert next(csv.DictReader(io.StringIO(gradebook.plain(many))))["same_code_as"] == "1; 2; 3; 4; 5; and 3 more"


def test_students_do_not_see_who_has_the_same_code() -> None:
    report = with_copies()
    assert only(report, "alice").same_code == []
    assert "Same code" not in html.render(only(report, "alice"), alone=True)


def test_raftgrade_run_looks_for_copies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "class").mkdir()
    hand_in(tmp_path / "class", {name: {"raft.py": LAZY.read_text()} for name in ("ada", "bob")})
    main(["run", "class", "--network", "sim", "--runs", "1"], tools())
    assert "\n  class Raft in ada/raft.py, bob/raft.py\n" in capsys.readouterr().out
    report = json.loads(Path("raftgrade-out/report.json").read_text())
    places = [{"submission": name, "file": "raft.py", "name": "class Raft"} for name in ("ada", "bob")]
    assert {"places": places, "renamed": False, "origin": ""} in report["same_code"]
    main(["report", "raftgrade-out"], tools())
    assert "\n  class Raft in ada/raft.py, bob/raft.py\n" in capsys.readouterr().out
