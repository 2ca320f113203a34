"""Tests of finding submissions: which ones a path names, and the messages about paths that name none."""

from pathlib import Path

import pytest

from raftgrade.intake.submissions import BadPath, FoundSubmissions, find


def make(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")


def names(result: FoundSubmissions) -> list[str]:
    return [item.name for item in result.submissions]


def test_a_file_a_folder_and_a_folder_of_folders(tmp_path: Path) -> None:
    make(tmp_path, "alice/raft.py", "alice/log.py", "class/bob/raft.py", "class/carol/raft.py", "mine.py")
    assert names(find([tmp_path / "alice"])) == ["alice"]
    assert names(find([tmp_path / "alice" / "raft.py"])) == ["alice"]
    assert names(find([tmp_path / "mine.py"])) == ["mine"]
    result = find([tmp_path / "class", tmp_path / "alice"])
    assert names(result) == ["bob", "carol", "alice"]
    assert result.submissions[0].path == tmp_path / "class" / "bob"


def test_a_folder_with_raft_is_one_submission_even_with_folders_in_it(tmp_path: Path) -> None:
    make(tmp_path, "alice/raft.py", "alice/old/raft.py")
    assert names(find([tmp_path / "alice"])) == ["alice"]


def test_names_are_unique_and_a_submission_counts_once(tmp_path: Path) -> None:
    make(tmp_path, "a/x/raft.py", "b/x/raft.py", "c/ä é/raft.py")
    result = find([tmp_path / "a/x", tmp_path / "b/x", tmp_path / "a/x", tmp_path / "c"])
    assert names(result) == ["x", "x-2", "ä é"]
    assert [item.slug for item in result.submissions] == ["x", "x-2", "___"]


def test_a_changed_name_does_not_replace_another_submissions_name(tmp_path: Path) -> None:
    make(tmp_path, "class/a\tb/raft.py", "class/a b/raft.py", "class/x-2/raft.py", "class/x/raft.py", "other/x/raft.py")
    result = find([tmp_path / "other/x", tmp_path / "class"])
    assert names(result) == ["x", "a b-2", "a b", "x-3", "x-2"]


def test_folders_without_raft_are_named(tmp_path: Path) -> None:
    make(tmp_path, "bob/raft.py", "dan/notes.txt", ".git/x", "__pycache__/x", "out/report.json")
    result = find([tmp_path], ignore=tmp_path / "out")
    assert names(result) == ["bob"]
    assert [path.name for path in result.skipped] == ["dan"]


def test_a_hostile_name_is_shown_escaped(tmp_path: Path) -> None:
    make(tmp_path, "bob\x1b[2J/raft.py", b"caf\xe9".decode(errors="surrogateescape") + "/raft.py")
    assert sorted(names(find([tmp_path]))) == [r"bob\x1b[2J", r"caf\udce9"]
    assert all(item.slug.isascii() for item in find([tmp_path]).submissions)


def test_paths_that_name_no_submission_are_refused(tmp_path: Path) -> None:
    make(tmp_path, "empty/notes.txt", "notes.md", "list.txt", "list.csv")
    (tmp_path / "odd" / "raft.py").mkdir(parents=True)
    for path, expected in [
        ("nowhere", "there is no {}"),
        ("empty", "there is no raft.py in {}, nor in a folder in it"),
        ("odd", "there is no raft.py in {}, nor in a folder in it"),
        ("notes.md", "{} is not a Python file: give a raft.py, or a folder with a raft.py in it"),
        ("list.txt", "{} is empty: expected a path or a git URL on each line"),
        (
            "list.csv",
            "{} has no column that identifies students: expected at least one of id, name, login and email, but has: none",
        ),
    ]:
        with pytest.raises(BadPath) as caught:
            find([tmp_path / path])
        assert str(caught.value) == expected.format(tmp_path / path)


def test_submissions_are_read_from_lists_and_tables(tmp_path: Path) -> None:
    make(tmp_path, "alice/raft.py", "bob.zip", "moodle/Carol_1_file_/upload.zip")
    (tmp_path / "all.txt").write_text(
        "# the class\nalice\n\nbob.zip\nnowhere\nhttps://me:key@git.example/x/dan.git#" + "a" * 40
    )
    result = find([tmp_path / "all.txt", tmp_path / "moodle"])
    assert [(item.name, item.kind) for item in result.submissions] == [
        ("alice", "folder"),
        ("bob", "archive"),
        ("nowhere", "nothing"),
        ("dan", "git"),
        ("Carol_1_file_", "archive"),
    ]
    assert result.submissions[2].reason == "there is no nowhere"
    assert result.submissions[3].where == "https://git.example/x/dan.git#" + "a" * 40
    assert (result.submissions[3].url, result.submissions[3].commit) == (
        "https://me:key@git.example/x/dan.git",
        "a" * 40,
    )
    (tmp_path / "class.csv").write_text(
        "\ufeffName,ID,Path\n"
        'Alice A.,7,alice\n"=cmd()|,\x1b[2J",8,bob.zip\nEve,9,\nEve,10,ssh://host/eve\nZoe,11,https://host/zoe#main\n'
    )
    result = find([tmp_path / "class.csv"])
    assert [(item.students[0].id, item.name, item.slug, item.kind) for item in result.submissions] == [
        ("7", "Alice A.", "Alice_A", "folder"),
        ("8", "=cmd()|,\\x1b[2J", "_cmd_____x1b_2J", "archive"),
        ("9", "Eve", "Eve", "absent"),
        ("10", "Eve-2", "Eve-2", "nothing"),
        ("11", "Zoe", "Zoe", "nothing"),
    ]
    assert [item.reason for item in result.submissions[2:]] == [
        "nothing was handed in",
        "ssh://host/eve cannot be fetched: only https:// and file:// can (class.csv line 5)",
        "https://host/zoe#main names no commit: after # there must be 40 hexadecimal digits (class.csv line 6)",
    ]
    assert all(item.given_by_us for item in result.submissions[2:])  # nobody loses points by a mistake in the table


def test_a_path_may_have_another_unicode_normalization(tmp_path: Path) -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    make(tmp_path, f"{decomposed}/raft.py")
    (tmp_path / "class.csv").write_text(f"id,path\n1,{composed}\n2,{decomposed}\n", encoding="utf-8")
    assert [item.kind for item in find([tmp_path / "class.csv"]).submissions] == ["folder", "folder"]


def test_invalid_lists_are_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "short.csv").write_text("name,mail\nA,a@b\n")
    (tmp_path / "bare.csv").write_text("id,path\n")
    for name, expected in [
        ("latin.txt", "{} is not UTF-8 text: save it as UTF-8"),
        ("short.csv", "{} needs a column path or url; if it lists students without submissions, give it to --roster"),
        ("bare.csv", "{} has no row below its first line"),
    ]:
        with pytest.raises(BadPath) as caught:
            find([tmp_path / name])
        assert str(caught.value) == expected.format(tmp_path / name)


