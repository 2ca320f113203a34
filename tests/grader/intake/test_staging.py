"""Tests of copying submissions: a copy has only plain files, and a hash; a submission that cannot be copied is refused."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from raftgrade.intake import archives, limits, repositories
from raftgrade.intake.staging import CannotStage, Staged, stage
from raftgrade.intake.submissions import find
from raftlab.time_awake import TimeAwake


def take(folder: Path, given: Path | str) -> Staged:
    submissions = find([given])
    (item,) = submissions.submissions
    return stage(item, folder / "out" / item.slug, submissions.files)


def refusal(folder: Path, given: Path | str, ours: bool = False) -> str:
    with pytest.raises(CannotStage) as caught:
        take(folder, given)
    assert caught.value.ours == ours
    assert not any((folder / "out").iterdir())
    return str(caught.value)


def files(staged: Staged) -> list[str]:
    return sorted(path.relative_to(staged.path).as_posix() for path in staged.path.rglob("*") if path.is_file())


def packed(path: Path, *members: str | zipfile.ZipInfo, data: bytes = b"pass\n") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member in members:
            archive.writestr(member, data, zipfile.ZIP_DEFLATED)
    return path


def entry(name: str, mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


def made(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("pass\n")
    return folder


def test_the_same_files_have_the_same_fingerprint(tmp_path: Path) -> None:
    alice = made(
        tmp_path / "alice", "raft.py", "lib/log.py", ".git/config", "venv/x.py", "mine/pyvenv.cfg", "mine/y.py"
    )
    (alice / "raft.py").chmod(0o600)
    first = take(tmp_path, alice)
    assert files(first) == ["lib/log.py", "raft.py"]
    assert stat.S_IMODE((first.path / "raft.py").stat().st_mode) == 0o644
    same = take(tmp_path, packed(tmp_path / "bob.zip", "raft.py", "lib/log.py"))
    nested = take(tmp_path, packed(tmp_path / "carol.zip", "hw/raft.py", "hw/lib/log.py", "__MACOSX/hw/._raft.py"))
    assert files(nested) == ["lib/log.py", "raft.py"]
    assert first.hash == same.hash == nested.hash
    assert len(first.hash) == 64
    (alice / "raft.py").write_text("other\n")
    assert take(tmp_path, alice).hash != first.hash
    (alice / "raft.py").write_text("pass\n")
    (alice / "lib" / "log.py").rename(alice / "log.py")
    assert take(tmp_path, alice).hash != first.hash


def test_a_file_is_copied_with_its_modules_but_without_other_submissions(tmp_path: Path) -> None:
    made(tmp_path / "all", "alice.py", "bob.py", "common.py", "notes.md")
    submissions = find([tmp_path / "all" / "alice.py", tmp_path / "all" / "bob.py"])
    alice, bob = (stage(item, tmp_path / "out" / item.slug, submissions.files) for item in submissions.submissions)
    assert (alice.path.name, [path.name for path in sorted(alice.path.parent.iterdir())]) == (
        "alice.py",
        ["alice.py", "common.py"],
    )
    assert bob.path == tmp_path / "out" / "bob" / "bob.py"


def test_large_files_other_than_code_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alice = made(tmp_path / "alice", "raft.py", *(f"data/{number}.txt" for number in range(20)))
    (alice / "film.mkv").write_bytes(bytes(limits.MAX_FILE_BYTES + 1))
    assert len(files(take(tmp_path, alice))) == 21
    monkeypatch.setattr(limits, "MAX_FILES", 10)
    assert files(take(tmp_path, alice)) == ["raft.py"]
    made(alice, *(f"m{number}.py" for number in range(11)))
    assert refusal(tmp_path, alice) == "there are more than 10 files in it: hand in the Python files only"


def test_folders_that_are_refused(tmp_path: Path) -> None:
    linked = made(tmp_path / "linked", "raft.py")
    (linked / "notes").symlink_to("/etc/passwd")
    piped = made(tmp_path / "piped", "raft.py")
    os.mkfifo(piped / "pipe")
    huge = made(tmp_path / "huge", "raft.py")
    (huge / "raft.py").write_bytes(bytes(limits.MAX_FILE_BYTES + 1))
    deep = made(tmp_path / "deep", "raft.py", "x/" * 22 + "y.py")
    assert refusal(tmp_path, linked) == "notes is a link: hand in the file itself"
    assert refusal(tmp_path, piped) == "pipe is neither a file nor a folder"
    assert (
        refusal(tmp_path, huge) == "raft.py is larger than 1000 kB: that is far more than a Raft written by hand needs"
    )
    assert refusal(tmp_path, deep) == "it has folders nested more than 20 deep"


def locked(path: Path) -> Path:
    data = bytearray(packed(path, "raft.py").read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    return path


def cut_short(path: Path) -> Path:
    path.write_bytes(packed(path, "raft.py", data=os.urandom(5000)).read_bytes()[:-200])
    return path


def twice(path: Path) -> Path:
    with pytest.warns(UserWarning, match="Duplicate name"):
        return packed(path, "raft.py", "raft.py")


def lying(path: Path) -> Path:
    """A zip file whose header gives too small a size."""
    data = bytearray(packed(path, "raft.py", data=bytes(100_000)).read_bytes())
    at = data.index(b"PK\x01\x02") + 24
    data[at : at + 4] = (5).to_bytes(4, "little")
    path.write_bytes(data)
    return path


LINK = stat.S_IFLNK | 0o777


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda p: packed(p, "raft.py", "../evil.py"), "the zip file has a path that leads out of it: ../evil.py"),
        (lambda p: packed(p, "raft.py", "/etc/evil"), "the zip file has a path that leads out of it: /etc/evil"),
        (lambda p: packed(p, "raft.py", "C:evil"), "the zip file has a path that leads out of it: C:evil"),
        (lambda p: packed(p, "raft.py", "..\\b"), "the zip file has a path that leads out of it: ..\\b"),
        (
            lambda p: packed(p, entry("raft.py", LINK)),
            "the zip file has a link in it: raft.py: hand in the file itself",
        ),
        (
            lambda p: packed(p, "raft.py", entry("pipe", stat.S_IFIFO)),
            "the zip file has something in it that is neither a file nor a folder: pipe",
        ),
        (
            lambda p: packed(p, "raft.py", "lib/NUL.txt"),
            "the zip file has something in it that is neither a file nor a folder: lib/NUL.txt",
        ),
        (
            lambda p: packed(p, *(f"{n}.py" for n in range(2001))),
            "the zip file has more than 2000 entries: hand in the Python files only",
        ),
        (locked, "the zip file is locked with a password: hand it in without one"),
        (cut_short, "the zip file is damaged, or is not a zip file"),
        (lying, "the zip file is damaged, or is not a zip file"),
        (twice, "the zip file contains raft.py twice"),
        (lambda p: packed(p, "solution.py"), "there is no raft.py in the archive, nor in a folder at its top"),
        (lambda p: packed(p, "a/raft.py", "b/raft.py"), "there is more than one raft.py in the archive: in a, b"),
        (lambda p: packed(p, "x/" * 25 + "raft.py"), "it has folders nested more than 20 deep"),
    ],
)
def test_zip_files_that_are_refused(tmp_path: Path, make: Callable[[Path], Path], expected: str) -> None:
    assert refusal(tmp_path, make(tmp_path / "evil.zip")) == expected
    assert not (tmp_path / "evil.py").exists()


def test_zip_bombs_are_refused(tmp_path: Path) -> None:
    bomb = packed(tmp_path / "bomb.zip", "raft.py", "a.py", data=bytes(4_900_000))
    size = bomb.stat().st_size
    assert (
        refusal(tmp_path, bomb)
        == f"the zip file has {size} bytes and unpacks to 9800000: that is far more than a Raft written by hand needs"
    )
    with (tmp_path / "large.zip").open("wb") as file:
        file.truncate(limits.MAX_ARCHIVE_BYTES + 1)
    assert refusal(tmp_path, tmp_path / "large.zip") == "the zip file is larger than 20 MB"
    (tmp_path / "none.zip").write_text("no zip")
    assert refusal(tmp_path, tmp_path / "none.zip") == "the zip file is damaged, or is not a zip file"


# --- git ---


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def repository(folder: Path) -> tuple[str, str]:
    """Make a repository with two commits. Returns its URL and the first commit."""
    made(folder, "raft.py")
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "one")
    first = git(folder, "rev-parse", "HEAD")
    (folder / "raft.py").write_text("second\n")
    git(folder, "commit", "-q", "-a", "-m", "two")
    return folder.as_uri(), first


def test_a_repository_is_fetched_at_a_commit(tmp_path: Path) -> None:
    url, first = repository(tmp_path / "dan")
    latest = take(tmp_path, url)
    assert (files(latest), (latest.path / "raft.py").read_text()) == (["raft.py"], "second\n")
    assert (take(tmp_path, f"{url}#{first}").path / "raft.py").read_text() == "pass\n"


def test_a_repository_cannot_run_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fetching runs no code of the repository: not through hooks, attributes, filters, or the grader's own settings."""
    url, _ = repository(tmp_path / "dan")
    mark = tmp_path / "ran"
    hook = tmp_path / "templates" / "hooks" / "post-checkout"
    made(tmp_path, "templates/hooks/post-checkout")
    hook.write_text(f"#!/bin/sh\ntouch {mark}\n")
    hook.chmod(0o755)
    (tmp_path / "config").write_text(
        f'[init]\ntemplateDir = {tmp_path}/templates\n[filter "x"]\nsmudge = touch {mark}\n'
    )
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "config"))
    (tmp_path / "dan" / ".gitattributes").write_text("*.py filter=x\n")
    git(tmp_path / "dan", "add", ".gitattributes")
    git(tmp_path / "dan", "commit", "-q", "-m", "three")
    assert files(take(tmp_path, url)) == ["raft.py"]
    mark.unlink(missing_ok=True)  # `git add` above has run the filter
    take(tmp_path, url)
    assert not mark.exists()


