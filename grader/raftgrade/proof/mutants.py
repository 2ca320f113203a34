"""Mutants of the reference: small changes to its source text, made by a program, that resemble mistakes of people.

Each operator (:data:`OPERATORS`) makes one kind of change, at every place where it fits. It replaces only a few characters
of the source, so comments, regions (the parts that belong to one lab, see submission/skeleton.py) and nearly all line
numbers stay. General operators change conditions, comparisons, arithmetic, constants, arguments and statements. The others
are specific to Rafts: they change locks, saves, waits, and reads of values that a call may change.

Calls of ``log`` and the method ``status`` are never changed, because no test judges them. Statements that set a variable
or a field for the first time are not removed, because the first run would fail at once.
"""

from __future__ import annotations

import ast
import hashlib
import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from raftgrade.proof.bug_bank import BadBank
from raftlab import labs
from raftlab.safe_text import printable

OPERATORS = {
    "always": "a condition always holds",
    "never": "a condition never holds",
    "negate": "a condition is negated",
    "drop": "a part of a condition is left out",
    "and-or": "`and` and `or` are exchanged",
    "compare": "a comparison includes its boundary, or no longer does",
    "boundary": "the boundary of a comparison is off by one, in the direction opposite to `compare`",
    "arithmetic": "an operator is replaced by another, or one operand is left out",
    "function": "`min` and `max`, or `any` and `all`, are exchanged; a list is not sorted",
    "constant": "a number is one higher or lower (a named constant: ten times or a tenth of it); a truth value is inverted",
    "role": "a role is replaced by another",
    "swap": "two neighbouring arguments are exchanged",
    "omit": "an optional argument is left out",
    "remove": "a statement is left out, or a loop has no rounds",
    "lock-remove": "a `with self.lock` is left out",
    "lock-split": "the lock is released between two statements and taken again",
    "lock-late": "the lock is taken one statement too late",
    "lock-short": "the lock is released one statement too early",
    "save-early": "the state is saved before a change instead of after it",
    "save-late": "the state is saved by another thread, once the lock is free",
    "wait-once": "a wait does not check its condition again",
    "notify-one": "one waiting thread is woken instead of all",
    "stale": "a field is read before, instead of after, a call that may change it",
}
NOTES = Path("mutants", "notes.toml")  # below the folder of the bank
_MODULE = "constants"  # used in place of a function's name for code outside of functions
_NOT_JUDGED = ("status",)
_ROLES = ("FOLLOWER", "CANDIDATE", "LEADER")
# Expressions that look like whole numbers. Only for these is "one higher" the smallest change.
_WHOLE = re.compile(r"index|term|base|applied|commit|offset|^len\(|goal|upto|configured_at")
_NUMBERS = re.compile(r"term$|index$")  # expressions that can be compared by order as well as by equality


@dataclass(frozen=True, slots=True)
class Edit:
    """Replace the bytes from ``start`` to ``end`` of the source with ``new``."""

    start: int
    end: int
    new: bytes


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change to the reference.

    Attributes:
        name: ``FUNCTION.OPERATOR.HASH``. It stays the same as long as the changed line does, even if other lines change.
        operator: a key of :data:`OPERATORS`.
        function: the function that is changed.
        lab: the first lab whose code has the changed line.
        line: the number of the changed line in the reference.
        change: what is changed, on one line: ``old → new``.
        edits: the change; the edits do not overlap.
    """

    name: str
    operator: str
    function: str
    lab: str
    line: int
    change: str
    edits: tuple[Edit, ...]

    def apply_to(self, reference: str) -> str:
        """The mutant's source: ``reference``, from which the mutant was made, with the change."""
        return _edited(reference.encode(), self.edits).decode()

    @property
    def concerns_threads(self) -> bool:
        """Whether the change matters only for certain orders of threads, so that killing it may take more seeds."""
        return self.operator.startswith(("lock-", "wait-", "notify-")) or self.operator in ("save-late", "stale")


@dataclass(frozen=True, slots=True)
class Notes:
    """Notes on mutants that no test kills: the reasons, by the mutants' names.

    Attributes:
        equivalent: mutants that no test can kill, because a Raft with this change is correct.
        missed: mutants that a test should kill, but no test does.
    """

    equivalent: dict[str, str] = field(default_factory=dict)
    missed: dict[str, str] = field(default_factory=dict)


