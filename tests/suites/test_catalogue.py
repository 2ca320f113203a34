"""Tests of the list of all tests (``suites/catalogue.py``)."""

from __future__ import annotations

from collections import Counter

from raftlab import labs
from raftlab.suites import catalogue


def test_no_two_labs_have_a_test_of_the_same_name() -> None:
    """``raftlab replay`` and the known bugs name a test without its lab."""
    names = Counter(info.name for lab in labs.LABS for info in catalogue.tests(lab))
    assert [name for name, times in names.items() if times > 1] == []
