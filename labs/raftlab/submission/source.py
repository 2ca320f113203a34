"""Finds and reads the files of a submission, without importing them.

A submission is a file, or a folder with ``raft.py``. The modules beside that file and the packages below its folder
belong to the submission, so students may split their code. The folder may be hostile: links that lead out of it are
ignored, sizes and counts are limited, and each error message is one sentence for the student.
"""

from __future__ import annotations

import ast
import io
import keyword
import re
import sys
import tokenize
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ENTRY = "raft.py"
MAX_BYTES = 1_000_000  # of one file; the reference solution has 81 kB
MAX_ALL_BYTES = 5_000_000  # of all modules
MAX_MODULES = 1_000
MAX_DEPTH = 10  # of packages in packages

_OURS = "raftlab"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


class SubmissionError(Exception):
    """A submission that cannot be read. The message is one sentence for the student."""


@dataclass(frozen=True)
class Submission:
    """The files of a submission.

    Attributes:
        root: The submission's folder.
        entry: The file with the class ``Raft``.
        name: The entry's name as a module.
        modules: The files of all modules, including the entry, by the name under which each is imported.
    """

    root: Path
    entry: Path
    name: str
    modules: dict[str, Path]

    def module_of_role(self, role: str) -> str:
        """The import name of the module that the contract calls ``"raft"`` (the entry) or ``"kv"``. Raises
        :class:`SubmissionError` if there is no such module."""
        if role == "raft":
            return self.name
        if role not in self.modules:
            raise SubmissionError(f"there is no {role}.py beside {self.entry.name}")
        return role

    def show(self, path: Path | str) -> str:
        """The path of a file as messages show it, relative to the submission's folder."""
        try:
            return Path(path).relative_to(self.root).as_posix()
        except ValueError:
            return str(path)


def find(path: Path | str) -> Submission:
    """Find the submission at ``path``, which is a file or a folder with ``raft.py``. Raises :class:`SubmissionError`."""
    submission = locate(path)
    read(submission.entry)
    _refuse_shadowing(submission)
    return submission


def locate(path: Path | str) -> Submission:
    """Like :func:`find`, but without reading any file."""
    given = Path(path)
    try:
        return _find(given)
    except (OSError, ValueError) as exc:  # ValueError: a null byte in the path
        reason = getattr(exc, "strerror", None) or str(exc)
        raise SubmissionError(f"{given} cannot be read: {reason}") from exc


def _find(given: Path) -> Submission:
    if not given.exists():
        raise SubmissionError(f"{given} does not exist")
    if given.is_dir():
        root = given.resolve()
        entry = root / ENTRY
        if not entry.exists():
            raise SubmissionError(_no_entry(given, root))
        if not _inside(entry, root):
            raise SubmissionError(f"{ENTRY} is a link to somewhere outside {given}: hand in the file itself")
    else:
        entry = given.resolve()
        root = entry.parent
    if not entry.is_file():
        raise SubmissionError(f"{entry.name} is not a file")
    if entry.suffix != ".py":
        raise SubmissionError(f"{entry.name} is not a Python file: its name must end in .py")
    if not _importable(entry.stem):
        raise SubmissionError(f"{entry.name} cannot be imported under that name: use letters, digits and underscores")
    modules: dict[str, Path] = {entry.stem: entry}
    for name, file in _modules(root, "", 0, {root}, root):
        if len(modules) >= MAX_MODULES:
            raise SubmissionError(f"there are more than {MAX_MODULES} modules beside {entry.name}")
        modules.setdefault(name, file)
    if sum(file.stat().st_size for file in modules.values()) > MAX_ALL_BYTES:
        raise SubmissionError(
            f"{entry.name} and the modules beside it have more than {MAX_ALL_BYTES // 1000} kB of code"
        )
    return Submission(root, entry, entry.stem, modules)


def _no_entry(given: Path, root: Path) -> str:
    """The message for a folder without raft.py. It lists what the folder contains, so the student sees which name is
    wrong."""
    names = sorted(file.name for file in root.glob("*.py") if file.is_file())
    below = sorted(file.parent.name for file in root.glob(f"*/{ENTRY}") if file.is_file())
    text = f"there is no {ENTRY} in {given}"
    if names:
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        return (
            f"{text}, only {shown}: if one of these contains your Raft class, rename it to raft.py, or pass its path "
            "instead of the folder"
        )
    if below:
        return f"{text}, but there is one in {below[0]}: name that folder instead"
    return f"{text}, and no other Python file"


def _modules(folder: Path, prefix: str, depth: int, seen: set[Path], root: Path) -> Iterator[tuple[str, Path]]:
    """The importable modules in ``folder`` and in the packages below it; packages take precedence over modules."""
    if depth > MAX_DEPTH:
        return
    files = []
    for item in sorted(folder.iterdir(), key=lambda item: item.name):
        name = item.name.removesuffix(".py")
        if item.name.startswith((".", "test_")) or not _importable(name) or not _inside(item, root):
            continue
        if item.is_dir():
            init = item / "__init__.py"
            real = item.resolve()
            ours = not prefix and item.name == _OURS  # raftlab itself, in a clone with a raft.py
            if item.name == "tests" or ours or real in seen or not init.is_file() or not _inside(init, root):
                continue
            seen.add(real)
            yield prefix + item.name, init
            yield from _modules(item, f"{prefix}{item.name}.", depth + 1, seen, root)
        elif item.suffix == ".py" and item.stem != "__init__" and item.is_file():
            files.append(item)
    for file in files:
        if file.stat().st_size <= MAX_BYTES:
            yield prefix + file.stem, file


