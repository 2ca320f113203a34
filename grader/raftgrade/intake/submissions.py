"""Find the submissions that the paths on the command line name. None of their code is read or run here."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec

from raftlab.safe_text import printable

MAIN = "raft.py"
TOOL_FOLDERS = {"__pycache__", "__MACOSX", "node_modules", "venv", "env"}
LISTS = (".txt", ".list")
MAX_LIST_BYTES = 5_000_000  # of a list or table of submissions

Kind = Literal["file", "folder", "zip", "git", "nothing"]


class BadPath(ValueError):
    """A path that names no submission. The message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """One student's work.

    Attributes:
        name: for people; unique in a run.
        slug: for file names; unique in a run.
        where: the path or URL as it was given, for messages.
        kind: says which attributes matter: ``path``; for ``"git"``, ``url`` and ``commit``; for ``"nothing"``,
            ``reason``, which says why there is no submission.
        id: the student's in the course, if a table gave one.
    """

    name: str
    slug: str
    where: str
    kind: Kind
    id: str = ""
    path: Path = Path()
    url: str = ""
    commit: str = ""
    reason: str = ""


@dataclass(slots=True)
class FoundSubmissions:
    """The submissions, and the folders beside them that were ``skipped`` because they have no ``raft.py``."""

    submissions: list[Submission] = field(default_factory=list)
    skipped: list[Path] = field(default_factory=list)

    @property
    def files(self) -> list[Path]:
        """Files that are submissions of their own, and no part of another one."""
        return [item.path for item in self.submissions if item.kind == "file"]


class _Draft(msgspec.Struct, kw_only=True):
    """A submission before it has its unique names."""

    kind: Kind
    name: str
    where: str
    id: str = ""
    path: Path = Path()
    url: str = ""
    commit: str = ""
    reason: str = ""


def find(paths: Sequence[str | Path], ignore: Path | None = None) -> FoundSubmissions:
    """Find submissions. One that is named twice counts once.

    Args:
        paths: each is a file, a zip file, a folder with ``raft.py``, a folder of such folders and zip files, a git URL, a
            list of all these (``.txt``), or a table (``.csv``).
        ignore: a folder that is no submission, because the report goes there.

    Raises:
        BadPath: a path names no submission.
    """
    result = FoundSubmissions()
    taken_names: set[str] = set()
    taken_slugs: set[str] = set()
    seen: set[tuple[str, str]] = set()
    for given in paths:
        for draft in _expand(str(given), result, ignore):
            same = (draft.url + draft.reason, f"{draft.commit} {draft.path.resolve()} {draft.id}")
            if same in seen:
                continue
            seen.add(same)
            name = _unique(printable(draft.name).replace("\n", "\\n").replace("\t", " "), taken_names)
            slug = _unique(re.sub(r"[^A-Za-z0-9._-]", "_", name)[:100].strip(".") or "submission", taken_slugs)
            result.submissions.append(Submission(**{**msgspec.structs.asdict(draft), "name": name, "slug": slug}))
    return result


def _expand(given: str, result: FoundSubmissions, ignore: Path | None) -> list[_Draft]:
    if _is_url(given):
        return [_repository(given)]
    path = Path(given)
    shown = printable(given)
    try:
        if not path.exists():
            raise BadPath(f"there is no {shown}")
        if path.suffix.lower() == ".csv":
            return _table(path)
        if path.suffix.lower() in LISTS:
            lines = [line.strip() for line in _text(path).splitlines()]
            drafts = [_named(line, path) for line in lines if line and not line.startswith("#")]
            if not drafts:
                raise BadPath(f"{shown} is empty: expected a path or a git URL on each line")
            return drafts
        draft = _one(path)
        if draft is not None:
            return [draft]
        if path.is_file():
            raise BadPath(f"{shown} is not a Python file: give a raft.py, or a folder with a raft.py in it")
        return _folder(path, result, ignore)
    except OSError as exc:
        raise BadPath(f"{shown} cannot be read: {exc.strerror or exc}") from None


def _one(path: Path) -> _Draft | None:
    """The submission at ``path``, if ``path`` is a single one."""
    if path.is_file():
        kind: Kind | None = {".py": "file", ".zip": "zip"}.get(path.suffix.lower())  # type: ignore[assignment]
        if kind is None:
            return None
        return _Draft(kind=kind, name=_name(path), where=str(path), path=path)
    if _holds_raft(path):
        return _Draft(kind="folder", name=_name(path), where=str(path), path=path)
    inside = [entry for entry in path.iterdir() if not entry.name.startswith(".")]
    if len(inside) == 1 and inside[0].suffix.lower() == ".zip" and inside[0].is_file():  # as Moodle packs them
        folder = path.resolve().parent if not path.name else path
        return _Draft(kind="zip", name=_name(folder), where=str(path), path=inside[0])
    return None


