"""Tests of the labs' handouts: links lead somewhere, commands and names exist, transcripts match real runs, and first pages
are short."""

from __future__ import annotations

import ast
import importlib
import inspect
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import pytest

import raftlab
from raftgrade.proof.bug_bank import without_labs_from
from raftlab import cli, labs
from raftlab.explain import rules
from raftlab.explain.failure import Rule
from raftlab.runs.record import Record
from raftlab.submission import skeleton
from raftlab.suites import catalogue, lab_2b
from raftlab.tools import new as starter
from raftlab.tools import test as session
from raftlab.tools.test_progress import ProgressBoard

ROOT = Path(__file__).parents[2]
HANDOUTS = ROOT / "handouts"
SKELETON = ROOT / "skeleton" / "raft.py"
SOLUTION = ROOT / "solutions" / "raft.py"
SERVICE = ROOT / "solutions" / "kv.py"
PACKAGE = Path(raftlab.__file__).parent
# Each lab has a first page, which is enough to start with, and two more pages, which explain details and failures.
FIRST_PAGES = {lab: HANDOUTS / f"lab-{lab.lower()}.md" for lab in labs.LABS}
PAGES = {
    lab: [path, *(path.with_name(f"{path.stem}-{more}.md") for more in ("details", "failures"))]
    for lab, path in FIRST_PAGES.items()
}
STUDENTS = [HANDOUTS / "setup.md", *(path for paths in PAGES.values() for path in paths)]
LABS = pytest.mark.parametrize("lab", labs.LABS)
# The maximum number of words on a first page, which a student reads before writing the first line of code.
MOST_WORDS = 2000

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
    """Every reference to a handout in a string of the package, as pairs of the file that contains the string and the
    reference."""
    found = {("rules.py", value.handout) for value in vars(rules).values() if isinstance(value, Rule)}
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if "handouts/" not in text:
            continue  # pytest collects these tests in each of its processes, and parsing all files takes a second
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found |= {(path.name, match.group()) for match in _POINTER.finditer(node.value)}
    return sorted(found)


def commands(path: Path) -> list[list[str]]:
    """Every ``raftlab ...`` command that a handout shows, split into words, without anything after a pipe."""
    text = _COMMENT.sub("", path.read_text(encoding="utf-8"))
    blocks = _FENCE.findall(text)
    lines = [line.strip().removeprefix("replay: ") for _, block in blocks for line in block.splitlines()]
    lines += re.findall(r"`(raftlab [^`]+)`", _FENCE.sub("", text))
    shown = [line for line in lines if re.match(r"raftlab (?!:)", line)]
    return [shlex.split(line.partition(" | ")[0], comments=True)[1:] for line in shown]


def text_of(lab: str) -> str:
    """The pages of a lab, one after the other."""
    return "\n".join(path.read_text(encoding="utf-8") for path in PAGES[lab])


