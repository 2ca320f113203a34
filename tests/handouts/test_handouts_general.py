"""Tests of the handouts that belong to no single lab: Raft on two pages, debugging, and locking."""

from __future__ import annotations

import ast
import re
import threading
from pathlib import Path
from typing import Any

import pytest

from raftlab import cli, labs
from raftlab.api import ApplyMsg
from raftlab.explain import rules
from raftlab.explain.causes import FAULTS
from raftlab.harness import trace
from raftlab.messages import codec
from raftlab.suites import catalogue
from raftlab.tools import test
from raftlab.tools.new import is_for_students
from tests.handouts.test_handouts import (
    _FENCE,
    _LINK,
    HANDOUTS,
    PACKAGE,
    SKELETON,
    anchors,
    commands,
    says,
    templates,
)

TWO_PAGES = HANDOUTS / "raft-on-two-pages.md"
DEBUGGING = HANDOUTS / "debugging.md"
LOCKING = HANDOUTS / "locking.md"
PAGES = pytest.mark.parametrize("path", [TWO_PAGES, DEBUGGING, LOCKING], ids=lambda path: path.name)


def example(path: Path, what: str) -> str:
    """The block below ``<!-- example: what -->``, where ``what`` is a name. Such a block is copied by hand."""
    text = path.read_text(encoding="utf-8")
    (block,) = re.findall(rf"^<!-- example: {what} -->\n```\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return str(block)


def rows(path: Path, heading: str) -> list[list[str]]:
    """The cells of the rows of the table below a heading."""
    section = path.read_text(encoding="utf-8").partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    assert lines, f"{path.name} has no table below {heading!r}"
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


# --- links, commands, places ---


@PAGES
def test_links(path: Path) -> None:
    for link in _LINK.findall(path.read_text(encoding="utf-8")):
        name, _, anchor = link.partition("#")
        target = path.with_name(name) if name else path
        assert target.is_file(), f"{path.name} links to {link}, which is not there"
        assert is_for_students(target), f"{path.name} links to {link}, which a student does not have"
        assert not anchor or anchor in anchors(target), f"{path.name} links to {link}: no such heading"


@PAGES
def test_commands(path: Path) -> None:
    for words in commands(path):
        if words in (["test"], ["shrink"], ["replay"]) or words[0] == "scenario":
            continue  # a sentence names the command without arguments, or this is the first line of a scenario
        arguments = cli.make_parser().parse_args(words)
        if arguments.command == "test":
            assert test.plan(labs.find(arguments.lab).name, arguments.network, arguments.names)
        elif arguments.command in ("shrink", "diff") or (arguments.command == "replay" and "@" in arguments.name):
            catalogue.find_test(arguments.name.partition("@")[0])
        if arguments.command == "replay" and "@" in arguments.name:
            info = catalogue.find_test(arguments.name.partition("@")[0])
            assert arguments.network in info.networks


def test_commands_were_found() -> None:
    assert len(commands(DEBUGGING)) > 10


@PAGES
def test_no_place_of_this_machine(path: Path) -> None:
    assert not re.search(r"/(?:work|tmp|home|root|usr)/", path.read_text(encoding="utf-8"))


def test_raft_on_two_pages_has_the_length_of_two_pages() -> None:
    words = [word for word in TWO_PAGES.read_text(encoding="utf-8").split() if word.strip("|-#")]
    assert 900 <= len(words) <= 1300


# --- names and numbers ---


def test_the_five_properties_have_the_names_of_the_paper() -> None:
    text = TWO_PAGES.read_text(encoding="utf-8")
    shown = re.findall(r"^\| ([A-Z][\w -]+) \(§[\d.]+\) \|", text, re.MULTILINE)
    assert shown == [
        "Election Safety",
        "Leader Append-Only",
        "Log Matching",
        "Leader Completeness",
        "State Machine Safety",
    ]
    assert {rules.ELECTION_SAFETY.name, rules.STATE_MACHINE_SAFETY.name} <= set(shown)


def test_timeouts_are_quoted_exactly() -> None:
    values = {}
    for node in ast.parse(SKELETON.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            values[node.targets[0].id] = node.value
    low, high = ast.literal_eval(values["ELECTION_TIMEOUT"])
    assert f"{low * 1000:.0f} to {high * 1000:.0f} ms" in TWO_PAGES.read_text(encoding="utf-8")
    assert f"`{ast.unparse(values['ELECTION_TIMEOUT'])}`" in DEBUGGING.read_text(encoding="utf-8")


# Attributes in the code of locking.md that are not in the skeleton, because students choose their names.
OWN = {"votes", "changed", "to_apply", "election_deadline"}


def blocks() -> list[str]:
    return [block for language, block in _FENCE.findall(LOCKING.read_text(encoding="utf-8")) if language == "python"]


@pytest.mark.parametrize("block", blocks(), ids=range(len(blocks())))
def test_code_is_python_and_has_the_names_of_the_skeleton(block: str) -> None:
    skeleton = ast.parse(SKELETON.read_text(encoding="utf-8"))
    known = {node.attr for node in ast.walk(skeleton) if isinstance(node, ast.Attribute)} | OWN
    known |= {node.name for node in ast.walk(skeleton) if isinstance(node, ast.FunctionDef)}
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
            assert node.attr in known or node.attr.startswith("_"), f"self.{node.attr} is not in the skeleton"
        if isinstance(node, ast.Name) and node.id.isupper():
            assert any(
                isinstance(item, ast.Assign) and ast.unparse(item.targets[0]) == node.id for item in skeleton.body
            )


# --- named faults ---


def test_every_fault_is_explained() -> None:
    named = [name for row in rows(DEBUGGING, "Named faults") for name in quoted(row[0])]
    assert len(named) == len(set(named))
    # The table also explains held-lock, which is advice and not a fault.
    assert set(named) - set(FAULTS) == {"held-lock"}
    assert not set(FAULTS) - set(named)


SENTENCES = [text for row in rows(DEBUGGING, "Named faults") for text in quoted(row[1])]


@pytest.mark.parametrize("sentence", SENTENCES)
def test_raftlab_can_print_each_sentence_of_the_table_of_faults(sentence: str) -> None:
    shown = sentence.partition("…")[0].rstrip(" :,;")
    # The code may add the server's name in another place.
    named = [shown, re.sub(r"^S\d: ", "", shown)]
    assert any(says(template, text) for template in templates() for text in named), f"nothing says {sentence!r}"


def test_the_faults_named_in_the_page_about_locking_exist() -> None:
    named = {name for row in LOCKING.read_text(encoding="utf-8").splitlines() for name in quoted(row) if "-" in name}
    named = {name for name in named if re.fullmatch(r"[a-z]+-[a-z]+", name)}
    assert named
    assert named <= {*FAULTS, "held-lock"}


def test_the_sentence_shown_is_printed_by_raftlab() -> None:
    assert any(says(template, example(LOCKING, "sentence").strip()) for template in templates())


# --- the notation ---


def shown_events() -> dict[str, str]:
    """Example lines of a trace, by their shape. Lines that differ only in numbers have the same shape."""
    vote = trace._pack({"term": 4, "candidate_id": 3, "last_log_index": 7, "last_log_term": 3})
    granted = trace._pack({"term": 4, "vote_granted": True})
    entry = {"term": 4, "command": "x"}
    entries = trace._pack(
        {
            "term": 4,
            "leader_id": 3,
            "prev_log_index": 7,
            "prev_log_term": 3,
            "entries": [entry, entry],
            "leader_commit": 6,
        }
    )
    events: list[tuple[Any, ...]] = [
        (2.414, "send", 3, 0, 179, "request_vote", vote),
        (2.414, "send", 3, 0, 180, "append_entries", entries),
        (2.415, "arrive", 0, 3, 179, "request_vote"),
        (2.415, "arrive", 0, 3, 180, "append_entries"),
        (2.415, "answer", 0, 3, 179, "request_vote", granted),
        (2.415, "answer", 0, 3, 180, "append_entries", trace._pack({"term": 4, "success": True})),
        (2.416, "reply", 3, 0, 179, "request_vote", granted),
        (2.416, "reply", 3, 1, 178, "request_vote", None),
        (2.416, "lost", 179, "request", "the link is cut"),
        (2.416, "lost", 179, "reply", "by the network"),
        (2.416, "line", 0, "vote", "for S3 in term 4"),
        (2.416, "line", 0, "election", "candidate in term 4"),
        (2.416, "line", 0, "leader", "of term 4 by [0, 3, 4, 6]"),
        (2.416, "save", 0, 312, 0),
        (2.416, "apply", 0, codec.encode_apply(ApplyMsg(3, 2, "x"))),
        (2.416, "result", 0, 1, "get_state", trace._pack([4, False])),
        (2.416, "crash", 0),
        (2.416, "boot", 0, 2),
        (2.416, "pause", 0),
        (2.416, "resume", 0),
        (2.416, "hold", 179, "request"),
        (2.416, "release", 179, "request"),
        (2.416, "net", "S5 is off the network"),
    ]
    made = [trace.EVENT_TYPES[kind](time, kind, *fields) for time, kind, *fields in events]
    lines = [trace.line(event).split(maxsplit=1)[1] for event in made]
    return {shape(line): line for line in lines}


def shape(line: str) -> str:
    return re.sub(r"\d+", "#", line)


def test_the_notation_is_that_of_the_trace() -> None:
    shown = {text for row in rows(DEBUGGING, "The notation") for text in quoted(row[0]) if "…" not in text}
    assert len(shown) > 15
    assert not shown - set(shown_events().values())


def test_the_examples_are_in_the_notation() -> None:
    """The example of a race is copied by hand."""
    lines = [line.split(maxsplit=1)[1] for line in example(LOCKING, "replay").splitlines()]
    assert len(lines) > 4
    assert not {shape(line) for line in lines} - shown_events().keys()


def test_the_quoted_error_of_a_condition_without_its_lock_is_real() -> None:
    message = "cannot notify on un-acquired lock"
    assert f"`{message}`" in DEBUGGING.read_text(encoding="utf-8")
    assert f"`{message}`" in LOCKING.read_text(encoding="utf-8")
    with pytest.raises(RuntimeError, match=f"^{message}$"):
        threading.Condition().notify_all()


@PAGES
def test_files_of_the_package_that_are_named_exist(path: Path) -> None:
    for name in re.findall(r"`raftlab/([\w/]+\.py)`", path.read_text(encoding="utf-8")):
        assert (PACKAGE / name).is_file()
