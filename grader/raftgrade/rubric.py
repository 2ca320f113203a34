"""The rubric: how pass rates become points, read from a TOML file.

A mistake in the file is reported in one sentence with its line and key. The secret of hidden runs is used only to draw
their seeds, and is never written anywhere.
"""

from __future__ import annotations

import difflib
import hashlib
import re
import tomllib
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import msgspec

from raftlab.safe_text import one_line, printable

Rule = Literal["all-or-nothing", "proportional", "curve"]
RULES: tuple[Rule, ...] = get_args(Rule)
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Amount = Annotated[float, msgspec.Meta(ge=0)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
Curve = tuple[tuple[Share, Share], ...]

# Hidden seeds start above all seeds that anyone would choose. They stay below 2**53, so that every JSON reader reads them
# exactly.
_FIRST_HIDDEN = 1 << 40
_HIDDEN_BITS = 47
_MAX_HIDDEN_RUNS = 10_000
_MIN_SECRET_CHARACTERS = 8


class Limits(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Limits on what is measured in a test's passing runs in sim. If the 95th percentile of a measurement exceeds its limit,
    the test keeps the share ``keep`` of its points. ``lab_s`` is in seconds of virtual time."""

    keep: Share = 0.5
    lab_s: Positive | None = None
    rpcs: Positive | None = None
    bytes: Positive | None = None


class Late(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The percentage of the points that a late submission loses."""

    percent_a_day: Annotated[float, msgspec.Meta(ge=0, le=100)] = 0.0
    grace_hours: Amount = 0.0
    most_percent: Annotated[float, msgspec.Meta(ge=0, le=100)] = 100.0

    def share(self, days: float) -> float:
        """The share of its points (0 to 1) that a submission loses if it is ``days`` late. A part of a day counts as a whole
        day."""
        late = days - self.grace_hours / 24
        begun = int(late) + (late > int(late)) if late > 0 else 0
        return min(begun * self.percent_a_day, self.most_percent) / 100


class Races(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The cost of races that the race detector finds: a test that shows a race keeps the share ``keep`` of its points."""

    keep: Annotated[float, msgspec.Meta(ge=0, le=1)] = 1.0


class Hidden(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Runs with seeds that students cannot know. ``secret`` is only in the instructor's file."""

    runs: Annotated[int, msgspec.Meta(ge=0, le=_MAX_HIDDEN_RUNS)] = 0
    secret: str = ""

    def seeds(self) -> tuple[int, int]:
        """The first seed, and the number after the last seed. With the same secret, all submissions get the same seeds."""
        drawn = hashlib.blake2b(self.secret.encode(), digest_size=8, person=b"raftgrade").digest()
        first = _FIRST_HIDDEN + (int.from_bytes(drawn, "big") >> (64 - _HIDDEN_BITS))
        return first, first + self.runs


class LabRules(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Rules for one lab that replace the general ones. This lab is run only if each lab in ``needs`` has earned the share
    ``needs_share`` of its points."""

    points: Amount | None = None
    needs: list[str] = []
    needs_share: Share = 1.0
    rule: Rule | None = None


class TestRules(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Rules for one test that replace the general ones. The fields are those of the rubric and of :class:`Limits`."""

    points: Amount | None = None
    rule: Rule | None = None
    keep: Share | None = None
    lab_s: Positive | None = None
    rpcs: Positive | None = None
    bytes: Positive | None = None


class Rubric(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """The rules by which runs become points.

    Attributes:
        rule: how a test's pass rate becomes a share of its points.
        curve: for the rule ``"curve"``: pairs (pass rate, share). Between two pairs, the share grows in a straight line.
        weights: for the rules other than ``"all-or-nothing"``: how much the runs on each network count.
    """

    rule: Rule = "all-or-nothing"
    curve: Curve = ((0.0, 0.0), (0.8, 0.4), (0.95, 0.9), (1.0, 1.0))
    weights: dict[str, Amount] = msgspec.field(default_factory=lambda: {"sim": 3.0, "rpyc": 1.0})
    limits: Limits = Limits()
    late: Late = Late()
    hidden: Hidden = Hidden()
    races: Races = Races()
    labs: dict[str, LabRules] = {}
    tests: dict[str, TestRules] = {}

    def rule_for(self, lab: str, test: str) -> Rule:
        for chosen in (self.tests.get(test, TestRules()).rule, self.labs.get(lab, LabRules()).rule):
            if chosen is not None:
                return chosen
        return self.rule

    def limits_for(self, test: str) -> Limits:
        own = self.tests.get(test, TestRules())
        chosen = {
            name: getattr(self.limits, name) if getattr(own, name) is None else getattr(own, name)
            for name in ("keep", "lab_s", "rpcs", "bytes")
        }
        return Limits(**chosen)

    def needs(self, lab: str) -> list[str]:
        return self.labs.get(lab, LabRules()).needs

    def public(self) -> Rubric:
        """A copy without the secret, for reports."""
        return msgspec.structs.replace(self, hidden=msgspec.structs.replace(self.hidden, secret=""))


class BadRubric(Exception):
    """The file is not a rubric. The message says where and why, in one sentence."""


def default_text() -> str:
    """The text of the default rubric, with its comments."""
    return resources.files("raftgrade").joinpath("default_rubric.toml").read_text(encoding="utf-8")


def default() -> Rubric:
    return parse(default_text(), "the default rubric")


def load(path: Path, tests: Mapping[str, Iterable[str]]) -> Rubric:
    """The rubric in the file ``path``. ``tests`` maps every lab to the names of its tests. Raises :class:`BadRubric`."""
    shown = printable(str(path))
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise BadRubric(f"{shown}: expected TOML, which is UTF-8 text; this is not") from None
    except OSError as exc:
        raise BadRubric(f"the rubric {shown} cannot be read: {exc.strerror or exc}") from None
    return parse(text, shown, tests)


def parse(text: str, shown: str, tests: Mapping[str, Iterable[str]] | None = None) -> Rubric:
    """Read a rubric.

    Args:
        text: TOML.
        shown: the name of the rubric in messages.
        tests: maps every lab to the names of its tests. Without it, names of labs and tests are not checked.

    Raises:
        BadRubric: the text has a mistake.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise BadRubric(f"{shown}: expected TOML; {one_line(str(exc))}") from None
    try:
        rubric = msgspec.convert(data, Rubric, strict=True)
    except msgspec.ValidationError as exc:
        raise _bad_type(exc, text, shown) from None
    for path, mistake in _mistakes(rubric, tests):
        raise BadRubric(_place(text, shown, path) + mistake)
    return rubric


def _mistakes(rubric: Rubric, tests: Mapping[str, Iterable[str]] | None) -> Iterable[tuple[list[str], str]]:
    """Mistakes that the types do not catch: (the path of the key, what is wrong)."""
    rates = [rate for rate, _ in rubric.curve]
    if len(rates) < 2 or rates != sorted(set(rates)) or (rates[0], rates[-1]) != (0.0, 1.0):
        yield ["curve"], "expected pass rates that grow from 0 to 1, each with its share: [[0, 0], [0.9, 0.5], [1, 1]]"
    shares = [share for _, share in rubric.curve]
    if shares != sorted(shares):
        yield ["curve"], "expected shares that never fall as the pass rate grows: [[0, 0], [0.9, 0.5], [1, 1]]"
    for key in ("percent_a_day", "most_percent"):
        percent = getattr(rubric.late, key)
        if 0 < percent < 1:
            yield ["late", key], f"expected a percentage, such as {percent * 100:g}, not a share ({percent:g})"
    for name in rubric.weights:
        if name not in ("sim", "rpyc"):
            yield ["weights", name], f"expected sim or rpyc, not {name!r}"
    if not any(rubric.weights.values()):
        yield ["weights"], "expected a weight above 0 for at least one network"
    if rubric.hidden.runs and len(rubric.hidden.secret) < _MIN_SECRET_CHARACTERS:
        yield ["hidden", "secret"], f"expected at least {_MIN_SECRET_CHARACTERS} characters that nobody can guess"
    if tests is None:
        return
    names = {name for listed in tests.values() for name in listed}
    order = list(tests)
    for lab, own in rubric.labs.items():
        if lab not in tests:
            yield ["labs", lab], f"there is no lab {lab!r}; the labs are: {', '.join(order)}"
        for need in own.needs:
            if need not in order[: order.index(lab)]:
                before = ", ".join(order[: order.index(lab)]) or "none"
                yield ["labs", lab, "needs"], f"expected labs that come before {lab} ({before}), not {need!r}"
    for name in rubric.tests:
        if name not in names:
            near = _did_you_mean(name, names)
            yield ["tests", name], f"no lab has a test called {name!r}{near}; `raftlab labs` lists them"


_TYPES = {"float": "a number", "int": "a whole number", "str": "a text", "array": "a list", "object": "a table"}


def _bad_type(exc: msgspec.ValidationError, text: str, shown: str) -> BadRubric:
    message, _, where = str(exc).partition(" - at `")
    path = [part for part in re.split(r"\.|\[[^\]]*\]", where.removesuffix("`").removeprefix("key in `")) if part]
    path = _real_path(path[1:], text)
    unknown = re.fullmatch(r"Object contains unknown field `(.*)`", message)
    if unknown:
        keys = [field.name for field in msgspec.structs.fields(_table_at(path))]
        near = _did_you_mean(unknown[1], keys)
        valid = f"the keys here are {', '.join(keys)}"
        return BadRubric(
            _place(text, shown, [*path, unknown[1]]) + f"there is no key {printable(unknown[1])!r} here{near}; {valid}"
        )
    if message.startswith("Invalid enum value"):
        seen = message.removeprefix("Invalid enum value ")
        return BadRubric(_place(text, shown, path) + f"expected one of {', '.join(RULES)}, not {seen}")
    for name, words in _TYPES.items():
        message = message.replace(f"`{name}`", words).replace(f"`{name} | null`", words)
    return BadRubric(_place(text, shown, path) + message[:1].lower() + message[1:].replace(", got", ", seen"))


def _table_at(path: list[str]) -> type[msgspec.Struct]:
    """The type of the table at ``path``."""
    tables: dict[str, type[msgspec.Struct]] = {
        "limits": Limits,
        "late": Late,
        "races": Races,
        "hidden": Hidden,
        "labs": LabRules,
        "tests": TestRules,
    }
    return tables[path[0]] if path else Rubric


def _did_you_mean(text: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(text, list(names), 1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _real_path(path: list[str], text: str) -> list[str]:
    """msgspec writes ``[...]`` instead of the key of a table: find the key by trying all keys one by one."""
    if not path or path[0] not in ("labs", "tests"):
        return path
    kind: Any = LabRules if path[0] == "labs" else TestRules
    for name, value in tomllib.loads(text)[path[0]].items():
        try:
            msgspec.convert(value, kind, strict=True)
        except msgspec.ValidationError:
            return [path[0], name, *path[1:]]
    return path


def _place(text: str, shown: str, path: list[str]) -> str:
    line = _line(text, path)
    key = printable(".".join(path))
    return f"{shown}{f' line {line}' if line else ''}{f', {key}' if key else ''}: "


def _line(text: str, path: list[str]) -> int:
    """The line of ``path`` in the file; 0 if it is not found."""
    table: list[str] = []
    best = 0
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        if stripped.startswith("[") and "=" not in stripped.split("#")[0]:
            table = [part.strip().strip("\"'") for part in stripped.split("#")[0].strip("[] \t").split(".")]
            if path[: len(table)] == table:
                best = number
        elif "=" in stripped and not stripped.startswith("#"):
            key = [part.strip().strip("\"'") for part in stripped.split("=")[0].split(".")]
            if path[: len(table) + len(key)] == table + key:
                return number
    return best
