"""Recognises the downloads of course systems: Canvas' and Moodle's downloads of all submissions, and Gradescope's export.

Who handed in which file? The names of the files say this, or a list in the download does. Gradescope's list also says when a
submission was handed in.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from raftgrade.intake.drafts import TOOL_FOLDERS, Draft, archive, no_entry, one
from raftgrade.intake.roster import BadPath
from raftgrade.late import MARKED_LATE
from raftgrade.students import DownloadName, Student, canvas_name, moodle_name
from raftlab.safe_text import printable

METADATA = "submission_metadata.yml"  # in Gradescope's export
_MAX_METADATA_BYTES = 200_000_000  # Gradescope's list repeats the output of every test of every submission


def recognise(folder: Path, entries: tuple[str, ...], notes: list[str]) -> list[Draft] | None:
    """The submissions in ``folder``, if it is a download of one of these systems; else ``None``.

    Args:
        folder: the unpacked download.
        entries: the files that make a folder a submission.
        notes: a list, to which a sentence about what is left out is added.

    Raises:
        BadPath: Gradescope's list of the submissions cannot be read.
        OSError: the folder cannot be read.
    """
    found = [entry for entry in sorted(folder.iterdir()) if not entry.name.startswith(".")]
    found = [entry for entry in found if entry.name not in TOOL_FOLDERS]
    if (folder / METADATA).is_file():
        drafts = _gradescope(folder, entries)
        named = {Path(draft.where).name for draft in drafts}
        rest = [entry for entry in found if entry.name not in named and entry.is_dir()]
    elif any(moodle_name(entry.name) for entry in found):
        drafts, rest = _by_prefix(found, moodle_name, entries)
    elif any(entry.is_file() and _is_code(entry) and canvas_name(entry.name) for entry in found):
        drafts, rest = _by_prefix(found, canvas_name, entries)
    else:
        return None
    left_out = []
    for entry in rest:
        draft = None if entry.is_symlink() else one(entry, entries) if entry.is_dir() else archive(entry)
        if draft is not None:
            drafts.append(draft)  # the instructor may have put a submission there
        elif entry.is_dir() or entry.suffix.lower() == ".py":
            left_out.append(printable(entry.name))
    if left_out:
        notes.append(
            f"not graded from {printable(str(folder))}, because nothing says who handed it in: {'; '.join(left_out)}"
        )
    return drafts


def _is_code(path: Path) -> bool:
    return path.suffix.lower() == ".py" or archive(path) is not None


def _by_prefix(
    found: list[Path], read: Callable[[str], DownloadName | None], entries: tuple[str, ...]
) -> tuple[list[Draft], list[Path]]:
    """One submission for each student whom the names in a folder identify, and the paths whose names identify nobody."""
    files: dict[tuple[str, ...], list[tuple[Path, DownloadName]]] = {}
    rest = []
    for path in found:
        about = read(path.name)
        if about is None or (path.is_dir() and read is canvas_name):  # Canvas makes no folders
            rest.append(path)
        else:
            files.setdefault(about.ids, []).append((path, about))
    return [_of_one(ids, parts, entries) for ids, parts in files.items()], rest


def _of_one(ids: tuple[str, ...], parts: list[tuple[Path, DownloadName]], entries: tuple[str, ...]) -> Draft:
    """The submission of one student, who may have handed in several files."""
    about = parts[0][1]
    draft = _draft_of([(path, each.rest) for path, each in parts if not each.text], entries)
    draft.name = about.name or ids[0]
    draft.students = (Student(name=about.name, other_ids=ids),)
    draft.prefix = about.prefix
    if any(each.late for _, each in parts):
        draft.submitted = MARKED_LATE
    return draft


def _draft_of(parts: list[tuple[Path, str]], entries: tuple[str, ...]) -> Draft:
    """The submission that consists of ``parts``: paths, and the names that the student gave them (empty for a folder)."""
    where = str(parts[0][0]) if parts else ""
    if not parts:
        return Draft(kind="nothing", name="", where=where, reason="only text was typed in: hand in the file raft.py")
    links = [path for path, _ in parts if path.is_symlink()]
    if links:
        reason = f"{printable(links[0].name)} is a link: hand in the files themselves"
        return Draft(kind="nothing", name="", where=where, reason=reason)
    folders = [path for path, _ in parts if path.is_dir()]
    if folders:
        draft = one(folders[0], entries) if len(folders) == 1 else None
        names = [entry.name for path in folders for entry in path.iterdir()]
        return draft or Draft(kind="nothing", name="", where=where, reason=no_entry(names, entries, "the submission"))
    files: dict[str, Path] = {}
    for path, name in parts:
        # Canvas numbers a file that is handed in again: raft-1.py. A module of Python has no hyphen in its name.
        plain = re.sub(r"-\d+\.py$", ".py", name)
        files[name if plain in files else plain] = path
    if not any(entry in files for entry in entries):
        archives = [draft for path in files.values() if (draft := archive(path)) is not None]
        if len(archives) == 1:
            return archives[0]
        return Draft(kind="nothing", name="", where=where, reason=no_entry(list(files), entries, "the submission"))
    return Draft(kind="files", name="", where=where, files=files)


# --- Gradescope ----------------------------------------------------------------------------------------------------


def _gradescope(folder: Path, entries: tuple[str, ...]) -> list[Draft]:
    """The submissions in Gradescope's export: a folder for each, and a list in YAML with submitters and dates."""
    shown = printable(str(folder / METADATA))
    drafts = []
    for name, about in _metadata(folder / METADATA, shown).items():
        path = folder / name
        if Path(name).name != name or not isinstance(about, dict):
            raise BadPath(f"{shown} is not a list of submissions as Gradescope writes it")
        submitters = about.get(":submitters") or about.get("submitters") or []
        students = tuple(_submitter(each) for each in submitters if isinstance(each, dict))
        if path.is_dir():
            draft = one(path, entries) or Draft(
                kind="nothing",
                name=name,
                where=str(path),
                reason=no_entry([entry.name for entry in path.iterdir()], entries, "the submission"),
            )
        else:
            reason = f"{METADATA} names the folder {printable(name)}, which is not there"
            draft = Draft(kind="nothing", name=name, where=str(path), reason=reason, given_by_us=True)
        draft.students = students
        draft.name = ", ".join(student.label for student in students) or name
        draft.submitted = str(about.get(":created_at") or about.get("created_at") or "")
        drafts.append(draft)
    return drafts


def _submitter(about: dict[str, Any]) -> Student:
    def text(key: str) -> str:
        return printable(str(about.get(f":{key}") or about.get(key) or ""))

    return Student(id=text("sid"), name=text("name"), email=text("email"))


def _metadata(path: Path, shown: str) -> dict[str, Any]:
    try:
        import yaml
    except ImportError:
        raise BadPath(f"reading {shown} needs PyYAML: pip install 'raftlab[gradescope]'") from None
    if path.stat().st_size > _MAX_METADATA_BYTES:
        raise BadPath(f"{shown} is too long for a list of submissions")
    try:
        # These loaders keep every value as text, because an id such as 0012 is not a number. CBaseLoader is written in
        # C, and takes a tenth of the time.
        loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
        with path.open(encoding="utf-8") as file:
            found = yaml.load(file, Loader=loader)
    except (yaml.YAMLError, UnicodeDecodeError):
        raise BadPath(f"{shown} cannot be read as YAML") from None
    if not isinstance(found, dict) or not found:
        raise BadPath(f"{shown} is not a list of submissions as Gradescope writes it")
    return found