def make(reference: str) -> list[Mutant]:
    """All mutants of the source ``reference``, in the order of their lines. Raises :class:`BadBank` if it is not Python.

    Lines that belong to lab 3 are not changed: its suites need a kv.py too, which mutants do not have."""
    try:
        maker = _Maker(reference)
    except SyntaxError as exc:
        raise BadBank(f"the reference is not valid Python: line {exc.lineno}: {exc.msg}") from None
    maker.make()
    return [
        mutant for mutant in maker.mutants if mutant.lab not in labs.LABS or not labs.LABS[mutant.lab].has("service")
    ]


def read_notes(bank: Path, mutants: Iterable[Mutant]) -> Notes:
    """Read the notes on mutants.

    Args:
        bank: the folder of the bank. Its file ``mutants/notes.toml`` has tables ``[[equivalent]]`` and ``[[missed]]``, each
            with a ``reason`` and, in ``mutants``, the change of each mutant by name. Without the file, there are no notes.
        mutants: all mutants of the reference.

    Raises:
        BadBank: the file is not valid, or has a note on something that is not one of ``mutants`` (any more).
    """
    path = bank / NOTES
    shown = printable(str(path))
    if not path.is_file():
        return Notes()
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
        groups = [
            (kind, str(table["reason"]), dict(table["mutants"]))
            for kind in ("equivalent", "missed")
            for table in tables.pop(kind, [])
        ]
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError, KeyError, TypeError, ValueError) as exc:
        raise BadBank(f"{shown} cannot be read: {printable(str(exc))}") from None
    if tables:
        raise BadBank(f"{shown}: the tables are [[equivalent]] and [[missed]], not {printable(', '.join(tables))}")
    changes = {mutant.name: mutant.change for mutant in mutants}
    notes = Notes()
    for kind, reason, noted in groups:
        for name, change in noted.items():
            if name in notes.equivalent or name in notes.missed:
                raise BadBank(f"{shown}: there are two notes on {printable(name)}")
            if name not in changes:
                raise BadBank(f"{shown}: the reference has no mutant {printable(name)} any more: remove its note")
            if changes[name] != change:
                raise BadBank(f"{shown}: {printable(name)} must say {changes[name]!r}, not {printable(str(change))!r}")
            (notes.equivalent if kind == "equivalent" else notes.missed)[name] = reason
    return notes


def _edited(source: bytes, edits: Iterable[Edit]) -> bytes:
    for edit in sorted(edits, key=lambda edit: (edit.start, edit.end), reverse=True):
        source = source[: edit.start] + edit.new + source[edit.end :]
    return source


@dataclass(frozen=True, slots=True)
class _Function:
    """A function of the reference, or the statement that sets one of its constants."""

    name: str
    node: ast.AST
    start: int  # where its first line begins in the source, in bytes
    end: int
    parents: dict[ast.AST, ast.AST]


@dataclass
class _Facts:
    """Facts about the whole class that the operators need."""

    optional: set[str] = field(default_factory=set)  # fields of messages that have a default value
    scalars: set[str] = field(default_factory=set)  # fields of a server that methods set and that have no items
    changes: dict[str, set[str]] = field(default_factory=dict)  # the fields that each method may replace


