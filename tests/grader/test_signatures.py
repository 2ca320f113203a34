"""Tests that reports are shown only if they are signed with the user's key, or if the instructor asks for them anyway."""

from __future__ import annotations

import re
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from raftgrade import signatures
from raftgrade.cli import main
from raftgrade.store import Store
from raftgrade.tally import RunEntry
from tests.grader.fakes import record, submission, tools
from tests.grader.test_tally import plan

REPORT, RECORDS = Path("raftgrade-out/report.json"), Path("raftgrade-out/records.jsonl")


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "ours"))


def grade() -> None:
    submission(Path("class"), "alice", {"first/1": "fail"})
    assert main(["run", "class", "--network", "sim", "--runs", "3"], tools()) == 1


def cut_short() -> None:
    """A report as a killed grader leaves it: the plan and two runs."""
    with Store.create(REPORT.parent) as store:
        store.signer = signatures.Signer(signatures.key(), plan())
        store.save(plan())
        for seed, outcome in ((0, "failed"), (1, "passed")):
            store.add(RunEntry("alice", record("first", seed, outcome)))  # type: ignore[arg-type]


def replace(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert re.search(old, text)
    file.write_text(re.sub(old, new, text))


def shown(*more: str) -> int:
    return main(["report", "raftgrade-out", *more], tools())


FORGERIES: dict[str, Callable[[], None]] = {
    "marks were changed": lambda: replace(REPORT, r'"points": 5\.0', '"points": 15.0'),
    "a blank was added": lambda: replace(REPORT, ",", ", "),
    "it is not signed": lambda: replace(REPORT, r',\n "signature": "\w+"', ""),
    "text follows the signature": lambda: REPORT.write_text(REPORT.read_text() + "\n"),
    "a second signature": lambda: replace(
        REPORT, r'\n "signature": (.*)\n', r'\n "signature": \1,\n "signature": \1\n'
    ),
}


@pytest.mark.parametrize("what", FORGERIES)
def test_a_report_that_was_changed_is_refused(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    grade()
    assert shown() == 1
    FORGERIES[what]()
    capsys.readouterr()
    for more in ([], ["--format", "csv"], ["--format", "gradescope"], ["--format", "html", "-o", "class.html"]):
        assert shown(*more) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err == (
            "raftgrade: raftgrade-out/report.json is not signed with your key. Someone else may have written it, or changed "
            "it since: --key FILE checks it with the key of the machine where it was made, --unverified shows it as it is\n"
        )
    assert not Path("class.html").exists()


def test_an_unverified_report_says_so_in_every_format(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    grade()
    replace(REPORT, r'"points": 5\.0', '"points": 15.0')
    replace(REPORT, r'"unverified": ""', '"unverified": "no, all is well"')
    capsys.readouterr()
    for format_ in ("table", "csv", "json", "junit", "github", "gradescope", "html"):
        shown("--unverified", "--format", format_)
        captured = capsys.readouterr()
        words = "raftgrade-out/report.json is not signed with your key"
        assert f"raftgrade: NOT VERIFIED: {words}" in captured.err, format_
        assert "all is well" not in captured.out
        if format_ not in ("csv", "gradescope"):
            place = words.replace("-", "&#45;").replace(".", "&#46;") if format_ == "github" else words
            assert place in captured.out, format_


def test_the_runs_of_an_unfinished_report_are_checked_too(capsys: pytest.CaptureFixture[str]) -> None:
    cut_short()
    assert shown() == 2
    assert "not complete: 2 of 5 runs have finished" in capsys.readouterr().out
    replace(RECORDS, '"failed"', '"passed"')
    assert shown() == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    expected = "raftgrade: raftgrade-out/records.jsonl has lines that are not signed with your key. "
    assert captured.err.startswith(expected)
    assert shown("--unverified") == 2
    assert "NOT VERIFIED: raftgrade-out/records.jsonl has lines" in capsys.readouterr().out


def test_a_report_from_another_machine_needs_its_key(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grade()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "laptop"))
    assert shown() == 2
    capsys.readouterr()
    key = tmp_path / "ours" / "raftgrade" / "key"
    assert shown("--key", str(key)) == 1
    assert "NOT VERIFIED" not in "".join(capsys.readouterr())
    for content, mode, problem in (
        (b"short", 0o600, f"{key} is not a key of raftgrade: a key has 32 bytes"),
        (
            bytes(32),
            0o644,
            f"other users can read {key}, and so could sign reports: the file must belong to you and have mode 600",
        ),
        (bytes(32), 0o600, "raftgrade-out/report.json is not signed with your key. "),
    ):
        key.write_bytes(content)
        key.chmod(mode)
        assert shown("--key", str(key)) == 2
        assert capsys.readouterr().err.startswith(f"raftgrade: {problem}")
    assert shown("--key", "none") == 2
    assert capsys.readouterr().err == "raftgrade: none cannot be read: No such file or directory\n"


def test_a_grader_that_cannot_keep_its_key_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/proc/nowhere")
    grade()
    expected = "raftgrade: there is no place for a private key (XDG_STATE_HOME or ~/.local/state), so the report will"
    assert f"{expected} count as unverified later\n" in capsys.readouterr().err
    assert shown() == 2


def test_a_key_that_is_not_private_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    first = signatures.key()
    assert signatures.key() == first
    file = signatures.key_file()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in file.parent.iterdir()] == ["key"]
    file.chmod(0o644)
    assert signatures.key() != first
    file.chmod(0o600)
    file.write_bytes(b"short")
    assert len(signatures.key()) == 32
    monkeypatch.setenv("XDG_STATE_HOME", "/proc/nowhere")
    assert len(signatures.key()) == 32
