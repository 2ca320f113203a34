"""The students of a course, and how the ids and names that course systems write are matched with them.

Ids are compared before names. Upper and lower case, spaces, and the two ways in which Unicode writes an accent (NFC and NFD)
make no difference, and "Lovelace, Ada" is the name "Ada Lovelace". An id or name that matches several students counts as
matching none, because only a person can choose between them.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Generic, Protocol, TypeVar

import msgspec


class Student(msgspec.Struct, frozen=True, kw_only=True):
    """A student, as the roster or a course system describes them.

    Attributes:
        id, login, email: what identifies the student in the course's systems; empty if unknown.
        name: for people. It may not be unique.
        group: the name of the group that the student hands in with.
        extension_days: how many days later than the others this student may hand in.
        due: the student's own deadline (ISO 8601), if it is not that of the course; otherwise empty.
        other_ids: more ids of the student, such as the number in the name of a downloaded file.
    """

    id: str = ""
    name: str = ""
    login: str = ""
    email: str = ""
    group: str = ""
    extension_days: float = 0.0
    due: str = ""
    other_ids: tuple[str, ...] = ()

    @property
    def ids(self) -> set[str]:
        """Everything that identifies the student, as :func:`folded` writes it."""
        return {folded(text) for text in (self.id, self.login, self.email, *self.other_ids)} - {""}

    @property
    def label(self) -> str:
        """The student's name, or what identifies them if they have none."""
        return self.name or self.id or self.login or self.email or next(iter(self.other_ids), "")


def visible(text: str) -> str:
    """``text`` without characters that have no width, such as marks for the direction of writing."""
    return "".join(letter for letter in text if unicodedata.category(letter) != "Cf")


def folded(text: str) -> str:
    """``text`` in a form that is equal for texts that differ only in case, spaces, invisible characters, or in the form of
    accents in Unicode."""
    # Case folding may decompose accents again, so the text is composed at the end.
    apart = unicodedata.normalize("NFD", visible(text)).casefold()
    return " ".join(unicodedata.normalize("NFC", apart).split())


def folded_name(text: str) -> str:
    """A name as :func:`folded` writes it, with "Last, First" as "first last"."""
    last, comma, first = folded(text).partition(",")
    if not comma or not last.strip() or not first.strip() or "," in first:
        return folded(text)
    return f"{first.strip()} {last.strip()}"


class DownloadName(msgspec.Struct, frozen=True, kw_only=True):
    """What a course system writes into the name of a downloaded file or folder.

    Attributes:
        prefix: the beginning of the name, which the system expects in the names of feedback files.
        name: the student's name, or empty if the system does not tell it.
        ids: what identifies the student.
        late: whether the system says that the submission was late.
        rest: the name of the student's own file; empty for a folder.
        text: whether the student typed a text into a form instead of handing in a file.
    """

    prefix: str
    name: str = ""
    ids: tuple[str, ...] = ()
    late: bool = False
    rest: str = ""
    text: bool = False


# Moodle: FULLNAME_NUMBER_assignsubmission_file_ is a folder, or the beginning of a file's name if each student has one file.
# Before the name, there may be the group's name with a hyphen. With blind marking, FULLNAME is "Participant", and the
# grading worksheet has "Participant NUMBER" in its column Identifier. (mod/assign/locallib.php, download_submissions)
_MOODLE = re.compile(r"(?P<prefix>(?P<name>[^_]+)_(?P<id>\d+)_assignsubmission_(?P<kind>[a-z]+)_?)(?P<rest>.*)", re.S)
# Canvas: lastfirst_LATE_USER_ATTACHMENT_FILE. In an anonymous assignment, anon_CODE stands in place of name and user.
# (lib/content_zipper.rb, get_filename)
_CANVAS = re.compile(
    r"(?P<prefix>(?:(?P<name>[^_].*?)_)?(?:(?P<late>LATE)_)?(?:anon_(?P<anon>[^_]+)|(?P<id>\d+))_(?P<file>\d+)_)(?P<rest>.+)",
    re.I | re.S,
)


