"""Tests that the verdicts and sentences in handouts/linearizability.md are those of the checker."""

from __future__ import annotations

import re
from contextlib import redirect_stdout
from io import StringIO

from raftlab.linearizability import Operation, Register, Verdict, check
from tests.conftest import ROOT

PAGE = (ROOT / "handouts" / "linearizability.md").read_text()


def test_the_example_prints_the_sentence_that_the_page_shows() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    printed = StringIO()
    with redirect_stdout(printed):
        exec(example, {})
    verdict, _, sentence = printed.getvalue().strip().partition(" ")
    assert verdict == "no"
    assert sentence in PAGE.splitlines()


def test_the_other_histories_have_the_verdicts_that_the_page_states() -> None:
    first = [
        Operation("c1", 0, 2.4, "put", "x", ("a",)),
        Operation("c2", 0.3, 2.6, "get", "x"),
        Operation("c3", 1.8, 4, "get", "x", (), "a"),
    ]
    assert check(first, Register()).verdict is Verdict.YES
    put = Operation("c1", 0, None, "put", "x", ("a",))
    one, two = Operation("c2", 1.2, 2.8, "get", "x"), Operation("c2", 3.1, 4.6, "get", "x", (), "a")
    assert check([put, one, two], Register()).verdict is Verdict.YES
    other_way_round = [put, Operation("c2", 1.2, 2.8, "get", "x", (), "a"), Operation("c2", 3.1, 4.6, "get", "x")]
    assert check(other_way_round, Register()).verdict is Verdict.NO
