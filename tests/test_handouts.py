"""What the handouts promise is there: anchors, commands, names, transcripts."""

from __future__ import annotations

import ast
import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

import raftlab
from raftlab import catalogue, cli, labs, rules, session, trace
from raftlab.failure import Rule

ROOT = Path(__file__).parent.parent
HANDOUTS = ROOT / "handouts"
SKELETON = ROOT / "skeleton" / "raft.py"
LAB_2A = HANDOUTS / "lab-2a.md"
PACKAGE = Path(raftlab.__file__).parent
STUDENTS = sorted(path for path in HANDOUTS.glob("*.md") if path.name in ("setup.md", "lab-2a.md"))

# Pointed to already, but written with their labs. Take a name away when its handout is there.
NOT_WRITTEN_YET = {"lab-2b.md"}

_POINTER = re.compile(r"handouts/([\w.-]+\.md)(?:#([\w-]+))?")
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def anchors(path: Path) -> set[str]:
    """The anchors that GitHub gives to a file's headings."""
    text = _FENCE.sub("", path.read_text(encoding="utf-8"))
    seen: Counter[str] = Counter()
    found = set()
    for heading in re.findall(r"^#{1,6} +(.+?) *#*$", text, re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        found.add(slug if not seen[slug] else f"{slug}-{seen[slug]}")
        seen[slug] += 1
    return found


def pointers() -> list[tuple[str, str]]:
    """Every string of the package that names a handout, and where it stands."""
    found = {("rules.py", value.handout) for value in vars(rules).values() if isinstance(value, Rule)}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found |= {(path.name, match.group()) for match in _POINTER.finditer(node.value)}
    return sorted(found)


def commands(path: Path) -> list[list[str]]:
    """Every ``raftlab ...`` command that a handout shows, split into words; without what follows a pipe."""
    text = _COMMENT.sub("", path.read_text(encoding="utf-8"))
    blocks = _FENCE.findall(text)
    lines = [line.strip().removeprefix("replay: ") for _, block in blocks for line in block.splitlines()]
    lines += re.findall(r"`(raftlab [^`]+)`", _FENCE.sub("", text))
    shown = [line for line in lines if re.match(r"raftlab (?!:)", line)]
    return [shlex.split(line.partition(" | ")[0], comments=True)[1:] for line in shown]


def code(path: Path) -> ast.Module:
    """All Python blocks of a handout, as one module."""
    blocks = [block for language, block in _FENCE.findall(path.read_text(encoding="utf-8")) if language == "python"]
    return ast.parse("\n".join(blocks))


def transcript(path: Path, command: str) -> str:
    """The block below ``<!-- transcript: command -->``."""
    text = path.read_text(encoding="utf-8")
    mark = f"<!-- transcript: {command} -->\n```\n"
    assert text.count(mark) == 1, f"{path.name} has no transcript of `{command}`, or two"
    return text.partition(mark)[2].partition("```")[0]


def run(command: str, folder: Path) -> str:
    """What a command really says, in a student's folder."""
    words = [sys.executable, "-m", "raftlab.cli", *shlex.split(command)[1:]]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode in (0, 1), done.stderr
    return done.stdout


def without_wall_time(text: str) -> str:
    return re.sub(r"in \d+\.\d+ s$", "in # s", text, flags=re.MULTILINE)


def without_numbers(text: str) -> list[str]:
    """What does not depend on the reference's timing: the words of each line."""
    lines = re.sub(r"\b\d[\d,.]*", "#", text).splitlines()
    return [re.sub(r" +", " ", re.sub(r"# (B|kB|MB)\b", "# B", line.replace("RPCs", "RPC"))) for line in lines]


# --- anchors ---


@pytest.mark.parametrize(("where", "pointer"), pointers())
def test_what_a_message_points_to_is_there(where: str, pointer: str) -> None:
    match = _POINTER.fullmatch(pointer)
    assert match, f"{where} has {pointer!r}, which is no pointer to a handout"
    name, anchor = match.groups()
    if name in NOT_WRITTEN_YET:
        return
    assert (HANDOUTS / name).is_file(), f"{where} points to {pointer}, which does not exist"
    assert not anchor or anchor in anchors(HANDOUTS / name), f"{where} points to {pointer}, but has no such heading"


def test_what_is_not_written_yet_is_not_there() -> None:
    assert not [name for name in NOT_WRITTEN_YET if (HANDOUTS / name).exists()]


def test_the_messages_do_point_to_handouts() -> None:
    """Else the test above says nothing."""
    found = {pointer for _, pointer in pointers()}
    assert {"handouts/lab-2a.md#terms", "handouts/lab-2a.md#messages", "handouts/setup.md#first-run"} <= found


@pytest.mark.parametrize("path", STUDENTS, ids=lambda path: path.name)
def test_links_between_handouts(path: Path) -> None:
    for link in _LINK.findall(path.read_text(encoding="utf-8")):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = path.with_name(name) if name else path
        # `raftlab new` copies the handouts for students, without the rest of the repository.
        assert target in STUDENTS, f"{path.name} links to {link}, which a student does not have"
        assert not anchor or anchor in anchors(target), f"{path.name} links to {link}: no such heading"


@pytest.mark.parametrize(
    ("heading", "anchor"),
    [("Who gets my vote", "who-gets-my-vote"), ("Step 1: wait, then `x`", "step-1-wait-then-x")],
)
def test_anchors_follow_the_rules_of_github(tmp_path: Path, heading: str, anchor: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# {heading}\n\n```\n# no heading\n```\n\n## {heading}\n")
    assert anchors(page) == {anchor, f"{anchor}-1"}


# --- commands ---


@pytest.mark.parametrize("path", STUDENTS, ids=lambda path: path.name)
def test_every_command_names_what_exists(path: Path) -> None:
    shown = commands(path)
    assert len(shown) > 5
    for words in shown:
        if words in (["--version"], ["new"], ["test"]):
            continue  # the command as such, in a sentence
        arguments = cli._parser().parse_args(words)
        if arguments.command == "test":
            assert session.plan(labs.find(arguments.lab).name, arguments.network, arguments.name)
        elif arguments.command == "replay":
            assert re.fullmatch(r"\w+@\d+", arguments.name)
            assert catalogue.find_test(arguments.name.partition("@")[0])


def test_every_step_has_a_command() -> None:
    text = LAB_2A.read_text(encoding="utf-8")
    steps = re.split(r"^## ", text, flags=re.MULTILINE)
    steps = [step for step in steps if step.startswith("Step ")]
    assert [step.split(":")[0] for step in steps] == [f"Step {number}" for number in range(1, len(steps) + 1)]
    assert all("\nraftlab test 2A" in step for step in steps)


# --- names ---


def classes(tree: ast.Module) -> dict[str, ast.ClassDef]:
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}


def methods(node: ast.ClassDef) -> dict[str, list[str]]:
    """Each method with its parameters."""
    return {item.name: [arg.arg for arg in item.args.args] for item in node.body if isinstance(item, ast.FunctionDef)}


def fields(node: ast.ClassDef) -> list[str]:
    return [ast.unparse(item) for item in node.body if isinstance(item, ast.AnnAssign)]


def test_the_api_on_one_screen_is_the_api() -> None:
    shown = code(LAB_2A)
    known = classes(ast.parse(SKELETON.read_text(encoding="utf-8")))
    known |= classes(ast.parse((PACKAGE / "api.py").read_text(encoding="utf-8")))
    assert {"Raft", "Peer", "Persister", "ApplyChannel"} < classes(shown).keys()
    for name, node in classes(shown).items():
        assert name in known, f"the handout shows {name}, which neither the skeleton nor the API has"
        real = methods(known[name])
        for method, parameters in methods(node).items():
            assert real.get(method) == parameters, f"{name}.{method} takes {real.get(method)}, not {parameters}"
        assert fields(node) == fields(known[name]), f"the fields of {name} differ"


def test_the_api_on_one_screen_is_complete() -> None:
    shown = classes(code(LAB_2A))
    skeleton = classes(ast.parse(SKELETON.read_text(encoding="utf-8")))
    assert skeleton.keys() <= shown.keys()
    assert methods(skeleton["Raft"]).keys() == methods(shown["Raft"]).keys()
    assert set(labs.find("2A").methods) <= methods(shown["Raft"]).keys()


def test_imports_in_the_handout_exist() -> None:
    for node in ast.walk(code(LAB_2A)):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module or "")
            assert all(hasattr(module, alias.name) for alias in node.names)


