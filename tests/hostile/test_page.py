"""For each promise, the page about the sandbox names the hostile submissions that test the promise, and no others."""

from __future__ import annotations

import re

from tests.conftest import ROOT
from tests.hostile import escapes
from tests.hostile.bank import BANK

TABLE = re.compile(r"^\| (?!a submission|---)(.+?) \| .* \| (.+?) \|$", re.MULTILINE)


def test_every_promise_names_the_submissions_that_test_it() -> None:
    page = (ROOT / "handouts" / "confinement.md").read_text()
    page = page[page.index("## What each level promises") : page.index("## What the sandbox does not do")]
    rows = TABLE.findall(page)
    assert len(rows) > len(escapes.PROMISES)
    known = {entry.name for entry in BANK}
    named = set()
    for promise, tests in rows:
        names = set(re.findall(r"`([^`]+)`", tests))
        assert names, promise
        assert names <= known or names == {"tests/sandbox"}, names - known
        named |= names
    assert {promise.name for promise in escapes.PROMISES} <= named


def test_what_a_promise_admits_is_among_its_attempts() -> None:
    for promise in escapes.PROMISES:
        assert set(promise.admitted) <= set(promise.attempts)
    assert len(escapes.ALONE) >= 20