def _folder(path: Path, result: FoundSubmissions, ignore: Path | None) -> list[_Draft]:
    """The submissions in a folder of submissions."""
    drafts = []
    skipped = []
    for entry in sorted(path.iterdir()):
        if entry.name.startswith(".") or entry.name in TOOL_FOLDERS:
            continue
        if ignore is not None and entry.resolve() == ignore.resolve():
            continue
        draft = _one(entry) if entry.is_dir() or entry.suffix.lower() == ".zip" else None
        if entry.is_symlink() and (entry.is_dir() or entry.suffix.lower() == ".zip"):
            reason = f"{printable(entry.name)} is a link: hand in the files themselves"
            drafts.append(_Draft(kind="nothing", name=entry.name, where=str(entry), reason=reason))
        elif draft is not None:
            drafts.append(draft)
        elif entry.is_dir():
            skipped.append(entry)
    if not drafts:
        raise BadPath(f"there is no raft.py in {printable(str(path))}, nor in a folder in it")
    result.skipped += skipped
    return drafts


# --- lists and tables ----------------------------------------------------------------------------------------------


def _table(path: Path) -> list[_Draft]:
    shown = printable(str(path))
    rows = csv.DictReader(_text(path).splitlines())
    names = {(name or "").strip().lower(): name for name in rows.fieldnames or ()}
    where = names.get("path", names.get("url"))
    if where is None or ("id" not in names and "name" not in names):
        seen = ", ".join(printable(name) for name in names) or "none"
        raise BadPath(f"{shown} needs the columns id, name and path (or url), but has: {seen}")
    drafts = []
    for row in rows:
        # A row with too many cells keeps them under None.
        cells = {key: (row.get(name) or "").strip() for key, name in names.items()}
        draft = _named(cells["path" if "path" in cells else "url"] or cells.get("url", ""), path)
        draft.id = printable(cells.get("id", ""))
        draft.name = cells.get("name") or draft.id or draft.name
        drafts.append(draft)
    if not drafts:
        raise BadPath(f"{shown} has no row")
    return drafts


def _named(where: str, listed_in: Path) -> _Draft:
    """The submission in a line of the list ``listed_in``, relative to the list. If there is none, it is refused, and the
    others go on."""
    if not where:
        return _Draft(kind="nothing", name="nothing", where="(nothing)", reason="nothing was handed in")
    if _is_url(where):
        return _repository(where)
    path = listed_in.parent / where
    name = Path(where).name or "submission"
    try:
        draft = _one(path) if path.exists() else None
        reason = f"there is no raft.py in {printable(where)}" if path.exists() else f"there is no {printable(where)}"
    except (OSError, ValueError) as exc:
        draft, reason = None, f"{printable(where)} cannot be read: {getattr(exc, 'strerror', None) or exc}"
    return draft or _Draft(kind="nothing", name=name, where=where, reason=reason)


def _text(path: Path) -> str:
    if path.stat().st_size > MAX_LIST_BYTES:
        raise BadPath(f"{printable(str(path))} is too long for a list of submissions")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise BadPath(f"{printable(str(path))} is not UTF-8 text: save it as UTF-8") from None


def _is_url(text: str) -> bool:
    return "://" in text or re.match(r"[\w.-]+@[\w.-]+:", text) is not None


def _repository(text: str) -> _Draft:
    """``https://host/group/name.git#commit``. Whatever comes before an ``@`` is a secret, and not shown."""
    url, _, commit = text.partition("#")
    where = re.sub(r"//[^/@]*@", "//", text)
    name = re.sub(r"\.git$", "", url.rstrip("/")).rpartition("/")[2] or "repository"
    if not url.startswith(("https://", "file://")):
        reason = f"{printable(where)} cannot be fetched: only https:// and file:// can"
        return _Draft(kind="nothing", name=name, where=where, reason=reason)
    if commit and not re.fullmatch(r"[0-9a-fA-F]{40}", commit):
        reason = f"{printable(where)} names no commit: after # there must be 40 hexadecimal digits"
        return _Draft(kind="nothing", name=name, where=where, reason=reason)
    return _Draft(kind="git", name=name, where=where, url=url, commit=commit)


def _holds_raft(folder: Path) -> bool:
    return (folder / MAIN).is_file()


def _name(path: Path) -> str:
    """The name of a folder or file; a ``raft.py`` is named after its folder."""
    real = path.resolve()
    if real.is_file():
        return real.stem if real.name != MAIN else real.parent.name or "raft"
    return real.name or "submission"


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
