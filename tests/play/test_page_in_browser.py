"""Test of the page of `raftlab play` in a browser, used with the keyboard alone."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from raftlab.play.session import Session
from raftlab.runs import names
from raftlab.runs.run import Implementation, Run
from raftlab.runs.scenario import Scenario
from tests.conftest import SOLUTION
from tests.play.test_server import BAD, serving
from tests.viewer.pages import NEEDS_BROWSER, browser

pytestmark = [NEEDS_BROWSER, pytest.mark.slow]

__all__ = ["browser"]

# A promise that resolves when the condition holds. Playwright's `wait_for_function` needs `eval`, which the page forbids.
UNTIL = """() => new Promise((done, fail) => {
  const late = performance.now() + 20000;
  const look = () => {
    if (%s) done();
    else if (performance.now() > late) fail(new Error(`late: ${document.getElementById("notice").textContent}`));
    else requestAnimationFrame(look);
  };
  look();
})"""
CONTROLS = {"button", "checkbox", "combobox", "slider", "spinbutton", "textbox", "DisclosureTriangle"}


@pytest.fixture
def shouting(tmp_path: Path) -> Path:
    """The reference, changed so that it logs HTML when it is asked for a command."""
    text = SOLUTION.read_text()
    place = "            if self.role != LEADER:\n                return -1, self.current_term, False\n"
    assert text.count(place) == 1
    (tmp_path / "raft.py").write_text(text.replace(place, f" {' ' * 11}log('start', {BAD!r})\n{place}"))
    return tmp_path


def names_of_controls(page: Any) -> list[tuple[str, str]]:
    tree = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")
    return [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in tree["nodes"]
        if not node["ignored"] and node["role"]["value"] in CONTROLS
    ]


def test_a_session_with_the_keyboard_alone(browser: Any, shouting: Path, tmp_path: Path) -> None:
    page = browser.new_page(viewport={"width": 1366, "height": 768})
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)

    def press(keys: str, until: str) -> None:
        for key in keys.split():
            page.keyboard.press(key)
        page.evaluate(UNTIL % until)

    did = "raftlab.steps.some((step) => step.line === '{}')".format
    with closing(Implementation(shouting)) as impl:
        session = Session(impl, Scenario("2D", "play_2D", 0, 3, schedule="none"))
        with closing(session), serving(session, tmp_path / "out") as server:
            page.goto(server.url)
            page.evaluate(UNTIL % "window.raftlab && raftlab.playing")
            press("+ + +", "raftlab.states.some((s) => s.role === 'leader' && s.up)")
            press("Space", "!raftlab.playing")
            leader = page.evaluate("raftlab.states.find((s) => s.role === 'leader').server")
            press("p", did(f"propose S{leader}"))
            press(".", f"raftlab.t === raftlab.now && !raftlab.link.busy && {did(f'propose S{leader}')}")
            page.evaluate("() => { raftlab.paint(); }")
            assert BAD in page.locator("#events").inner_text()
            assert page.locator("img").count() == 0
            press("m", "raftlab.steps.some((step) => step.line.startsWith('catch h1 request of append_entries'))")
            press("n", did("release h1"))
            other = (leader + 1) % 3
            press(f"{leader} Shift+Digit{other} [", "raftlab.network.cut.size === 1")
            press(f"{other} x", did(f"disconnect S{other}"))
            press("c", f"raftlab.states[{other}].up === false")
            press(f"{leader} s", did(f"snapshot S{leader}"))
            now, generation = page.evaluate("[raftlab.now, raftlab.generation]")
            press("Home", "raftlab.t === 0 && document.body.classList.contains('past')")
            press(". .", "raftlab.t > 0 && raftlab.past")
            press("h", f"raftlab.generation === {generation + 1}")
            assert page.evaluate(
                "raftlab.steps.map((step) => step.line).filter((line) => !line.startsWith('wait'))"
            ) == ["heal"]
            press("b", f"raftlab.generation === {generation + 2} && raftlab.now === {now!r}")
            # The Tab key reaches the other controls, and a screen reader needs a name for each.
            for details in ("links", "holds"):
                page.evaluate(f"document.getElementById('{details}').open = true")
            controls = names_of_controls(page)
            assert len(controls) > 40
            assert [role for role, name in controls if not name.strip()] == []
            page.evaluate("document.querySelector('.node').focus()")
            assert page.evaluate("document.activeElement.getAttribute('aria-label')").startswith("S0, ")
            press("w", "document.getElementById('files').childElementCount > 0")
            (saved,) = (tmp_path / "out").iterdir()
            kept = session.hash()
        named = names.named(str(saved), "sim", None)
        run = Run(impl, named.info, "sim", named.seed, named.schedule)
        assert run.play(named.script) is None
        assert run.started_cluster is not None
        assert run.started_cluster.event_loop.trace.hash() == kept
    page.close()
    assert errors == []