def _importable(stem: str) -> bool:
    return stem.isidentifier() and not keyword.iskeyword(stem) and stem != "__pycache__"


def _inside(item: Path, root: Path) -> bool:
    """Whether ``item`` exists and, after all links are resolved, is inside ``root``."""
    if not item.is_symlink() and item.parent == root:
        return True
    try:
        return item.resolve(strict=True).is_relative_to(root)
    except (OSError, RuntimeError):
        return False


# --- reading ----------------------------------------------------------------------------------------------


def read(path: Path) -> str:
    """The text of a Python file, decoded as Python does. Raises :class:`SubmissionError`."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as exc:
        raise SubmissionError(f"{path.name} cannot be read: {exc.strerror or exc}") from exc
    if len(data) > MAX_BYTES:
        raise SubmissionError(f"{path.name} is larger than {MAX_BYTES // 1000} kB, which is too large for a submission")
    if data.startswith(_UTF_16):
        raise SubmissionError(f"{path.name} is saved as UTF-16: save it as UTF-8")
    if b"\0" in data:
        line = data[: data.index(b"\0")].count(b"\n") + 1
        raise SubmissionError(f"{path.name}:{line} has a null byte in it, so it is not Python text: save it as UTF-8")
    encoding = "utf-8"
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        text = data.decode(encoding)
    except UnicodeDecodeError as exc:
        line = data[: exc.start].count(b"\n") + 1
        raise SubmissionError(
            f"{path.name}:{line} has a byte that is not {encoding} text: save the file as UTF-8"
        ) from exc
    except (SyntaxError, LookupError) as exc:
        raise SubmissionError(_undecodable(path.name, data, str(exc))) from exc
    return io.IncrementalNewlineDecoder(None, translate=True).decode(text, final=True)


def _undecodable(name: str, data: bytes, reason: str) -> str:
    """The message for a file that cannot be decoded. For a first line that is not UTF-8 and for an unknown encoding,
    ``detect_encoding`` has nearly the same message, so this function tells them apart."""
    cookie = re.search(rb"^[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)", b"\n".join(data.splitlines()[:2]), re.MULTILINE)
    if cookie and "unknown encoding" in reason:
        return f"{name} declares the encoding {cookie[1].decode('ascii')}, which Python does not know: use UTF-8"
    for number, line in enumerate(data.splitlines()[:2], 1):
        try:
            line.decode("utf-8")
        except UnicodeDecodeError:
            return f"{name}:{number} has a byte that is not utf-8 text: save the file as UTF-8"
    return f"{name} cannot be read as text: {reason}"


def parse(path: Path, shown: str) -> ast.Module:
    """Parse a file.

    Args:
        path: The file.
        shown: The name of the file in messages.

    Raises:
        SubmissionError: The file cannot be read.
        SyntaxError: The file is not Python.
        RecursionError, MemoryError: The code is nested too deeply.
    """
    text = read(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "invalid escape sequence": Python warns again when it imports the file
        return ast.parse(text, shown)


# --- modules that shadow the standard library --------------------------------------------------------------


def _refuse_shadowing(submission: Submission) -> None:
    """Refuse a file such as ``queue.py``, but only if something imports it: otherwise it does no harm."""
    reserved = sys.stdlib_module_names | {_OURS}
    suspects = {name for name in submission.modules if name in reserved}
    if not suspects:
        return
    for name in imported(submission):
        if name in suspects:
            path = submission.modules[name]
            shown = submission.show(path.parent if path.name == "__init__.py" else path)
            hidden = "the labs' own package" if name == _OURS else "Python's own module"
            raise SubmissionError(f"{shown} hides {hidden} {name}: rename it")


def imported(submission: Submission) -> Iterator[str]:
    """The modules of the submission that its entry may import, directly or through other modules. The entry comes
    first."""
    todo, seen = [submission.name], set[str]()
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        yield name
        todo += [target for target in _imports(submission, name) if target in submission.modules]


def _imports(submission: Submission, name: str) -> Iterator[str]:
    """The absolute names of all modules that a module may import; none if it cannot be parsed."""
    path = submission.modules[name]
    try:
        tree = parse(path, path.name)
    except (SubmissionError, SyntaxError, RecursionError, MemoryError):
        return  # the contract check reports this, with file and line
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _with_parents(alias.name)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            full = ".".join([*base, *([node.module] if node.module else [])])
            if full:
                yield from _with_parents(full)
            for alias in node.names:
                yield f"{full}.{alias.name}" if full else alias.name


def _with_parents(name: str) -> Iterator[str]:
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        yield ".".join(parts[:end])