def test_a_link_among_the_folders_is_refused(tmp_path: Path) -> None:
    make(tmp_path, "class/alice/raft.py")
    (tmp_path / "class" / "bob").symlink_to("alice")
    alice, bob = find([tmp_path / "class"]).submissions
    assert (alice.kind, bob.kind, bob.reason) == ("folder", "nothing", "bob is a link: hand in the files themselves")


def test_the_column_url_takes_only_https(tmp_path: Path) -> None:
    make(tmp_path, "solutions/raft.py", "alice/raft.py")
    urls = [
        "solutions",
        str(tmp_path / "solutions"),
        (tmp_path / "solutions").as_uri(),
        "FILE:///etc",
        "ext::sh -c touch% /tmp/x",
        "ssh://-oProxyCommand=touch/x",
        "git@host:x/y",
        "http://host/x",
        "--upload-pack=touch",
    ]
    rows = "".join(f"{number},{url},\n" for number, url in enumerate(urls))
    (tmp_path / "class.csv").write_text(
        f"id,url,path\n{rows}90,https://host/x,\n91,file:///x,alice\n92,https://h/x y,\n"
    )
    *local, remote, alice, odd = find([tmp_path / "class.csv"]).submissions
    assert [item.reason for item in local] == [
        f"{url} cannot be fetched: the column url takes https:// only (class.csv line {line})"
        for line, url in enumerate(urls, start=2)
    ]
    assert (remote.kind, alice.kind) == ("git", "folder")
    assert odd.reason == (
        "https://h/x y cannot be fetched: a URL has no spaces or control characters (class.csv line 13)"
    )


def test_archives_that_cannot_be_used_are_reported(tmp_path: Path) -> None:
    make(tmp_path, "alice/raft.py", "bob.tar.gz", "carol.TGZ", "dan.rar", "eve.7z", "notes.md", "fay/work.tar.bz2")
    found = find([tmp_path]).submissions
    assert [(item.name, item.kind) for item in found] == [
        ("alice", "folder"),
        ("bob", "archive"),
        ("carol", "archive"),
        ("dan", "nothing"),
        ("eve", "nothing"),
        ("fay", "archive"),
    ]
    assert found[3].reason == "dan.rar cannot be unpacked: hand in a folder, a .zip or a .tar.gz"
