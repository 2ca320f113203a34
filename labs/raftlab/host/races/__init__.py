"""The race detector of `--races`. It records which thread uses which data while it holds which locks, and reports two
uses of the same data that no lock, queue or event orders. Findings are advice; they never change the schedule."""
