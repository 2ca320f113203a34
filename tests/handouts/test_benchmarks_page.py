"""Tests that the page of benchmarks is complete. The measurements made here are too short to mean anything. But
together they still take long, so only CI makes them."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from benchmarks import page
from benchmarks.plot import Bars, Lines
from tests import daily_sample
from tests.counts import number_of_tests

pytestmark = pytest.mark.slow

SVG = "{http://www.w3.org/2000/svg}"


@daily_sample.NOT_DAILY
@pytest.mark.timeout(400)  # takes some seconds, or minutes on a busy machine
def test_the_page_made_with_quick_is_complete(tmp_path: Path) -> None:
    assert page.main(["--quick", "--out", str(tmp_path)]) == 0
    text = (tmp_path / "benchmarks.md").read_text()
    assert "**Tiny sizes (`--quick`): these numbers mean nothing.**" in text
    assert re.findall("^## (.*)", text, re.MULTILINE) == [
        "Beside other simulations",
        "Speed of the two worlds",
        "A full grading run",
        "More cores",
        "More servers",
        "Longer logs",
        "Compared with the original (MIT)",
        "Why there is no native core",
    ]
    assert not re.search(r"\bnan\b|\binf\b|None|\{|\}", text)
    assert re.search(rf"{number_of_tests('2A')} runs,\s+all\s+of\s+them\s+passed", text)
    assert re.search(r"^\| 2,000 \| 0\.\d+ ", text, re.MULTILINE)
    linked = re.findall(r"\]\((benchmarks/\w+\.svg)\)", text)
    assert sorted(linked) == sorted(f"benchmarks/{path.name}" for path in (tmp_path / "benchmarks").iterdir())
    for name in linked:
        assert len(texts(ElementTree.fromstring((tmp_path / name).read_text()))) >= 6


def texts(root: ElementTree.Element) -> list[str]:
    return [element.text or "" for element in root.iter(f"{SVG}text")]


def test_a_line_chart_has_labels_that_do_not_overlap() -> None:
    plot = Lines(
        "What & why",
        "entries",
        "CPU ms",
        [("a", [(10, 1), (1000, 90)]), ("b", [(10, 1), (1000, 91)])],
        [10, 1000],
        log=True,
    )
    root = ElementTree.fromstring(plot.svg())
    assert texts(root) == ["What & why", "1", "10", "100", "10", "1,000", "entries", "CPU ms", "b", "a"]
    # Labels at the same height would overlap.
    high, low = (float(element.get("y", "")) for element in list(root.iter(f"{SVG}text"))[-2:])
    assert low - high >= 14
    circles = [(element.get("cx"), element.get("cy")) for element in root.iter(f"{SVG}circle")]
    assert circles[0] == ("78.0", "322.0")  # where the axes meet
    assert "prefers-color-scheme:dark" in plot.svg()


def test_a_bar_chart_is_to_scale() -> None:
    plot = Bars("CPU", "seconds", ["sim", "rpyc"], [("2A", [10.0, 5.0]), ("2B", [30.0])])
    root = ElementTree.fromstring(plot.svg())
    assert texts(root) == ["CPU", "0", "10", "20", "30", "2A", "2B", "sim", "rpyc", "seconds"]
    widths = [
        float(bar.get("width", "")) for bar in root.iter(f"{SVG}rect") if re.fullmatch(r"b\d", bar.get("class", ""))
    ][:3]
    assert widths[1] == pytest.approx(widths[0] / 2, abs=0.1)
    assert widths[2] == pytest.approx(widths[0] * 3, abs=0.1)
