"""The states that the viewer's page derives from messages, compared with the servers' real states."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from raftgrade.proof.bug_bank import without_labs_from
from raftlab.viewer import page as viewer_page
from tests.conftest import SOLUTION
from tests.viewer.pages import (
    NEEDS_BROWSER,
    Open,
    RunTrace,
    append,
    exchange,
    message_run,
    run_of,
)

pytestmark = [NEEDS_BROWSER, pytest.mark.slow]

TELL = (
    'log("truth", json.dumps({"term": self.current_term, "role": self.role, "vote": self.voted_for, '
    '"commit": self.commit_index, "applied": self.last_applied, "base": self.base, '
    '"terms": [entry.term for entry in self.entries[1:]], "commands": [entry.command for entry in self.entries[1:]]}))\n'
)
ASKED = (
    "            return self.current_term, self.role == LEADER\n",
    "            if self.role != LEADER:\n                return -1, self.current_term, False\n",
)


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reference, changed so that it logs its whole state whenever the test calls it."""
    # Labs 2E and 2F are left out: in lab 2F a leader steps down if it gets no answers, and no message shows that.
    text = without_labs_from("2E", SOLUTION.read_text())
    for place in ASKED:
        assert text.count(place) == 1, "the reference has changed: bring ASKED up to date"
        text = text.replace(place, " " * 12 + TELL + place)
    folder = tmp_path_factory.mktemp("honest")
    (folder / "raft.py").write_text(text)
    return folder


COMPARE = """() => {
  const wrong = [];
  let count = 0;
  raftlab.data.events.forEach((event, index) => {
    if (event.e !== "line" || event.topic !== "truth") return;
    count++;
    const truth = JSON.parse(event.text);
    const s = raftlab.model.at(index)[event.server];
    const seen = { ...s, terms: s.entries.map((one) => one.term), commands: s.entries.map((one) => one.command) };
    for (const [name, value] of Object.entries(truth)) {
      if (JSON.stringify(seen[name]) !== JSON.stringify(value)) wrong.push([index, event.server, name, value, seen[name]]);
    }
  });
  return { count, wrong };
}"""


@pytest.mark.parametrize(
    ("test", "hidden"),
    [
        ("many_elections", 0),
        ("backup", 0),
        ("snapshot_unreliable", 0),
        # Here a server adopts a higher term and crashes before it sends a message, so the page cannot know its term and its
        # vote.
        ("crash_points_in_a_cluster", 2),
    ],
)
def test_derived_states_equal_the_servers_real_states(
    test: str, hidden: int, honest: Path, folder: Path, open_page: Open
) -> None:
    page = open_page(run_of(folder, honest, test).path)
    told = page.evaluate(COMPARE)
    assert told["count"] > 100
    assert len(told["wrong"]) <= hidden, told["wrong"]


def test_a_state_does_not_depend_on_which_moments_were_shown_before(busy: RunTrace, open_page: Open) -> None:
    page = open_page(busy.path)
    same = page.evaluate("""() => {
      const { model, count } = raftlab;
      const look = (index) => JSON.stringify(model.at(index).map(({ shared, ...rest }) => rest));
      const forward = [];
      for (let index = -1; index < count; index++) forward.push(look(index));
      for (let index = count - 1; index >= -1; index -= 7) if (look(index) !== forward[index + 1]) return index;
      return "same";
    }""")
    assert same == "same"


After = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="module")
def after(browser: Any, calm: RunTrace, folder: Path) -> Iterator[After]:
    """A function that returns the servers' states after the events of a made-up run. These tests share one
    page, whose model derives the states."""
    out = folder / "reckons.html"
    viewer_page.write(calm.path, out)
    page = browser.new_page()
    page.goto(out.as_uri())

    def states(*events: tuple[Any, ...]) -> list[dict[str, Any]]:
        reckon = "(events) => new raftlab.model.constructor(3, events).at(events.length - 1)"
        told = page.evaluate(reckon, message_run(*events))
        return [{**state, "log": "".join(str(entry["term"]) for entry in state["entries"])} for state in told]

    yield states
    page.close()


OK = {"term": 1, "success": True}


def test_only_a_conflict_removes_entries(after: After) -> None:
    states = after(
        *exchange(1, 0, 1, "append_entries", append(1, entries="1111", commit=9), OK),
        *exchange(2, 0, 1, "append_entries", append(1, entries="11"), OK),  # an old request with fewer entries
    )
    assert states[1]["log"] == "1111"
    assert states[1]["commit"] == 4  # not 9, because the message checked entries only up to 4
    states = after(
        *exchange(1, 0, 1, "append_entries", append(1, entries="1111"), OK),
        *exchange(2, 2, 1, "append_entries", append(2, (2, 1), entries="2"), {"term": 2, "success": True}),
    )
    assert states[1]["log"] == "112"


def test_a_refusal_and_a_lost_request_store_nothing(after: After) -> None:
    refusal = exchange(1, 0, 1, "append_entries", append(1, (3, 1), "1"), {"term": 1, "success": False})
    states = after(*refusal, ("send", 0, 2, 2, "append_entries", append(1, (3, 1), "1")))
    assert [state["log"] for state in states] == ["NoneNone11", "", ""]  # no message had the first two entries


def test_a_pre_vote_changes_no_term(after: After) -> None:
    asked = {"term": 8, "candidate_id": 0, "last_log_index": 0, "last_log_term": 0}
    pre = exchange(1, 0, 1, "pre_vote", asked, {"term": 8, "vote_granted": True})
    states = after(*pre)
    assert [(state["role"], state["term"], state["vote"]) for state in states] == [("follower", 0, None)] * 3


def test_a_deposed_leader_follows_unless_it_ignores_the_higher_term(after: After) -> None:
    higher = exchange(1, 0, 1, "append_entries", append(1), {"term": 5, "success": False})
    states = after(*higher)
    assert (states[0]["role"], states[0]["term"]) == ("follower", 5)
    # For a moment, the deposed leader may still send a request of its old term...
    states = after(*higher, ("send", 0, 2, 2, "append_entries", append(1)))
    assert (states[0]["role"], states[0]["term"]) == ("follower", 5)
    # ...but not later: a server that goes on sending such requests has ignored the higher term, and still leads.
    pause = [("note", "x")] * 9
    states = after(*higher, *pause, ("send", 0, 2, 2, "append_entries", append(1)))
    assert (states[0]["role"], states[0]["term"]) == ("leader", 1)


def test_a_crash_forgets_what_is_not_on_the_disk(after: After) -> None:
    applied = {"index": 1, "term": 1, "command": "c0", "kind": "command"}
    stored = [*exchange(1, 0, 1, "append_entries", append(1, entries="11", commit=1), OK), ("apply", 1, applied)]
    states = after(*stored)
    assert (states[1]["commit"], states[1]["applied"]) == (1, 1)
    states = after(*stored, ("crash", 1), ("boot", 1, 2))
    assert (states[1]["commit"], states[1]["applied"], states[1]["log"], states[1]["term"]) == (0, 0, "11", 1)
