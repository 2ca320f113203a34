"""Tests of the kit for students: what it contains, that it contains nothing of the solutions, and that everything works
after it is installed."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import sysconfig
import venv
from functools import cache
from pathlib import Path

import pytest

from raftgrade import kit
from raftgrade.cli import main
from raftlab import labs
from raftlab.submission import starts
from tests.conftest import ROOT
from tests.grader.fakes import tools

SOLUTIONS = sorted((ROOT / "solutions").glob("*.py"))
SECRET_LINE = 50  # a line of the solutions with this many characters would hardly be written by anybody else


@cache  # the tests do not change it
def files(*start_labs: str, url: str = "", with_grader: bool = False) -> dict[str, bytes]:
    return kit.contents(start_labs, url, with_grader)[0]


def code_lines(text: str) -> set[str]:
    return {line.strip() for line in text.splitlines()}


def test_a_kit_has_what_students_need_and_nothing_else() -> None:
    names = set(files())
    for package_file in (ROOT / "labs" / "raftlab").rglob("*"):
        if package_file.is_file() and "__pycache__" not in package_file.parts:
            names.remove(f"raftlab/{package_file.relative_to(ROOT / 'labs' / 'raftlab').as_posix()}")
    data = {name.removeprefix("raftlab/data/") for name in names if name.startswith("raftlab/data/")}
    assert {name for name in data if not name.startswith("handouts/")} == {
        "skeleton/README.md",
        "skeleton/.gitignore",
        "skeleton/.github/workflows/raftlab.yml",
        "skeleton/.devcontainer/devcontainer.json",
        *(f"skeleton/{path.name}" for path in (ROOT / "skeleton").glob("*.py")),
    }
    assert "handouts/lab-2a.md" in data
    assert not {"handouts/instructors-guide.md", "handouts/proof.md", "handouts/report-schema.md"} & data
    others = {name.partition(".dist-info/")[2] for name in names if not name.startswith("raftlab/")}
    assert others == {"METADATA", "WHEEL", "entry_points.txt", "licenses/LICENSE", "RECORD"}


@pytest.mark.parametrize("with_grader", [False, True])
def test_no_text_of_the_solutions_is_in_a_kit(with_grader: bool) -> None:
    """No file has five successive lines of the solutions, and no code has a long line, comment or docstring of the
    solutions."""
    found = files(with_grader=with_grader)
    texts = {name: data.decode() for name, data in found.items()}
    skeleton = "\n".join(starts.files().values())
    correct = sorted((ROOT / "tests" / "correct").glob("*/*.py"))
    assert len(correct) > 10
    secret_lines = {
        line
        for path in [*SOLUTIONS, *correct]
        for line in code_lines(path.read_text()) - code_lines(skeleton)
        if len(line) >= SECRET_LINE and not line.startswith(("# region", "# skeleton:", "# hint:", "import ", "from "))
    }
    assert len(secret_lines) > 1000
    for name, text in texts.items():
        if not name.startswith("raftlab/data/handouts/"):
            assert not secret_lines & code_lines(text), name
    assert kit.find_leaks(found, [path.read_text() for path in SOLUTIONS], [skeleton]) == []
    for name, text in texts.items():
        assert not re.search(r"^(@@ -\d|diff --git )", text, re.MULTILINE), name  # bugs are patches


@pytest.mark.parametrize("lab", list(labs.LABS)[1:])
def test_a_start_contains_the_solutions_of_the_labs_before_it_only(lab: str) -> None:
    found = files(lab)
    own = {name: data.decode() for name, data in found.items() if name.startswith("raftlab/data/starts/")}
    assert own == {f"raftlab/data/starts/{lab}/{name}": text for name, text in starts.files(lab).items()}
    assert (
        kit.find_leaks(found, [path.read_text() for path in SOLUTIONS], [*starts.files().values(), *own.values()]) == []
    )


def test_a_leak_is_found() -> None:
    lines = SOLUTIONS[-1].read_text().splitlines()
    place = next(number for number, line in enumerate(lines) if "def _" in line)
    stolen = "\n\n".join(line.lstrip() for line in lines[place : place + 12])
    found = {
        "raftlab/notes.txt": stolen.encode(),
        "raftlab/cache.pyc": b"\xff" + stolen.encode(),
        "raftlab/x.py": b"x = 1\n",
    }
    solutions = [path.read_text() for path in SOLUTIONS]
    assert kit.find_leaks(found, solutions, starts.files().values()) == ["raftlab/notes.txt", "raftlab/cache.pyc"]


def test_a_kit_with_a_leak_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(kit.zip_files, "package_files", lambda package: [("old.py", SOLUTIONS[-1].read_bytes())])
    assert main(["kit", str(tmp_path / "kit")], tools()) == 2
    expected = "raftgrade: raftlab/old.py would give away a part of the solutions: five lines in a row are the same\n"
    assert capsys.readouterr().err == expected
    assert not (tmp_path / "kit").exists()


def test_a_kit_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "kit").touch()
    with pytest.raises(kit.CannotMakeKit, match=r"any\.whl cannot be written: File exists$"):
        kit.make(tmp_path / "kit")


def test_no_kit_can_be_made_from_a_kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "skeleton").mkdir()
    (tmp_path / "skeleton" / "raft.py").touch()
    monkeypatch.setattr(starts, "_ROOTS", (tmp_path,))
    with pytest.raises(kit.CannotMakeKit, match="this raftlab is a kit itself"):
        kit.make(tmp_path / "kit")


def test_the_dependencies_of_a_kit() -> None:
    """A kit depends on what raftlab imports, and not on what only the grader imports."""
    imported = {
        name.partition(".")[0].replace("_", "-")
        for path in (ROOT / "labs" / "raftlab").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert not imported & set(kit._GRADER_ONLY)
    for with_grader in (False, True):
        (metadata,) = (
            data.decode() for name, data in files(with_grader=with_grader).items() if name.endswith("/METADATA")
        )
        needs = {re.split(r"[<>=]", line)[0] for line in re.findall(r"^Requires-Dist: (.*)", metadata, re.MULTILINE)}
        common = {"greenlet", "msgspec", "pytest", "pytest-timeout", "rpyc"}
        assert needs == common | (set(kit._GRADER_ONLY) if with_grader else set())
        assert {need for need in needs if need in imported} >= {"greenlet", "msgspec", "rpyc"}


def test_the_workflow_installs_the_kit() -> None:
    assert "- run: pip install ./raftlab-*.whl\n" in files()[kit.WORKFLOW].decode()
    found, name = kit.contents((), "https://example.edu/raft/", False)
    assert f'- run: pip install "https://example.edu/raft/{name}"\n' in found[kit.WORKFLOW].decode()
    assert b"pip install raftlab\n" not in found[kit.WORKFLOW]
    assert "|| echo ./raftlab-*.whl)" in files()[kit.CONTAINER].decode()
    assert f"|| echo https://example.edu/raft/{name})" in found[kit.CONTAINER].decode()
    assert b"PyPI" not in found[kit.CONTAINER] + files()[kit.CONTAINER]
    for url in ("http://example.edu/", 'https://example.edu/"; rm -r', "https://example.edu/\n- run: x"):
        with pytest.raises(kit.CannotMakeKit, match="is not the https:// address of a folder"):
            kit.contents((), url, False)


def test_the_same_options_give_the_same_file_and_others_another_version(tmp_path: Path) -> None:
    first, again, later = kit.make(tmp_path / "a"), kit.make(tmp_path / "b"), kit.make(tmp_path / "c", ["2C"])
    assert (first.name, first.read_bytes()) == (again.name, again.read_bytes())
    assert re.fullmatch(r"raftlab-[\d.]+\+kit\.g[0-9a-f]{7}-py3-none-any\.whl", first.name)
    assert later.name != first.name


# --- in a virtual environment ---


class Environment:
    """A virtual environment with a kit, and the same dependencies as the tests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "env" / "bin"
        venv.create(folder / "env", with_pip=False)  # nothing here needs pip, and installing it takes seconds
        purelib = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder / "env")}))
        # Files named *.pth in these folders do not count, so an editable raftlab is not found through them.
        (purelib / "dependencies.pth").write_text("\n".join(path for path in sys.path if path.endswith("-packages")))
        self.package = purelib / "raftlab"

    def install(self, wheel: Path) -> None:
        python = str(self.bin / "python")
        words = [
            sys.executable,
            "-m",
            "pip",
            "--python",
            python,
            "install",
            "-q",
            "--no-deps",
            "--no-index",
            str(wheel),
        ]
        done = subprocess.run(words, capture_output=True, text=True, env=_environment(), check=False)
        assert done.returncode == 0, done.stderr

    def call(self, program: str, *arguments: str, folder: str = ".") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self.bin / program), *arguments],
            cwd=self.folder / folder,
            capture_output=True,
            text=True,
            env=_environment(),
            check=False,
        )


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return kept | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"}


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    made = Environment(tmp_path_factory.mktemp("kit"))
    made.install(kit.make(made.folder / "2a"))
    return made


