"""Tests of claiming an output folder: reports, soaks and proofs refuse a folder with the same words, and do not change
it."""

from pathlib import Path

import pytest

from raftgrade.output_folder import BadFolder, claim


def refusal(folder: Path) -> str:
    with pytest.raises(BadFolder) as caught:
        claim(folder, "main.jsonl", "soak")
    return str(caught.value)


def test_folders_that_can_be_claimed(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "a" / "b"):
        with claim(folder, "main.jsonl", "soak") as file:
            file.write(b"line\n")
        with claim(folder, "main.jsonl", "soak") as file:
            file.seek(0)
            assert file.read() == b"line\n"


def test_folders_that_are_refused_are_not_changed(tmp_path: Path) -> None:
    elsewhere = "choose another folder with --out"
    (tmp_path / "notes.txt").touch()
    expected = f"{tmp_path} holds other files and no main.jsonl; nothing was changed: {elsewhere}"
    assert refusal(tmp_path) == expected
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]
    file = tmp_path / "notes.txt"
    assert refusal(file) == f"{file} is a file; {elsewhere}"
    assert refusal(file / "x") == f"{file}/x cannot be used for the soak: Not a directory"
    assert refusal(tmp_path / "\udcff") == f"the name {tmp_path}/\\udcff is not valid UTF-8; {elsewhere}"
    folder = tmp_path / "new"
    with claim(folder, "main.jsonl", "soak"):
        assert refusal(folder) == f"another raftgrade is writing to {folder}; {elsewhere}"
