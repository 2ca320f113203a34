"""The hanging of the picture: ``raftlab view`` makes the page of a trace and opens it in a browser."""

from __future__ import annotations

import os
import sys
import webbrowser
from pathlib import Path

from raftlab.viewer import page as viewer_page


class BadRequest(ValueError):
    """There is no such trace, or the page cannot go where it should. The message is one sentence."""


def view(trace: Path, out: Path | None, since: float, until: float, opened: bool) -> int:
    """Make the page and, if wanted, open it. Returns 0. Raises :class:`BadRequest`, :class:`viewer.CannotShow`,
    :class:`raftlab.harness.trace.BadTrace` and ``OSError``."""
    if not trace.exists():
        text = f"{trace} does not exist"
        name, at, seed = str(trace).rpartition("@")
        if name and at and seed.isdigit():
            text = f"view shows a trace file, not a run; make one: raftlab replay {trace} --out run.jsonl"
        raise BadRequest(text)
    if trace.is_dir():
        raise BadRequest(f"{trace} is a folder: view wants one trace of it, a .jsonl file")
    page = trace.with_suffix(".html") if out is None else out
    if page.exists() and page.samefile(trace):
        raise BadRequest(f"{page} is the trace itself: --out wants another file")
    if since > until:
        raise BadRequest(f"--since {since:g} is later than --until {until:g}")
    viewer_page.write(trace, page, since, until)
    print(f"the picture is in {page}")
    sys.stdout.flush()
    if opened and not (_has_screen() and webbrowser.open(page.resolve().as_uri())):
        print("no browser was found here: open that file in yours")
    return 0


def _has_screen() -> bool:
    """Without a screen a browser in the terminal might be found, and that shows nothing of a picture."""
    return sys.platform != "linux" or any(
        map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY", "WSL_DISTRO_NAME", "BROWSER"))
    )
