"""Tests of the check that a module does nothing but define things when it is imported, so that none of the student's
functions runs then."""

from __future__ import annotations

import ast
import sys
import textwrap
from types import ModuleType

import pytest

from raftlab.submission.definitions import DefinitionChecker, DoesMore
from tests.conftest import ROOT

HARMLESS = {
    "constants": """
        import math, os, sys
        from logging import DEBUG
        HEARTBEAT = 0.1
        TIMEOUT = (HEARTBEAT * 3, 2 * HEARTBEAT + math.pi)
        LOW, HIGH = TIMEOUT
        BOTH = {"low": LOW} if HIGH > LOW else []
        NAMES = [name.upper() for name in "a b".split()]
        LEVEL = DEBUG if os.environ.get("DEBUG") else max(1, len(NAMES))
        if sys.version_info >= (3, 11):
            NEW = True
        __all__ = ["A"]
        __all__ += ["B"]
    """,
    "classes": """
        from __future__ import annotations
        import abc, enum, typing as t
        from dataclasses import dataclass, field
        from typing import TYPE_CHECKING, Generic, List, Literal, NamedTuple, Optional, TypeVar
        if TYPE_CHECKING:
            from nowhere import Something
        T = TypeVar("T", bound="Args")
        class Role(str, enum.Enum):
            LEADER = "leader"
            def short(self): return self.value[0]
        class Step(enum.IntEnum):
            FIRST = enum.auto()
        WORDS = {Role.LEADER: "L"}
        @dataclass(frozen=True, slots=True)
        class Args:
            term: int
            role: Role = Role.LEADER
            entries: List["Optional[int]"] = field(default_factory=list)
            kind: Literal["not an expression!"] = "x"
        class Pair(NamedTuple):
            first: int = 0
        class Node(Generic[T], abc.ABC):
            __slots__ = ("x",)
            def __init__(self, x: T | None = None, *rest: Something, key=lambda: print("never")) -> None: ...
            @property
            def size(self) -> int: return 1
            @size.setter
            def size(self, value): ...
            @abc.abstractmethod
            def go(self): ...
        class Tree(Node["Args"]): ...
        class Lost(Exception): ...
    """,
    "objects": """
        import collections, functools, logging, re, threading
        from concurrent.futures import Future
        from contextlib import contextmanager
        logging.basicConfig(level=logging.DEBUG, format="%(message)s")
        logger = logging.getLogger(__name__)
        lock = threading.Lock()
        WORD = re.compile("[a-z]+")
        seen = collections.defaultdict(list)
        Waiting = Future[int]
        @functools.lru_cache(maxsize=None)
        def cached(n: int = len("abc")) -> "dict[str, int]": return launch()
        @contextmanager
        def using(): yield
        if __name__ == "__main__":
            cached(1)
    """,
}