class _Maker:
    """Applies each operator to each function."""

    def __init__(self, reference: str) -> None:
        self.source = reference.encode()
        self.mutants: list[Mutant] = []
        self._lines = self.source.splitlines(keepends=True)
        self._starts = [0]
        for line in self._lines:
            self._starts.append(self._starts[-1] + len(line))
        self._labs = _labs_of_lines(reference)
        self._tree = ast.parse(reference)
        self._facts = _facts(self._tree)
        self._names: Counter[str] = Counter()
        self._function: _Function
        self._seen: set[str] = set()

    def make(self) -> None:
        for function in self._functions():
            self._function = function
            self._seen = {ast.dump(self._parsed(()))}
            for node in _nodes(function.node):
                self._conditions(node)
                self._comparisons(node)
                self._arithmetic(node)
                self._constants(node)
                self._calls(node)
                self._statements(node)
                self._locks(node)
                self._waits(node)
                self._stale_values(node)
        self.mutants.sort(key=lambda mutant: (mutant.line, mutant.name))

    def _functions(self) -> Iterator[_Function]:
        found: list[tuple[str, ast.stmt]] = []
        for node in self._tree.body:
            if isinstance(node, ast.Assign):
                found.append((_MODULE, node))
            elif isinstance(node, ast.FunctionDef):
                found.append((node.name, node))
            elif isinstance(node, ast.ClassDef) and node.name == "Raft":
                found += [(each.name, each) for each in node.body if isinstance(each, ast.FunctionDef)]
        for name, statement in found:
            if name not in _NOT_JUDGED:
                end = self._starts[statement.end_lineno or 0]
                parents = {child: parent for parent in ast.walk(statement) for child in ast.iter_child_nodes(parent)}
                yield _Function(name, statement, self._starts[statement.lineno - 1], end, parents)

    # --- what the operators use ---

    def _span(self, node: ast.AST) -> tuple[int, int]:
        assert isinstance(node, ast.expr | ast.stmt | ast.keyword)
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        start, end = self._starts[node.lineno - 1] + node.col_offset, self._starts[node.end_lineno - 1]
        return start, end + node.end_col_offset

    def _text(self, node: ast.AST) -> str:
        start, end = self._span(node)
        return self.source[start:end].decode()

    def _replace(self, operator: str, node: ast.AST, new: str) -> None:
        old = self._text(node)
        self._add(operator, node, f"{_one_line(old)} → {_one_line(new)}", Edit(*self._span(node), new.encode()))

    def _add(self, operator: str, node: ast.AST, change: str, *edits: Edit) -> None:
        """Add a mutant, unless it is not valid Python, is the same as another, or would cut through a region."""
        for edit in edits:
            if _regions(self.source[edit.start : edit.end]) != _regions(edit.new):
                return
        try:
            parsed = ast.dump(self._parsed(edits))
        except SyntaxError:
            return
        if parsed in self._seen:
            return
        self._seen.add(parsed)
        assert isinstance(node, ast.expr | ast.stmt | ast.keyword)
        line = self._lines[node.lineno - 1].decode().strip()
        digest = hashlib.sha256(f"{line}\0{change}".encode()).hexdigest()[:4]
        name = f"{self._function.name}.{operator}.{digest}"
        self._names[name] += 1
        if self._names[name] > 1:
            name += f"-{self._names[name]}"
        lab = self._labs[node.lineno - 1]
        self.mutants.append(Mutant(name, operator, self._function.name, lab, node.lineno, change, edits))

    def _parsed(self, edits: Sequence[Edit]) -> ast.Module:
        """The function with the edits."""
        function = self._function
        moved = [Edit(edit.start - function.start, edit.end - function.start, edit.new) for edit in edits]
        text = _edited(self.source[function.start : function.end], moved)
        return ast.parse(b"if True:\n" + text if text.startswith(b" ") else text)

    def _block(self, statement: ast.stmt) -> list[ast.stmt]:
        """The list of statements that contains this one."""
        parent = self._function.parents[statement]
        for name in ("body", "orelse", "finalbody"):
            block = getattr(parent, name, [])
            if isinstance(block, list) and statement in block:
                return block
        raise AssertionError(statement)

    def _is_in_lock(self, node: ast.AST) -> bool:
        while node in self._function.parents:
            node = self._function.parents[node]
            if _is_lock(node):
                return True
        return False

    def _indented(self, statement: ast.stmt) -> bytes:
        return b" " * statement.col_offset

    # --- general operators ---

    def _conditions(self, node: ast.AST) -> None:
        tests: list[ast.expr] = []
        if isinstance(node, ast.If | ast.While | ast.IfExp):
            tests = [node.test]
        elif isinstance(node, ast.comprehension):
            tests = node.ifs
        for test in tests:
            self._replace("never", test, "False")
            if not isinstance(node, ast.While):  # a loop whose condition always holds would never end
                self._replace("always", test, "True")
                self._replace("negate", test, f"not ({self._text(test)})")
        if isinstance(node, ast.Assign | ast.Return) and isinstance(node.value, ast.BoolOp | ast.Compare):
            self._replace("negate", node.value, f"not ({self._text(node.value)})")
        if isinstance(node, ast.BoolOp):
            neutral, other = ("True", " or ") if isinstance(node.op, ast.And) else ("False", " and ")
            for value in node.values:
                if not (isinstance(value, ast.Tuple) and not value.elts):  # the operand of "or ()" is not a condition
                    self._replace("drop", value, neutral)
            self._replace("and-or", node, f"({other.join(f'({self._text(value)})' for value in node.values)})")

    def _comparisons(self, node: ast.AST) -> None:
        if not isinstance(node, ast.Compare) or len(node.ops) > 1:
            return
        left, right = self._text(node.left), self._text(node.comparators[0])
        others = {ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">"}
        for kind, new in others.items():
            if isinstance(node.ops[0], kind):
                self._replace("compare", node, f"{left} {new} {right}")
        for kind, old, step in ((ast.Lt, "<", -1), (ast.LtE, "<=", 1), (ast.Gt, ">", 1), (ast.GtE, ">=", -1)):
            if (
                isinstance(node.ops[0], kind)
                and _WHOLE.search(left + right)
                and not re.search("time|now", left + right)
            ):
                self._replace("boundary", node, f"{left} {old} {right} {'+' if step > 0 else '-'} 1")
        if isinstance(node.ops[0], ast.Eq | ast.NotEq) and (_NUMBERS.search(left) or _NUMBERS.search(right)):
            for new in (">=", "<=") if isinstance(node.ops[0], ast.Eq) else (">", "<"):
                self._replace("compare", node, f"{left} {new} {right}")

    def _arithmetic(self, node: ast.AST) -> None:
        if not isinstance(node, ast.BinOp):
            return
        left, right = self._text(node.left), self._text(node.right)
        self._replace("arithmetic", node, f"({left})")
        if not isinstance(node.op, ast.Add | ast.Sub):
            self._replace("arithmetic", node, f"({right})")
        others = {ast.Add: "-", ast.Sub: "+", ast.BitOr: "&", ast.BitAnd: "|", ast.BitXor: "|"}
        for kind, new in others.items():
            if isinstance(node.op, kind):
                self._replace("arithmetic", node, f"({left} {new} {right})")

    def _constants(self, node: ast.AST) -> None:
        if isinstance(node, ast.Name) and node.id in _ROLES and isinstance(node.ctx, ast.Load):
            for role in _ROLES:
                self._replace("role", node, role)
        if not isinstance(node, ast.Constant):
            return
        parent = self._function.parents.get(node)
        if isinstance(parent, ast.keyword) and parent.arg == "daemon":
            return
        if isinstance(node.value, bool):
            self._replace("constant", node, str(not node.value))
        elif isinstance(node.value, int | float) and self._function.name == _MODULE:
            for value in (node.value * 10, node.value / 10 if isinstance(node.value, float) else node.value // 10):
                self._replace("constant", node, f"{value:g}")
        elif isinstance(node.value, int):
            self._replace("constant", node, str(node.value + 1))
            if not isinstance(parent, ast.BinOp) or node.value > 1:  # the operator "arithmetic" already removes "+ 1"
                self._replace("constant", node, str(node.value - 1))

    def _calls(self, node: ast.AST) -> None:
        if not isinstance(node, ast.Call):
            return
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        exchanged = {"min": "max", "max": "min", "any": "all", "all": "any"}
        if name in exchanged:
            self._replace("function", node.func, exchanged[name])
            return
        if name == "sorted":
            self._replace("function", node.func, "list")
        if name in ("range", "enumerate") or self._text(node.func) == "threading.Thread":
            return
        values = [*node.args, *(keyword.value for keyword in node.keywords)]
        for first, second in pairwise(values):
            if not isinstance(first, ast.Constant | ast.Starred) and not isinstance(second, ast.Constant | ast.Starred):
                old, new = self._text(first), self._text(second)
                edits = (Edit(*self._span(first), new.encode()), Edit(*self._span(second), old.encode()))
                self._add("swap", first, f"{_one_line(self._text(node))}: {old}, {new} → {new}, {old}", *edits)
        for keyword in node.keywords:
            if keyword.arg in self._facts.optional:
                start, end = self._span(keyword)
                start = max(self.source.rfind(b",", 0, start), self.source.rfind(b"(", 0, start)) + 1
                comma = re.match(rb"\s*,", self.source[end:])
                if start and self.source[start - 1 : start] == b"," and not comma:
                    start -= 1
                edit = Edit(start, end + (comma.end() if comma else 0), b"")
                self._add("omit", keyword, f"{_one_line(self._text(node.func))}: without {keyword.arg}", edit)

    def _statements(self, node: ast.AST) -> None:
        if isinstance(node, ast.For):
            self._replace("remove", node.iter, "()")
        if not isinstance(
            node, ast.Expr | ast.Assign | ast.AugAssign | ast.Delete | ast.Return | ast.Continue | ast.Break
        ):
            return
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            return
        if isinstance(node, ast.Return) and isinstance(self._function.parents[node], ast.FunctionDef | ast.With):
            return  # without its last return, a function does the same, or fails at once
        if isinstance(node, ast.Assign):
            names = [each.id for target in node.targets for each in ast.walk(target) if isinstance(each, ast.Name)]
            new = [name for name in names if name != "self" and name not in self._set_before(node)]
            if new or self._function.name in ("__init__", _MODULE):
                return
        self._replace("remove", node, "pass")
        if self._text(node).startswith("self._persist("):
            saved = f"(self.lock.acquire(), {self._text(node)}, self.lock.release())"
            self._replace("save-late", node, f"threading.Thread(target=lambda: {saved}, daemon=True).start()")
            block = self._block(node)
            before = block[block.index(node) - 1] if block.index(node) else None
            if isinstance(before, ast.Assign | ast.AugAssign | ast.Expr):
                first, second = self._span(before), self._span(node)
                edits = (Edit(*first, self._text(node).encode()), Edit(*second, self._text(before).encode()))
                self._add("save-early", node, f"{self._text(node)} before {_one_line(self._text(before))}", *edits)

    def _set_before(self, node: ast.stmt) -> set[str]:
        """The local names that have a value before this statement."""
        arguments = {each.arg for each in ast.walk(self._function.node) if isinstance(each, ast.arg)}
        stores = [
            each
            for each in ast.walk(self._function.node)
            if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store) and each.lineno < node.lineno
        ]
        return arguments | {each.id for each in stores}

    # --- locks, waiting, and what a call may have changed ---

    def _locks(self, node: ast.AST) -> None:
        if isinstance(node, ast.With) and _is_lock(node):
            start, _ = self._span(node)
            end = self.source.index(b":", start)
            self._add("lock-remove", node, "with self.lock → if True", Edit(start, end, b"if True"))
            self._move_out(node)
        if isinstance(node, ast.stmt) and self._is_in_lock(node) and self._block(node).index(node):
            indented = self._indented(node)
            gap = b"self.lock.release()\n" + indented + b"self.lock.acquire()\n" + indented
            start, _ = self._span(node)
            self._add("lock-split", node, f"before {_one_line(self._text(node))}", Edit(start, start, gap))

    def _move_out(self, node: ast.With) -> None:
        """Move the first or the last statement of the block out of it."""
        if len(node.body) == 1:
            return
        start, _ = self._span(node)
        first, last = node.body[0], node.body[-1]
        if self._text(first):
            first_start, first_end = self._span(first)
            between = self.source[start:first_start]
            if b"\n" in between and not _regions(between):
                moved = _outdented(self.source[first_start:first_end]) + b"\n" + self._indented(node)
                edits = (Edit(start, start, moved), Edit(first_start, first_end, b"pass"))
                self._add("lock-late", first, f"after {_one_line(self._text(first))}", *edits)
        last_start, last_end = self._span(last)
        last_start = self._starts[last.lineno - 1]
        moved = _outdented(self.source[last_start:last_end])
        self._add("lock-short", last, f"before {_one_line(self._text(last))}", Edit(last_start, last_end, moved))

    def _waits(self, node: ast.AST) -> None:
        waits = [each for each in ast.walk(node) if _method(each) == "wait"]
        if isinstance(node, ast.While) and waits and not isinstance(node.test, ast.Constant):
            start, _ = self._span(node)
            self._add(
                "wait-once", node, f"while → if {_one_line(self._text(node.test))}", Edit(start, start + 5, b"if")
            )
        if isinstance(node, ast.Call) and _method(node) == "notify_all":
            self._replace("notify-one", node, self._text(node).replace("notify_all", "notify"))

    def _stale_values(self, node: ast.AST) -> None:
        if not isinstance(node, ast.Expr | ast.Assign) or self._function.name == "__init__":
            return
        changed: set[str] = set()
        for method in {_method(each) for each in ast.walk(node)}:
            # While a thread waits, other threads may change every field.
            changed |= self._facts.scalars if method in ("call", "wait") else self._facts.changes.get(method, set())
        block = self._block(node)
        later = [each for statement in block[block.index(node) + 1 :] for each in ast.walk(statement)]
        stores = {each.attr for each in later if isinstance(each, ast.Attribute) and isinstance(each.ctx, ast.Store)}
        reads = [each for each in later if isinstance(each, ast.Attribute) and isinstance(each.ctx, ast.Load)]
        start, _ = self._span(node)
        for name in sorted(changed & self._facts.scalars - stores):
            edits = [Edit(*self._span(each), b"stale") for each in reads if self._text(each) == f"self.{name}"]
            if edits:
                first = Edit(start, start, f"stale = self.{name}\n".encode() + self._indented(node))
                change = f"self.{name} from before {_one_line(self._text(node))}"
                self._add("stale", node, change, first, *edits)


