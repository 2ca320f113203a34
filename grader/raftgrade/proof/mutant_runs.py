"""Runs the suites on mutants until a test fails, and finds the mutants that no test has killed.

A pass of a mutant is one run of the suites of labs 2A to 2G, with one seed, in the simulator. It stops at the first test
that fails. The suite of the changed line's lab comes first, then the suites of the later labs (their code contains the line,
too), and then the suites of the earlier labs. Later labs hide mistakes, so their code is removed first: labs 2E to 2G for
the suites of 2A to 2D, labs 2F and 2G for the suite of 2E, and lab 2G for that of 2F. The changed line itself always stays.
A mutant gets passes until one kills it, at most ``seeds``. With ``--net``, a surviving mutant that concerns threads then
also gets passes on the real network, with the suite of its line's lab.

The tests that are most likely to kill the mutant come first: those that killed a mutant of the same function, then those
that killed the most other mutants. The order affects only how long a pass takes.
"""

from __future__ import annotations

import fnmatch
import hashlib
import random
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import raftlab
from raftgrade.intake.reuse import code_fingerprint
from raftgrade.proof.bug_bank import BadBank, without_labs_from
from raftgrade.proof.kill_rates import Kill, Part, Pass, Settings, up_to_first_kill, write_sources
from raftgrade.proof.mutants import Mutant
from raftlab.safe_text import printable
from raftlab.suites import catalogue

NET_SEEDS = range(10_000, 10_003)  # the seeds of the passes on the real network; no simulated pass has such a seed
_FORMAT = 1  # increase it when the meaning of a pass changes, so that old passes do not count
# By lab: the first of the labs that are removed from the reference before the suite runs (empty: none is removed).
_BEFORE = {"2A": "2E", "2B": "2E", "2C": "2E", "2D": "2E", "2E": "2F", "2F": "2G", "2G": ""}


@dataclass
class MutantTrial:
    """A mutant and its passes. It has the attributes of :class:`raftgrade.proof.kill_rates.Measured`, and these:

    Attributes:
        mutant: the mutant.
        texts: the source that the suite of each lab runs, by lab.
        settings: ``seeds`` is the maximum number of simulated passes.
        net: whether a survivor that concerns threads also runs on the real network.
        others: all trials of the same proof; their kills tell which tests to begin with.
    """

    mutant: Mutant
    texts: dict[str, str]
    key: str
    settings: Settings
    net: bool = False
    others: Sequence[MutantTrial] = ()
    passes: dict[int, Pass] = field(default_factory=dict)
    started: set[int] = field(default_factory=set)

    @property
    def name(self) -> str:
        return self.mutant.name

    @property
    def _seeds(self) -> list[int]:
        """The seeds of the passes of a mutant that survives."""
        return [*range(self.settings.seeds), *(NET_SEEDS if self.net and self.mutant.concerns_threads else ())]

    @property
    def counted(self) -> list[Pass]:
        """The passes up to the first kill, in the order of their seeds."""
        return up_to_first_kill(self.passes, self._seeds)

    @property
    def kill(self) -> Kill | None:
        """The first test that failed in the first pass that killed the mutant."""
        return next((each.caught[0] for each in self.counted if each.caught), None)

    @property
    def needed_seeds(self) -> Collection[int]:
        return self._seeds[: len(self.counted)] if self.kill else self._seeds

    @property
    def complete(self) -> bool:
        return self.kill is not None or all(
            seed in self.passes and self.passes[seed].judged for seed in self.needed_seeds
        )

    def next_seed(self) -> int | None:
        """The seed of the next pass. Passes run one after the other, because a kill makes the rest unnecessary."""
        if self.kill or self.started - self.passes.keys():
            return None
        return next((seed for seed in self.needed_seeds if seed not in self.passes), None)

    def is_whole(self, seed: int) -> bool:
        return False

    def parts(self, seed: int, folder: Path) -> list[Part]:
        """The suites of all labs; on the real network, only the first of these suites."""
        kills = self._kills()
        network = "rpyc" if seed in NET_SEEDS else "sim"
        parts = []
        for lab, text in list(self.texts.items())[: 1 if network == "rpyc" else None]:
            before = _before(lab, self.mutant)
            where = folder / "mutants" / self.name / (f"before-{before}" if before else "all")
            path = write_sources(where, {"raft.py": text})
            names = [info.name for info in catalogue.tests(lab) if network in info.networks]
            parts.append(Part(path, lab, sorted(names, key=lambda name: -kills[name]), network))
        return parts

    def _kills(self) -> Counter[str]:
        """A score for each test: the number of its kills. Kills of mutants of the same function count much more."""
        kills: Counter[str] = Counter()
        for other in self.others:
            for each in other.passes.values():
                if each.caught:
                    kills[each.caught[0].test] += 1000 if other.mutant.function == self.mutant.function else 1
        return kills


def make_trials(
    mutants: Sequence[Mutant], reference: str, settings: Settings, lab_names: Collection[str], net: bool = False
) -> list[MutantTrial]:
    """A trial for each mutant, with the suites of the labs in ``lab_names`` that need only a ``raft.py``."""
    judge = code_fingerprint(raftlab)
    trials: list[MutantTrial] = []
    for mutant in mutants:
        text = mutant.apply_to(reference)
        names = sorted(_BEFORE.keys() & lab_names, key=lambda lab, own=mutant.lab: (lab < own, lab))  # type: ignore[misc]
        texts = {lab: without_labs_from(_before(lab, mutant), text) for lab in names}
        identity = f"mutant {_FORMAT}\0{judge}\0{settings.limit_s:g}\0{','.join(names)}\0{text}"
        key = hashlib.sha256(identity.encode()).hexdigest()[:16]
        trials.append(MutantTrial(mutant, texts, key, settings, net, trials))
    return trials


def _before(lab: str, mutant: Mutant) -> str:
    """The first lab to remove from the reference for the suite of ``lab``; empty to remove none. The line that ``mutant``
    changes is never removed."""
    return _BEFORE[max(lab, mutant.lab)]


def choose(
    mutants: Sequence[Mutant], equivalent: Collection[str], only: str = "", sample: int = 0, seed: int = 0
) -> list[Mutant]:
    """Select the mutants to run.

    Args:
        mutants: all mutants.
        equivalent: the names of the equivalent mutants, which are left out.
        only: a part of the names, in which ``*`` and ``?`` are wildcards; empty to select all.
        sample: the number of mutants to draw at random; 0 to select all.
        seed: the seed of the draw.

    Raises:
        BadBank: nothing is left.
    """
    chosen = [each for each in mutants if each.name not in equivalent and fnmatch.fnmatchcase(each.name, f"*{only}*")]
    if not chosen:
        raise BadBank(f"apart from equivalent mutants, none has {printable(only)!r} in its name")
    if 0 < sample < len(chosen):
        drawn = set(random.Random(seed).sample([each.name for each in chosen], sample))
        chosen = [each for each in chosen if each.name in drawn]
    return chosen
