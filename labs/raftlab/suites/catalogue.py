"""Lists a lab's tests, from the suite's module and in the order of their definitions."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from raftlab import labs


@dataclass(frozen=True, slots=True)
class TestInfo:
    """One test of a suite.

    Attributes:
        lab: the lab's name, such as ``"2A"``.
        name: the function's name without ``test_``.
        title: the first paragraph of its docstring, without the full stop.
        points: the points for passing it.
        networks: the worlds that it can run in: ``"sim"``, ``"rpyc"``.
        schedule: the only schedule that it can run with (sim), a name from :mod:`raftlab.schedules`; ``None``: any.
    """

    __test__ = False  # not a test class, despite its name

    lab: str
    name: str
    title: str
    points: int
    networks: tuple[str, ...]
    schedule: str | None = None


class UnknownTest(ValueError):
    """No lab has a test of that name."""


def tests(lab: str) -> list[TestInfo]:
    """The tests of ``lab``, easiest first. Raises :class:`raftlab.labs.UnknownLab`."""
    suite = labs.find(lab)
    module = importlib.import_module(suite.module)
    return [
        info_of(suite.name, function)
        for name, function in vars(module).items()
        if name.startswith("test_") and hasattr(function, "lab_points")
    ]


def info_of(lab: str, function: Callable[..., None]) -> TestInfo:
    """The description of a test function that :func:`raftlab.suites.marking.points` has marked."""
    text = inspect.getdoc(function) or _docstrings(function.__module__)[function.__name__]
    title = text.split("\n\n")[0].replace("\n", " ").rstrip(".")
    points: int = function.lab_points  # type: ignore[attr-defined]
    networks: tuple[str, ...] = function.lab_networks  # type: ignore[attr-defined]
    schedule: str | None = function.lab_schedule  # type: ignore[attr-defined]
    return TestInfo(lab, function.__name__.removeprefix("test_"), title, points, networks, schedule)


@functools.cache
def _docstrings(module: str) -> dict[str, str]:
    """The docstrings of a module's functions, from its source: ``python -OO`` and PYTHONOPTIMIZE=2 drop them."""
    tree = ast.parse(inspect.getsource(importlib.import_module(module)))
    return {node.name: ast.get_docstring(node) or node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def find_test(name: str) -> TestInfo:
    """The test called ``name``, with or without ``test_``, of any lab. Raises :class:`UnknownTest`."""
    short_name = name.removeprefix("test_")
    for lab in labs.LABS:
        for info in tests(lab):
            if info.name == short_name:
                return info
    raise UnknownTest(f"no lab has a test called {name!r}; `raftlab labs` lists them")


def script_of(info: TestInfo) -> Callable[..., None]:
    """The test function. It takes a run's ``cluster`` (:class:`raftlab.suites.marking.StartCluster`)."""
    script: Callable[..., None] = getattr(importlib.import_module(labs.find(info.lab).module), f"test_{info.name}")
    return script


def suite_file(lab: str) -> Path:
    """The file of the lab's suite."""
    module = importlib.import_module(labs.find(lab).module)
    assert module.__file__ is not None
    return Path(module.__file__)