def section(lab: str, heading: str) -> str:
    """The text below a heading of a lab's pages, up to the next heading of any level."""
    text = _FENCE.sub(lambda block: re.sub(r"^#", "\0", block.group(), flags=re.MULTILINE), text_of(lab))
    found = re.findall(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#+ |\Z)", text, re.MULTILINE | re.DOTALL)
    assert len(found) == 1, f"lab {lab} has {len(found)} headings {heading!r}"
    return found[0].replace("\0", "#")


def code(lab: str) -> ast.Module:
    """All Python blocks of a lab's pages, as one module."""
    blocks = [block for language, block in _FENCE.findall(text_of(lab)) if language == "python"]
    return ast.parse("\n".join(blocks))


def transcript(lab: str, command: str) -> str:
    """The block below ``<!-- transcript: command -->``."""
    text = text_of(lab)
    mark = f"<!-- transcript: {command} -->\n```\n"
    assert text.count(mark) == 1, f"lab {lab} must have exactly one transcript of `{command}`"
    return text.partition(mark)[2].partition("```")[0]


def run(command: str, folder: Path) -> str:
    """The output of a command in a student's folder."""
    words = [sys.executable, "-m", "raftlab.cli", *shlex.split(command)[1:]]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode in (0, 1), done.stderr
    return done.stdout


def without_numbers(text: str) -> list[str]:
    """The words of each line, which do not depend on the reference's timing."""
    lines = re.sub(r"\b\d[\d,.]*", "#", text).splitlines()
    return [re.sub(r" +", " ", re.sub(r"# (B|kB|MB)\b", "# B", line.replace("RPCs", "RPC"))) for line in lines]


# --- anchors ---


@pytest.mark.parametrize(("where", "pointer"), pointers())
def test_handouts_that_messages_refer_to_exist(where: str, pointer: str) -> None:
    match = _POINTER.fullmatch(pointer)
    assert match, f"{where} has {pointer!r}, which is no pointer to a handout"
    name, anchor = match.groups()
    assert (HANDOUTS / name).is_file(), f"{where} points to {pointer}, which does not exist"
    assert not anchor or anchor in anchors(HANDOUTS / name), f"{where} points to {pointer}, but has no such heading"


def test_messages_that_refer_to_handouts_were_found() -> None:
    """If ``pointers`` found nothing, the test above would check nothing."""
    found = {pointer for _, pointer in pointers()}
    assert {"handouts/lab-2a-details.md#terms", "handouts/lab-2a-details.md#messages"} <= found
    assert "handouts/setup.md#first-run" in found


@pytest.mark.parametrize("path", STUDENTS, ids=lambda path: path.name)
def test_links_between_handouts_lead_to_pages_that_students_have(path: Path) -> None:
    for link in _LINK.findall(path.read_text(encoding="utf-8")):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = path.with_name(name) if name else path
        assert target.is_file(), f"{path.name} links to {link}, which is not there"
        # `raftlab new` copies the handouts for students, without the rest of the repository.
        theirs = target.parent == HANDOUTS and starter.is_for_students(target)
        assert theirs, f"{path.name} links to {link}, which a student does not have"
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


@LABS
def test_the_first_page_is_short(lab: str) -> None:
    assert len(FIRST_PAGES[lab].read_text(encoding="utf-8").split()) <= MOST_WORDS


@LABS
def test_the_first_page_links_to_the_other_pages(lab: str) -> None:
    links = {link.partition("#")[0] for link in _LINK.findall(FIRST_PAGES[lab].read_text(encoding="utf-8"))}
    assert {path.name for path in PAGES[lab][1:]} <= links


def test_commands_were_found() -> None:
    assert all(len(commands(FIRST_PAGES[lab])) > 5 for lab in labs.LABS)


@pytest.mark.parametrize("path", STUDENTS, ids=lambda path: path.name)
def test_every_command_can_be_run(path: Path) -> None:
    for words in commands(path):
        if words in (["--version"], ["new"], ["test"]):
            continue  # here a sentence names the command without its arguments
        arguments = cli.make_parser().parse_args(words)
        if arguments.command == "test":
            assert session.plan(labs.find(arguments.lab).name, arguments.network, arguments.names)
        elif arguments.command == "replay":
            assert re.fullmatch(r"\w+@\d+", arguments.name)
            assert catalogue.find_test(arguments.name.partition("@")[0])


@LABS
def test_every_step_has_a_command(lab: str) -> None:
    text = FIRST_PAGES[lab].read_text(encoding="utf-8")
    steps = re.split(r"^## ", text, flags=re.MULTILINE)
    steps = [step for step in steps if step.startswith("Step ")]
    assert [step.split(":")[0] for step in steps] == [f"Step {number}" for number in range(1, len(steps) + 1)]
    assert len(steps) > 3
    assert all(f"\nraftlab test {lab}" in step for step in steps)


# --- names ---


def solutions(lab: str) -> dict[str, str]:
    """The reference's files that contain code of a lab, by file name, without the code of later labs."""
    following = list(labs.LABS)[list(labs.LABS).index(lab) + 1 :]
    texts = {path.name: path.read_text(encoding="utf-8") for path in (SOLUTION, SERVICE)}
    found = {name: text for name, text in texts.items() if f"# region {lab}: " in text}
    return {name: without_labs_from(following[0] if following else "", text) for name, text in found.items()}


def classes(tree: ast.Module) -> dict[str, ast.ClassDef]:
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}


def methods(node: ast.ClassDef) -> dict[str, list[str]]:
    """Each method with its parameters."""
    return {item.name: [arg.arg for arg in item.args.args] for item in node.body if isinstance(item, ast.FunctionDef)}


def fields(node: ast.ClassDef) -> list[str]:
    return [ast.unparse(item) for item in node.body if isinstance(item, ast.AnnAssign)]


