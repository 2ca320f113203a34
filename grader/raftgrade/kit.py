"""`raftgrade kit`: raftlab for students, as a wheel without the solutions.

The wheel has the package ``raftlab``, the skeleton and the handouts for students. For each later lab at which the
instructor lets students start, it also has the files to start from. It is made from this installation, without a build
tool or a network. Before it is written, it is searched for parts of the solutions.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path

import raftgrade
import raftlab
from raftgrade import zip_files
from raftlab.safe_text import printable
from raftlab.submission import starts
from raftlab.tools import new

WORKFLOW = "raftlab/data/skeleton/.github/workflows/raftlab.yml"
CONTAINER = "raftlab/data/skeleton/.devcontainer/devcontainer.json"
_INSTALLS = re.compile(r"( *)# Not on PyPI for you\?.*\n *- run: pip install raftlab\n")  # in the workflow
_CONTAINER_INSTALLS = "|| echo raftlab)"  # in the container's file: what it installs if the wheel is not in the folder
_GRADER_ONLY = ("jinja2", "tabulate")  # dependencies that raftlab itself does not import
# This many lines of the solutions in a row are a leak. Fewer are allowed: tests contain single statements of the solutions,
# and handouts quote up to four lines in a row.
_LEAKED_LINES = 5
# The lines are a leak only if at least this many of them are in none of the texts that students get anyway. Lines that
# students know one by one are no leak, even in an order that is new to them: the skeleton has some messages in another order
# than the solutions.
_SECRET_LINES = 2
_IGNORED = ("# region", "# endregion", "# skeleton:", "# hint:", "import ", "from ")  # beginnings of lines


class CannotMakeKit(Exception):
    """The kit cannot be made. The message says why, in one sentence."""


def make(folder: Path, start_labs: Sequence[str] = (), url: str = "", with_grader: bool = False) -> Path:
    """Write a kit into ``folder``, which is made if it does not exist.

    Args:
        start_labs: the labs at which students may start, besides the first. A start contains the solution of all labs
            before it.
        url: the folder on the web from which students install the kit; empty: they get the file in another way.
        with_grader: add the package ``raftgrade``, for repositories that grade themselves.

    Returns:
        The wheel.

    Raises:
        CannotMakeKit: this installation has no solutions, or the kit would contain a part of them, or the kit cannot be
            written.
    """
    files, name = contents(start_labs, url, with_grader)
    wheel = folder / name
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in files.items():
            zip_files.add(archive, path, data)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        wheel.write_bytes(buffer.getvalue())
    except OSError as exc:
        raise CannotMakeKit(f"{printable(str(wheel))} cannot be written: {exc.strerror or exc}") from None
    return wheel


def contents(start_labs: Sequence[str], url: str, with_grader: bool) -> tuple[dict[str, bytes], str]:
    """The files of a kit, and its name. Arguments and exceptions are as for :func:`make`."""
    if url and not re.fullmatch(r"https://[\w.~:/@%+-]+", url):
        raise CannotMakeKit(f"{printable(url)} is not the https:// address of a folder")
    root = starts.root()
    solutions = [path.read_text(encoding="utf-8") for path in sorted((root / "solutions").glob("*.py"))]
    if not solutions:
        raise CannotMakeKit("this raftlab is a kit itself: make kits with a raftlab that has the solutions")
    packages = [raftlab, raftgrade] if with_grader else [raftlab]
    files = {
        f"{package.__name__}/{name}": data
        for package in packages
        for name, data in zip_files.package_files(package)
        if not name.startswith("data/")
    }
    for path, source in new.other_files(root).items():
        place = path if path.parts[0] == "handouts" else Path("skeleton") / path
        files[f"raftlab/data/{place.as_posix()}"] = source.read_bytes()
    given = {f"raftlab/data/skeleton/{name}": text for name, text in starts.files().items()}
    for lab in start_labs:
        given |= {f"raftlab/data/{starts.STARTS}/{lab}/{name}": text for name, text in starts.files(lab).items()}
    files |= {name: text.encode() for name, text in given.items()}
    leaks = find_leaks(files, solutions, given.values())
    if leaks:
        raise CannotMakeKit(
            f"{printable(leaks[0])} would give away a part of the solutions: five lines in a row are the same"
        )
    digest = hashlib.sha256(repr(sorted(files.items())).encode() + url.encode()).hexdigest()
    # Kits that differ have different versions, so pip replaces an old kit.
    version = f"{raftlab.__version__}+kit.g{digest[:7]}"
    name = f"raftlab-{version}-py3-none-any.whl"
    address = f"{url.rstrip('/')}/{name}" if url else ""
    files[WORKFLOW] = _workflow(files[WORKFLOW].decode(), address).encode()
    files[CONTAINER] = _container(files[CONTAINER].decode(), address).encode()
    return _with_metadata(files, version, packages), name


def find_leaks(files: Mapping[str, bytes], solutions: Iterable[str], given: Iterable[str]) -> list[str]:
    """The names of the ``files`` that contain five lines in a row of the ``solutions``, at least two of which are in none of
    the texts ``given`` to students. Indentation, blank lines and imports do not count."""
    known: set[str] = set()
    secret: set[tuple[str, ...]] = set()
    given = list(given)
    for text in given:
        known |= set(_lines(text))
    for text in solutions:
        secret |= {run for run in _runs(text) if sum(line not in known for line in run) >= _SECRET_LINES}
    for text in given:
        secret -= _runs(text)
    return [name for name, data in files.items() if not secret.isdisjoint(_runs(data.decode(errors="replace")))]


def _lines(text: str) -> list[str]:
    stripped = map(str.strip, text.splitlines())
    return [line for line in stripped if line and not line.startswith(_IGNORED)]


def _runs(text: str) -> set[tuple[str, ...]]:
    lines = _lines(text)
    return {tuple(lines[place : place + _LEAKED_LINES]) for place in range(len(lines) - _LEAKED_LINES + 1)}


def _workflow(text: str, address: str) -> str:
    """The workflow for the student's folder: ``text``, changed to install the kit and no other raftlab."""
    if address:
        lines = rf'\1- run: pip install "{address}"\n'
    else:
        lines = "\\1# Commit the wheel that your course gave you.\n\\1- run: pip install ./raftlab-*.whl\n"
    changed, number = _INSTALLS.subn(lines, text)
    assert number == 1, "the workflow installs raftlab in another way"
    return changed


