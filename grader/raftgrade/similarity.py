"""`raftgrade similarity`: compare submissions with compare50, which ranks the pairs that have the most code in common.

compare50 (https://github.com/cs50/compare50) is a separate program, which is not always installed with raftlab. It reads the
submissions and runs none of their code. It is given two more sets of files. The *distribution code*, which does not count as
common code, consists of the files that raftlab hands out. The *archive* consists of our solutions and earlier submissions:
submissions are compared with the archive, but archived files are not compared with each other.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from raftgrade.intake import staging
from raftgrade.intake.limits import CannotStage
from raftgrade.intake.submissions import FoundSubmissions
from raftlab.safe_text import count, one_line, printable
from raftlab.submission import source, starts

INDEX = "index.html"
_PAGES = re.compile(r"index\.html|match_\d+\.html")
_HOW_TO_INSTALL = (
    "compare50 is not installed: pip install 'raftlab[similarity]', or install it anywhere on your PATH, for example with "
    "pipx install compare50"
)


class CannotCompare(Exception):
    """The submissions cannot be compared. The message says why, and what to do about it."""


def command() -> list[str]:
    """The command line that starts compare50. Raises :class:`CannotCompare`."""
    if importlib.util.find_spec("compare50") is not None:
        return [sys.executable, "-m", "compare50"]
    found = shutil.which("compare50")
    if found is None:
        raise CannotCompare(_HOW_TO_INSTALL)
    # compare50's script calls whichever python3 comes first on the PATH. In a virtual environment, the right python3 is
    # beside the script.
    python = Path(found).resolve().with_name("python3")
    return [str(python), "-m", "compare50"] if python.exists() else [found]


def compare(
    given: FoundSubmissions, earlier: FoundSubmissions | None, start_labs: Sequence[str], out: Path, pairs: int
) -> dict[str, str]:
    """Write compare50's report.

    Args:
        given: the submissions.
        earlier: other submissions, which are compared only with those of ``given``.
        start_labs: the labs whose starts were handed out, besides the first.
        out: the folder for the report. An earlier report there is replaced.
        pairs: how many pairs the report shows.

    Returns:
        Why some submissions were left out, by their names.

    Raises:
        CannotCompare: compare50 is missing or fails, or nothing is similar, or ``out`` holds anything but an earlier report.
        raftlab.submission.starts.NoStart: this installation has no start at one of the labs.
        OSError: a file cannot be read or written.
    """
    program = command()
    _check_folder(out)
    with tempfile.TemporaryDirectory(prefix="raftgrade-") as name:
        folder = Path(name)
        left_out = _copy_all(given, folder / "class")
        if earlier is not None:
            left_out |= _copy_all(earlier, folder / "earlier")
        solutions = starts.root() / "solutions"
        if solutions.is_dir():
            _write(folder / "ours" / "reference", {each.name: each.read_text() for each in solutions.glob("*.py")})
        for lab in ("", *start_labs):
            _write(folder / "handed-out" / (lab or "skeleton"), starts.files(lab))
        _run(program, folder, pairs)
        if out.exists():
            shutil.rmtree(out)
        shutil.copytree(folder / "report", out)
    return left_out


def _run(program: Sequence[str], folder: Path, pairs: int) -> None:
    def below(name: str) -> list[str]:
        return sorted(f"{name}/{each.name}" for each in (folder / name).glob("*"))

    arguments = [*program, *below("class"), "-d", *below("handed-out"), "-o", "report", "-n", str(pairs)]
    if archive := [*below("ours"), *below("earlier")]:
        arguments += ["-a", *archive]
    done = subprocess.run(
        arguments,
        cwd=folder,
        env={**os.environ, "PYTHONHASHSEED": "50"},  # as compare50's own script does, so that reports can be repeated
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=None if sys.stderr.isatty() else subprocess.PIPE,  # compare50 shows its progress here
        text=True,
        check=False,
    )
    if done.returncode:
        lines = f"{done.stdout}\n{done.stderr or ''}".strip().splitlines()
        raise CannotCompare(
            f"compare50 failed: {one_line(lines[-1], 300) if lines else f'exit code {done.returncode}'}"
        )
    if not (folder / "report" / INDEX).is_file():
        raise CannotCompare("compare50 found nothing similar, so there is no report")


def _check_folder(out: Path) -> None:
    """Raise :class:`CannotCompare` if ``out`` holds anything but an earlier report."""
    shown = printable(str(out))
    if out.exists() and not out.is_dir():
        raise CannotCompare(f"{shown} is a file; choose another folder with --out")
    if out.exists() and any(not _PAGES.fullmatch(each.name) for each in out.iterdir()):
        raise CannotCompare(f"{shown} holds other files; nothing was changed: choose another folder with --out")


def _copy_all(found: FoundSubmissions, folder: Path) -> dict[str, str]:
    """Copy the Python files of all submissions. Returns why some could not be copied."""
    left_out: dict[str, str] = {}
    for item in found.submissions:
        place = folder.with_name("copy")
        try:
            located = source.locate(staging.stage(item, place, found.files).path)
        except (CannotStage, source.SubmissionError) as exc:
            left_out[item.name] = str(exc)
            continue
        for module in located.modules.values():
            target = folder / item.slug / module.relative_to(located.root)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(module, target)
        shutil.rmtree(place)
    return left_out


def _write(folder: Path, texts: Mapping[str, str]) -> None:
    folder.mkdir(parents=True)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")


def summary(given: FoundSubmissions, left_out: Mapping[str, str], out: Path) -> list[str]:
    """Sentences for the terminal."""
    lines = [f"left out {printable(name)}: {printable(why)}" for name, why in left_out.items()]
    lines += [f"left out {printable(path.name)}: there is no {given.entries[0]} in it" for path in given.skipped]
    compared = len(given.submissions) - sum(item.name in left_out for item in given.submissions)
    return [*lines, f"compared {count(compared, 'submission')}; the report is in {printable(str(out / INDEX))}"]