def test_repositories_that_are_refused(tmp_path: Path) -> None:
    url, _ = repository(tmp_path / "dan")
    (tmp_path / "dan" / "link").symlink_to("/etc/passwd")
    git(tmp_path / "dan", "add", ".")
    git(tmp_path / "dan", "commit", "-q", "-m", "link")
    assert refusal(tmp_path, url) == "link is a link: hand in the file itself"
    cannot = "the repository, or its commit, cannot be fetched: "
    nowhere = (tmp_path / "nowhere").as_uri()
    assert refusal(tmp_path, nowhere, ours=True).startswith(cannot)
    assert "nowhere" in refusal(tmp_path, nowhere, ours=True)
    assert "0" * 40 in refusal(tmp_path, f"{url}#{'0' * 40}", ours=True)
    nobody = "https://me:secret@localhost:1/x.git"
    said = refusal(tmp_path, nobody, ours=True)
    assert said.startswith(cannot)
    assert "localhost" in said
    assert "secret" not in said


def test_a_repository_with_too_many_files_is_refused_in_seconds(tmp_path: Path) -> None:
    """The repository has ten levels of folders. Each folder has ten entries that are the same git object, so a few hundred
    bytes describe 10^10 files."""
    url, _ = repository(tmp_path / "dan")
    tree = git(tmp_path / "dan", "rev-parse", "HEAD^{tree}")
    for _ in range(10):
        listing = "".join(f"040000 tree {tree}\tx{number}\n" for number in range(10))
        done = subprocess.run(
            ["git", "mktree"], cwd=tmp_path / "dan", input=listing, check=True, capture_output=True, text=True
        )
        tree = done.stdout.strip()
    git(tmp_path / "dan", "update-ref", "HEAD", git(tmp_path / "dan", "commit-tree", tree, "-m", "bomb"))
    assert refusal(tmp_path, url) == "there are more than 2000 files in it: hand in the Python files only"