def _container(text: str, address: str) -> str:
    """The container's file: ``text``, changed to install the kit and no other raftlab."""
    assert text.count(_CONTAINER_INSTALLS) == 1, "the container installs raftlab in another way"
    text = text.replace("or else raftlab from PyPI", "or else the one on the web" if address else "and nothing else")
    return text.replace(_CONTAINER_INSTALLS, f"|| echo {address or './raftlab-*.whl'})")


def _with_metadata(files: dict[str, bytes], version: str, packages: Sequence[object]) -> dict[str, bytes]:
    """``files`` with the metadata that makes them a wheel (PyPA's binary distribution format)."""
    distribution = metadata.distribution("raftlab")
    needs = [need for need in distribution.requires or () if "extra ==" not in need]
    commands = ["raftlab = raftlab.cli:main"]
    if raftgrade in packages:
        commands.append("raftgrade = raftgrade.cli:main")
    else:
        needs = [need for need in needs if not need.startswith(_GRADER_ONLY)]
    info = f"raftlab-{version}.dist-info"
    lines = ["Metadata-Version: 2.1", "Name: raftlab", f"Version: {version}", "Summary: raftlab for students"]
    lines += [f"Requires-Python: {distribution.metadata['Requires-Python']}"]
    lines += [f"Requires-Dist: {need}" for need in needs]
    made = dict(files)
    made[f"{info}/METADATA"] = "\n".join([*lines, ""]).encode()
    made[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: raftgrade\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    made[f"{info}/entry_points.txt"] = "\n".join(["[console_scripts]", *commands, ""]).encode()
    licence = distribution.read_text("licenses/LICENSE")
    if licence:
        made[f"{info}/licenses/LICENSE"] = licence.encode()
    record = [f"{name},sha256={_base64(data)},{len(data)}" for name, data in made.items()]
    made[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,", ""]).encode()
    return made


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