# Source texts that do more than define things. They may call a function `mark`, which the test defines before each of them.
DOES_MORE = {
    "a call of one's own": "mark()",
    "an instance": "class A: ...\na = A()",
    "a clock": "import time\nstart = time.time()",
    "a random number": "import random\nx = random.random()",
    "a thread": "import threading\nthreading.Thread(target=mark).start()",
    "a log line": "import logging\nlogging.warning('x')",
    "a print": "print('x')",
    "a file": "f = open('/tmp/x')",
    "another handler": "import logging\nlogging.basicConfig(filename='/tmp/x')",
    "a loop": "for i in range(3): pass",
    "an attribute of a library": "import threading\nthreading.Thread.run = mark",
    "another module": "import socket",
    "a star": "from os import *",
    "a decorator": "@mark\ndef f(): ...",
    "a default": "def f(x=mark()): ...",
    "an annotation": "def f(x: mark()): ...",
    "a text as annotation": "class A:\n    x: 'mark()'",
    "an annotation in an annotation": "import typing\ndef f(x: typing.Optional['list[mark()]']): ...",
    "a metaclass": "class M(type):\n    def __init__(*a): mark()\nclass A(metaclass=M): ...",
    "a subclass hook": "class A:\n    def __init_subclass__(cls): mark()\nclass B(A): ...",
    "an item hook": "class A:\n    def __class_getitem__(cls, x): mark()\ndef f(x: A[int]): ...",
    "a name hook": "class A:\n    def __set_name__(*a): mark()\nclass B:\n    a = A()",
    "an Enum's init": "import enum\nclass A(enum.Enum):\n    X = 1\n    def __init__(self, x): mark()",
    "an Enum's mixin": "import enum\nclass M:\n    def __init__(self, x): mark()\nclass A(M, enum.Enum):\n    X = 1",
    "a file as an Enum": "import enum, io\nclass A(io.FileIO, enum.Enum):\n    X = '/tmp/x', 'w'",
    "an Enum's property": "import enum\nclass A(enum.Enum):\n    X = 1\n    @property\n    def p(self): mark()\ny = A.X.p",
    "the same in an annotation": (
        "import enum\nclass A(enum.Enum):\n    X = 1\n    @property\n    def p(self): mark()\nM = A.X\ndef f(x: 'M.p'): ..."
    ),
    "a property of a class": (
        "from dataclasses import dataclass\n@dataclass\nclass A:\n    x: int\n    @classmethod\n    @property\n"
        "    def x(cls): mark()"
    ),
    "a cached property of a class": (
        "import functools\nclass A:\n    @classmethod\n    @functools.cached_property\n    def x(cls): mark()\ny = A.x"
    ),
    "a key function": "x = max([1], key=mark)",
    "a hidden key function": "x = max([1], **{'key': mark})",
    "a library's key function": "x = max(['1'], key=eval)",
    "a method of the library": "x = max([1], key=().__class__.__base__.__subclasses__)",
    "an Enum's method": "import enum\nclass A(enum.Enum):\n    def m(self): mark()\nx = max([1], key=A.m)",
    "a default dict": "import collections\nd = collections.defaultdict(mark)\nx = d[1]",
    "a default dict in an annotation": "import collections\nd = collections.defaultdict(mark)\ndef f(x: 'd[1]'): ...",
    "another meaning later": (
        "import collections\nfrom typing import List\nclass A:\n    x: 'List[1]'\n    List = collections.defaultdict(mark)"
    ),
    "another built-in": "def len(x): mark()\nx = len('a')",
    "another built-in, perhaps": "if 1 > 2:\n    def len(x): mark()\nx = len('a')",
    "a name that is perhaps a constant": "if 1 > 2:\n    eval = 5\nx = max(['1'], key=eval)",
    "a name whose import fails": "try:\n    from os import no as eval\nexcept ImportError: ...\nx = max(['1'], key=eval)",
    "a function that is perhaps a constant": "class A:\n    if 1 > 2:\n        mark = 5\n    x = max([1], key=mark)",
    "a class that is perhaps a decorator": (
        "from dataclasses import dataclass\nclass A:\n    if 1 > 2:\n        mark = dataclass\n    @mark\n    class B: ..."
    ),
    "a module instead of a constant": "import package.part\nx = package.part.mark()",
    "a comprehension in a class": (
        "import math\ndef f(x): mark()\nclass A:\n    f = math.sqrt\n    y = [f(1) for i in (1, 2)]"
    ),
    "a global of a class": "class A:\n    global len\n    def len(x): mark()\nx = len('a')",
    "a special name": "def __getattr__(name): mark()",
    "the loader's names": "__builtins__ = {}",
    "a walrus": "x = (len := mark)",
    "one's own module": "import other",
    "one's own name": "from other import mark as f\nf()",
    "two meanings in two modules": "import collections\nfrom fine import A\nA = collections.defaultdict(mark)",
}
OTHER = {
    "other": "x = print('x')\ndef mark(): ...",
    "fine": "class A: ...\ndef f(x: 'A[int]'): ...",
    "package": "part = 'a constant until the module is imported'",
    "package.part": "def mark(): ...",
}


def check(source: str) -> None:
    sources = {"raft": source, **OTHER}
    DefinitionChecker(sources, ("package",), lambda name: ast.parse(sources[name])).check_all(["raft"])


@pytest.mark.parametrize("name", HARMLESS)
def test_definitions_constants_and_unused_objects_are_harmless(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = textwrap.dedent(HARMLESS[name])
    check(source)
    module = ModuleType("raft")
    monkeypatch.setitem(sys.modules, "raft", module)  # the dataclass decorator looks the module up
    exec(compile(source, name, "exec"), vars(module))


def test_source_that_does_more_than_define_things_is_noticed() -> None:
    unnoticed = []
    for name, source in DOES_MORE.items():
        ast.parse(source)
        try:
            check(f"def mark(): ...\n{source}")
        except DoesMore:
            continue
        unnoticed.append(name)
    assert unnoticed == []


def test_the_error_names_the_module_and_line() -> None:
    with pytest.raises(DoesMore, match=r"^raft, line 2: a call$"):
        check("x = 1\ny = open('/tmp/x')")


def test_a_submission_may_be_split_into_modules() -> None:
    sources = {
        "raft": "from parts.log import Log, LIMIT\nimport parts.log\nx = LIMIT + 1",
        "parts": "",
        "parts.log": "from . import words\nLIMIT = words.MOST\nclass Log: ...",
        "parts.words": "import raft\nMOST = 3",
    }
    DefinitionChecker(sources, ("parts",), lambda name: ast.parse(sources[name])).check_all(["raft"])


def test_the_reference_and_nearly_all_correct_rafts_only_define_things() -> None:
    folders = [ROOT / "solutions", ROOT / "skeleton", *(ROOT / "tests/correct").iterdir()]
    others = []
    for folder in folders:
        sources = {path.stem: path.read_text() for path in folder.glob("*.py")}
        if "raft" in sources:
            try:
                DefinitionChecker(sources, (), lambda name: ast.parse(sources[name])).check_all(sources)  # noqa: B023
            except DoesMore as more:
                others.append(f"{folder.name}: {more}")
    assert others == ["whole_lazy: raft, line 111: a call"]
