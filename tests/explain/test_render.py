"""Tests of rendering a failure: every rule and fault has an explanation, and the terminal and HTML show the same words."""

from __future__ import annotations

import html
import re

import msgspec

from raftlab.explain import render, rules
from raftlab.explain.causes import FAULTS, RULES
from raftlab.explain.failure import Failure, Rule

ALL_RULES = [rule for rule in vars(rules).values() if isinstance(rule, Rule)]

LOST_VOTE = Failure(
    "invariant",
    "expected S0 to vote once in term 5, but it voted for itself and then, after a restart, for S1",
    rules.SURVIVES,
    events=["   4.241 S0 crashes", "   4.251 S0 restarts"],
)


def test_every_rule_is_explained() -> None:
    assert list(RULES) == sorted(RULES, key=list(RULES).index)
    assert set(RULES) == set(ALL_RULES)
    for entry in RULES.values():
        assert entry.figure
        assert 1 <= len(entry.often) <= 3
        for text in (entry.figure, *entry.often):
            assert len(text) <= 112, text
            assert not text.endswith("."), text


def test_every_fault_is_explained() -> None:
    assert all(len(hint) <= 112 and hint.endswith(".") for hint in FAULTS.values())


def test_a_broken_rule_on_a_terminal() -> None:
    text = render.as_text(LOST_VOTE, "raftlab replay x@1", "raftlab view out/x.jsonl")
    assert text == (
        "expected S0 to vote once in term 5, but it voted for itself and then, after a restart, for S1\n"
        "  rule: what survives: current_term, voted_for and the log are the same after a restart as before "
        "(Figure 2, State; §5.2, §5.3)\n"
        "  figure: State, persistent: current_term, voted_for, log[]\n"
        "  read: handouts/lab-2c-details.md#what-must-survive\n"
        "  often: one of the three is not saved, or is saved before it is changed\n"
        "  often: what is read back differs from what was saved\n"
        "  what led there:\n"
        "       4.241 S0 crashes\n"
        "       4.251 S0 restarts\n"
        "  replay: raftlab replay x@1\n"
        "  picture: raftlab view out/x.jsonl"
    )


def test_a_fault_on_a_terminal() -> None:
    fault = Failure("exception", "S1: an exception nobody caught", where="raft.py:7", detail="Traceback\n  ...\n")
    assert render.as_text(fault) == (
        "S1: an exception nobody caught\n"
        "  at raft.py:7\n"
        "  read: handouts/debugging.md#named-faults (exception)\n"
        "  hint: An exception that nothing caught ended this thread. The traceback below ends at the line in your code.\n"
        "  details:\n"
        "    Traceback\n"
        "      ..."
    )


def test_a_hint_about_this_run_comes_before_usual_causes() -> None:
    text = render.as_text(Failure("assertion", "expected a leader", rules.LIVENESS, hint="Begin with step 1."))
    assert "  hint: Begin with step 1." in text
    assert "often:" not in text


def test_html_has_the_same_words() -> None:
    shown = render.as_html(LOST_VOTE, "raftlab replay x@1")
    words = re.sub(r"<[^>]+>", " ", shown)
    for part in render.parts(LOST_VOTE, "raftlab replay x@1"):
        for line in (part.label, *part.lines):
            assert " ".join(line.split()) in " ".join(html.unescape(words).split())


def test_html_escapes_student_text() -> None:
    evil = "</pre><script>alert(1)</script>"
    shown = render.as_html(Failure("exception", evil, where=evil, events=[evil], detail=evil), evil)
    assert "<script" not in shown
    assert shown.count("&lt;script&gt;") == 5


def test_a_rule_that_an_older_report_words_differently_is_explained_all_the_same() -> None:
    old = msgspec.structs.replace(rules.ONE_VOTE, says="as it was worded before", handout="handouts/old.md")
    labels = [part.label for part in render.parts(Failure("invariant", "expected one vote", old))]
    assert "figure" in labels
    assert "often" in labels