@pytest.mark.slow
def test_students_work_from_a_kit(environment: Environment) -> None:
    """A student's first steps, in one test, because each step needs the step before it."""
    found = environment.call("python", "-c", "import raftlab; print(raftlab.__file__)").stdout.strip()
    assert Path(found) == environment.package / "__init__.py"
    assert not (environment.bin / "raftgrade").exists()
    assert not list(environment.package.rglob("solutions"))

    assert environment.call("raftlab", "labs").returncode == 0
    made = environment.call("raftlab", "new", "me")
    assert made.returncode == 0, made.stderr
    assert (environment.folder / "me" / "raft.py").read_text() == (ROOT / "skeleton" / "raft.py").read_text()
    assert (environment.folder / "me" / "handouts" / "lab-2a.md").is_file()
    test = environment.call("raftlab", "test", "2A", "-k", "initial_election", folder="me")
    assert test.returncode == 1, test.stderr
    assert "expected a leader within 5 s, but there is none" in test.stdout
    check = environment.call("python", "-m", "raftlab.tools.check", "raft.py", "--labs", "2A", folder="me")
    assert check.returncode == 0, check.stderr
    replay = environment.call("raftlab", "replay", "initial_election@0", folder="me")
    assert (replay.returncode, "boot" in replay.stdout or "S0" in replay.stdout) == (1, True), replay.stderr
    (trace,) = (environment.folder / "me" / "raftlab-out").glob("*initial_election-sim-0.jsonl")
    view = environment.call("raftlab", "view", str(trace), "--out", "run.html", folder="me")
    assert view.returncode == 0, view.stderr
    assert "<html" in (environment.folder / "me" / "run.html").read_text()

    # This Raft works, as the student's will in the end.
    (environment.folder / "me" / "raft.py").write_text((ROOT / "solutions" / "raft.py").read_text())
    test = environment.call("raftlab", "test", "2A", "-k", "initial_election", "--network", "both", folder="me")
    assert test.returncode == 0, test.stdout
    fuzz = environment.call("raftlab", "fuzz", "2A", "--seeds", "3", folder="me")
    assert fuzz.returncode == 0, fuzz.stdout + fuzz.stderr
    refused = environment.call("raftlab", "new", "late", "--from", "2C")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == (
        "raftlab: this kit has no start at lab 2C, because your instructor has not put one into it\n"
    )
    assert not (environment.folder / "late").exists()


