"""`raftlab labs`: list the labs and their tests."""

from __future__ import annotations

import argparse

from raftlab import labs
from raftlab.suites import catalogue


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """This command has no arguments."""


def run(arguments: argparse.Namespace) -> int:
    """Print each lab and its tests with their points. Returns 0."""
    for lab in labs.LABS.values():
        tests = catalogue.tests(lab.name)
        print(f"{lab.name}  {lab.title}: {lab.adds} ({sum(info.points for info in tests)} points)")
        width = max(len(info.name) for info in tests)
        for info in tests:
            print(f"  {info.points:>2}  {info.name:<{width}}  {'+'.join(info.networks):<8}  {info.title}")
    return 0