def moodle_name(text: str) -> DownloadName | None:
    """Read the name of a folder or file of Moodle's download of all submissions."""
    found = _MOODLE.fullmatch(text)
    if found is None:
        return None
    number, name = found["id"], unicodedata.normalize("NFC", found["name"].strip())
    blind = folded(name) == "participant"
    return DownloadName(
        prefix=found["prefix"],
        name=f"Participant {number}" if blind else name,
        ids=(number, f"Participant {number}"),
        rest=found["rest"],
        text=found["kind"] != "file",
    )


def canvas_name(text: str) -> DownloadName | None:
    """Read the name of a file of Canvas' download of all submissions."""
    found = _CANVAS.fullmatch(text)
    if found is None:
        return None
    anonymous = found["anon"]
    typed = re.fullmatch(r"(text|link)\.html", found["rest"]) is not None
    return DownloadName(
        prefix=found["prefix"],
        # Canvas leaves out the spaces and the comma, so this is not a name by which anyone could be found.
        name=f"anon_{anonymous}" if anonymous else (found["name"] or ""),
        ids=(f"anon_{anonymous}",) if anonymous else (found["id"],),
        late=found["late"] is not None,
        rest=found["rest"],
        text=typed,
    )


class Directory:
    """Finds students by their ids and names. Students who hand in as a group are found by the group's name, too."""

    def __init__(self, students: Sequence[Student]) -> None:
        self.students = students
        self._by_id: dict[str, list[int]] = {}
        self._by_name: dict[str, list[int]] = {}
        self._by_group: dict[str, list[int]] = {}
        for number, student in enumerate(students):
            for key in student.ids:
                self._by_id.setdefault(key, []).append(number)
            self._by_name.setdefault(folded_name(student.name), []).append(number)
            self._by_group.setdefault(folded(student.group), []).append(number)
        for index in (self._by_name, self._by_group):
            index.pop("", None)

    def find(self, ids: Iterable[str], names: Iterable[str] = ()) -> list[int]:
        """The numbers of the students that have one of ``ids``. If no student has one, the numbers of those with one of
        ``names``. More than one number means that it is not clear who is meant."""
        names = list(names)
        found = {number for text in ids for number in self._by_id.get(folded(text), ())}
        found = found or {number for text in names for number in self._by_name.get(folded_name(text), ())}
        return sorted(found)

    def find_group(self, name: str) -> list[int]:
        """The numbers of the members of a group."""
        return self._by_group.get(folded(name), [])


class Named(Protocol):
    """An object that people may call by several names, such as a submission."""

    @property
    def name(self) -> str: ...
    @property
    def slug(self) -> str: ...
    @property
    def students(self) -> Sequence[Student]: ...


_Named = TypeVar("_Named", bound=Named)


class Finder(Generic[_Named]):
    """Finds submissions by what people may call them.

    Args:
        items: the submissions.
        path_of: the path of a submission, as it was given.
        code_of: the code of a submission in anonymous reports, by its name.
    """

    def __init__(
        self, items: Sequence[_Named], path_of: Callable[[_Named], str], code_of: Mapping[str, str] | None = None
    ) -> None:
        self._tiers: list[dict[str, list[_Named]]] = [{}, {}, {}, {}]
        for item in items:
            exact, ids, names, places = self._tiers
            students = item.students
            _put(exact, {item.name, item.slug, (code_of or {}).get(item.name, "")}, item)
            _put(ids, {key for student in students for key in student.ids}, item)
            groups = {folded(student.group) for student in students}
            _put(names, {folded(item.name), *(folded_name(each.name) for each in students), *groups}, item)
            path = PurePath(path_of(item))
            _put(places, {folded(path.name), folded(path.stem)}, item)

    def find(self, text: str) -> list[_Named]:
        """The submissions that ``text`` names: by the name that the report shows, else by an id, else by a student's or
        group's name, else by the name of the submission's file or folder."""
        text = text.strip()
        for tier, key in zip(self._tiers, (text, folded(text), folded_name(text), folded(text)), strict=True):
            found = tier.get(key) or tier.get(folded(text)) or []
            if found:
                return found
        return []


def _put(index: dict[str, list[_Named]], keys: Iterable[str], item: _Named) -> None:
    for key in keys:
        if key:
            index.setdefault(key, []).append(item)
