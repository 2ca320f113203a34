"""`raftlab view`: create a page that shows a trace as a picture, and open it in a browser."""

from __future__ import annotations

import argparse
import math
import os
import sys
import webbrowser
from pathlib import Path

from raftlab.command_line import PASSED
from raftlab.tools.arguments import OUTPUT_FOLDER, CommandError
from raftlab.viewer import page as viewer_page


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "trace",
        type=Path,
        metavar="TRACE",
        help=f"a trace file from {OUTPUT_FOLDER}/, or from `raftlab replay ... --out TRACE`",
    )
    parser.add_argument(
        "-o",
        "--out",
        type=Path,
        metavar="FILE",
        help="write the page to this file (default: beside the trace, as .html)",
    )
    parser.add_argument("--no-open", action="store_true", help="write the page, but do not open it")
    parser.add_argument(
        "--since", type=float, default=0.0, metavar="T", help="leave out events before this time, in seconds"
    )
    parser.add_argument(
        "--until", type=float, default=math.inf, metavar="T", help="leave out events after this time, in seconds"
    )


def run(arguments: argparse.Namespace) -> int:
    """Create the page and open it. Returns 0."""
    return view(arguments.trace, arguments.out, arguments.since, arguments.until, not arguments.no_open)


def view(trace: Path, out: Path | None, since: float, until: float, opened: bool) -> int:
    """Create the page.

    Args:
        trace: The trace file.
        out: Where the page goes; ``None``: beside the trace.
        since: Events before this time (seconds) are left out.
        until: Events after this time (seconds) are left out.
        opened: Whether to open the page in a browser.

    Returns:
        0.

    Raises:
        CommandError: There is no such trace, or ``out`` is the trace itself.
        raftlab.viewer.page.CannotShow: The trace is too large, or has no events between the two times.
        raftlab.harness.trace.BadTrace: The file is not a trace.
        OSError: A file cannot be read or written.
    """
    if not trace.exists():
        text = f"{trace} does not exist"
        name, at, seed = str(trace).rpartition("@")
        if name and at and seed.isdigit():
            text = f"view shows a trace file, not a run; to make the file: raftlab replay {trace} --out run.jsonl"
        raise CommandError(text)
    if trace.is_dir():
        raise CommandError(f"{trace} is a folder; expected one of its trace files, whose names end in .jsonl")
    page = trace.with_suffix(".html") if out is None else out
    if page.exists() and page.samefile(trace):
        raise CommandError(f"{page} is the trace itself: give --out another file")
    if since > until:
        raise CommandError(f"--since {since:g} is later than --until {until:g}")
    viewer_page.write(trace, page, since, until)
    print(f"the picture is in {page}")
    sys.stdout.flush()
    if opened and _in_container():
        print('to see it, right-click the file in VS Code and choose "Show Preview"')
    elif opened and not (has_screen() and webbrowser.open(page.resolve().as_uri())):
        print("found no browser to open it in: open that file yourself")
    return PASSED


def _in_container() -> bool:
    """Whether this is a container or a codespace of VS Code. The browser then runs on another computer and cannot open
    a file of this computer."""
    return any(map(os.environ.get, ("CODESPACES", "REMOTE_CONTAINERS")))


def has_screen() -> bool:
    """Whether a graphical browser can be opened. A text browser in the terminal cannot show the page."""
    return sys.platform != "linux" or any(
        map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY", "WSL_DISTRO_NAME", "BROWSER"))
    )
