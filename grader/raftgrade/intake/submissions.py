"""Finds the submissions that the paths on the command line name. None of their code is read or run here."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from raftgrade.intake import downloads, repositories, roster
from raftgrade.intake.drafts import ENTRIES, TOOL_FOLDERS, Draft, Kind, archive, no_entry, one
from raftgrade.intake.roster import BadPath, read_text
from raftgrade.students import Directory, Student, folded
from raftlab.safe_text import count, printable

__all__ = ["BadPath", "FoundSubmissions", "Submission", "find"]

LISTS = (".txt", ".list")


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """One student's work.

    Attributes:
        name: for people; unique in a run.
        slug: for file names; unique in a run.
        where: the path or URL as it was given, for messages.
        kind: decides which attributes say where the submission is. ``"git"``: ``url`` and ``commit``. ``"files"``:
            ``files``, which has the path of each file by the name that its author gave it. ``"nothing"`` (the submission
            cannot be used) and ``"absent"`` (nothing was handed in): there is no place, only a ``reason``. Any other kind:
            ``path``.
        given_by_us: for ``"nothing"``: whether the cause is something other than the student's work, such as a wrong path
            in a table. Then there is no mark.
        students: the authors, as far as a table or a course system's download names them.
        submitted: when it was handed in (ISO 8601, or as a course system writes it; "late" if the course system says only
            that it was late); empty if that is unknown.
        prefix: how the course system's file names for this submission begin.
    """

    name: str
    slug: str
    where: str
    kind: Kind
    path: Path = Path()
    files: dict[str, Path] = field(default_factory=dict)
    url: str = ""
    commit: str = ""
    reason: str = ""
    given_by_us: bool = False
    students: tuple[Student, ...] = ()
    submitted: str = ""
    prefix: str = ""


@dataclass(slots=True)
class FoundSubmissions:
    """The submissions, and the folders beside them that were ``skipped`` because they have none of the ``entries``.

    ``notes`` are sentences for the instructor, for example about submissions that belong to nobody in the roster.
    """

    entries: tuple[str, ...] = ENTRIES
    submissions: list[Submission] = field(default_factory=list)
    skipped: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def files(self) -> list[Path]:
        """The files that are submissions of their own, and so do not belong to any other submission."""
        return [item.path for item in self.submissions if item.kind == "file"]


def find(
    paths: Sequence[str | Path],
    ignore: Path | None = None,
    entries: tuple[str, ...] = ENTRIES,
    students: roster.Table | None = None,
    single: bool = False,
) -> FoundSubmissions:
    """Find submissions. A submission that is named twice counts once.

    Args:
        paths: each is a file, a zip file, a folder with one of ``entries``, a folder of such folders and zip files, an
            unpacked download from Canvas, Moodle or Gradescope, a git URL, a list of all these (``.txt``), or a table
            (``.csv``).
        ignore: the folder for the report, which is not a submission.
        entries: :data:`ENTRIES` or :data:`SERVICE_ENTRIES`.
        students: the roster. Every student in it who has no submission gets an entry that says so.
        single: whether each folder among ``paths`` is one submission, whatever it contains.

    Raises:
        BadPath: a path names no submission.
    """
    result = FoundSubmissions(entries)
    drafts: list[Draft] = []
    seen: set[tuple[str, ...]] = set()
    for given in paths:
        for draft in _expand(str(given), result, ignore, single):
            places = (str(path.resolve()) for path in (draft.path, *draft.files.values()))
            same = (draft.url, draft.reason, draft.commit, *places, *(student.label for student in draft.students))
            if same not in seen:
                seen.add(same)
                drafts.append(draft)
    if students is not None:
        drafts = _assign(drafts, students, result)
    taken_slugs: set[str] = set()
    for draft, name in zip(drafts, _names(drafts), strict=True):
        slug = _unique(re.sub(r"[^A-Za-z0-9._-]", "_", name)[:100].strip(".") or "submission", taken_slugs)
        about = {field: getattr(draft, field) for field in draft.__struct_fields__} | {"name": name, "slug": slug}
        result.submissions.append(Submission(**about))
    return result


def _expand(given: str, result: FoundSubmissions, ignore: Path | None, single: bool) -> list[Draft]:
    if _is_url(given):
        return [_repository(given)]
    path = Path(given)
    shown = printable(given)
    try:
        if not path.exists():
            raise BadPath(f"there is no {shown}")
        if path.suffix.lower() == ".csv":
            return _table(path, result.entries)
        if path.suffix.lower() in LISTS:
            lines = [line.strip() for line in read_text(path).splitlines()]
            drafts = [_named(line, path, result.entries) for line in lines if line and not line.startswith("#")]
            if not drafts:
                raise BadPath(f"{shown} is empty: expected a path or a git URL on each line")
            return drafts
        draft = one(path, result.entries)
        if draft is not None:
            return [_dated(draft)]
        if path.is_file():
            entry = result.entries[0]
            raise BadPath(f"{shown} is not a Python file: give a {entry}, or a folder with a {entry} in it")
        if single:
            return [_single(path, result.entries)]
        return downloads.recognise(path, result.entries, result.notes) or _folder(path, result, ignore)
    except OSError as exc:
        raise BadPath(f"{shown} cannot be read: {exc.strerror or exc}") from None


def _folder(path: Path, result: FoundSubmissions, ignore: Path | None) -> list[Draft]:
    """The submissions in a folder of submissions."""
    drafts = []
    skipped = []
    for entry in sorted(path.iterdir()):
        if entry.name.startswith(".") or entry.name in TOOL_FOLDERS:
            continue
        if ignore is not None and entry.resolve() == ignore.resolve():
            continue
        draft = one(entry, result.entries) if entry.is_dir() else archive(entry)
        if entry.is_symlink() and (entry.is_dir() or draft is not None):
            reason = f"{printable(entry.name)} is a link: hand in the files themselves"
            drafts.append(Draft(kind="nothing", name=entry.name, where=str(entry), reason=reason))
        elif draft is not None:
            drafts.append(_dated(draft))
        elif entry.is_dir():
            skipped.append(entry)
    if not drafts:
        raise BadPath(f"there is no {result.entries[0]} in {printable(str(path))}, nor in a folder in it")
    result.skipped += skipped
    return drafts


def _single(path: Path, entries: tuple[str, ...]) -> Draft:
    """The only submission in ``path``. This folder has none of ``entries`` itself, and its subfolders may have none,
    either."""
    name = path.resolve().name or "submission"
    folders = [entry for entry in sorted(path.iterdir()) if entry.is_dir() and not entry.is_symlink()]
    inside = [draft for entry in folders if entry.name not in TOOL_FOLDERS and (draft := one(entry, entries))]
    if len(inside) == 1:  # as in an archive, the files may lie in a folder
        inside[0].name = name
        return inside[0]
    reason = no_entry([entry.name for entry in path.iterdir()], entries, "the submission")
    if inside:
        reason = f"there is more than one {entries[0]} in the submission"
    return Draft(kind="nothing", name=name, where=str(path), reason=reason)


def _dated(draft: Draft) -> Draft:
    """``draft`` with the date of its last commit, if it is a clone."""
    if draft.kind == "folder" and (draft.path / ".git").is_dir():
        draft.submitted = repositories.committed(draft.path)
    return draft


# --- lists and tables ----------------------------------------------------------------------------------------------


def _table(path: Path, entries: tuple[str, ...]) -> list[Draft]:
    """The submissions in a table. The students of a group share the submissions of all rows of the group."""
    table = roster.read(path)
    if not table.has_places:
        raise BadPath(
            f"{table.shown} needs a column path or url; if it lists students without submissions, give it to --roster"
        )
    roster.require_distinct(table)
    groups: dict[str, list[roster.Row]] = {}
    for row in table.rows:
        if row.student.group:
            groups.setdefault(folded(row.student.group), []).append(row)
    drafts = []
    for row in table.rows:
        together = groups.get(folded(row.student.group), [row])
        places = list(dict.fromkeys((each.path, each.url) for each in together if each.path or each.url))
        if not (row.path or row.url) and places:
            continue  # another row of the group has the group's submission
        if row is not next(each for each in together if (each.path, each.url) == (row.path, row.url)):
            continue  # an earlier row of the group has the same submission
        if row.path:
            draft = _named(row.path, path, entries)
        else:
            # Students may have typed these URLs, so they must not lead to other people's files on this machine.
            draft = _fetched(row.url) if row.url else _nothing()
        if draft.given_by_us and (row.path or row.url):
            draft.reason += f" ({printable(path.name)} line {row.line})"
        draft.students = tuple({each.student.label: each.student for each in together}.values())
        draft.name = row.student.group if len(draft.students) > 1 else row.student.label
        draft.submitted = row.submitted or draft.submitted
        drafts.append(draft)
    return drafts


def _fetched(url: str) -> Draft:
    """The submission in the column ``url`` of a table. The URL must be that of a repository on another machine."""
    if not url.startswith("https://"):
        reason = f"{printable(_without_secret(url))} cannot be fetched: the column url takes https:// only"
        return Draft(kind="nothing", name="submission", where=_without_secret(url), reason=reason, given_by_us=True)
    return _repository(url)


def _nothing(students: tuple[Student, ...] = ()) -> Draft:
    reason = "nothing was handed in"
    return Draft(kind="absent", name="nothing", where="(nothing)", reason=reason, given_by_us=True, students=students)


def _without_secret(url: str) -> str:
    return re.sub(r"//[^/@]*@", "//", url)


def _named(where: str, listed_in: Path, entries: tuple[str, ...]) -> Draft:
    """The submission that a line of ``listed_in`` names, relative to the list's folder. If this line names no submission,
    the submissions of the other lines are graded all the same."""
    if _is_url(where):
        return _repository(where)
    path = _existing(listed_in.parent, where)
    shown = printable(where)
    reason, ours = f"there is no {shown}", True
    try:
        if path.exists():
            draft = one(path, entries)
            if draft is not None:
                return _dated(draft)
            inside = list(path.iterdir()) if path.is_dir() else []
            reason, ours = no_entry([entry.name for entry in inside], entries, "the submission"), False
            if any(one(entry, entries) for entry in inside if entry.is_dir()):
                reason, ours = f"{shown} is a folder of submissions, not one submission", True
    except (OSError, ValueError) as exc:
        reason = f"{shown} cannot be read: {getattr(exc, 'strerror', None) or exc}"
    name = Path(where).name or "submission"
    return Draft(kind="nothing", name=name, where=where, reason=reason, given_by_us=ours)


def _existing(folder: Path, where: str) -> Path:
    """The path that a table names. Its accents may have another form on disk (NFC or NFD)."""
    forms = (where, unicodedata.normalize("NFC", where), unicodedata.normalize("NFD", where))
    paths = [folder / form for form in forms]
    return next((path for path in paths if "\0" not in where and path.exists()), paths[0])


# --- the roster ----------------------------------------------------------------------------------------------------


def _assign(drafts: list[Draft], table: roster.Table, result: FoundSubmissions) -> list[Draft]:
    """Give each submission the students of the roster who wrote it. A submission that fits no student, or more than one,
    keeps its own name, and a note mentions it. A student without a submission gets an entry that says so.

    If a folder belongs to a student but contains no submission, it is what the student handed in, so it is not skipped.
    """
    roster.require_distinct(table)
    notes = result.notes
    students = roster.directory(table)
    folders = [draft for path in result.skipped if (draft := _unusable(path, result.entries))]
    prefixes = _prefixes_of_clones([*drafts, *folders])
    authors = {number for draft in drafts for number in _authors(draft, students, prefixes)}
    served = {member for number in authors for member in _members(students, number)}
    theirs = [draft for draft in folders if _may_be_of(draft, students, prefixes) - served]
    result.skipped = [path for path in result.skipped if all(path != draft.path for draft in theirs)]
    drafts = [*drafts, *theirs]
    unknown: list[str] = []
    have: set[int] = set()
    for draft in drafts:
        found = _authors(draft, students, prefixes)
        if not found:
            unknown.append(printable(draft.name))
            continue
        known = {key for student in draft.students for key in student.ids}
        more = tuple(text for student in draft.students for text in student.other_ids)
        together = {member for number in found for member in _members(students, number)}
        have |= together
        draft.students = tuple(
            msgspec.structs.replace(each, other_ids=tuple(dict.fromkeys((*each.other_ids, *more))))
            if number in found and (len(found) == 1 or known & each.ids)
            else each
            for number, each in enumerate(students.students)
            if number in together
        )
        draft.name = draft.students[0].group if len(draft.students) > 1 else draft.students[0].label
        draft.name = draft.name or ", ".join(student.label for student in draft.students)
        if not draft.submitted:
            draft.submitted = next((table.rows[number].submitted for number in sorted(found)), "")
    missing = [number for number in range(len(students.students)) if number not in have]
    if unknown:
        matches, was = ("matches", "was") if len(unknown) == 1 else ("match", "were")
        text = f"{count(len(unknown), 'submission')} {matches} no student in {table.shown}, or more than one"
        notes.append(f"{text}, and {was} graded without a roster entry: {'; '.join(unknown)}")
    if missing:
        names = "; ".join(students.students[number].label for number in missing)
        has = "has" if len(missing) == 1 else "have"
        notes.append(f"{count(len(missing), 'student')} of {table.shown} {has} no submission, and so no mark: {names}")
    absent = []
    for place in missing:
        draft = _nothing((students.students[place],))
        draft.name = students.students[place].label
        if unknown:  # one of these submissions may be this student's
            draft.kind = "nothing"
            number = count(len(unknown), "submission")
            draft.reason = f"no submission was found, but {number} could not be matched with exactly one student"
        absent.append(draft)
    return drafts + absent


def _unusable(path: Path, entries: tuple[str, ...]) -> Draft | None:
    """The folder ``path``, which has none of ``entries``, as a submission; ``None`` if it is empty."""
    names = [entry.name for entry in path.iterdir() if not entry.name.startswith(".")]
    if not names:
        return None
    return Draft(
        kind="nothing", name=path.name, where=str(path), path=path, reason=no_entry(names, entries, "the submission")
    )


def _authors(draft: Draft, students: Directory, prefixes: list[str]) -> set[int]:
    """The numbers of the students who wrote a submission, without the other members of their groups; empty if that is not
    clear."""
    if draft.students:
        each_found = [students.find(student.ids, [student.name]) for student in draft.students]
        found = {number for numbers in each_found for number in numbers}
        return found if all(len(numbers) == 1 for numbers in each_found) else set()
    numbers = students.find([draft.name], [draft.name])
    if not numbers:
        group = students.find_group(draft.name)
        if group:
            return set(group)
        # GitHub Classroom puts the assignment's name and a hyphen before the login.
        numbers = students.find([draft.name.removeprefix(each) for each in prefixes if draft.name.startswith(each)])
    return set(numbers) if len(numbers) == 1 else set()


def _may_be_of(draft: Draft, students: Directory, prefixes: list[str]) -> set[int]:
    """The numbers of the students who may have written a submission, if only the submission's name is known."""
    return _authors(draft, students, prefixes) or set(students.find([draft.name], [draft.name]))