def test_the_api_on_one_screen_shows_these_classes() -> None:
    assert {"Raft", "Peer", "Persister", "ApplyChannel"} < classes(code("2A")).keys()
    assert {"Raft", "ApplyMsg", "ApplyChannel", "LogEntry"} < classes(code("2B")).keys()
    assert {"Raft", "Persister"} == classes(code("2C")).keys()
    assert {"Raft", "ApplyMsg", "Persister", "InstallSnapshotArgs"} < classes(code("2D")).keys()
    assert {"KVServer", "Clerk", "ClientRequest", "ClientReply"} == classes(code("3A")).keys()


@LABS
def test_the_api_on_one_screen_is_the_api(lab: str) -> None:
    # From lab 2B on, messages have fields that the skeleton does not have and the reference adds.
    files = {SKELETON.name: SKELETON.read_text(encoding="utf-8")} if lab == "2A" else solutions(lab)
    known = classes(ast.parse((PACKAGE / "api.py").read_text(encoding="utf-8")))
    for text in files.values():
        known |= classes(ast.parse(text))
    for name, node in classes(code(lab)).items():
        assert name in known, f"the handout shows {name}, which neither {' nor '.join(files)} nor the API has"
        real = methods(known[name])
        for method, parameters in methods(node).items():
            assert real.get(method) == parameters, f"{name}.{method} takes {real.get(method)}, not {parameters}"
        assert fields(node) == fields(known[name]), f"the fields of {name} differ"


def test_the_api_on_one_screen_is_complete() -> None:
    shown = classes(code("2A"))
    given = classes(ast.parse(SKELETON.read_text(encoding="utf-8")))
    # Students may add the messages of labs 2D, 2G and 3B later, and the handout says so.
    later = {name for name in given if name.startswith(("InstallSnapshot", "TimeoutNow", "ReadIndex", "Lease"))}
    assert given.keys() - later <= shown.keys()
    assert all(f"`{name}`" in text_of("2A") for name in later)
    assert methods(given["Raft"]).keys() == methods(shown["Raft"]).keys()
    assert set(labs.find("2A").methods) <= methods(shown["Raft"]).keys()


@LABS
def test_the_stated_length_of_the_code(lab: str) -> None:
    """The number of lines that a handout states differs from the reference's by at most a quarter. Blank lines,
    comments and the code of other labs do not count.
    """
    (stated,) = re.findall(r"about (\d+) lines", FIRST_PAGES[lab].read_text(encoding="utf-8"))

    def lines(parts: Sequence[str | skeleton.Region], inside: str) -> int:
        own = [part for part in parts if isinstance(part, str) and part.strip() and not part.strip().startswith("#")]
        deeper = sum(lines(part.body, part.lab) for part in parts if isinstance(part, skeleton.Region))
        return len(own) * (inside == lab) + deeper

    regions = [
        skeleton.parse_regions(text.splitlines(), tuple(labs.LABS), name) for name, text in solutions(lab).items()
    ]
    real = sum(lines(parts, "") for parts in regions)
    assert 0.75 * real <= int(stated) <= 1.25 * real


def test_lines_of_the_skeleton_are_quoted_exactly() -> None:
    """Lab 2B quotes two lines of the skeleton."""
    text = SKELETON.read_text(encoding="utf-8")
    quoted = re.findall(r"^self\.(?:entries|base) = .*$", text_of("2B"), re.MULTILINE)
    assert len(quoted) == 2
    assert all(f"        {line}\n" in text for line in quoted)


@LABS
def test_imports_in_the_handout_exist(lab: str) -> None:
    for node in ast.walk(code(lab)):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module or "")
            assert all(hasattr(module, alias.name) for alias in node.names)


def test_constants_are_quoted_exactly() -> None:
    text = text_of("2A")
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


# A line about a test that passed: its title, time, servers, RPCs, bytes and entries.
_PASSED = re.compile(
    r"  PASS   (.*?) +([\d.]+) s +(\d+) servers? +([\d,]+) RPCs? +([\d.]+) (B|kB|MB) +([\d,]+) entr(?:y|ies)"
)


def output_with_numbers_of(shown: str, lab: str) -> str:
    """What `raftlab test` prints if every test of the lab passes with the numbers in ``shown``. This runs no test."""
    passed = [match for line in shown.splitlines() if (match := _PASSED.fullmatch(line))]
    runs = session.planned(session.plan(lab), range(1), None)
    assert len(passed) == len(runs), "the handout shows more or fewer tests than the lab has"
    out = io.StringIO()
    board = ProgressBoard(out, lab, runs)
    for planned, (_, lab_s, servers, rpcs, size, unit, entries) in zip(
        runs, (line.groups() for line in passed), strict=True
    ):
        info = planned.info
        record = Record(
            test=info.name,
            lab=lab,
            title=info.title,
            points=info.points,
            network=planned.network,
            seed=planned.seed,
            outcome="passed",
            lab_s=float(lab_s),
            servers=int(servers),
            rpcs=int(rpcs.replace(",", "")),
            entries=int(entries.replace(",", "")),
            rpc_bytes=round(float(size) * {"B": 1, "kB": 1e3, "MB": 1e6}[unit]),
        )
        board.finished(record)
    board.close()
    return out.getvalue()


