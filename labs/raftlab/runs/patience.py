"""When a run, or a test that keeps hanging, is given up."""

from __future__ import annotations

from raftlab.explain.failure import Failure, LabFailure
from raftlab.runs.record import Record

# Seconds of real time after which a run is stopped. It is far beyond what any test takes. ``suites/pytest.ini`` has it, too.
TIME_LIMIT_S = 150.0

# If this many runs of one test on one network hang in a row, the rest are not run. Each hanging run costs 20 s of processor
# time, so a submission that always hangs would keep a grader busy for a day.
HANGS = 3
# A simulated run that fails after so many CPU seconds counts as well: otherwise code that computes for a little less time
# than is allowed would cost almost as much. The longest run of the correct Rafts takes one second.
LONG_CPU_S = 10.0


class Patience:
    """Decides when a test that keeps hanging is not run any more."""

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
        """The failure to report instead of making the run; ``None`` if the run should be made."""
        if (test, network) != self._runs or self._hung < HANGS:
            return None
        text = f"not run: the {HANGS} runs of this test before it computed or blocked without letting the clock advance"
        return LabFailure(Failure("host-hangs", text))


def never_ended(network: str) -> LabFailure:
    """The verdict on a run that was stopped after :data:`TIME_LIMIT_S`. One that takes so long in the simulator never ends.
    On the real network the machine may have been late."""
    text = "expected the run to end within a few seconds, but it was stopped after two and a half minutes"
    return LabFailure(Failure("host-hangs" if network == "sim" else "no-answer", text))