def _members(students: Directory, number: int) -> list[int]:
    group = students.students[number].group
    return students.find_group(group) if group else [number]


def _prefixes_of_clones(drafts: list[Draft]) -> list[str]:
    """The prefixes, each ending in a hyphen, that the names of all clones share: the assignment's name, and perhaps more."""
    folders = [draft for draft in drafts if draft.kind in ("folder", "nothing") and draft.path != Path()]
    names = [draft.name for draft in folders if (draft.path / ".git").exists()]
    common = os.path.commonprefix(names) if len(names) > 1 else (names or [""])[0]  # noqa: RUF071 (not paths)
    return [common[: found.end()] for found in re.finditer("-", common)]


def _is_url(text: str) -> bool:
    return "://" in text or re.match(r"[\w.-]+@[\w.-]+:", text) is not None


def _repository(text: str) -> Draft:
    """Parse ``https://host/group/name.git#commit``. Text before an ``@`` may be a password, so it is not shown."""
    url, _, commit = text.partition("#")
    where = _without_secret(text)
    name = re.sub(r"\.git$", "", url.rstrip("/")).rpartition("/")[2] or "repository"
    if not url.startswith(("https://", "file://")):
        reason = f"{printable(where)} cannot be fetched: only https:// and file:// can"
        return Draft(kind="nothing", name=name, where=where, reason=reason, given_by_us=True)
    if not url.isprintable() or " " in url:
        reason = f"{printable(where)} cannot be fetched: a URL has no spaces or control characters"
        return Draft(kind="nothing", name=name, where=where, reason=reason, given_by_us=True)
    if commit and not re.fullmatch(r"[0-9a-fA-F]{40}", commit):
        reason = f"{printable(where)} names no commit: after # there must be 40 hexadecimal digits"
        return Draft(kind="nothing", name=name, where=where, reason=reason, given_by_us=True)
    return Draft(kind="git", name=name, where=where, url=url, commit=commit)


def _names(drafts: Sequence[Draft]) -> list[str]:
    """A unique name for each draft. The names that can be shown as they are come first, so that no other name, made
    printable or with a number, takes the place of one of them."""
    shown = [
        printable(unicodedata.normalize("NFC", draft.name)).replace("\n", "\\n").replace("\t", " ") for draft in drafts
    ]
    taken: set[str] = set()
    names = ["" for _ in drafts]
    for number, draft in enumerate(drafts):
        if shown[number] == draft.name and draft.name not in taken:
            names[number] = _unique(draft.name, taken)
    return [name or _unique(other, taken) for name, other in zip(names, shown, strict=True)]


def _unique(name: str, taken: set[str]) -> str:
    for candidate in _candidates(name):
        if candidate not in taken:
            taken.add(candidate)
            return candidate
    raise AssertionError("there is always another number")


def _candidates(name: str) -> Iterable[str]:
    yield name
    number = 2
    while True:
        yield f"{name}-{number}"
        number += 1