@pytest.fixture(scope="module")
def with_more(environment: Environment) -> Environment:
    """The same environment, with a kit that has a start and the grader. Installing one more kit takes seconds."""
    environment.install(kit.make(environment.folder / "more", ["2C"], with_grader=True))
    return environment


@pytest.mark.slow
def test_only_allowed_starts_work(with_more: Environment) -> None:
    environment = with_more
    assert environment.call("raftlab", "new", "late", "--from", "2c").returncode == 0
    assert (environment.folder / "late" / "raft.py").read_text() == starts.files("2C")["raft.py"]
    test = environment.call("raftlab", "test", "2B", "-k", "basic", folder="late")
    assert test.returncode == 0, test.stdout
    refused = environment.call("raftlab", "new", "later", "--from", "2D")
    assert refused.stderr.endswith("has not put one into it; it has starts at 2C\n")
    assert not (environment.folder / "later").exists()


@pytest.mark.slow
def test_a_kit_with_the_grader_grades(with_more: Environment) -> None:
    environment = with_more
    assert environment.call("raftlab", "new", "mine", "--from", "2C").returncode == 0
    arguments = ["run", ".", "--labs", "2A", "--network", "sim", "--runs", "1", "--sandbox", "rlimits", "--out", "out"]
    graded = environment.call("raftgrade", *arguments, folder="mine")
    assert graded.returncode == 0, graded.stdout + graded.stderr
    assert "1 of 1 submissions clean" in graded.stdout
    refused = environment.call("raftgrade", "kit", "again")
    assert (refused.returncode, refused.stderr) == (
        2,
        "raftgrade: this raftlab is a kit itself: make kits with a raftlab that has the solutions\n",
    )
