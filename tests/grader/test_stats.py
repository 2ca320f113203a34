"""Tests of confidence intervals, percentiles and the sequential test, against known values."""

import math
import random

import pytest

from raftgrade.stats import Sequential, beta_cdf, clopper_pearson, percentile, until


@pytest.mark.parametrize("runs", [1, 2, 20, 50, 299, 5000])
def test_the_interval_after_passes_only_has_a_closed_form(runs: int) -> None:
    low, high = clopper_pearson(runs, runs)
    assert low == pytest.approx(0.025 ** (1 / runs), abs=1e-12)
    assert high == 1.0
    assert clopper_pearson(0, runs) == (0.0, pytest.approx(1 - 0.025 ** (1 / runs), abs=1e-12))


def test_twenty_of_twenty_two_sided_and_one_sided() -> None:
    assert clopper_pearson(20, 20)[0] == pytest.approx(0.8316, abs=5e-5)
    assert clopper_pearson(20, 20, confidence=0.90)[0] == pytest.approx(0.861, abs=5e-4)


@pytest.mark.parametrize(
    ("passes", "runs", "low", "high"),
    [
        (5, 10, 0.187086, 0.812914),
        (1, 10, 0.002529, 0.445016),
        (18, 20, 0.683017, 0.987651),
        (99, 100, 0.945541, 0.999747),
    ],
)
def test_known_intervals(passes: int, runs: int, low: float, high: float) -> None:
    assert clopper_pearson(passes, runs) == (pytest.approx(low, abs=1e-6), pytest.approx(high, abs=1e-6))


@pytest.mark.parametrize(("passes", "runs"), [(3, 7), (40, 50), (1, 2), (160, 200)])
def test_the_bounds_leave_two_and_a_half_percent(passes: int, runs: int) -> None:
    low, high = clopper_pearson(passes, runs)

    def chance(rate: float, outcomes: range) -> float:
        return sum(math.comb(runs, k) * rate**k * (1 - rate) ** (runs - k) for k in outcomes)

    assert chance(low, range(passes, runs + 1)) == pytest.approx(0.025, abs=1e-9)
    assert chance(high, range(passes + 1)) == pytest.approx(0.025, abs=1e-9)


def test_the_interval_without_runs() -> None:
    assert clopper_pearson(0, 0) == (0.0, 1.0)
    with pytest.raises(ValueError, match="3 passes of 2 runs"):
        clopper_pearson(3, 2)


def test_beta_is_a_distribution() -> None:
    assert (beta_cdf(-1, 2, 3), beta_cdf(0, 2, 3), beta_cdf(1, 2, 3), beta_cdf(2, 2, 3)) == (0, 0, 1, 1)
    assert beta_cdf(0.3, 1, 1) == pytest.approx(0.3)
    assert beta_cdf(0.5, 4, 4) == pytest.approx(0.5)


def test_percentiles() -> None:
    assert percentile([3.0], 95) == 3.0
    assert percentile([4, 1, 3, 2], 50) == 2.5
    assert percentile(list(range(101)), 95) == 95
    with pytest.raises(ValueError, match="at least one value"):
        percentile([], 50)


def test_a_sequential_test_needs_31_passes() -> None:
    test = until("good=.99,bad=.90,max=100")
    assert test == Sequential(0.99, 0.90, 100)
    assert test.verdict([True] * 30) == "undecided"
    assert test.verdict([True] * 31) == "reliable"
    assert test.verdict([False, False]) == "unreliable"
    assert test.verdict([True] * 31 + [False] * 9) == "reliable"  # outcomes after the verdict are ignored


@pytest.mark.parametrize(("rate", "wrong"), [(0.99, "unreliable"), (0.90, "reliable")])
def test_a_sequential_test_is_seldom_wrong(rate: float, wrong: str) -> None:
    chance = random.Random(7)
    test = Sequential(0.99, 0.90, 10_000)
    verdicts = [test.verdict(iter(lambda: chance.random() < rate, None)) for _ in range(1500)]
    assert verdicts.count(wrong) / len(verdicts) < 0.06
    assert "undecided" not in verdicts