def test_constants_are_quoted_as_they_are() -> None:
    text = LAB_2A.read_text(encoding="utf-8")
    values = {}
    for node in ast.parse(SKELETON.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            values[node.targets[0].id] = ast.unparse(node.value)
    assert f"`{values['ELECTION_TIMEOUT']}`" in text
    assert f"`HEARTBEAT_EVERY = {values['HEARTBEAT_EVERY']}`" in text


def test_files_of_the_package_that_are_named_exist() -> None:
    for path in STUDENTS:
        for name in re.findall(r"`raftlab/([\w/]+\.py)`", path.read_text(encoding="utf-8")):
            assert (PACKAGE / name).is_file(), f"{path.name} names raftlab/{name}"


# --- what runs say ---


def test_first_run(tmp_path: Path) -> None:
    """The failure that the handout shows is the one that a student sees, to the letter."""
    shutil.copy(SKELETON, tmp_path)
    command = "raftlab test 2A -k initial_election"
    assert without_wall_time(transcript(LAB_2A, command)) == without_wall_time(run(command, tmp_path))


def test_what_passing_looks_like(tmp_path: Path) -> None:
    """Titles, order and points are today's. Times and counts are the reference's on some day: examples."""
    shutil.copytree(ROOT / "solutions", tmp_path / "solutions")
    command = "raftlab test 2A --impl solutions"
    shown, real = transcript(LAB_2A, command), run(command, tmp_path)
    assert without_numbers(shown) == without_numbers(real)
    tests = catalogue.tests("2A")
    most = sum(info.points for info in tests)
    total = f"lab 2A: {len(tests)} of {len(tests)} tests passed, {most} of {most} points;"
    assert total in shown
    assert total in real


def test_the_example_of_a_failure_names_its_rule() -> None:
    example = LAB_2A.read_text(encoding="utf-8").partition("<!-- example -->\n```\n")[2].partition("```")[0]
    rule = rules.ONE_VOTE
    assert f"  rule: {rule.name}: {rule.says} ({rule.section})\n  read: {rule.handout}\n" in example


def test_the_example_is_in_the_notation_of_the_trace() -> None:
    text = LAB_2A.read_text(encoding="utf-8")
    request = trace._pack({"term": 1, "candidate_id": 1, "last_log_index": 0, "last_log_term": 0})
    answer = trace._pack({"term": 1, "vote_granted": True})
    events = [
        (0.0, "boot", 2, 1),
        (0.593, "send", 2, 0, 1, "request_vote", request),
        (0.621, "reply", 2, 1, 2, "request_vote", None),
        (0.778, "answer", 2, 1, 3, "request_vote", answer),
    ]
    for event in events:
        assert trace.line(event) in text


@cache
def templates() -> set[str]:
    """Every string of the package, with NUL for what is filled in at run time."""
    said = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "\0" for part in node.values]
                said.add("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                said.add(node.value)
    return {template for template in said if len(template.replace("\0", "")) >= 10}


def says(template: str, shown: str) -> bool:
    """Whether ``shown`` can be the beginning of ``template`` filled in."""
    lead = template.partition("\0")[0]
    if (
        not (shown.startswith(lead) or lead.startswith(shown))
        or template.strip("\0").partition("\0")[0][:4] not in shown
    ):
        return False
    for end in range(len(template), 9, -1):
        literal = template[:end].rstrip("\0")
        if len(literal.replace("\0", "")) < 8:
            return False
        # A gap at the end takes one word if the sentence goes on: more would swallow anything.
        gap = "" if len(literal) == end else ".{1,80}" if end == len(template) else r"\S{1,80}"
        if re.fullmatch(re.escape(literal).replace("\0", ".{1,80}?") + gap, shown):
            return True
    return False


def looked_up() -> list[str]:
    """The sentences in the tables of symptoms, as far as raftlab says them: up to the first "…"."""
    rows: list[str] = []
    for path, heading in ((LAB_2A, "## When it fails\n"), (HANDOUTS / "setup.md", "### If it stops before")):
        section = path.read_text(encoding="utf-8").partition(heading)[2].partition("\n##")[0]
        rows += re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)
    others = ("raftlab: command not found", "No module named 'raftlab'")
    return [row.partition("…")[0].rstrip(" :,") for row in rows if row not in others]


@pytest.mark.parametrize("row", looked_up())
def test_a_sentence_to_look_up_is_said_somewhere(row: str) -> None:
    named = [row, re.sub(r"^S\d: ", "", row)]  # the name of the server may be put before it elsewhere
    assert any(says(template, row) for template in templates() for row in named), f"nothing in raftlab says {row!r}"


def test_tables_of_symptoms_were_found() -> None:
    assert len(looked_up()) > 30
    assert not says("a server that is \0 does not vote", "a server that is off votes")


@pytest.mark.parametrize("path", STUDENTS, ids=lambda path: path.name)
def test_no_place_of_this_machine(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"/(?:work|tmp|home|root|usr)/", text)
