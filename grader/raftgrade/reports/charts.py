"""What an instructor looks at first: the heat map, the distributions, what was slow, and what to teach again."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from html import escape
from statistics import mean, median

from raftgrade import failure_classes
from raftgrade.results import NetworkResult, Report, SubmissionResult, TestResult, passed
from raftlab.explain.failure import Rule
from raftlab.safe_text import count, number, one_line

SLOWEST = 10
RULES = 10
_BINS = 10


def attr(text: str, limit: int = 300) -> str:
    """Foreign text for between quotes."""
    return escape(one_line(text, limit), quote=True)


def cards(report: Report) -> list[str]:
    """The numbers that answer "how did it go?"."""
    marked = [each for each in report.submissions if each.state not in ("waiting", "unjudged")]
    most = max((each.max_points for each in report.submissions), default=0.0)
    points = [each.points for each in marked]
    refused = sum(each.state == "refused" for each in report.submissions)
    not_final = sum(not each.final for each in report.submissions)
    errors = sum(each.errors for each in report.submissions)
    retried = sum(n.retried for each in report.submissions for test in each.tests for n in test.networks)
    shown = [
        (str(len(report.submissions)), "submissions", ""),
        (str(sum(each.clean for each in report.submissions)), "passed everything", "good"),
        (f"{number(median(points))}<small>/{number(most)}</small>" if points else "–", "median mark", ""),
        (f"{number(mean(points))}<small>/{number(most)}</small>" if points else "–", "mean mark", ""),
        (str(refused), "refused", "bad" if refused else ""),
        (str(not_final), "marks not final", "warn" if not_final else ""),
        (f"{errors}<small> ({retried} mended by a retry)</small>", "faults of the machine", "warn" if errors else ""),
    ]
    cells = [f'<div class="card {tone}"><b>{value}</b><span>{label}</span></div>' for value, label, tone in shown]
    return ['<section class="cards" aria-label="The class in numbers">', *cells, "</section>"]


# --- the heat map ---


def heat_map(report: Report) -> list[str]:
    """Submissions × tests. A cell says what its colour says, for those who do not see colours."""
    tests = report.submissions[0].tests if report.submissions else []
    labs = [lab for lab in report.settings.labs if any(test.lab == lab for test in tests)]
    spans = "".join(f'<th colspan="{sum(t.lab == lab for t in tests)}" class="lab">{escape(lab)}</th>' for lab in labs)
    names = "".join(
        f'<th title="{attr(f"{test.lab} {test.name}: {test.title}")}"><span>{attr(test.name)}</span></th>'
        for test in tests
    )
    ordered = sorted(report.submissions, key=lambda each: (-each.points, each.name))
    rows = [_row(tests, submission) for submission in ordered]
    legend = (
        '<p class="legend soft"><i class="c10">✓</i> every run passed <i class="c8">85</i> percent of runs that passed '
        '<i class="c0">×</i> none <i class="skip">–</i> skipped or refused <i class="open">?</i> could not be judged '
        '<i class="wait">…</i> still to come</p>'
    )
    return [
        '<section id="map">',
        '<div class="bar"><h2>Submissions × tests</h2>',
        '<label>sort by <select id="sort"><option value="mark">mark</option><option value="name">name</option></select>'
        '</label> <label>find <input id="find" type="search" placeholder="name" size="14"></label></div>',
        legend,
        '<div class="scroll"><table class="heat">',
        f'<thead><tr><th class="who"></th><th class="mark"></th>{spans}</tr>',
        f'<tr class="names"><th class="who">submission</th><th class="mark">mark</th>{names}</tr></thead>',
        "<tbody>",
        *rows,
        "</tbody></table></div>",
        "</section>",
    ]


def _edge(tests: list[TestResult], place: int) -> str:
    return "edge" if place and tests[place - 1].lab != tests[place].lab else ""


def _row(tests: list[TestResult], submission: SubmissionResult) -> str:
    cells = []
    for place, test in enumerate(submission.tests):
        tone, said, sign = cell(submission, test)
        edge = " edge" if _edge(tests, place) else ""
        cells.append(f'<td class="{tone}{edge}" title="{attr(f"{test.lab} {test.name}: {said}")}">{sign}</td>')
    name = attr(submission.name, 60)
    link = f'<a href="#s-{attr(submission.slug)}">{name}</a>'
    points = number(submission.points) + ("" if submission.final else "?")
    return (
        f'<tr data-name="{attr(submission.name.casefold())}" data-mark="{submission.points:.4f}">'
        f'<th class="who" scope="row">{link}</th><td class="mark">{points}</td>{"".join(cells)}</tr>'
    )


def cell(submission: SubmissionResult, test: TestResult) -> tuple[str, str, str]:
    """A cell's class, its sentence and its sign."""
    if submission.state in ("refused", "unjudged"):
        return "skip", submission.state, "–"
    if test.state == "skipped":
        return "skip", "; ".join(test.notes), "–"
    judged = sum(each.passes + each.failures for each in test.networks)
    passes = sum(each.passes for each in test.networks)
    if test.state == "open":
        return "open", "; ".join(test.notes), "?"
    if not judged:
        return "wait", "no run yet", "…"
    errors = sum(each.errors for each in test.networks)
    said = f"{passes} of {count(judged, 'run')} passed" + (f", {errors} could not be judged" if errors else "")
    said += "".join(f", {each.verdict}" for each in test.networks if each.verdict)
    if passes == judged:
        return "c10", said, "✓"
    if not passes:
        return "c0", said, "×"
    share = passes / judged
    return f"c{min(9, max(1, int(share * 10)))}", said, str(min(99, max(1, round(share * 100))))


# --- distributions ---


