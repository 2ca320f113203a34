"""The log of a soak: one line for each finished block, and tables that add up the blocks.

    DIR/soak.jsonl      one line for each block, on disk before the next block starts
    DIR/failures.jsonl  one line for each run that failed or could not be judged, written when it happens
    DIR/reach.json      for each implementation and lab: why the implementation cannot do the lab; empty if it can
    DIR/submissions/    copies of the implementations; these are what is run
    DIR/traces/         the traces of failed runs
    DIR/logs/           the output of failed runs

After a change of raftlab or of an implementation, the blocks of the earlier version stay in the log but no longer count.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO, Literal

import msgspec
import tabulate

from raftgrade import output_folder
from raftgrade.output_folder import BadFolder
from raftlab.safe_text import count, duration, printable

BLOCKS = "soak.jsonl"
FAILURES = "failures.jsonl"
MAX_FAILURES_BYTES = 50_000_000  # once failures.jsonl is larger, failures are only counted

Kind = Literal["suite", "fuzz"]


class Megabytes(msgspec.Struct, frozen=True):
    """The largest resident memory, in MB: of the soak's own process, and of the largest process that it started."""

    own: float
    child: float


class Block(msgspec.Struct, kw_only=True, frozen=True):
    """All tests of a lab (or its random scenarios), run with each seed of a range, for one implementation on one network.

    Attributes:
        impl_hash: a fingerprint of the implementation.
        beside_hog: whether endless loops kept the processors busy.
        runs: how many runs there were; a run is one test with one seed. ``failures`` and ``unjudged`` count some of these.
        seeds: the first seed, and the number after the last seed.
        tests: how many tests there were.
        cpu_s: CPU seconds of the runs (judge and hosts), without starting their processes.
        processes: how many processes of the soak there were after the block, the soak itself included.
        code: a fingerprint of raftlab.
        started: when the block started, in UTC.
    """

    kind: Kind
    impl: str
    impl_hash: str
    lab: str
    network: str
    beside_hog: bool
    runs: int
    failures: int
    unjudged: int
    seeds: tuple[int, int]
    tests: int
    cpu_s: float
    wall_s: float
    memory_mb: Megabytes
    processes: int
    code: str
    sandbox: str
    started: str


class FailureLine(msgspec.Struct, kw_only=True, frozen=True):
    """A run that failed, or (``outcome`` ``"error"``) could not be judged."""

    at: str
    kind: Kind
    impl: str
    impl_hash: str
    code: str
    lab: str
    test: str
    network: str
    beside_hog: bool
    seed: int
    outcome: str
    text: str
    rule: str
    detail: str
    replay: str
    trace: str


_encode = msgspec.json.Encoder().encode
_read_block = msgspec.json.Decoder(Block).decode


class Log:
    """The log, open for writing and locked. Use as a context manager."""

    def __init__(self, folder: Path, file: BinaryIO, blocks: list[Block]) -> None:
        self.folder = folder
        self.blocks = blocks
        self._file = file

    @classmethod
    def open(cls, folder: Path) -> Log:
        """Open the log in ``folder``, which is new, empty, or has a log. Raises :class:`BadFolder`."""
        file = output_folder.claim(folder, BLOCKS, "soak")
        try:
            with output_folder.usable(folder, "soak"):
                blocks = read(folder)
                # Remove an incomplete last line: the soak was killed while it wrote that line.
                whole = (folder / BLOCKS).read_bytes()
                file.truncate(whole.rfind(b"\n") + 1)
        except BaseException:
            file.close()
            raise
        return cls(folder, file, blocks)

    def add(self, block: Block) -> None:
        """Append ``block``; it is on disk when this returns. Raises ``OSError``."""
        _write(self._file, _encode(block) + b"\n")
        os.fsync(self._file.fileno())
        self.blocks.append(block)

    def failed(self, failed: FailureLine) -> None:
        """Append a failure, unless the file has reached its size limit. Raises ``OSError``."""
        with (self.folder / FAILURES).open("ab", buffering=0) as file:
            if file.tell() < MAX_FAILURES_BYTES:
                _write(file, _encode(failed) + b"\n")

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()


def _write(file: BinaryIO, line: bytes) -> None:
    while line:
        line = line[file.write(line) or 0 :]


def read(folder: Path) -> list[Block]:
    """All finished blocks in ``folder``, the oldest first. Raises :class:`~raftgrade.output_folder.BadFolder`."""
    shown = printable(f"{folder}/{BLOCKS}")
    try:
        # Text after the last newline is incomplete: the soak was killed while it wrote that line.
        lines = (folder / BLOCKS).read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        raise BadFolder(f"{printable(str(folder))} holds no {BLOCKS}") from None
    except OSError as exc:
        raise BadFolder(f"{shown} cannot be read: {exc.strerror or exc}") from None
    blocks = []
    for number, line in enumerate(lines, start=1):
        try:
            blocks.append(_read_block(line))
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise BadFolder(f"line {number} of {shown} is not a block of a soak") from None
    return blocks


