"""Tests of rendering a failure: every rule and fault has an explanation, and the terminal and HTML show the same words."""

from __future__ import annotations

import html
import re

import msgspec
import pytest

from raftlab.explain import render, rules
from raftlab.explain.causes import EXCEPTIONS, FAULTS, RULES
from raftlab.explain.failure import Failure, Rule

ALL_RULES = [rule for rule in vars(rules).values() if isinstance(rule, Rule)]

LOST_VOTE = Failure(
    "invariant",
    "expected S0 to vote once in term 5, but it voted for itself and then, after a restart, for S1",
    rules.SURVIVES,
    events=["   4.241 S0 crashes", "   4.251 S0 restarts"],
    causes=["the vote is not saved", "the vote is saved, but not loaded"],
)


def test_every_rule_is_explained() -> None:
    assert list(RULES) == sorted(RULES, key=list(RULES).index)
    assert set(RULES) == set(ALL_RULES)
    for figure in RULES.values():
        assert figure
        assert len(figure) <= 112, figure
        assert not figure.endswith("."), figure


def test_every_fault_is_explained() -> None:
    assert all(len(hint) <= 112 and hint.endswith(".") for hint in FAULTS.values())


def test_the_causes_of_exceptions_have_the_form_of_those_of_rules() -> None:
    for often in EXCEPTIONS.values():
        assert 1 <= len(often) <= 3
        assert all(len(text) <= 112 and not text.endswith(".") for text in often)


@pytest.mark.parametrize(
    ("exception", "cause"),
    [
        ("IndexError: list index out of range", "an index from a message"),
        ("KeyError: 3", "there is no entry for this server"),
        ("AttributeError: 'NoneType' object has no attribute 'term'", "call() returned None"),
        ("AttributeError: 'Raft' object has no attribute 'votes'. Did you mean: 'vote'?", "__init__ starts a thread"),
        ("TypeError: unsupported operand type(s) for +: 'NoneType' and 'int'", "call() returned None"),
        ("RuntimeError: dictionary changed size during iteration", "another thread changed it"),
        ("RuntimeError: cannot notify on un-acquired lock", "a Condition needs its lock"),
        ("bdb.BdbQuit", "a breakpoint() is left in your code"),
    ],
)
def test_an_exception_that_is_frequent_in_rafts_has_likely_causes(exception: str, cause: str) -> None:
    failure = Failure("exception", f"S1: uncaught exception in thread 'ticker': {exception}", where="raft.py:7")
    text = render.as_text(failure)
    assert f"\n  look for: {cause}" in text
    assert "hint" not in text
    failure.where = "kv.py:7"
    assert "look for" not in render.as_text(failure)


def test_another_exception_has_only_a_hint() -> None:
    failure = Failure("exception", "S1: uncaught exception in a thread: ValueError: IndexError", where="raft.py:7")
    assert f"  hint: {FAULTS['exception']}" in render.as_text(failure)


def test_a_broken_rule_on_a_terminal() -> None:
    text = render.as_text(LOST_VOTE, "raftlab replay x@1", "raftlab view out/x.jsonl")
    assert text == (
        "expected S0 to vote once in term 5, but it voted for itself and then, after a restart, for S1\n"
        "  picture: raftlab view out/x.jsonl\n"
        "  rule: what survives: current_term, voted_for and the log are the same after a restart as before "
        "(Figure 2, State; §5.2, §5.3)\n"
        "  figure: State, persistent: current_term, voted_for, log[]\n"
        "  read: handouts/lab-2c-details.md#what-must-survive\n"
        "  look for: the vote is not saved\n"
        "  look for: the vote is saved, but not loaded\n"
        "  what led there:\n"
        "       4.241 S0 crashes\n"
        "       4.251 S0 restarts\n"
        "  replay: raftlab replay x@1"
    )


def test_a_fault_on_a_terminal() -> None:
    fault = Failure("exception", "S1: an exception nobody caught", where="raft.py:7", detail="Traceback\n  ...\n")
    assert render.as_text(fault) == (
        "S1: an exception nobody caught\n"
        "  at raft.py:7\n"
        "  read: handouts/debugging.md#named-faults (exception)\n"
        "  hint: An uncaught exception ended this thread. The traceback below ends at the line in your code.\n"
        "  details:\n"
        "    Traceback\n"
        "      ..."
    )


def test_a_hint_about_this_run_comes_before_usual_causes() -> None:
    text = render.as_text(
        Failure("assertion", "expected a leader", rules.LIVENESS, hint="Begin with step 1.", causes=["the timer"])
    )
    assert "  hint: Begin with step 1." in text
    assert "look for:" not in text


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


def test_a_rule_that_an_older_report_words_differently_is_explained() -> None:
    old = msgspec.structs.replace(rules.ONE_VOTE, says="as it was worded before", handout="handouts/old.md")
    labels = [part.label for part in render.parts(Failure("invariant", "expected one vote", old))]
    assert "figure" in labels
