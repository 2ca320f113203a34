"""When to stop a run that takes too long, and when to skip the remaining runs of a test that keeps hanging."""

from __future__ import annotations

from raftlab.explain.failure import Failure, LabFailure
from raftlab.runs.record import Record

# Seconds of real time after which a run is stopped. No test comes near it. ``suites/pytest.ini`` has the same limit. Pauses
# of this process (Ctrl-Z) do not count.
TIME_LIMIT_S = 150.0

# If this many runs of one test on one network hang in a row, the rest are skipped. Each hanging run costs 20 s of CPU
# time, so a submission that always hangs would keep a grader busy for a day.
HANGS = 3
# A simulated run that fails after more CPU seconds than this counts as hanging, too. Otherwise code that computes for a
# little less time than is allowed would cost almost as much as code that hangs. The longest run of the correct Rafts
# takes one second.
LONG_CPU_S = 10.0


class Patience:
    """Decides when to skip the remaining runs of a test that keeps hanging."""

    def __init__(self) -> None:
        self._runs = ("", "")
        self._hung = 0

    def ended(self, record: Record) -> None:
        """Count a run that has ended."""
        runs = (record.test, record.network)
        before = self._hung if runs == self._runs else 0
        hung = record.failure is not None and (
            record.failure.kind == "host-hangs" or (record.network == "sim" and record.cpu_s > LONG_CPU_S)
        )
        self._runs, self._hung = runs, before + 1 if hung else 0

    def refusal(self, test: str, network: str) -> LabFailure | None:
        """The failure to report instead of performing the run; ``None`` if the run should be performed."""
        if (test, network) != self._runs or self._hung < HANGS:
            return None
        text = f"not run: the previous {HANGS} runs of this test computed or blocked without letting the clock advance"
        return LabFailure(Failure("host-hangs", text))


def never_ended(network: str) -> LabFailure:
    """The verdict on a run that was stopped after :data:`TIME_LIMIT_S`. In the simulator, a run that takes so long
    would never end. On the real network, the machine may have been too busy."""
    text = "expected the run to end within a few seconds, but it was stopped after two and a half minutes"
    return LabFailure(Failure("host-hangs" if network == "sim" else "no-answer", text))