def marks(report: Report) -> list[str]:
    """How many submissions have which mark."""
    values = [each.points / each.max_points for each in report.submissions if each.max_points and each.final]
    bins = [0] * _BINS
    for value in values:
        bins[min(_BINS - 1, int(value * _BINS))] += 1
    labels = [f"{place * 100 // _BINS}–{(place + 1) * 100 // _BINS} %" for place in range(_BINS)]
    return _bars(
        "Marks", "submissions by their share of all points", list(zip(labels, bins, strict=True)), "submission"
    )


def reliability(report: Report) -> list[str]:
    """How reliable the programs are, test by test. Between 'always' and 'never' lie the bugs of timing."""
    labels = ("never", "below 50 %", "50–90 %", "90–99 %", "99 % and more", "always")
    found: Counter[str] = Counter()
    for result in _judged(report):
        judged = result.passes + result.failures
        share = result.passes / judged
        if share in (0.0, 1.0):
            found["always" if share else "never"] += 1
        else:
            found[labels[1 if share < 0.5 else 2 if share < 0.9 else 3 if share < 0.99 else 4]] += 1
    bars = [(label, found[label]) for label in labels]
    return _bars("Reliability", "how often a test passes in sim, over all submissions and tests", bars, "test")


def _bars(title: str, what: str, bars: list[tuple[str, int]], thing: str) -> list[str]:
    most = max([value for _, value in bars] + [1])
    rows = [f"<tr><th>{label}</th><td>{_bar(value / most)}</td><td>{value or ''}</td></tr>" for label, value in bars]
    return [
        f'<section class="chart"><h2>{title}</h2><p class="soft">{what}</p>',
        f'<table class="bars" aria-label="{title}: number of {thing}s">{"".join(rows)}</table></section>',
    ]


def _bar(share: float, tone: str = "") -> str:
    # A drawing and not a style: the page's policy lets nothing inline through.
    width = max(0.0, min(1.0, share)) * 100
    return (
        f'<svg class="b {tone}" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect width="{width:.2f}" height="10"/></svg>'
    )


# --- lists ---


def teach_again(report: Report) -> list[str]:
    """The promises that most programs break, and what else goes wrong most."""
    who: defaultdict[str, set[str]] = defaultdict(set)
    runs: Counter[str] = Counter()
    rules: dict[str, Rule] = {}
    for submission in report.submissions:
        for test in submission.tests:
            for result in test.networks:
                for bad in result.bad:
                    if bad.outcome == "failed":
                        who[bad.sort].add(submission.name)
                        runs[bad.sort] += 1
                        if bad.failure.rule is not None and bad.sort.startswith("rule: "):
                            rules[bad.sort] = bad.failure.rule
    ordered = sorted(who, key=lambda sort: (-len(who[sort]), -runs[sort], sort))[:RULES]
    total = max(1, len(report.submissions))
    rows = [_rule(sort, rules.get(sort), len(who[sort]), runs[sort], total) for sort in ordered]
    if not rows:
        rows = ["<tr><td>Nothing: no run of anybody failed.</td></tr>"]
    return [
        '<section class="chart"><h2>What to teach again</h2>',
        '<p class="soft">the promises and ways of failing that most submissions share</p>',
        f'<table class="list rules">{"".join(rows)}</table></section>',
    ]


def _rule(sort: str, rule: Rule | None, students: int, runs: int, total: int) -> str:
    if rule is not None:
        source = f"<span class='soft'>({attr(rule.section)}; {attr(rule.handout)})</span>"
        said = f"<b>{attr(rule.name)}</b><br>{attr(rule.says)} {source}"
    else:
        said = f"<b>{attr(failure_classes.words(sort))}</b>"
    numbers = f"{count(students, 'submission')}<br><span class='soft'>{count(runs, 'run')}</span>"
    return f"<tr><td>{said}{_bar(students / total, 'bad')}</td><td>{numbers}</td></tr>"


def slowest(report: Report) -> list[str]:
    """The tests that take longest, by the median submission."""
    lab_s: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    cpu_s: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    tail: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for submission in report.submissions:
        for test in submission.tests:
            for result in test.networks:
                if result.network == report.settings.networks[0] and result.lab_s and result.run_cpu_s:
                    lab_s[test.lab, test.name].append(result.lab_s.p50)
                    tail[test.lab, test.name].append(result.lab_s.p95)
                    cpu_s[test.lab, test.name].append(result.run_cpu_s.p50)
    ordered = sorted(cpu_s, key=lambda key: (-median(cpu_s[key]), key))[:SLOWEST]
    top = max((median(cpu_s[key]) for key in ordered), default=1.0) or 1.0
    rows = [
        f"<tr><th>{escape(key[0])} {attr(key[1])}{_bar(median(cpu_s[key]) / top)}</th><td>{median(cpu_s[key]):.2f}</td>"
        f"<td>{median(lab_s[key]):.1f}</td><td>{max(tail[key]):.1f}</td></tr>"
        for key in ordered
    ] or ["<tr><td>No run has passed yet.</td></tr>"]
    head = "<tr><th></th><td>CPU s<br>a run</td><td>virtual s<br>median</td><td>virtual s<br>worst p95</td></tr>"
    return [
        '<section class="chart"><h2>Slowest tests</h2>',
        '<p class="soft">of runs that passed; the median submission</p>',
        f'<table class="list slow">{head if ordered else ""}{"".join(rows)}</table></section>',
    ]


def _judged(report: Report) -> Iterator[NetworkResult]:
    for submission in report.submissions:
        for test in submission.tests:
            for result in test.networks:
                if result.network == report.settings.networks[0] and result.passes + result.failures:
                    yield result


def clean_tests(tests: Iterable[TestResult]) -> int:
    """How many tests passed every run."""
    return sum(passed(test) for test in tests)
