"""Helpers of the viewer's tests: traces of real and made-up runs, and a headless browser.

Nothing here waits for time to pass: the tests make the page paint (`raftlab.paint()`) and then ask it for its state.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from raftlab.explain.failure import LabFailure
from raftlab.harness import trace
from raftlab.runs.run import Implementation, Run
from raftlab.suites import catalogue
from raftlab.viewer import page as viewer_page
from tests import known_bugs
from tests.conftest import SOLUTION

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (it is in the dev extra)")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NEEDS_BROWSER = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


@dataclass
class RunTrace:
    """The file with a run's trace, the lines that ``raftlab replay`` prints (without the times), and the text of the
    failure, if any."""

    path: Path
    lines: list[str] = field(default_factory=list)
    failure: str = ""


def run_of(folder: Path, impl_path: Path, test: str, seed: int = 0) -> RunTrace:
    info = catalogue.find_test(test)
    impl = Implementation(impl_path)
    # Preemption is switched off. It could suspend a handler after the handler has changed the server's state and before it
    # replies. The viewer knows of the change only from the reply.
    run = Run(impl, info, "sim", seed, "none")
    error = None
    try:
        catalogue.script_of(info)(run.cluster)
    except LabFailure as exc:
        error = exc
    finally:
        run.close()
        impl.close()
    failure = run.record(error).failure
    lines = [trace.line(event)[9:] for event in run.events]
    return RunTrace(run.write_trace(folder, failure), lines, failure.text if failure else "")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("viewer")


@pytest.fixture(scope="module")
def calm(folder: Path) -> RunTrace:
    """A run in which three servers elect a leader."""
    return run_of(folder, SOLUTION.parent, "initial_election")


@pytest.fixture(scope="module")
def busy(folder: Path) -> RunTrace:
    """A run with five servers, partitions, and followers with long wrong logs."""
    return run_of(folder, SOLUTION.parent, "backup")


@pytest.fixture(scope="module")
def broken(folder: Path) -> RunTrace:
    """A failing run: a server forgets its vote and votes twice in a term."""
    bug = known_bugs.BANK.find("2A", "el-vote-cleared-same-term")
    return run_of(folder, known_bugs.put(bug, folder), bug.catches[0].test)


# --- the browser ---


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as play:
        # CI may run as root, and Chromium refuses to start its own sandbox as root.
        started = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


Open = Callable[..., Any]


@pytest.fixture(scope="module")
def tab(browser: Any) -> Any:
    """One browser page for all tests of a module, because opening a page takes longer than most tests."""
    return browser.new_page(viewport={"width": 1366, "height": 768}, offline=True)


@pytest.fixture
def open_page(tab: Any, tmp_path: Path) -> Iterator[Open]:
    """A function that writes the viewer's page of a trace and opens it in the shared tab. An error on the page fails the
    test."""
    errors: list[str] = []

    def on_error(error: Any) -> None:
        errors.append(str(error))

    def on_console(message: Any) -> None:
        if message.type == "error":
            errors.append(message.text)

    def opened(path: Path, link: str = "", **part: float) -> Any:
        out = tmp_path / f"{path.stem}.html"
        viewer_page.write(path, out, **part)
        tab.goto("about:blank")
        tab.goto(out.as_uri() + link)
        return tab

    tab.emulate_media(color_scheme="light")
    tab.on("pageerror", on_error)
    tab.on("console", on_console)
    yield opened
    tab.evaluate("localStorage.clear()")
    tab.remove_listener("pageerror", on_error)
    tab.remove_listener("console", on_console)
    assert not errors


def know(page: Any, what: str) -> Any:
    """The value of a JavaScript expression in the page, which may use ``raftlab``, after the page has been painted."""
    return page.evaluate(f"() => {{ raftlab.paint(); return {what}; }}")


def events_of(path: Path) -> list[dict[str, Any]]:
    return list(trace.read(path))[1:]


# --- made-up runs ---


def message_run(*events: tuple[Any, ...]) -> list[dict[str, Any]]:
    """The events of a made-up run, 0.01 s apart. Each is given as its kind and its other fields, in their order."""
    made: list[dict[str, Any]] = [{"t": 0.0, "e": "boot", "server": server, "incarnation": 1} for server in range(3)]
    for number, (kind, *values) in enumerate(events, 1):
        made.append({"t": number / 100, "e": kind, **dict(zip(trace.FIELDS[kind], values, strict=True))})
    return made


def append(term: int, prev: tuple[int, int] = (0, 0), entries: str = "", commit: int = 0) -> dict[str, Any]:
    listed = [{"term": int(one), "command": f"c{number}"} for number, one in enumerate(entries)]
    fields = {"prev_log_index": prev[0], "prev_log_term": prev[1], "entries": listed, "leader_commit": commit}
    return {"term": term, "leader_id": 0, **fields}


def exchange(number: int, server: int, to: int, method: str, args: Any, reply: Any) -> list[tuple[Any, ...]]:
    return [
        ("send", server, to, number, method, args),
        ("arrive", to, server, number, method),
        ("answer", to, server, number, method, reply),
        ("reply", server, to, number, method, reply),
    ]


def write(path: Path, header: dict[str, Any], events: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in ({"trace": 1, **header}, *events)))
    return path