def _nodes(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes below ``node`` that operators may change: all except annotations and calls of ``log``."""
    for name, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or name in ("annotation", "returns"):
                continue
            if isinstance(child, ast.stmt) and _is_log(child):
                continue
            yield child
            yield from _nodes(child)


def _is_log(statement: ast.stmt) -> bool:
    """Whether the statement calls ``log`` and does nothing else."""
    if isinstance(statement, ast.If) and not statement.orelse:
        return all(map(_is_log, statement.body))
    call = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "log"


def _is_lock(node: ast.AST) -> bool:
    return isinstance(node, ast.With) and ast.unparse(node.items[0].context_expr) == "self.lock"


def _method(node: ast.AST) -> str:
    """The name of the method that this node calls; empty if it calls none."""
    return node.func.attr if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else ""


def _facts(tree: ast.Module) -> _Facts:
    facts = _Facts()
    methods: list[ast.FunctionDef] = []
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == "Raft":
            methods = [each for each in node.body if isinstance(each, ast.FunctionDef)]
        elif isinstance(node, ast.ClassDef):
            fields = (each for each in node.body if isinstance(each, ast.AnnAssign) and each.value is not None)
            facts.optional |= {each.target.id for each in fields if isinstance(each.target, ast.Name)}
    calls: dict[str, set[str]] = {}
    with_items: set[str] = set()
    for method in methods:
        calls[method.name] = {_method(each) for each in ast.walk(method)}
        facts.changes[method.name] = set()
        for each in ast.walk(method):
            if (
                isinstance(each, ast.Attribute)
                and isinstance(each.ctx, ast.Store)
                and ast.unparse(each.value) == "self"
            ):
                if method.name != "__init__":
                    facts.scalars.add(each.attr)
                    facts.changes[method.name].add(each.attr)
            elif isinstance(each, ast.Subscript) and isinstance(each.value, ast.Attribute):
                with_items.add(each.value.attr)
    facts.scalars -= with_items
    for _ in methods:  # the changes that a method makes through the methods that it calls, at any depth
        for name, called in calls.items():
            facts.changes[name].update(*(facts.changes.get(each, set()) for each in called))
    return facts


def _labs_of_lines(reference: str) -> list[str]:
    """For each line, the first lab whose code contains it, according to the regions around the line."""
    found: list[str] = []
    regions: list[str] = []
    for line in reference.splitlines():
        region = re.fullmatch(r"\s*# region (\w+): .*", line)
        if region:
            regions.append(region[1])
        found.append(max([*regions, next(iter(labs.LABS))]))
        if line.strip() == "# endregion":
            regions.pop()
    return found


def _regions(text: bytes) -> list[bytes]:
    return re.findall(rb"# (?:region \w+:|endregion)", text)


def _outdented(text: bytes) -> bytes:
    return re.sub(rb"(?m)^    ", b"", text)


def _one_line(text: str) -> str:
    shown = " ".join(line for each in text.splitlines() if (line := each.strip()) and not line.startswith("#"))
    return shown if len(shown) <= 100 else f"{shown[:60]} … {shown[-30:]}"