@LABS
def test_the_output_of_a_lab_that_passes_is_current(lab: str) -> None:
    """The titles, order and points that a handout shows must be current. Its times and counts may be those of an earlier
    run. CI runs all these commands, with ``python -m tests.update --check``, and compares the advice, too."""
    shown = re.sub(r"\nadvice .*:\n(  .*\n)+", "", transcript(lab, f"raftlab test {lab} --impl solutions"))
    assert without_numbers(shown) == without_numbers(output_with_numbers_of(shown, lab))
    tests = catalogue.tests(lab)
    most = sum(info.points for info in tests)
    assert f"lab {lab}: {len(tests)} of {len(tests)} tests passed, {most} of {most} points;" in shown


@pytest.mark.slow
def test_the_output_of_lab_2a_is_that_of_a_real_run(tmp_path: Path) -> None:
    """Only for this lab, compare the handout with what the command really prints. The output of another lab has the
    same form."""
    shutil.copytree(ROOT / "solutions", tmp_path / "solutions")
    command = "raftlab test 2A --impl solutions"
    assert without_numbers(transcript("2A", command)) == without_numbers(run(command, tmp_path))


def broken(folder: Path, *changes: tuple[str, str]) -> Path:
    """Write the reference, without lab 2E and later ones and with some changes (old text, new text), to ``folder``."""
    text = without_labs_from("2E", SOLUTION.read_text(encoding="utf-8"))
    for old, new in changes:
        assert text.count(old) == 1, f"the reference has changed: {old!r} occurs {text.count(old)} times"
        text = text.replace(old, new)
    folder.mkdir(exist_ok=True)
    (folder / "raft.py").write_text(text, encoding="utf-8")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("step", "missing"), [(2, ("_replicate_loop", "_apply_loop")), (3, ("_replicate_loop",))])
def test_a_step_of_2b_needs_no_later_step(step: int, missing: tuple[str, ...], tmp_path: Path) -> None:
    """The tests of a step pass with a reference that has only what a student has written after that step. The threads
    in ``missing`` belong to later steps."""
    starts = (f"        threading.Thread(target=self.{loop}, daemon=True).start()\n" for loop in missing)
    folder = broken(tmp_path, *((line, "") for line in starts))
    whole = FIRST_PAGES["2B"].read_text(encoding="utf-8").partition(f"\n## Step {step}:")[2].partition("\n## ")[0]
    wanted = re.findall(r"^raftlab test 2B -k \w+$", whole, re.MULTILINE)
    assert wanted
    for command in wanted:
        assert "  PASS" in run(command, folder)


def test_the_rows_of_the_append_table_are_those_of_the_suite() -> None:
    """Each row that lab 2B shows is a row of the test."""
    tree = ast.parse(inspect.getsource(lab_2b.test_append_table))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "row"]
    real = {tuple(map(str, map(ast.literal_eval, call.args))) for call in calls}
    rows = re.findall(r"^\| \w.*$", section("2B", "The consistency check"), re.MULTILINE)
    assert len(rows) > 5
    for row in rows:
        title, log, prev, entries, answer, after = (cell.strip() for cell in row.strip("|").split("|"))
        lists = [[int(term) for term in cell.replace("…", "").split()] for cell in (log, entries, after)]
        before, sent, then = map(str, lists)
        assert (title, before, prev, sent, str(answer == "success"), then) in real


