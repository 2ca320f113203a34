"""Tests of the folder of a report: no finished run is lost, and files of others are not touched."""

from pathlib import Path

import pytest

from raftgrade import store
from raftgrade.output_folder import BadFolder
from raftgrade.results import Problem
from raftgrade.store import Store, read
from raftgrade.tally import RefusalEntry, RunEntry, Tally
from tests.grader.fakes import record
from tests.grader.test_tally import all_passed, plan


def finished(folder: Path) -> Path:
    with Store.create(folder) as out:
        tally = Tally(plan())
        for entry in all_passed():
            tally.add(entry)
            out.add(entry)
        out.save(tally.update_report(complete=True, seconds=3))
    return folder


def cut_short(folder: Path) -> Path:
    """Make a report's folder as SIGKILL leaves it: the plan, some records, and half a line."""
    out = Store.create(folder)
    out.save(plan())
    out.add(RunEntry("alice", record("first", 0, "failed")))
    out.add(RunEntry("alice", record("first", 1)))
    with (folder / store.RECORDS).open("ab") as file:
        file.write(b'{"kind":"run","submission":"al')
    out._records.close()
    out.spill.close()
    return folder


def refusal(folder: Path) -> str:
    with pytest.raises(BadFolder) as caught:
        Store.create(folder)
    return str(caught.value)


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_finished_report_reads_back(tmp_path: Path) -> None:
    folder = finished(tmp_path / "out")
    report = read(folder)
    assert report.complete
    assert report.submissions[0].points == 15
    assert sorted(path.name for path in folder.iterdir()) == ["records.jsonl", "report.json"]


def test_after_a_kill_every_finished_run_is_there(tmp_path: Path) -> None:
    report = read(cut_short(tmp_path))
    assert not report.complete
    assert report.done == 2
    assert [bad.seed for bad in report.submissions[0].tests[0].networks[0].bad] == [0]


@pytest.mark.parametrize("make", [finished, cut_short])
def test_a_report_in_the_same_folder_is_replaced(tmp_path: Path, make: object) -> None:
    folder = tmp_path / "out"
    assert callable(make)
    make(folder)
    (folder / "logs").mkdir(exist_ok=True)
    (folder / "logs" / "old.txt").write_text("old")
    (folder / "notes.md").write_text("the instructor's")
    with Store.create(folder) as out:
        assert (folder / "logs" / "old.txt").exists()  # logs are kept until it is known which entries are reused
        out.start_report([])
        out.save(plan())
        assert read(folder).done == 0
        assert not (folder / "logs" / "old.txt").exists()
        assert (folder / "notes.md").exists()


def test_an_empty_folder_and_one_after_an_early_kill_are_accepted(tmp_path: Path) -> None:
    tmp_path.joinpath("a", "logs").mkdir(parents=True)
    tmp_path.joinpath("a", "records.jsonl").write_text("")
    Store.create(tmp_path / "a").close()
    tmp_path.joinpath("b").mkdir()
    Store.create(tmp_path / "b").close()
    Store.create(tmp_path / "c" / "deep").close()


def test_folders_with_other_files_are_refused(tmp_path: Path) -> None:
    other = "nothing was changed: choose another folder with --out"
    damaged, half, later, foreign, file = (tmp_path / name for name in ("d", "h", "l", "f", "file"))
    finished(damaged).joinpath("report.json").write_text("{")
    with cut_short(half).joinpath("records.jsonl").open("ab") as lines:
        lines.write(b"\nmore\n")
    text = finished(later).joinpath("report.json").read_text().replace('"schema": 1', '"schema": 7', 1)
    later.joinpath("report.json").write_text(text)
    foreign.mkdir()
    foreign.joinpath("thesis.tex").write_text("years of work")
    file.write_text("a file")
    before = snapshot(tmp_path)
    assert refusal(damaged) == f"{damaged}/report.json is not a report of raftgrade, or is damaged; {other}"
    assert refusal(half) == f"line 3 of {half}/records.jsonl is not a record of raftgrade; {other}"
    assert refusal(later) == f"{later}/report.json has schema 7; this raftgrade reads schema 1; {other}"
    assert refusal(foreign) == f"{foreign} holds no report.json; {other}"
    assert refusal(file) == f"{file} is a file; choose another folder with --out"
    assert snapshot(tmp_path) == before


def test_records_of_another_program_are_not_touched(tmp_path: Path) -> None:
    tmp_path.joinpath("records.jsonl").write_text('{"vinyl": "B-side"}\n')
    assert refusal(tmp_path).startswith(f"{tmp_path} holds no report.json; nothing was changed")


def test_two_graders_do_not_share_a_folder(tmp_path: Path) -> None:
    with Store.create(tmp_path) as out:
        out.save(plan())
        assert refusal(tmp_path) == f"another raftgrade is writing to {tmp_path}; choose another folder with --out"


def test_a_folder_without_a_report_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for name, words in [
        ("nowhere", "there is no {}"),
        ("file", "{} is a file, not a folder with a report"),
        ("", "{} holds no report.json"),
    ]:
        path = tmp_path / name
        with pytest.raises(BadFolder) as caught:
            read(path)
        assert str(caught.value) == words.format(path)


def test_reused_entries_are_read_only_when_needed(tmp_path: Path) -> None:
    (tmp_path / "records.jsonl.tmp").write_bytes(b"left by a kill in the middle of begin()")
    entries = [
        RunEntry("bob", record("first", 0)),
        RunEntry("alice", record("first", 0, "error")),
        RefusalEntry("carol", "refused", [Problem("no Raft in it")]),
        RunEntry("bob", record("first", 1, "failed")),
        RunEntry("alice", record("first", 0)),
    ]
    with Store.create(tmp_path) as out:
        reused = out.start_report(entries)
        out.add(RunEntry("bob", record("second", 0)))  # an entry of the new report
        assert reused.submissions == ["bob", "alice"]
        assert [*reused.runs("bob")] == [entries[0], entries[3]]
        assert [*reused.runs("alice")] == [entries[1], entries[4]]
        assert [*reused.runs("dave")] == []
        assert reused.refused == [entries[2]]
        assert reused.outcomes == 4  # the run that could not be judged will be tried again
    assert (tmp_path / "records.jsonl").read_bytes().count(b"\n") == 6


def test_traces_of_submissions_with_reused_runs_are_kept(tmp_path: Path) -> None:
    finished(tmp_path)
    for name in ("alice", "bob"):
        (tmp_path / "traces" / name).mkdir(parents=True)
        (tmp_path / "traces" / name / "a.trace").write_text("")
    with Store.create(tmp_path) as out:
        out.start_report([RunEntry("alice", record("first", 0))], slugs={"alice": "alice", "bob": "bob"})
        assert [path.name for path in (tmp_path / "traces").iterdir()] == ["alice"]


def test_a_report_is_replaced_atomically(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store.create(tmp_path) as out:
        out.save(plan())
        before = (tmp_path / "report.json").read_bytes()

        def full(*args: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.replace", full)
        with pytest.raises(OSError, match="No space"):
            out.save(plan("alice", "bob"))
        assert (tmp_path / "report.json").read_bytes() == before
