"""Tests of the compile cache: equal source texts are compiled once, and the classes made from them stay independent."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import dataclasses, typing
from raftlab.host import compile_cache

def make_class():
    @dataclasses.dataclass(order=True)
    class Args:
        term: "int" = 1
        entries: "list[int]" = dataclasses.field(default_factory=list)
    typing.get_type_hints(Args)
    return Args

before = make_class()
compile_cache.install()
first, second = make_class(), make_class()
assert first is not second and first(2) != second(2) and first(2) == first(2) < first(3)
assert repr(first(2)) == repr(before(2)) and first.__init__ is not second.__init__
assert first.__init__.__code__ is second.__init__.__code__
assert typing.get_type_hints(second) == typing.get_type_hints(before)
assert vars(first.__init__)== vars(before.__init__) and first.__init__.__annotations__ == before.__init__.__annotations__
print(compile_cache._code.cache_info().hits > 5)
"""


def test_equal_texts_are_compiled_once() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("True\n", "")