def test_the_limits_of_2b_are_those_of_the_suite() -> None:
    """The table of limits has the numbers of the suite."""

    def numbers(pattern: str, test: Callable[..., None]) -> list[int]:
        match = re.search(pattern, inspect.getsource(test))
        assert match, f"{test.__name__} no longer has a line that fits {pattern!r}"
        return [int(number) for number in match.groups()]

    (first,) = numbers(r"1 <= count <= (\d+)", lab_2b.test_rpc_counts)
    (commands,) = numbers(r"for number in range\((\d+)\)\]", lab_2b.test_rpc_counts)
    most, more = numbers(r"limit = (\d+) \+ (\d+) \*", lab_2b.test_rpc_counts)
    (idle,) = numbers(r"idle <= (\d+)", lab_2b.test_rpc_counts)
    count, times = numbers(r"range\((\d+)\):\n +command = .* \* (\d+)\n", lab_2b.test_rpc_bytes)
    factor, rest = numbers(r"limit = (\d+) \* command_bytes \+ ([\d_]+)", lab_2b.test_rpc_bytes)
    (refusals,) = numbers(r"refused <= (\d+)", lab_2b.expect_few_refusals)
    (wrong,) = numbers(r"doomed .*range\((\d+)\)", lab_2b.test_fast_backup)
    sent = count * times
    rows = re.findall(r"^\| `(\w+)` \|(.*)$", section("2B", "Too many messages"), re.MULTILINE)
    shown = [(name, [int(number.replace(",", "")) for number in re.findall(r"\d[\d,]*", text)]) for name, text in rows]
    assert shown == [
        ("rpc_counts", [first]),
        ("rpc_counts", [commands, most, more]),
        ("rpc_counts", [idle]),
        ("rpc_bytes", [sent, factor * sent + rest]),
        ("fast_backup", [wrong, refusals]),
    ]


def test_the_example_of_fast_backup_follows_the_rules() -> None:
    """Each row of the handout's table follows from the row before it, the two logs and the rules of fast backup."""
    text = text_of("2B")
    lines = [line for who in ("leader", "follower") for line in re.findall(rf"^{who} +([\d ]+)$", text, re.MULTILINE)]
    leader, follower = ([0, *map(int, line.split())] for line in lines)
    rows = re.findall(r"^\| \((\d), (\d)\) \| (.*) \| (\d) \|$", section("2B", "Backing up fast"), re.MULTILINE)
    after = len(leader)
    for index, term, report, then in rows:
        prev, there = after - 1, follower[after - 1]
        assert (int(index), int(term)) == (prev, leader[prev])
        fits = there == leader[prev]
        assert report == ("success" if fits else f"refused: term {there}, from index {follower.index(there)} on")
        own = max((at for at, term in enumerate(leader) if term == there), default=0)
        after = len(leader) if fits else own + 1 if own else follower.index(there)
        assert after == int(then)
    assert fits


@cache
def templates() -> set[str]:
    """Every string of the package that has at least 10 characters, with NUL in place of each value that is filled in at run
    time."""
    strings = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "\0" for part in node.values]
                strings.add("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                strings.add(node.value)
    return {template for template in strings if len(template.replace("\0", "")) >= 10}


def says(template: str, shown: str) -> bool:
    """Whether ``template``, with some values filled in, begins with ``shown``."""
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
        if not all(piece in shown for piece in literal.split("\0")):
            continue  # the expression below would not match either, but takes far longer to find out
        # If this part of the template ends with a filled-in value and the template goes on after it, this value must be a
        # single word. If it could be several words, almost any text would match.
        gap = "" if len(literal) == end else ".{1,80}" if end == len(template) else r"\S{1,80}"
        if re.fullmatch(re.escape(literal).replace("\0", ".{1,80}?") + gap, shown):
            return True
    return False


def looked_up() -> list[str]:
    """The sentences printed by raftlab that the table of setup.md lists, each up to its first "…".
    ``tests/explain/test_symptoms.py`` tests the tables of the labs."""
    setup = (HANDOUTS / "setup.md").read_text(encoding="utf-8")
    table = setup.partition("### If it stops before")[2].partition("\n##")[0]
    rows = re.findall(r"^\| `([^`]+)`(?:,[^|]*)? \|", table, re.MULTILINE)
    others = ("raftlab: command not found", "No module named 'raftlab'")
    return list(dict.fromkeys(row.partition("…")[0].rstrip(" :,") for row in rows if row not in others))


@pytest.mark.slow
@pytest.mark.parametrize("row", looked_up())
def test_raftlab_can_print_each_sentence_of_the_table_of_symptoms(row: str) -> None:
    named = [row, re.sub(r"^S\d: ", "", row)]  # the code may add the server's name in another place
    assert any(says(template, row) for template in templates() for row in named), f"nothing in raftlab says {row!r}"


def test_the_table_of_symptoms_was_found() -> None:
    assert len(looked_up()) > 4
    assert not says("a server that is \0 does not vote", "a server that is off votes")


@pytest.mark.parametrize("path", STUDENTS, ids=lambda path: path.name)
def test_no_place_of_this_machine(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"/(?:work|tmp|home|root|usr)/", text)
