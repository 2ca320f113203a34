"""The race detector of `--races`: it records which thread uses which data under which locks, and reports uses of the same
data that no lock, queue or event puts in order. Findings are advice; they never change the schedule."""