def read_all(folders: Iterable[Path]) -> list[Block]:
    """The blocks of several logs, the oldest first. A folder that is named twice counts once.

    Raises:
        BadFolder: a folder has no log, or its log is damaged.
    """
    distinct = {folder.resolve(): folder for folder in folders}
    return sorted((block for folder in distinct.values() for block in read(folder)), key=lambda block: block.started)


def current_blocks(blocks: Sequence[Block]) -> list[Block]:
    """The blocks that the newest version of raftlab made with the newest version of each implementation. ``blocks`` must
    begin with the oldest."""
    if not blocks:
        return []
    code = blocks[-1].code
    hashes = {block.impl: block.impl_hash for block in blocks if block.code == code}
    return [block for block in blocks if block.code == code and block.impl_hash == hashes[block.impl]]


def exit_code(blocks: Iterable[Block]) -> int:
    """1 if a run failed. If none failed: 2 if a run could not be judged, and otherwise 0."""
    blocks = list(blocks)
    return 1 if any(block.failures for block in blocks) else 2 if any(block.unjudged for block in blocks) else 0


# --- text ----------------------------------------------------------------------------------------------------


def column(block: Block) -> str:
    """The column of the table that a block belongs to."""
    return f"{block.kind} {block.network}" + (", all processors busy" if block.beside_hog else "")


def table(blocks: Sequence[Block]) -> str:
    """Runs and failures by implementation, lab and column; then memory, processes and cost."""
    now = current_blocks(blocks)
    if not now:
        return "no block is finished yet"
    # Suites come before random scenarios.
    columns = sorted({column(block) for block in now}, key=lambda name: (name[0] == "f", name))
    cells: dict[tuple[str, str], dict[str, list[Block]]] = {}
    for block in sorted(now, key=lambda block: (block.impl, block.lab)):
        cells.setdefault((block.impl, block.lab), {}).setdefault(column(block), []).append(block)
    body = [
        [printable(impl), lab, *(_cell(row.get(name, [])) for name in columns)] for (impl, lab), row in cells.items()
    ]
    body.append(["all", "", *(_cell([block for block in now if column(block) == name]) for name in columns)])
    shown = [tabulate.tabulate(body, ["runs of", "lab", *columns], disable_numparse=True)]
    costs = [_cost(name, [block for block in now if column(block) == name]) for name in columns]
    heads = ["", "blocks", "CPU s", "hours", "runs/h", "CPU s a run", "MB own", "MB child", "processes after"]
    shown.append(tabulate.tabulate(costs, heads, disable_numparse=True))
    shown.append(
        "MB: largest in the first block / in the last / in any; processes: the most that existed after any block, "
        "including this process"
    )
    old = len(blocks) - len(now)
    if old:
        runs = sum(block.runs for block in blocks) - sum(block.runs for block in now)
        shown.append(
            f"{count(old, 'block')} with {count(runs, 'run')} of another version are in the log and do not count"
        )
    return "\n\n".join(shown)


def _cell(blocks: list[Block]) -> str:
    runs, failures, unjudged = (sum(getattr(b, name) for b in blocks) for name in ("runs", "failures", "unjudged"))
    bad = [f"{failures:,} failed"] * bool(failures) + [f"{unjudged:,} not judged"] * bool(unjudged)
    return (f"{runs:,}" + (f" ({', '.join(bad)})" if bad else "")) if blocks else ""


def _cost(name: str, blocks: list[Block]) -> list[str]:
    runs = sum(block.runs for block in blocks)
    cpu, wall = sum(block.cpu_s for block in blocks), sum(block.wall_s for block in blocks)
    memory = [
        f"{values[0]:.0f} / {values[-1]:.0f} / {max(values):.0f}"
        for values in ([getattr(block.memory_mb, kind) for block in blocks] for kind in ("own", "child"))
    ]
    rate = f"{runs / wall * 3600:,.0f}" if wall else ""
    each = f"{cpu / max(1, runs):.3f}"
    most = str(max(block.processes for block in blocks))
    return [name, f"{len(blocks):,}", f"{cpu:,.0f}", f"{wall / 3600:.2f}", rate, each, *memory, most]


def summary_line(block: Block) -> str:
    """One block in one line."""
    seeds = f"seeds {block.seeds[0]}–{block.seeds[1] - 1}"
    bad = f"{block.failures} failed" if block.failures else "none failed"
    bad += f", {block.unjudged} not judged" if block.unjudged else ""
    cost = f"{block.cpu_s:.0f} s of CPU in {duration(block.wall_s)}"
    memory = f"{block.memory_mb.own:.0f} + {block.memory_mb.child:.0f} MB"
    what = f"{block.lab} {column(block)}, {printable(block.impl)}, {seeds}"
    return f"{what}: {count(block.runs, 'run')}, {bad}; {cost}, {memory}"