def test_all_git_work_shares_a_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url, _ = repository(tmp_path / "dan")
    deadline = repositories.Deadline()
    (item,) = find([url]).submissions
    stage(item, tmp_path / "done" / "one", deadline=deadline)
    deadline.end_now()
    with pytest.raises(CannotStage) as caught:
        stage(item, tmp_path / "out" / "two", deadline=deadline)
    assert caught.value.ours
    assert str(caught.value).endswith("cannot be fetched: there was no time left for it")
    monkeypatch.setattr(repositories, "REPOSITORY_S", 0.5)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "git").write_text("#!/bin/sh\nsleep 600\n")
    (tmp_path / "bin" / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    assert refusal(tmp_path, url, ours=True).endswith("cannot be fetched: it takes longer than 0 s")


def test_pauses_do_not_count_for_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(repositories, "TimeAwake", lambda: TimeAwake(lambda: now[0]))
    remaining = repositories.Deadline().for_one()
    now[0] += 1e6  # the grader was stopped with Ctrl-Z
    assert remaining() > 0
    for _ in range(int(repositories.REPOSITORY_S)):
        now[0] += 1.0
        remaining()
    assert remaining() <= 0


# --- tar archives ---


def tarred(path: Path, *members: str | tarfile.TarInfo, data: bytes = b"pass\n", mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for member in members:
            info = tarfile.TarInfo(member) if isinstance(member, str) else member
            info.size = len(data) if info.isreg() else 0
            archive.addfile(info, io.BytesIO(data))
    return path


def other(name: str, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = "/etc/passwd"
    return info


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tgz", "tar.bz2", "tar.xz"])
def test_a_tar_archive_is_unpacked(tmp_path: Path, suffix: str) -> None:
    mode = {"tar": "w", "tgz": "w:gz"}.get(suffix, f"w:{suffix.partition('.')[2]}")
    archive = tarred(tmp_path / f"erik.{suffix}", other("hw", tarfile.DIRTYPE), "hw/raft.py", "hw/lib/x.py", mode=mode)
    assert files(take(tmp_path, archive)) == ["lib/x.py", "raft.py"]


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda p: tarred(p, "raft.py", "../evil.py"), "the archive has a path that leads out of it: ../evil.py"),
        (lambda p: tarred(p, "raft.py", "/etc/evil"), "the archive has a path that leads out of it: /etc/evil"),
        (
            lambda p: tarred(p, other("raft.py", tarfile.SYMTYPE)),
            "the archive has a link in it: raft.py: hand in the file itself",
        ),
        (
            lambda p: tarred(p, "raft.py", other("x.py", tarfile.LNKTYPE)),
            "the archive has a link in it: x.py: hand in the file itself",
        ),
        (
            lambda p: tarred(p, "raft.py", other("disk", tarfile.BLKTYPE)),
            "the archive has something in it that is neither a file nor a folder: disk",
        ),
        (
            lambda p: tarred(p, "raft.py", other("pipe", tarfile.FIFOTYPE)),
            "the archive has something in it that is neither a file nor a folder: pipe",
        ),
        (
            lambda p: tarred(p, *(f"{n}.py" for n in range(2001))),
            "the archive has more than 2000 entries: hand in the Python files only",
        ),
        (lambda p: tarred(p, "raft.py", "raft.py"), "the archive contains raft.py twice"),
        (lambda p: tarred(p, "raft.py", "x", data=bytes(120_000_000)), "the archive unpacks to more than 100 MB"),
        (lambda p: tarred(p, "solution.py"), "there is no raft.py in the archive, nor in a folder at its top"),
        (lambda p: Path(p.write_text("no tar") and p), "the archive is damaged, or is not a tar archive"),
    ],
)
def test_tar_archives_that_are_refused(tmp_path: Path, make: Callable[[Path], Path], expected: str) -> None:
    assert refusal(tmp_path, make(tmp_path / "evil.tar.gz")) == expected
    assert not (tmp_path / "evil.py").exists()


def test_a_zip_file_from_windows_is_unpacked(tmp_path: Path) -> None:
    assert files(take(tmp_path, packed(tmp_path / "fay.zip", "lab\\raft.py", "lab\\lib\\log.py", "lab\\"))) == [
        "lib/log.py",
        "raft.py",
    ]


def test_names_with_control_characters_are_left_out(tmp_path: Path) -> None:
    zipped = packed(tmp_path / "gil.zip", "raft.py", "Icon\r", "a\x1b[2J.py")
    folder = made(tmp_path / "gil", "raft.py", "Icon\r", "a\x1b[2J.py")
    assert files(take(tmp_path, zipped)) == files(take(tmp_path, folder)) == ["raft.py"]


def test_a_zip_file_with_very_many_entries_is_refused_before_they_are_read(tmp_path: Path) -> None:
    many = packed(tmp_path / "many.zip", *(f"{number:0100}.py" for number in range(8000)))
    with pytest.raises(CannotStage, match="more than 2000 entries"):
        archives._require_short_directory(many)
