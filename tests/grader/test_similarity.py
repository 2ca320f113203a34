"""Tests of `raftgrade similarity`: what it passes to compare50, and where compare50's report goes."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import pytest

from raftgrade import similarity
from raftgrade.cli import main
from raftlab.submission import starts
from tests.conftest import ROOT, SOLUTION
from tests.grader.fakes import tools

# A fake compare50. It writes its arguments, and the files that they name, to index.html, and fails in the way that the
# first submission asks for.
FAKE = """
import json, os, pathlib, sys
arguments = sys.argv[1:]
files = {str(path): path.read_text() for path in sorted(pathlib.Path().rglob("*.py"))}
text = next(text for name, text in files.items() if name.startswith("class/"))
if "fail" in text:
    print("Preparing")
    sys.exit("At least two non-empty submissions are required for a comparison.")
if "nothing" not in text:
    pathlib.Path("report").mkdir()
    seed = os.environ["PYTHONHASHSEED"]
    pathlib.Path("report", "index.html").write_text(json.dumps({"arguments": arguments, "files": files, "seed": seed}))
"""


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fake.py").write_text(FAKE)
    monkeypatch.setattr(similarity, "command", lambda: [sys.executable, str(tmp_path / "fake.py")])


def hand_in(folder: str, **texts: str) -> None:
    for name, text in texts.items():
        Path(folder, name).mkdir(parents=True)
        Path(folder, name, "raft.py").write_text(text)


@pytest.mark.usefixtures("fake")
def test_compare50_gets_the_submissions_without_the_skeleton(capsys: pytest.CaptureFixture[str]) -> None:
    hand_in("class", ada="a = 1\n", bob="b = 1\n")
    Path("class/ada/core").mkdir()
    for name in ("core/__init__.py", "core/log.py", "notes.txt", "test_mine.py"):
        Path("class/ada", name).write_text("x = 1\n")
    hand_in("class", eve="e = 1\n")
    Path("class/eve/link").symlink_to("/etc/passwd")
    hand_in("2025", ada="old = 1\n")
    assert main(["similarity", "class", "--archive", "2025", "--starts", "2A,2C", "--pairs", "7"], tools()) == 0
    assert capsys.readouterr().err.splitlines() == [
        "raftgrade: left out eve: link is a link: hand in the file itself",
        "raftgrade: compared 2 submissions; the report is in raftgrade-similarity/index.html",
    ]
    written = json.loads(Path("raftgrade-similarity/index.html").read_text())
    python_files = [path.name for path in sorted((ROOT / "skeleton").glob("*.py"))]
    assert written["files"] == {
        "class/ada/core/__init__.py": "x = 1\n",
        "class/ada/core/log.py": "x = 1\n",
        "class/ada/raft.py": "a = 1\n",
        "class/bob/raft.py": "b = 1\n",
        "earlier/ada/raft.py": "old = 1\n",
        **{f"handed-out/2C/{name}": text for name, text in starts.files("2C").items()},
        **{f"handed-out/skeleton/{name}": text for name, text in starts.files().items()},
        **{f"ours/reference/{name}": SOLUTION.with_name(name).read_text() for name in python_files},
    }
    assert " ".join(written["arguments"]) == (
        "class/ada class/bob -d handed-out/2C handed-out/skeleton -o report -n 7 -a ours/reference earlier/ada"
    )
    assert written["seed"] == "50"


@pytest.mark.usefixtures("fake")
def test_the_folder_of_a_report_names_its_submissions() -> None:
    hand_in("grades/submissions", ada="a = 1\n", bob="b = 1\n")
    Path("grades/report.json").write_text("{}")
    assert main(["similarity", "grades", "--out", "similar"], tools()) == 0
    assert "class/bob/raft.py" in json.loads(Path("similar/index.html").read_text())["files"]


@pytest.mark.usefixtures("fake")
def test_only_an_earlier_report_is_replaced(capsys: pytest.CaptureFixture[str]) -> None:
    hand_in("class", ada="a = 1\n", bob="b = 1\n")
    out = Path("raftgrade-similarity")
    out.mkdir()
    (out / "match_3.html").touch()
    assert main(["similarity", "class"], tools()) == 0
    assert [path.name for path in out.iterdir()] == ["index.html"]
    (out / "thesis.tex").touch()
    before = (out / "index.html").read_text()
    capsys.readouterr()
    assert main(["similarity", "class"], tools()) == 2
    expected = "raftgrade-similarity holds other files; nothing was changed: choose another folder with --out"
    assert capsys.readouterr().err == f"raftgrade: {expected}\n"
    assert (out / "index.html").read_text() == before
    assert main(["similarity", "class", "--out", "class/ada/raft.py"], tools()) == 2
    assert capsys.readouterr().err == "raftgrade: class/ada/raft.py is a file; choose another folder with --out\n"


@pytest.mark.usefixtures("fake")
def test_errors_are_reported(capsys: pytest.CaptureFixture[str]) -> None:
    hand_in("class", ada="fail = 1\n")
    assert main(["similarity", "class"], tools()) == 2
    expected = "compare50 failed: At least two non-empty submissions are required for a comparison."
    assert capsys.readouterr().err == f"raftgrade: {expected}\n"
    Path("class/ada/raft.py").write_text("nothing = 1\n")
    assert main(["similarity", "class"], tools()) == 2
    assert capsys.readouterr().err == "raftgrade: compare50 found nothing similar, so there is no report\n"
    assert not Path("raftgrade-similarity").exists()


def test_without_compare50_the_error_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(similarity.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    hand_in("class", ada="a = 1\n")
    assert main(["similarity", "class"], tools()) == 2
    assert capsys.readouterr().err == (
        "raftgrade: compare50 is not installed: pip install 'raftlab[similarity]', or install it anywhere on your PATH, for "
        "example with pipx install compare50\n"
    )
    # compare50's script would run the first python3 on the PATH, which need not have compare50.
    installed = tmp_path / "env" / "compare50"
    for file in (installed, installed.with_name("python3")):
        file.parent.mkdir(exist_ok=True)
        file.touch(0o755)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "compare50").symlink_to(installed)
    assert similarity.command() == [str(installed.with_name("python3")), "-m", "compare50"]
    installed.with_name("python3").unlink()
    assert similarity.command() == [str(tmp_path / "bin" / "compare50")]


@pytest.mark.slow
def test_the_real_compare50_finds_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        similarity.command()
    except similarity.CannotCompare as exc:
        pytest.skip(str(exc))
    correct = ROOT / "tests" / "correct"
    lazy = (correct / "polling" / "raft.py").read_text()
    half = lazy.replace("self.lock", "self.mutex").replace("timeout", "patience")
    hand_in("class", ada=lazy, bob=half, cy=(correct / "timers" / "raft.py").read_text(), dan=starts.files()["raft.py"])
    assert main(["similarity", "class", "--pairs", "3"], tools()) == 0
    index = Path("raftgrade-similarity/index.html").read_text()
    (graph,) = re.findall(r"var GRAPH = (.*);\n", index)
    links = json.loads(graph)["links"]
    best = max(links, key=lambda link: float(link["value"]))
    assert {best["source"], best["target"]} == {"class/ada", "class/bob"}
    assert "class/dan" not in graph  # dan's code is only the skeleton's
    assert Path("raftgrade-similarity/match_1.html").is_file()
    shutil.rmtree("raftgrade-similarity")
