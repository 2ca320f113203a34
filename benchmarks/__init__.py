"""Measurements, run by hand: ``python -m pytest benchmarks``. They print figures and assert next to nothing."""
