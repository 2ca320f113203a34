"""Statistics: confidence intervals of pass rates, a sequential test, and percentiles."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

Verdict = Literal["reliable", "unreliable", "undecided"]
# The sequential test looks at the outcomes of a test after each batch of this many runs. With the default rates, the verdict
# "reliable" takes at least 31 passes, so four batches are just enough.
BATCH = 8

_BISECTIONS = 60  # enough for the precision of a double between 0 and 1
_MAX_TERMS = 500  # the continued fraction converges in O(sqrt(n)) terms
_EPSILON = 1e-15
_TINY = 1e-300


def beta_cdf(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b): the probability that a Beta(a, b) variable is at most ``x``."""
    if x <= 0.0:
        return 0.0
    if x >= 1.0:
        return 1.0
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x))
    # The continued fraction converges fast only if x is below this bound. Above it, compute the mirror image instead.
    if x < (a + 1.0) / (a + b + 2.0):
        return front * _fraction(x, a, b) / a
    return 1.0 - front * _fraction(1.0 - x, b, a) / b


def _fraction(x: float, a: float, b: float) -> float:
    """Lentz's method for the continued fraction of the incomplete beta function."""
    c = 1.0
    d = 1.0 / _away_from_zero(1.0 - (a + b) * x / (a + 1.0))
    total = d
    for m in range(1, _MAX_TERMS):
        even = m * (b - m) * x / ((a + 2 * m - 1.0) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1.0))
        step = 1.0
        for term in (even, odd):
            d = 1.0 / _away_from_zero(1.0 + term * d)
            c = _away_from_zero(1.0 + term / c)
            step = c * d
            total *= step
        if abs(step - 1.0) < _EPSILON:
            break
    return total


def _away_from_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY


def _quantile(p: float, a: float, b: float) -> float:
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if beta_cdf(middle, a, b) < p:
            low = middle
        else:
            high = middle
    return (low + high) / 2


@lru_cache(maxsize=4096)
def clopper_pearson(passes: int, runs: int, confidence: float = 0.95) -> tuple[float, float]:
    """The exact **two-sided** interval for the true pass rate after ``passes`` of ``runs``: (low, high).

    Two-sided 95 % leaves 2.5 % on each side, so 20 of 20 gives .832 to 1 (the one-sided bound would be .861).
    Without runs it is (0, 1). Raises ``ValueError`` when ``passes`` is not between 0 and ``runs``.
    """
    if not 0 <= passes <= runs:
        raise ValueError(f"{passes} passes of {runs} runs")
    tail = (1.0 - confidence) / 2
    low = _quantile(tail, passes, runs - passes + 1) if passes else 0.0
    high = _quantile(1.0 - tail, passes + 1, runs - passes) if passes < runs else 1.0
    return low, high


def percentile(values: Sequence[float], percent: float) -> float:
    """The ``percent``-th percentile (0 to 100), interpolated between neighbours. Raises ``ValueError`` without values."""
    if not values:
        raise ValueError("a percentile needs at least one value")
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


@dataclass(frozen=True, slots=True)
class Sequential:
    """Wald's sequential probability ratio test of ``good`` against ``bad`` pass rates, both errors at most ``error``.

    Looking at the confidence interval after each run, and stopping when it looks good, gives a wrong verdict 28 % of the
    time; this test does not exceed its error probability. It continues in steps of :data:`BATCH` runs until it has a
    verdict, or until ``most`` runs have been made.
    """

    good: float
    bad: float
    most: int
    error: float = 0.05

    def llr(self, passes: int, failures: int) -> float:
        """The log-likelihood ratio: positive if these counts are more likely with the good rate than with the bad one."""
        return passes * math.log(self.good / self.bad) + failures * math.log((1 - self.good) / (1 - self.bad))

    def verdict(self, outcomes: Iterable[bool]) -> Verdict:
        """The verdict at the first of ``outcomes`` (in the order of their seeds) that gives one, else ``"undecided"``."""
        threshold = math.log((1 - self.error) / self.error)
        passes = failures = 0
        for passed in outcomes:
            passes, failures = passes + passed, failures + (not passed)
            llr = self.llr(passes, failures)
            if llr >= threshold:
                return "reliable"
            if llr <= -threshold:
                return "unreliable"
        return "undecided"


def until(text: str) -> Sequential:
    """Parse ``good=.99,bad=.90,max=200``. Raises ``ValueError`` with a sentence for the user."""
    values = {"good": 0.99, "bad": 0.90, "max": 200.0}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = part.partition("=")
        try:
            if name not in values or not equals:
                raise ValueError
            values[name] = float(value)
        except ValueError:
            raise ValueError(f"--until-sure expects good=.99,bad=.90,max=200; {part!r} is none of these") from None
    if not 0 < values["bad"] < values["good"] < 1:
        raise ValueError(f"--until-sure expects 0 < bad < good < 1, not bad={values['bad']:g}, good={values['good']:g}")
    if not 1 <= values["max"] <= 100_000 or values["max"] != int(values["max"]):
        raise ValueError(f"--until-sure expects max to be a whole number from 1 to 100000, not {values['max']:g}")
    return Sequential(values["good"], values["bad"], int(values["max"]))
