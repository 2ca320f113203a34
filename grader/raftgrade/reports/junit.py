"""JUnit XML, for continuous integration: a suite for each submission and lab, a case for each test."""

from __future__ import annotations

from xml.etree import ElementTree as xml

from raftgrade.reports import table
from raftgrade.reports.student_view import local
from raftgrade.results import UNTESTED, NetworkResult, Report, SubmissionResult, TestResult, passed
from raftlab.explain import render as explain
from raftlab.safe_text import count, printable, spans

MAX_FAILURES = 3  # how many failures of one test are shown in full


def render(report: Report) -> str:
    """The report as JUnit XML."""
    root = xml.Element("testsuites", name="raftgrade")
    for submission in report.submissions:
        _suites(root, report, submission)
    # Jenkins' schema allows no total of skipped tests here, only in each suite.
    totals = {"tests": 0, "failures": 0, "errors": 0}
    for suite in root:
        for name in totals:
            totals[name] += int(suite.attrib[name])
    root.attrib |= {name: str(number) for name, number in totals.items()}
    root.attrib["time"] = f"{report.seconds:.3f}"
    xml.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + xml.tostring(root, encoding="unicode") + "\n"


def _suites(root: xml.Element, report: Report, submission: SubmissionResult) -> None:
    if submission.state in UNTESTED:
        suite = xml.SubElement(
            root, "testsuite", name=_clean(f"{submission.name} check"), timestamp=report.started[:19]
        )
        case = xml.SubElement(suite, "testcase", classname=_clean(submission.name), name="check", time="0.000")
        text = "\n".join(f"{each.text}\n{each.where}".strip() for each in submission.problems)
        if submission.state == "absent":
            xml.SubElement(case, "skipped", message=_clean(text))
        else:
            _add_outcome(case, "failure" if submission.state == "refused" else "error", text, submission.state)
        _count(suite)
        return
    for lab in report.settings.labs:
        tests = [test for test in submission.tests if test.lab == lab]
        if not tests:
            continue
        name = _clean(f"{submission.name} {lab}")
        suite = xml.SubElement(root, "testsuite", name=name, timestamp=report.started[:19])
        properties = {"unverified": report.unverified} if report.unverified else {}
        if whose_raft := report.settings.whose_raft(lab):
            properties["raft"] = whose_raft
        if report.settings.sandbox is not None:
            properties["sandbox"] = table.confinement(report.settings)
        if properties:
            parent = xml.SubElement(suite, "properties")
            for name, value in properties.items():
                xml.SubElement(parent, "property", name=name, value=_clean(value))
        for test in tests:
            _case(suite, submission, test, report.settings.raft)
        _count(suite)


def _case(suite: xml.Element, submission: SubmissionResult, test: TestResult, raft: str) -> None:
    wall = sum(network.wall_s for network in test.networks)
    classname = _clean(f"{submission.name}.{test.lab}")
    case = xml.SubElement(suite, "testcase", classname=classname, name=_clean(test.name), time=f"{wall:.3f}")
    failures = sum(network.failures for network in test.networks)
    if test.state == "skipped":
        xml.SubElement(case, "skipped", message=_clean("; ".join(test.notes)))
    elif failures and not passed(test):
        _add_outcome(case, "failure", "\n\n".join(_failures(test, raft)), _kind(test))
    elif test.state in ("open", "waiting"):
        _add_outcome(case, "error", "; ".join(test.notes) or "some of its runs are missing", test.state)
    output = [*(f"advice: {line}" for line in test.advice), *(_summary(network) for network in test.networks)]
    xml.SubElement(case, "system-out").text = _clean("\n".join(output))


def _kind(test: TestResult) -> str:
    return next(iter(next(network.classes for network in test.networks if network.failures)))


def _failures(test: TestResult, raft: str) -> list[str]:
    """The first run of each class of failure on each network, with its explanation. The replay command has no path of this
    machine, because others read the report."""
    failures = []
    for network in test.networks:
        for sort, number in network.classes.items():
            same = [bad for bad in network.bad if bad.sort == sort and bad.outcome == "failed"]
            if same:
                where = f"{network.network}{' (hidden)' if network.hidden else ''}"
                seeds = "" if network.hidden else f", seeds {spans([bad.seed for bad in same])}"
                heading = f"{where}: {number} of {count(network.runs, 'run')}{seeds}"
                failures.append(explain.as_text(same[0].failure, local(same[0].replay, raft)) + f"\n  {heading}")
    return failures[:MAX_FAILURES]


def _summary(network: NetworkResult) -> str:
    name = f"{network.network}{' (hidden)' if network.hidden else ''}"
    judged = network.passes + network.failures
    verdict = f", {network.verdict}" if network.verdict else ""
    errors = f", {network.errors} could not be judged" if network.errors else ""
    retried = f", {network.retried} tried again" if network.retried else ""
    return f"{name}: {network.passes} of {count(judged, 'judged run')} passed{verdict}{errors}{retried}"


def _add_outcome(case: xml.Element, tag: str, text: str, kind: str) -> None:
    first = text.strip().splitlines()[0] if text.strip() else ""
    xml.SubElement(case, tag, message=_clean(first), type=_clean(kind)).text = _clean(text)


def _count(suite: xml.Element) -> None:
    cases = suite.findall("testcase")
    for name, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.attrib[name] = str(sum(case.find(tag) is not None for case in cases))
    suite.attrib["tests"] = str(len(cases))
    suite.attrib["time"] = f"{sum(float(case.attrib['time']) for case in cases):.3f}"


def _clean(text: str) -> str:
    """XML cannot contain most control characters, not even as entities: write them as Python escapes."""
    return printable(text)
